"""How a program must not be started: deaf to signals, with descriptors closed, as a second worker by mistake."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def as_from_a_shell() -> Iterator[None]:
    """Undo, for a block, what some programs leave to those they start: blocked signals, and SIGCHLD ignored.

    With SIGCHLD ignored nobody can wait for a child's exit status, and Python makes up one: 0, which is success.
    """
    with contextlib.ExitStack() as undo:
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
                undo.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_SETMASK, []))
        yield


def check_children_can_be_waited_for() -> None:
    """Raise RuntimeError in a thread that can't mend what as_from_a_shell() mends: only the main one may."""
    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        raise RuntimeError(
            "SIGCHLD is ignored, so a command that fails would look like success. "
            "Call  signal.signal(signal.SIGCHLD, signal.SIG_DFL)  in the main thread first."
        )


def open_standard_streams() -> None:
    """Open on nothing what is closed of the descriptors 0 to 2: a socket of that number would get what is printed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


def refuse_second_run() -> None:
    """Raise RuntimeError if multiprocessing is running the program again, to begin a process that a task has started.

    That is how processes start on macOS, on Windows, and everywhere from Python 3.14 on. Source:
    https://docs.python.org/3/library/multiprocessing.html#the-spawn-and-forkserver-start-methods
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "A process that a task has started runs this program again, and would be a second worker. "
            'Put listen() under  if __name__ == "__main__":'
        )
