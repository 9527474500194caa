"""How a signal wakes who waits: by a byte that Python writes, sent by another thread, or sent once more."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

try:  # signal.getsignal() makes an enum of each answer, which takes longer than all else that a short task costs us
    from _signal import getsignal  # type: ignore[import-not-found]
except ImportError:  # not CPython
    from signal import getsignal

__all__ = ["call_main", "callable_by_others", "getsignal", "send_again", "write_there"]

# Nothing sends it, but for data "out of band" on a socket, and who does not expect it ignores it. Not on Windows.
CALL = getattr(signal, "SIGURG", None)


def write_there(descriptor: int) -> int:
    """Have Python write a signal's number there, at once and whichever thread it comes to; return where it did."""
    with contextlib.suppress(OSError, ValueError):  # somebody has closed it
        return signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    return -1


def send_again(number: int, handler: Callable[..., object]) -> None:
    """Send a signal to the main thread that has not called its handler yet.

    Python notes a signal, and calls its handler between two steps of the main thread. If it comes when the main thread
    is about to wait, as for a command, it is noted and interrupts nothing.

    Args:
        number: of the signal.
        handler: ours; if another one is in force, that is not our business.
    """
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill") and getsignal(number) == handler:  # not on Windows
        signal.pthread_kill(main, number)


@contextlib.contextmanager
def callable_by_others(answer: Callable[[], None]) -> Iterator[None]:
    """Have the main thread, which is in this block, call a function whenever another thread has said call_main()."""
    with contextlib.ExitStack() as undo:
        if CALL is not None:
            undo.callback(signal.signal, CALL, signal.signal(CALL, lambda *_: answer()))
        yield


def call_main() -> bool:
    """Wake the main thread out of whatever it waits for; tell whether that is possible here."""
    main = threading.main_thread().ident
    if CALL is None or main is None:
        return False
    signal.pthread_kill(main, CALL)
    return True
