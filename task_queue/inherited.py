"""Guards against a bad start of the program: signals blocked, descriptors closed, a second worker by mistake."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator

from task_queue.system import WINDOWS


@contextlib.contextmanager
def as_from_a_shell() -> Iterator[None]:
    """Undo, for a block, what some programs pass on to those they start: blocked signals, and SIGCHLD ignored.

    If SIGCHLD is ignored, a child's exit status is lost, and Python reports 0 instead, which means success.
    """
    with contextlib.ExitStack() as undo:
        if not WINDOWS:
            if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
                undo.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_SETMASK, []))
        yield


def check_children_can_be_waited_for() -> None:
    """Raise RuntimeError if SIGCHLD is ignored: only the main thread can undo that, as in as_from_a_shell()."""
    if not WINDOWS and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        raise RuntimeError(
            "SIGCHLD is ignored, so a command that fails would look like success. "
            "Call  signal.signal(signal.SIGCHLD, signal.SIG_DFL)  in the main thread first."
        )


def open_standard_streams() -> None:
    """Open closed descriptors 0 to 2 on the null device: else a socket could get that number, and what we print."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


def let_tasks_print() -> None:
    """Show what standard output can't encode as escapes: else a task that prints 日本 into a file on Windows fails."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def refuse_second_run() -> None:
    """Raise RuntimeError if multiprocessing is running the program again, for a process that a task has started.

    This is how processes start on macOS, on Windows, and everywhere from Python 3.14 on. Source:
    https://docs.python.org/3/library/multiprocessing.html#the-spawn-and-forkserver-start-methods
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "A process that a task has started runs this program again, and would be a second worker. "
            'Put listen() under  if __name__ == "__main__":'
        )
