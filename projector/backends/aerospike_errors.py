"""Aerospike's errors by remedy. The codes are the client's, so that they can be read without it."""

from projector.errors import Fatal, InDoubt, Misconfigured, ProjectorError, Retryable

NOT_APPLIED = frozenset(
    {8, 11, 14, 18, 22}
)  # no space, partition unavailable, key busy, device overload, forbidden now
SESSION_EXPIRED = frozenset({66, 80})
SECURITY = range(50, 100)
NAMESPACE_NOT_FOUND = 20
PARAMETER = -2
INDEX_FOUND = 200
REFUSED_FOR_GOOD = frozenset({PARAMETER, 4, 12, 16, 21, 25, 26})  # parameter, bin type or name, edition, not applicable


def translated(code: int | None, message: str | None, in_doubt: bool = False) -> ProjectorError:
    """The error to raise; `in_doubt`: a write that may have left: only a known refusal was surely not applied."""
    text = " ".join(f"Aerospike: {message} ({code})".split())
    if code in NOT_APPLIED or code in SESSION_EXPIRED:
        return Retryable(text)
    if code == NAMESPACE_NOT_FOUND or code in SECURITY:
        return Misconfigured(f"{text}; see namespace, user and password in [aerospike]")
    if code in REFUSED_FOR_GOOD:
        return Fatal(text)
    return InDoubt(text) if in_doubt else Retryable(text)
