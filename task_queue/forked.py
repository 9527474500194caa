"""A process that a task has forked: it gets its original signal handlers back, and leaves our connection alone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from task_queue.system import WINDOWS

_before: dict[int, Any] = {}  # the handlers that were there before ours


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


def _undo_in_child() -> None:
    for number, found in _before.items():
        if is_ours(signal.getsignal(number)):
            signal.set_wakeup_fd(-1)
            signal.signal(number, found)


if not WINDOWS:
    os.register_at_fork(after_in_child=_undo_in_child)
