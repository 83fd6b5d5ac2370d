"""The command line: importing this package registers every command on `app.app`."""

from projector.cli import (
    admin,
    audit,
    balance,
    configuration,
    explain,
    generations,
    ledger,
    quarantine,
    reading,
    rebuild,
    repair,
    run,
    simulate,
    statement,
)

__all__ = [
    "admin",
    "audit",
    "balance",
    "configuration",
    "explain",
    "generations",
    "ledger",
    "quarantine",
    "reading",
    "rebuild",
    "repair",
    "run",
    "simulate",
    "statement",
]
