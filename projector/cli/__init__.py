"""The command line: importing this package registers every command on `app.app`."""

from projector.cli import configuration

__all__ = ["configuration"]
