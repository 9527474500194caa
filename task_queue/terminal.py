"""Lines on the terminal: printed at once, and dropped if nobody reads them."""

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
from task_queue.system import WINDOWS, is_console

LOOK_EVERY = 0.1  # seconds between two checks of a blocked stream, such as a paused terminal
OUTPUT_PATIENCE = 0.5  # seconds that a program waits for such a stream when it is about to end
NEVER = float("inf")
# When nobody will ever read it. On Windows, a closed pipe has another number: https://github.com/python/cpython/issues/79935
GONE = (errno.EPIPE, errno.EIO, *([errno.EINVAL] if WINDOWS else []))


class Blocked(Exception):
    """Nobody reads what is being written, and the program is about to end."""


class _Main:
    """What the main thread does with the terminal."""

    writes_to: TextIO | None = None
    gives_up_at = NEVER  # on the monotonic clock: when it stops waiting for a blocked stream
    has_complained = False
    prints: Callable[[str, TextIO], None] | None = None  # prints lines from other threads while it asks the person


def say(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print a line at once, with escapes for what the stream can't encode.

    When that is impossible (`| head -1`, a full disk), go on without the line: tasks matter more.
    """
    _say(text + end, stream or sys.stdout)


def complain(text: str) -> None:
    """Print a line on standard error at once."""
    _say(f"{text}\n", sys.stderr)


def _say(text: str, stream: TextIO | None) -> None:
    if stream is None:  # as in `>&-`
        return
    if (hand_over := _Main.prints) is not None and threading.current_thread() is not threading.main_thread():
        hand_over(text, stream)
    else:
        print_now(text, stream)


def print_now(text: str, stream: TextIO) -> None:
    """Print text in this thread, whatever print_for_others() says; else as say() does."""
    try:
        _write(stream, text)
    except (Blocked, ValueError):  # also a closed file
        pass
    except OSError as error:
        if error.errno in GONE:
            _drop(stream)
            return
        _empty(stream)  # drop what a task has printed, or its next print would fail, and the task with it
        if stream is sys.stdout and not _Main.has_complained:  # a full disk may have room again
            _Main.has_complained = True
            complain(f" [!] Standard output can't be written: {error.strerror}. The tasks go on.")


def tell(failure: Failure) -> None:
    """Print why the program can't go on, unless that was printed before."""
    if not failure.is_told:
        complain(f" [!] {failure}")


def print_for_others(prints: Callable[[str, TextIO], None] | None) -> None:
    """From now on, give lines from other threads to this function; None ends that."""
    _Main.prints = prints


def wait_for_ever() -> None:
    """Never give up on a blocked stream."""
    _Main.gives_up_at = NEVER


def give_up_soon() -> None:
    """Wait only a moment longer for a blocked stream, because the program is about to end."""
    _Main.gives_up_at = min(_Main.gives_up_at, time.monotonic() + OUTPUT_PATIENCE)


def unblock() -> None:
    """Abort a blocked write of the main thread by raising Blocked. Called by the signal handler."""
    if _Main.writes_to is not None and not takes_more(_Main.writes_to):
        raise Blocked


def let_go() -> None:
    """Make sure that Python's shutdown does not wait for a blocked stream, or fail because of a full disk."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                if takes_more(stream):
                    stream.flush()
                else:
                    _drop(stream)
            except (OSError, ValueError, AttributeError):
                _drop(stream)


def takes_more(stream: TextIO | int, seconds: float = 0.0) -> bool:
    """Tell whether the stream accepts data within some seconds; True if the system can't tell (Windows)."""
    try:
        return bool(select.select([], [stream], [], seconds)[1])
    except (OSError, ValueError, TypeError):
        return True


def _write(stream: TextIO, text: str) -> None:
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or _Main.gives_up_at != NEVER:
        wait_for(stream)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        encoded = text.encode(encoding, "backslashreplace")
    except (LookupError, UnicodeError):  # an unknown encoding, or one that can't encode everything
        encoding, encoded = "ascii", text.encode("ascii", "backslashreplace")
    try:
        if is_main:
            _Main.writes_to = stream
        _flush(stream)  # what a task has printed comes first
        if (descriptor := _descriptor(stream)) is None:
            stream.write(encoded.decode(encoding))
            _flush(stream)
        # Not through the stream's buffer: it would keep what a full disk refuses. And if this thread were stopped in
        # it, Python's shutdown would wait for its lock.
        while encoded and descriptor is not None:
            try:
                encoded = encoded[os.write(descriptor, encoded) :]
            except BlockingIOError:  # another process has made a shared pipe non-blocking
                wait_for(stream)
    finally:
        if is_main:
            _Main.writes_to = None


def _flush(stream: TextIO) -> None:
    if hasattr(stream, "flush"):
        stream.flush()


def _descriptor(stream: TextIO) -> int | None:
    # Only of a file: not of an object in place of standard output, nor of Windows' console, which takes text.
    try:
        return stream.fileno() if type(stream) is io.TextIOWrapper and not WINDOWS else None
    except ValueError:  # it is a file in memory
        return None


def wait_for(stream: TextIO | int) -> None:
    """Wait until a stream, or a descriptor, accepts more data.

    Raises:
        Blocked: the program is about to end, and has waited long enough.
    """
    while not takes_more(stream, LOOK_EVERY if time.monotonic() < _Main.gives_up_at else 0.0):
        if time.monotonic() >= _Main.gives_up_at:
            raise Blocked


def _drop(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _empty(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        kept = os.dup(stream.fileno())
        _drop(stream)
        stream.flush()
        os.dup2(kept, stream.fileno())
        os.close(kept)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person is at the other end."""
    return stream is not None and stream.isatty() and (not WINDOWS or is_console(stream.fileno()))
