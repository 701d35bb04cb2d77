"""Stop politely: SIGTERM and Ctrl-C ask the loop to save and leave; a second one leaves at once."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Set by a signal; `signum` is 0 while nobody asked."""

    def __init__(self) -> None:
        self.signum = 0

    def __bool__(self) -> bool:
        return self.signum != 0

    @property
    def exit_code(self) -> int:
        """Return the shell's code for a program ended by that signal (130 for Ctrl-C, 143 for SIGTERM)."""
        return 128 + self.signum


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM in a `StopRequest`; handlers are restored at the end and after the first signal."""
    request = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()
