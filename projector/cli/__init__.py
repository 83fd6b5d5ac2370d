"""The command line: importing this package registers every command on `app.app`."""

from projector.cli import (
    admin,
    audit,
    balance,
    configuration,
    generations,
    ledger,
    reading,
    rebuild,
    repair,
    run,
    simulate,
)

__all__ = [
    "admin",
    "audit",
    "balance",
    "configuration",
    "generations",
    "ledger",
    "reading",
    "rebuild",
    "repair",
    "run",
    "simulate",
]
