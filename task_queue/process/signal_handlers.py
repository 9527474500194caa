"""Signal handlers: installed, restored, and removed in a process that a task forks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from task_queue.windows import WINDOWS

# SIGBREAK is Windows' Ctrl+Break, the only signal that one process can send to another there.
FINISHING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name)]
ENDING_SIGNALS = [signal.SIGINT, *FINISHING_SIGNALS, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class SignalHandlers:
    """Calls one function, in the main thread, for each signal that ends a program.

    Args:
        handle: called with the signal's number, and whether an exception may be raised.
    """

    def __init__(self, handle: Callable[[int, bool], None]) -> None:
        self.earlier: dict[int, Any] = {}  # handlers, by signal; none if ours are not installed
        self._handle = handle
        self._bell: socket.socket | None = None
        self._undo = contextlib.ExitStack()

    def install(self) -> None:
        """Install our handlers."""
        self._undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(-1))
        for number in ENDING_SIGNALS:
            # Two kinds stay as they are: ignored signals (nohup), and handlers that were not set by Python (None).
            if (earlier := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                self.earlier[number] = earlier
                self._undo.callback(signal.signal, number, earlier)
                signal.signal(number, self._on_signal)
        # Two bad settings may be inherited. If SIGCHLD is ignored, the exit status of a --run is lost, and Python
        # reports 0, which means success. If signals are blocked, nothing would end us.
        if not WINDOWS:
            if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
                self._undo.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
            blocked = signal.pthread_sigmask(signal.SIG_SETMASK, [])
            self._undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, blocked)

    def restore(self) -> None:
        """Restore what was there before install()."""
        self._undo.close()

    def reinstall(self) -> None:
        """Install ours again after a task with asyncio, which replaces our handlers and the wakeup descriptor.

        A handler that a task installs itself, without asyncio, stays.
        """
        bell = self._bell.fileno() if self._bell else -1
        found = signal.set_wakeup_fd(bell, warn_on_full_buffer=False) if self.earlier else bell
        if found != bell:
            for number in self.earlier:
                signal.signal(number, self._on_signal)

    def is_replaced(self, number: int) -> bool:
        """Tell whether a task has put another handler in place of ours."""
        return number in self.earlier and signal.getsignal(number) != self._on_signal

    def wake_through(self, bell: socket.socket | None) -> None:
        """Have Python write a byte into a socket when a signal comes, so that a select() ends; None ends that.

        On Windows nothing else ends a select().
        """
        self._bell = bell
        if self.earlier:
            signal.set_wakeup_fd(bell.fileno() if bell else -1, warn_on_full_buffer=False)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._handle(number, not is_forking(frame))


_AROUND_FORK: tuple[CodeType, ...] = ()  # the code of the functions that Python calls around a fork


def is_forking(frame: FrameType | None) -> bool:
    """Tell whether a signal has come in one of the functions that Python calls around a fork."""
    while frame is not None and frame.f_code not in _AROUND_FORK:
        frame = frame.f_back
    return frame is not None


if not WINDOWS:  # which can't fork
    # Signals are blocked during a fork. The child first puts the earlier handlers back, and only then unblocks: Python
    # forgets a signal that comes before its own code for forks has finished. A handler must not raise an exception in
    # these functions: Python would print and drop it. is_forking() looks for them among the calls. A flag would be set
    # too late: a signal may come before the function's first line.
    _blocked = threading.local()  # the signals that were blocked before the fork

    def _before_fork() -> None:
        _blocked.signals = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)

    def _after_fork() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.signals)

    def _in_child() -> None:
        for number in ENDING_SIGNALS:
            # In a loop, because a task may have started a worker of its own.
            while isinstance(ours := getattr(signal.getsignal(number), "__self__", None), SignalHandlers):
                signal.set_wakeup_fd(-1)
                signal.signal(number, ours.earlier[number])
        _after_fork()

    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
    _AROUND_FORK = (_before_fork.__code__, _after_fork.__code__)
