"""Patience: the identical call again while the error says so, for a bounded time."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from projector.errors import InDoubt, Retryable
from projector.store import Answer, Outcome, Row, Store, Write

T = TypeVar("T")

CHECKPOINT_S = 40.0
"""A killed worker's open transaction holds its group's checkpoint back: 15 s, and 10 s until the broker ends it."""


class Patience:
    """Makes a call again on `Retryable` for `seconds` at most; then the last `Retryable` is raised.

    `failed` hears each error before the pause that follows it; `sleep` makes the pause.
    """

    def __init__(
        self,
        seconds: float = 20.0,
        failed: Callable[[BaseException], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.failed = failed or _nothing

        def note(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if error:
                self.failed(error)

        self._attempts = Retrying(
            retry=retry_if_exception_type(Retryable),
            wait=wait_random_exponential(multiplier=0.05, max=2.0),
            stop=stop_after_delay(seconds),
            before_sleep=note,
            sleep=sleep,
            reraise=True,
        )

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns in the end."""
        return self._attempts.copy()(call)

    def write(self, store: Store, writes: Sequence[Write]) -> list[Answer]:
        """The answers to `writes`, none of them FAILED: those that failed are sent again, identical.

        A write that was in doubt may have been applied although its last answer says EXISTS, REFUSED or PRESENT.
        Raises the `Retryable` of a write that goes on failing.
        """
        answers: list[Answer | None] = [None] * len(writes)

        def send() -> list[Answer]:
            pending = [number for number, answer in enumerate(answers) if answer is None]
            failed: Exception | None = None
            for number, answer in zip(pending, store.write([writes[number] for number in pending]), strict=True):
                if answer.outcome is Outcome.FAILED:
                    if not isinstance(failed, InDoubt):  # of many errors the one that says most
                        failed = answer.error or Retryable(f"{writes[number].row}: the write failed")
                else:
                    answers[number] = answer
            if failed is not None:
                raise failed
            return [answer for answer in answers if answer is not None]

        return self(send)

    def scan(self, store: Store, set_name: str, bins: Sequence[str]) -> list[Row]:
        """All rows of a set, at once: only for bins that are small. A scan that fails is begun anew."""
        return self(lambda: [row for page in store.scan(set_name, bins) for row in page])


def _nothing(_: BaseException) -> None:
    pass


patiently = Patience()
checkpoint_patiently = Patience(CHECKPOINT_S)
write_patiently = patiently.write
scan_patiently = patiently.scan
