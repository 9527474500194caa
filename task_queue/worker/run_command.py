"""The work of a worker with --run: a command for each task."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import subprocess
from typing import Any

from task_queue.exceptions import SettingsError, WorkerError
from task_queue.process import shutdown
from task_queue.signal_free_thread import SignalFreeThread
from task_queue.terminal.console import complain
from task_queue.terminal.text import printable
from task_queue.windows import WINDOWS
from task_queue.worker.function_checks import Perform
from task_queue.worker.task import Task

LONG_ARGUMENT = 8 * 1024  # bytes; every system allows arguments of this length, unless the environment is large
LOOK_AT_COMMAND_EVERY = 0.2  # seconds between two checks whether a command has ended, on Windows
OF_A_SHELL = (">", "<", "|", "&&", ";")  # words that mean something to a shell only
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "cmd", "powershell", "pwsh")
COMMAND_GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a command that Ctrl+C ends


class CommandFailed(Exception):
    """A command did not succeed; the text says how it ended."""


def running(command: str) -> Perform:
    """Return work that runs a command without a shell: `{}` is replaced by the task, inside a single argument.

    Raises:
        SettingsError: there is no such command.
    """
    words = words_of(command)

    def perform(task: Task) -> None:
        process = None
        try:
            with shutdown.current().held():  # until we have its process, we could not end it
                process = started(words, task.body)
                feed(process, task.body)
            wait_for_end(process)
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
    lexer = shlex.shlex(command, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""  # # begins no comment: #ff0000 may be a colour
    if WINDOWS:
        lexer.escape = ""  # C:\tools\resize.exe is a program
    try:
        words = [*lexer]
    except ValueError as error:
        raise SettingsError(f"--run '{printable(command)}' is not a command: {error}.") from None
    import shutil  # only here: it imports three compression modules, and there may be many workers

    if not words or (program := shutil.which(words[0])) is None:
        raise SettingsError(f"--run: there is no command {printable(''.join(words[:1]))} here that may be executed.")
    is_shell = os.path.basename(program).lower().removesuffix(".exe") in SHELLS
    shell_words = [word for word in words[1:] if word in OF_A_SHELL or word.startswith((">", "2>"))]
    if shell_words and not is_shell:
        complain(f" [*] --run has no shell: {printable(shell_words[0])} is passed to {printable(words[0])} as it is.")
    if WINDOWS:
        words[0] = program  # Windows would look for .exe only, and in other folders
        if program.lower().endswith((".bat", ".cmd")) and any("{}" in word for word in words):
            # cmd.exe would read the task as a part of the command line, whatever quotes are around it. Source:
            # https://docs.python.org/3/library/subprocess.html#security-considerations
            raise SettingsError(f"--run: {printable(program)} is a batch file, and can't get the task as {{}} safely.")
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
        return subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
    except ValueError:
        why = "the task has a NUL character, or is not text on Windows: no argument of a command can be like that"
        raise CommandFailed(why) from None
    except OSError as error:
        # Windows says of a command that is too long that its file is missing.
        is_refused = WINDOWS or error.errno == errno.E2BIG
        if is_refused and len(body) > LONG_ARGUMENT and any("{}" in word for word in words):
            raise CommandFailed(f"the task is too long for an argument of a command ({len(body):,} bytes)") from None
        raise WorkerError(f"--run: {printable(words[0])} can't be started: {error.strerror}.") from None


def feed(process: subprocess.Popen[bytes], body: bytes) -> None:
    """Write a task to the standard input of its command, as far as the command reads it.

    In a thread: a process that the command leaves behind may keep the pipe open without reading, and we do not wait.
    """
    pipe: Any = process.stdin

    def write() -> None:
        rest = memoryview(body)
        with contextlib.suppress(OSError), pipe:
            while rest:
                rest = rest[pipe.write(rest) :]

    SignalFreeThread(write, "standard input").start()


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a command ends, so that Ctrl+C interrupts the wait on Windows, too."""
    while process.returncode is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_AT_COMMAND_EVERY if WINDOWS else None)  # Windows can't interrupt a wait without a timeout


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
            if WINDOWS:  # it has no process groups, and no signals
                subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True)
            else:
                os.killpg(process.pid, getattr(signal, name))  # its group, see started()

    try:
        signal_all("SIGTERM")
        process.wait(COMMAND_GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        signal_all("SIGKILL")
        process.wait()
