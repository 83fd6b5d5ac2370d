"""The command line: importing this package registers every command on `app.app`."""

from projector.cli import admin, balance, configuration, generations, ledger, reading, rebuild, run, simulate, statement

__all__ = [
    "admin",
    "balance",
    "configuration",
    "generations",
    "ledger",
    "reading",
    "rebuild",
    "run",
    "simulate",
    "statement",
]
