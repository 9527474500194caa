"""How a signal wakes a waiting thread: Python writes a byte, another thread sends a signal, or it is sent again."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

from task_queue.aside import Aside
from task_queue.system import WINDOWS

try:  # signal.getsignal() converts each answer to an enum, which takes longer than all our other work for a short task
    from _signal import getsignal  # type: ignore[import-not-found]
except ImportError:  # not CPython
    from signal import getsignal

__all__ = ["call_main", "callable_by_others", "getsignal", "send_again", "send_again_soon", "write_there"]

SOON = 0.02  # seconds
_is_sending = threading.Lock()  # held from send_again_soon() until it sends
# Nothing else sends this signal, except a socket with "out-of-band" data; by default it is ignored. Not on Windows.
CALL = getattr(signal, "SIGURG", None)


def write_there(descriptor: int) -> int:
    """Have Python write each signal's number there at once, whichever thread gets it; return the old descriptor."""
    with contextlib.suppress(OSError, ValueError):  # somebody has closed it
        return signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    return -1


def send_again(number: int, handler: Callable[..., object]) -> None:
    """Send a signal again to the main thread, which has not called its handler yet.

    Python notes a signal, and calls its handler between two steps of the main thread. If it comes just before the main
    thread starts to wait, for example for a command, it is noted but interrupts nothing.

    Args:
        number: the signal's number.
        handler: ours; if another one is in force, nothing is sent.
    """
    main = threading.main_thread().ident
    if not WINDOWS and main is not None and getsignal(number) == handler:
        signal.pthread_kill(main, number)


def send_again_soon(number: int, handler: Callable[..., object]) -> None:
    """The same, but not before the main thread is back from what it is doing."""

    def send() -> None:
        time.sleep(SOON)
        _is_sending.release()
        send_again(number, handler)

    if _is_sending.acquire(blocking=False):
        Aside(send).start()


@contextlib.contextmanager
def callable_by_others(answer: Callable[[], None]) -> Iterator[None]:
    """Inside this block, the main thread calls a function whenever another thread calls call_main()."""
    with contextlib.ExitStack() as undo:
        if CALL is not None:
            undo.callback(signal.signal, CALL, signal.signal(CALL, lambda *_: answer()))
        yield


def call_main() -> bool:
    """Wake the main thread, whatever it waits for; return whether that is possible here."""
    main = threading.main_thread().ident
    if not WINDOWS and CALL is not None and main is not None:
        signal.pthread_kill(main, CALL)
        return True
    return False
