"""Lines on the terminal: printed at once, and dropped if nobody takes them while the program is about to end."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from task_queue.failures import Failure
from task_queue.system import WINDOWS

LOOK_EVERY = 0.1  # seconds between two checks of a blocked stream, such as a paused terminal
PATIENCE = 0.5  # seconds that a program which is about to end waits for such a stream
AT_ONCE = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes without waiting if it takes anything
# When nobody will ever read it. On Windows, a closed pipe has another number: https://github.com/python/cpython/issues/79935
GONE = (errno.EPIPE, errno.EIO, *([errno.EINVAL] if WINDOWS else []))


class Blocked(Exception):
    """Nobody reads what is being written, and the program is about to end."""


class _ThisThread(threading.local):
    writes_to: TextIO | None = None
    has_dropped = False  # a line, and since then the stream has taken nothing
    has_complained = False
    is_ending: Callable[[], bool] = staticmethod(lambda: False)


_here = _ThisThread()


class _Prompt:
    prints: Callable[[str, TextIO], None] | None = None  # see print_through()


def say(text: str, end: str = "\n") -> None:
    """Print a line at once, with escapes for what the stream can't encode.

    When that is impossible (`| head -1`, a full disk), go on without the line: tasks matter more.
    """
    _say(text + end, sys.stdout)


def complain(text: str) -> None:
    """Print a line on standard error at once."""
    _say(f"{text}\n", sys.stderr)


def tell(failure: Failure) -> None:
    """Print why the program can't go on, unless that was printed before."""
    if not failure.is_told:
        complain(f" [!] {failure}")


def print_through(prints: Callable[[str, TextIO], None] | None) -> None:
    """While the person is asked something, have this function print the lines of other threads; None ends that."""
    _Prompt.prints = prints


def give_up_when(is_ending: Callable[[], bool]) -> None:
    """From now on, drop lines of this thread that nobody takes, if `is_ending()` is true."""
    _here.is_ending = is_ending
    _here.has_dropped = False


def interrupt_write() -> None:
    """Drop the line that the main thread is writing, if nobody takes it. Called by the signal handler.

    Raises:
        Blocked: into the write, which catches it.
    """
    stream, _here.writes_to = _here.writes_to, None
    if stream is not None and not takes_more(stream):
        _here.has_dropped = True
        raise Blocked


def wait_for(stream: TextIO) -> None:
    """Wait until a stream takes more.

    Raises:
        Blocked: the program is about to end, and has waited long enough.
    """
    since = time.monotonic()
    while not takes_more(stream, 0.0 if _here.is_ending() and _here.has_dropped else LOOK_EVERY):
        if _here.is_ending() and (_here.has_dropped or time.monotonic() - since > PATIENCE):
            _here.has_dropped = True
            raise Blocked
    _here.has_dropped = False


def takes_more(stream: TextIO, seconds: float = 0.0) -> bool:
    """Tell whether a stream accepts data within some seconds; True if the system can't tell (Windows)."""
    try:
        return bool(select.select([], [stream], [], seconds)[1])
    except (OSError, ValueError, TypeError):
        return True


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person is at the other end."""
    return stream is not None and stream.isatty()


def let_go() -> None:
    """Make sure that Python's shutdown does not wait for a blocked stream, or fail because of a full disk."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                if not takes_more(stream):
                    raise BlockingIOError
                stream.flush()
            except (OSError, ValueError, AttributeError):
                _send_nowhere(stream)


def print_now(text: str, stream: TextIO) -> None:
    """Print text, also while the person is asked something."""
    try:
        _write(text, stream)
    except (Blocked, ValueError):  # also a closed file
        pass
    except OSError as error:
        if error.errno in GONE:
            _send_nowhere(stream)  # or each print() of a task would fail
        elif stream is sys.stdout and not _here.has_complained:  # a full disk may have room again
            _here.has_complained = True
            complain(f" [!] Standard output can't be written: {error.strerror}. The tasks go on.")


def _say(text: str, stream: TextIO | None) -> None:
    if stream is None:  # as in `>&-`
        return
    is_main = threading.current_thread() is threading.main_thread()
    ((not is_main and _Prompt.prints) or print_now)(text, stream)


def _write(text: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"  # an object in place of standard output may have none
    data = text.encode(encoding, "backslashreplace")
    wait_for(stream)
    _here.writes_to = stream
    try:
        if type(stream) is not io.TextIOWrapper or WINDOWS:  # Windows' console takes text
            print(data.decode(encoding), end="", file=stream, flush=hasattr(stream, "flush"))
            return
        stream.flush()  # what a task has printed comes first
        # Not through the stream's buffer: it would keep what a full disk refuses. And if this thread were stopped in
        # it, Python's shutdown would wait for its lock.
        while data:
            with contextlib.suppress(BlockingIOError):  # another process has made a shared pipe non-blocking
                data = data[os.write(stream.fileno(), data[:AT_ONCE]) :]
            if data:
                wait_for(stream)
    finally:
        _here.writes_to = None


def _send_nowhere(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
