"""Checks the function that is given to listen(): it must do its work, and not only start it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import subprocess
import threading
import types
from typing import Any


class OnlyBegun(TypeError):
    """A function has returned unfinished work, such as a coroutine or a running thread."""


def check_function(perform: Any) -> None:
    """Raise TypeError if a call of the function only creates a coroutine or a generator."""
    function = perform
    while isinstance(function, functools.partial):
        function = function.func
    if not callable(function):
        raise TypeError(f"listen() needs a function, and {perform!r} is none.")
    for each in (function, type(function).__call__):
        kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(is_kind(each) for is_kind in kinds):
            raise TypeError(f"{perform!r} would only be begun, not done. Give listen() an ordinary function.")


def check_result(result: object) -> None:
    """Raise OnlyBegun if a function's result, or a part of it, is unfinished work."""
    parts = result if isinstance(result, (list, tuple, set)) else [result]
    if not (begun := [part for part in parts if is_only_begun(part)]):
        return
    for part in begun:
        if isinstance(part, (types.CoroutineType, types.GeneratorType)):
            part.close()
    raise OnlyBegun(f"The work was only begun, not done: the function has returned a {type(begun[0]).__name__}.")


def is_only_begun(result: Any) -> bool:
    """Tell whether a value stands for work that has not run yet, or is still running."""
    if isinstance(result, (types.GeneratorType, map, filter, zip, contextlib._GeneratorContextManager)):
        return True
    if inspect.isawaitable(result) or inspect.isasyncgen(result):
        return True
    if isinstance(result, subprocess.Popen):
        return result.poll() is None
    if isinstance(result, threading.Thread):
        return result.ident is None or result.is_alive()
    # A Future, a pool's result, or a process, from any library. Even when they are done, the first two hide errors.
    is_pools = hasattr(result, "ready") and hasattr(result, "wait")
    return hasattr(result, "add_done_callback") or is_pools or getattr(result, "exitcode", 0) is None
