"""What a worker does with a task: sleep a second per dot, or run a command."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from typing import Any

from task_queue import signals
from task_queue.aside import Aside
from task_queue.failures import SettingsError, WorkerError
from task_queue.task import Task
from task_queue.terminal import say
from task_queue.text import printable

LONG_ARGUMENT = 32 * 1024  # bytes; Linux and Windows allow arguments of this length, unless the environment is large
COMMAND_GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a command that Ctrl+C ends

Perform = Callable[[Task], object]


class CommandFailed(Exception):
    """A command did not succeed; the text says how it ended."""


def sleeping(seconds_per_dot: float) -> Perform:
    """Return the tutorial's fake work: a sleep for each dot in the task. The dots are counted on the screen."""

    def perform(task: Task) -> None:
        dots = task.body.count(b".")
        for dot in range(1, dots + 1):
            if (seconds := dot * seconds_per_dot - task.seconds()) > 0:
                time.sleep(seconds)
            say(f"     . {dot} of {dots}")

    return perform


def running(command: str) -> Perform:
    """Return work that runs a command without a shell: `{}` is replaced by the task, inside a single argument.

    Raises:
        SettingsError: there is no such command.
    """
    words = words_of(command)

    def perform(task: Task) -> None:
        process = None
        try:
            with signals.in_force().held():  # else a command that is just starting could not be ended
                process = started(words, task.body)
                feed(process, task.body)
            process.wait()
        except BaseException:
            if process is not None:
                end_command(process)
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
    import shutil  # only here: it imports three compression modules, and there may be many workers

    if shutil.which(words[0]) is None:
        raise SettingsError(f"--run: there is no command {printable(words[0])} here that may be executed.")
    return words


def started(words: list[str], body: bytes) -> subprocess.Popen[bytes]:
    """Start a command for a task.

    Raises:
        CommandFailed: the task can't be passed as an argument.
        WorkerError: the command can't be started, whatever the task is.
    """
    arguments = [os.fsencode(word).replace(b"{}", body) for word in words]
    try:
        # Its own session: Ctrl+C reaches the command only through us, and then with all its children.
        return subprocess.Popen(arguments, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
    except ValueError:
        raise CommandFailed("the task has a NUL character, which no argument of a command can have") from None
    except OSError as error:
        if error.errno == errno.E2BIG and len(body) > LONG_ARGUMENT and any("{}" in word for word in words):
            raise CommandFailed(f"the task is too long for an argument of a command ({len(body):,} bytes)") from None
        raise WorkerError(f"--run: {printable(words[0])} can't be started: {error.strerror}.") from None


def reason_of(error: BaseException) -> str:
    """Return in one line why a task failed; for an error in Python code, also where."""
    if isinstance(error, CommandFailed):
        return str(error)
    try:
        text = str(error)
    except Exception:
        text = "and why can't be said"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({os.path.basename(place.filename)}, line {place.lineno})"


def feed(process: subprocess.Popen[bytes], body: bytes) -> None:
    """Write a task to the standard input of its command, as far as the command reads it.

    In a thread, because the reader may be a process that the command leaves behind, and we do not wait for that.

    Raises:
        WorkerError: no thread can be started.
    """
    pipe: Any = process.stdin

    def write() -> None:
        rest = memoryview(body)
        with contextlib.suppress(OSError), pipe:
            while rest:
                rest = rest[pipe.write(rest) :]

    try:
        Aside(write).start()
    except RuntimeError as error:
        pipe.close()
        raise WorkerError(f"--run: {error}.") from None


def check_status(program: str, status: int) -> None:
    """Raise CommandFailed if a command did not end with exit status 0."""
    if status < 0:
        name = signal.Signals(-status).name if -status in [*signal.Signals] else f"signal {-status}"
        raise CommandFailed(f"{program} was killed by {name}")
    if status > 0:
        raise CommandFailed(f"{program} ended with exit status {status}")


def end_command(process: subprocess.Popen[bytes]) -> None:
    """End a command with its children: SIGTERM first; after a while, or a second Ctrl+C, SIGKILL."""

    def signal_all(name: str) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, name))
            else:  # Windows has no process groups
                process.kill()

    try:
        signal_all("SIGTERM")
        process.wait(COMMAND_GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        signal_all("SIGKILL")
        process.wait()
