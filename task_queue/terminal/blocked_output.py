"""Writing to a stream that may be blocked, closed or full. When the program ends, it waits only a moment."""

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

from task_queue.windows import WINDOWS

LOOK_EVERY = 0.1  # seconds between two checks of a blocked stream, such as a paused terminal
END_WITHIN = 0.5  # seconds that a program which is about to end waits for such a stream
AT_ONCE = getattr(select, "PIPE_BUF", 512)  # bytes that a writable pipe takes without blocking
# Errors of a closed stream. Windows has another one for pipes: https://github.com/python/cpython/issues/79935
GONE = (errno.EPIPE, errno.EIO, *([errno.EINVAL] if WINDOWS else []))


class Blocked(Exception):
    """Nobody reads what is being written, and the program is about to end."""


class _ThisThread(threading.local):
    has_dropped = False  # the last text was dropped: drop the next one at once, too
    is_ending: Callable[[], bool] = staticmethod(lambda: False)


_here = _ThisThread()


def drop_when(is_ending: Callable[[], bool]) -> None:
    """From now on, while `is_ending()` is true, drop what this thread writes to a blocked stream."""
    _here.is_ending = is_ending
    _here.has_dropped = False


def write(text: str, stream: TextIO) -> None:
    """Write text at once, with escapes for what the stream can't encode. Drop it if the stream is blocked or closed.

    Raises:
        OSError: it can't be written for another reason, such as a full disk.
    """
    try:
        wait_until_writable(stream)
        encoding = getattr(stream, "encoding", None) or "utf-8"  # a replacement of sys.stdout may have none
        data = text.encode(encoding, "backslashreplace")
        if type(stream) is not io.TextIOWrapper or WINDOWS:  # Windows' console takes text
            print(data.decode(encoding), end="", file=stream, flush=hasattr(stream, "flush"))
            return
        stream.flush()  # what a task has printed comes first
        # Not by print(): its buffer would keep what a full disk refuses; and it holds the stream's lock while it waits,
        # which Python takes when it exits.
        while data:
            with contextlib.suppress(BlockingIOError):  # another process has made a shared pipe non-blocking
                data = data[os.write(stream.fileno(), data[:AT_ONCE]) :]
            if data:
                wait_until_writable(stream)
    except (Blocked, ValueError):  # also a closed file
        pass
    except OSError as error:
        if error.errno not in GONE:
            raise
        _send_nowhere(stream)  # else each print() of a task would fail


def wait_until_writable(stream: TextIO) -> None:
    """Wait until a stream takes more.

    Raises:
        Blocked: the program is about to end, and has waited long enough.
    """
    since = time.monotonic()
    while not takes_more(stream):
        if _here.is_ending() and (_here.has_dropped or time.monotonic() - since > END_WITHIN):
            _here.has_dropped = True
            raise Blocked
        takes_more(stream, LOOK_EVERY)
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


def prepare_for_exit() -> None:
    """Make sure that Python's shutdown does not wait for a blocked stream, or fail because of a full disk."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                if not takes_more(stream):
                    raise BlockingIOError
                stream.flush()
            except (OSError, ValueError, AttributeError):
                _send_nowhere(stream)


def _send_nowhere(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
