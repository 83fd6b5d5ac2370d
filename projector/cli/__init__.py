"""The command line: importing this package registers every command on `app.app`."""

from projector.cli import (
    admin,
    balance,
    configuration,
    explain,
    generations,
    ledger,
    quarantine,
    reading,
    rebuild,
    run,
    simulate,
)

__all__ = [
    "admin",
    "balance",
    "configuration",
    "explain",
    "generations",
    "ledger",
    "quarantine",
    "reading",
    "rebuild",
    "run",
    "simulate",
]
