"""A process that a task has forked: it gets its original signal handlers back, and leaves our connection alone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from task_queue.system import WINDOWS

_before: dict[int, Any] = {}  # the handlers that were there before ours


class _Thread(threading.local):
    around: tuple[Any, Any] = (None, None)  # what is called before and after a fork
    mask: set[int]  # the signals that were blocked before it


_this_thread = _Thread()


def install(number: int, handler: Callable[..., object]) -> None:
    """Install our handler for a signal, but only in this process.

    In a forked process, a handler in Python would delay its end, and wake us through a socket that both share.
    """
    found = signal.signal(number, handler)
    if not is_ours(found):
        _before[number] = found


def is_ours(handler: object) -> bool:
    """Tell whether a signal handler belongs to this package."""
    return str(getattr(handler, "__module__", "")).startswith("task_queue.")


def end_child(error: BaseException | None) -> None:
    """End a forked process that returns from a task as Python would, but without closing our connection."""
    code = error.code if isinstance(error, SystemExit) else int(error is not None)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def around_forks(hold: Callable[[], None] | None, release_soon: Callable[[], None] | None) -> tuple[Any, Any]:
    """Have this thread call these before and after it forks a process: what is raised in between, Python drops.

    Returns what was called before.
    """
    before, _this_thread.around = _this_thread.around, (hold, release_soon)
    return before


if not WINDOWS:  # which can't fork

    def _block() -> None:
        # A signal that reaches the child before its handlers are back, Python forgets.
        hold, _ = _this_thread.around
        if hold is not None:
            hold()
        _this_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _before)

    def _unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _this_thread.mask)
        _, release_soon = _this_thread.around
        if release_soon is not None:
            release_soon()

    def _undo_in_child() -> None:
        for number, found in _before.items():
            if is_ours(signal.getsignal(number)):
                signal.set_wakeup_fd(-1)
                signal.signal(number, found)
        signal.pthread_sigmask(signal.SIG_SETMASK, _this_thread.mask)

    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_undo_in_child)
