"""The command line: importing this package registers every command on `app.app`."""

from projector.cli import admin, configuration, run

__all__ = ["admin", "configuration", "run"]
