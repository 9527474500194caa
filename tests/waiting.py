"""Waiting, in the tests: until something happens, and what a process waits for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE = 30.0  # seconds for whatever should happen at once; generous, for a loaded machine


def eventually(happens: Callable[[], Any], what: str, within: float = DEADLINE) -> Any:
    """Return the first true value of `happens()`; fail if there is none in time."""
    deadline = time.monotonic() + within
    while not (value := happens()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.02)
    return value


def waits_in(pid: int) -> str:
    """Return where in Linux the main thread of a process waits, such as in a pipe or in epoll."""
    return Path(f"/proc/{pid}/wchan").read_text()


def waits_for_output(pid: int) -> bool:
    """Tell whether the main thread of a process waits until a pipe or a terminal takes more."""
    return any(where in waits_in(pid) for where in ("pipe", "poll_schedule"))
