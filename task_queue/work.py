"""What a worker does with a task: sleep a second per dot, or run a command."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, BinaryIO

from task_queue import signals
from task_queue.failures import SettingsError, WorkerError
from task_queue.task import Task
from task_queue.terminal import printable, say

COMMAND_GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a command that Ctrl+C ends

Perform = Callable[[Task], object]


class CommandFailed(Exception):
    """A command did not succeed; the text says how it ended."""


class OnlyBegun(TypeError):
    """A function has returned work that nobody does."""


def check_function(perform: Perform) -> None:
    """Raise TypeError if calling the function does nothing but make a coroutine or a generator."""
    function: Any = perform
    while isinstance(function, functools.partial):
        function = function.func
    if not callable(function):
        raise TypeError(f"listen() needs a function, and {perform!r} is none.")
    for each in (function, type(function).__call__):
        kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(is_kind(each) for is_kind in kinds):
            raise TypeError(f"{perform!r} would only be begun, not done. Give listen() an ordinary function.")


def check_result(result: object) -> None:
    """Raise OnlyBegun if what a function has returned is work that nobody does, or does not wait for."""
    if isinstance(result, (types.CoroutineType, types.GeneratorType)):
        result.close()
    elif not (inspect.isawaitable(result) or inspect.isasyncgen(result) or hasattr(result, "add_done_callback")):
        return
    raise OnlyBegun(f"The work was only begun, not done: the function has returned a {type(result).__name__}.")


def sleeping(seconds_per_dot: float) -> Perform:
    """Return the tutorial's stand-in for work: a sleep for each dot in the task, counted off on screen."""

    def perform(task: Task) -> None:
        dots = task.body.count(b".")
        for dot in range(1, dots + 1):
            if (seconds := dot * seconds_per_dot - task.seconds()) > 0:
                time.sleep(seconds)
            say(f"     . {dot} of {dots}")

    return perform


def running(command: str) -> Perform:
    """Return work that is a command: `{}` in it becomes the task as (part of) one argument, without a shell.

    Raises:
        SettingsError: there is no such command.
    """
    words = words_of(command)

    def perform(task: Task) -> None:
        process = None
        try:
            with signals.in_force().held():  # a command that starts just now could not be ended
                process = started(words, task.body)
            # In a thread: the reader may be a process that the command leaves behind, and nobody waits for that.
            threading.Thread(target=feed, args=[process.stdin, task.body], daemon=True).start()
            process.wait()
        except BaseException as error:
            if process is not None:
                end_command(process)
            if isinstance(error, RuntimeError):  # no more threads
                raise WorkerError(f"--run: {error}.") from None
            raise
        check_status(words[0], process.returncode)

    return perform


def words_of(command: str) -> list[str]:
    """Return the program and its arguments.

    Raises:
        SettingsError: it is not a command, or there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"--run '{printable(command)}' is not a command: {error}.") from None
    if not words:
        raise SettingsError("--run needs a command.")
    if shutil.which(words[0]) is None:
        raise SettingsError(f"--run: there is no command {printable(words[0])} here that may be executed.")
    return words


def started(words: list[str], body: bytes) -> subprocess.Popen[bytes]:
    """Start a command for a task.

    Raises:
        CommandFailed: the task can't be in its arguments.
        WorkerError: it can't be started, whatever the task.
    """
    arguments = [os.fsencode(word).replace(b"{}", body) for word in words]
    try:
        # A session of its own: Ctrl+C reaches it only through us, and then with all its children.
        return subprocess.Popen(arguments, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
    except ValueError:
        raise CommandFailed("the task has a NUL character, which no argument of a command can have") from None
    except OSError as error:
        if error.errno == errno.E2BIG and any("{}" in word for word in words):
            raise CommandFailed(f"the task is too long for an argument of a command ({len(body):,} bytes)") from None
        raise WorkerError(f"--run: {printable(words[0])} can't be started: {error.strerror}.") from None


def reason_of(error: BaseException) -> str:
    """Return in one line why a task failed; of an error in Python code with its place."""
    if isinstance(error, CommandFailed):
        return str(error)
    try:
        text = str(error)
    except Exception:
        text = "and why can't be said"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({os.path.basename(place.filename)}, line {place.lineno})"


def end_child(error: BaseException | None) -> None:
    """End a process that a task has forked as Python would, but leave alone the connection that it shares with us."""
    code = error.code if isinstance(error, SystemExit) else int(error is not None)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def feed(pipe: BinaryIO, body: bytes) -> None:
    """Write a task into the standard input of its command, as far as that is read."""
    rest = memoryview(body)
    with contextlib.suppress(OSError), pipe:
        while rest:
            rest = rest[pipe.write(rest) :]


def check_status(program: str, status: int) -> None:
    """Raise CommandFailed if a command did not end with exit status 0."""
    if status < 0:
        name = signal.Signals(-status).name if -status in [*signal.Signals] else f"signal {-status}"
        raise CommandFailed(f"{program} was killed by {name}")
    if status > 0:
        raise CommandFailed(f"{program} ended with exit status {status}")


def end_command(process: subprocess.Popen[bytes]) -> None:
    """End a command with its children: asked at first, then, after a while or a second Ctrl+C, killed."""

    def signal_all(name: str) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, name))
            else:  # Windows knows no process groups
                process.kill()

    try:
        signal_all("SIGTERM")
        process.wait(COMMAND_GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        signal_all("SIGKILL")
        process.wait()
