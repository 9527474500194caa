"""How a signal wakes who waits: by a byte that Python writes, and once more if it came in the wrong moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable

try:  # signal.getsignal() makes an enum of each answer, which takes longer than all else that a short task costs us
    from _signal import getsignal  # type: ignore[import-not-found]
except ImportError:  # not CPython
    from signal import getsignal

__all__ = ["getsignal", "send_again", "write_there"]


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
