"""Signal handlers: installed, restored, and removed in a process that a task forks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from task_queue.platform import WINDOWS

# SIGBREAK is Windows' Ctrl+Break, the only signal that one process can send to another there.
FINISHING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name)]
ENDING_SIGNALS = [signal.SIGINT, *FINISHING_SIGNALS, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class SignalHandlers:
    """Calls one function, in the main thread, for each signal that ends a program.

    Args:
        handle: called with the signal's number, and whether an exception may be raised.
    """

    def __init__(self, handle: Callable[[int, bool], None]) -> None:
        self.found: dict[int, Any] = {}  # the earlier handlers
        self._handle = handle
        self._bell: socket.socket | None = None
        self._undo = contextlib.ExitStack()

    def install(self) -> None:
        """Install our handlers."""
        self._undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(-1))
        for number in ENDING_SIGNALS:
            # Ignored signals stay ignored (nohup), and a handler that Python can't put back is left alone.
            if (found := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                self.found[number] = found
                self._undo.callback(signal.signal, number, found)
                signal.signal(number, self._on_signal)
        # Whoever started us may have blocked signals: nothing would end us. Or ignored SIGCHLD: then the exit status of
        # a --run is lost, and Python reports 0, which means success.
        if not WINDOWS:
            if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
                self._undo.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
            blocked = signal.pthread_sigmask(signal.SIG_SETMASK, [])
            self._undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, blocked)

    def restore(self) -> None:
        """Restore what was there before install()."""
        self._undo.close()

    def reinstall(self) -> None:
        """Install ours again after a task with asyncio, which replaces our handlers and the wakeup descriptor."""
        bell = self._bell.fileno() if self._bell else -1
        if self.found and signal.set_wakeup_fd(bell, warn_on_full_buffer=False) != bell:
            for number in self.found:
                signal.signal(number, self._on_signal)

    def is_replaced(self, number: int) -> bool:
        """Tell whether a task has put another handler in place of ours."""
        return number in self.found and signal.getsignal(number) != self._on_signal

    def wake_through(self, bell: socket.socket | None) -> None:
        """Have Python write a byte into a socket when a signal comes, so that a select() ends; None ends that.

        On Windows nothing else ends a select().
        """
        self._bell = bell
        if self.found:
            signal.set_wakeup_fd(bell.fileno() if bell else -1, warn_on_full_buffer=False)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._handle(number, not is_forking(frame))


def is_forking(frame: FrameType | None) -> bool:
    """Tell whether a signal has come in one of the functions that Python calls around a fork."""
    while frame is not None and not frame.f_code.co_name.startswith("_around_fork"):
        frame = frame.f_back
    return frame is not None


if not WINDOWS:  # which can't fork
    # Signals are blocked before a fork, and unblocked after it: in the child when the earlier handlers are back, else
    # Python would forget one that comes before. In these functions a handler must not raise an exception: Python would
    # print and drop it. is_forking() knows them by the beginning of their names.
    _blocked = threading.local()  # the signals that were blocked before the fork

    def _around_fork_before() -> None:
        _blocked.signals = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)

    def _around_fork_after() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.signals)

    def _in_child() -> None:
        for number in ENDING_SIGNALS:
            # More than one level, if a task has started a worker of its own.
            while isinstance(ours := getattr(signal.getsignal(number), "__self__", None), SignalHandlers):
                signal.set_wakeup_fd(-1)
                signal.signal(number, ours.found[number])
        _around_fork_after()

    os.register_at_fork(before=_around_fork_before, after_in_parent=_around_fork_after, after_in_child=_in_child)
