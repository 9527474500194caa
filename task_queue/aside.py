"""Calls a function in a daemon thread: for what may hang, because a process ends without waiting for such a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def call_aside(function: Callable[[], Any], seconds: float | None = None) -> Any:
    """Return what the function returns, or raise what it raises. The threads that it starts are daemons, too.

    Args:
        function: is called in another thread.
        seconds: how long to wait for it; None for ever.

    Raises:
        concurrent.futures.TimeoutError: it takes longer.
    """
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return outcome.result(seconds)
