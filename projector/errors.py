"""The errors, named for what to do next.

    ProjectorError
    ├── Retryable            make the identical call again; nothing is known to have happened
    │   └── InDoubt          the same, but the call may have taken effect, now or later
    ├── Fenced               drop the queue, renew the producer, go back to the checkpoint
    ├── Superseded           start again from what the pointer row says now
    └── Fatal                stop; the process ends with `exit_code`, 70 unless it is one of these
        ├── Misconfigured    2  a setting is wrong, or something that it names is not there
        ├── Refused          3  the state of things forbids it
        ├── LedgerDamaged    4  the ledger is not what it must be
        ├── OffsetsGone      5  the checkpoint and the topic no longer fit together
        ├── RowTooBig        6  a campaign's row has reached the store's limit
        ├── Hung             7  a client call did not come back (the watchdog)
        └── SlotTaken        8  another process runs with this slot

1 says that a difference was found, and is no error's code. Whatever is not foreseen here ends with 70, too.
A record that is not an event raises nothing: see `event.Rejected`.
Backends translate their client's errors into these, each in one function.
"""


class ProjectorError(Exception):
    """Anything that this program raises on purpose; the text is one line for an operator."""


class Retryable(ProjectorError):
    """The call failed and may be made again exactly as it was."""


class InDoubt(Retryable):
    """No answer came: the call may have been applied, or may still be."""


class Fenced(ProjectorError):
    """This worker's transaction is not, or perhaps not, committed; the committed checkpoint decides."""


class Superseded(ProjectorError):
    """Somebody else changed the pointer row first, so nothing may be built on this change."""


class Fatal(ProjectorError):
    """Nothing that this process can do will help."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h


class Misconfigured(Fatal):
    """A setting is wrong, or names something that is not there."""

    exit_code = 2


class Refused(Fatal):
    """Not done, because of the state that something is in."""

    exit_code = 3


class LedgerDamaged(Fatal):
    """A row of the ledger is missing, altered or foreign."""

    exit_code = 4


class OffsetsGone(Fatal):
    """Offsets, records or the topic itself are gone; going on would skip or recount silently."""

    exit_code = 5


class RowTooBig(Fatal):
    """A row cannot take another id; counting without recording the id is not an option."""

    exit_code = 6


class Hung(Fatal):
    """A client call hangs."""

    exit_code = 7


class SlotTaken(Fatal):
    """Another process holds this slot."""

    exit_code = 8
