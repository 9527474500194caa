"""What a worker does with a task: sleep a second per dot, or run a command."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from task_queue import signals
from task_queue.failures import SettingsError
from task_queue.task import Task
from task_queue.terminal import printable, say

COMMAND_GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a command that Ctrl+C ends

Perform = Callable[[Task], object]


class CommandFailed(Exception):
    """A command did not succeed; the text says how it ended."""


def sleeping(seconds_per_dot: float) -> Perform:
    """Return the tutorial's stand-in for work: a sleep for each dot in the task, counted off on screen."""

    def perform(task: Task) -> None:
        dots = task.body.count(b".")
        for dot in range(1, dots + 1):
            time.sleep(max(0.0, dot * seconds_per_dot - task.seconds()))
            say(f"     . {dot} of {dots}")

    return perform


def running(command: str) -> Perform:
    """Return work that is a command: `{}` in it becomes the task as (part of) one argument, without a shell.

    Raises:
        SettingsError: there is no such command.
    """
    words = words_of(command)

    def perform(task: Task) -> None:
        arguments = [os.fsencode(word).replace(b"{}", task.body) for word in words]
        process = None
        try:
            with signals.in_force().held():  # a command that starts just now could not be ended
                # A session of its own: Ctrl+C reaches it only through us, and then with all its children.
                process = subprocess.Popen(arguments, stdin=subprocess.PIPE, start_new_session=True)
            process.communicate(task.body)
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
    if shutil.which(words[0]) is None:
        raise SettingsError(f"--run: there is no command {printable(words[0])} here that may be executed.")
    return words


def end_child(error: BaseException | None) -> None:
    """End a process that a task has forked as Python would, but leave alone the connection that it shares with us."""
    code = error.code if isinstance(error, SystemExit) else int(error is not None)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


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
        process.communicate()
