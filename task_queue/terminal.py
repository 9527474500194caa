"""Lines on the terminal: shown at once, fit for it whatever is in them, and dropped where nobody reads them."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from typing import TextIO

from task_queue.failures import Failure

SHOWN_CHARACTERS = 500  # of a task's text
LOOK_EVERY = 0.1  # seconds between two looks at a stream that takes nothing, such as a paused terminal
PATIENCE = 0.5  # seconds that a program which is about to end waits for it


class Blocked(Exception):
    """Nobody reads what is being written, and the program is about to end."""


class _Main:
    """What the main thread does with the terminal."""

    writes_to: TextIO | None = None
    gives_up_at = float("inf")  # on the monotonic clock: when it waits no longer for a stream that takes nothing


def say(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print a line at once, with escapes for what the stream can't encode.

    When that is impossible (`| head -1`, a full disk), go on in silence: tasks matter more.
    """
    stream = stream or sys.stdout
    if stream is None:  # as in `>&-`
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    encoded = (text + end).encode(encoding, "backslashreplace")
    try:
        if threading.current_thread().daemon and (descriptor := _descriptor(stream)) is not None:
            _wait_for(stream)
            # Python's end would wait for the lock of its buffer, should this thread have been stopped there.
            os.write(descriptor, encoded)
        else:
            _write(stream, encoded.decode(encoding))
    except (Blocked, ValueError, BlockingIOError):  # also a closed file, and a pipe that takes no more for now
        pass
    except OSError:  # Python would try again at its end, and make an error of it
        _drop(stream)


def complain(text: str) -> None:
    """Print a line on standard error at once."""
    say(text, sys.stderr)


def tell(failure: Failure) -> None:
    """Print why the program can't go on, unless the person has read it."""
    if not failure.is_told:
        complain(f" [!] {failure}")


def wait_for_ever() -> None:
    """Never give up on a stream that takes nothing."""
    _Main.gives_up_at = float("inf")


def give_up_soon() -> None:
    """Wait only a moment longer for a stream that takes nothing, because the program is about to end."""
    _Main.gives_up_at = min(_Main.gives_up_at, time.monotonic() + PATIENCE)


def unblock() -> None:
    """Abort a write of the main thread that nobody reads, by raising Blocked. Called by the handler of a signal."""
    if _Main.writes_to is not None and not takes_more(_Main.writes_to):
        raise Blocked


def drop_what_is_blocked() -> None:
    """Have Python's end not wait for a stream that nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not takes_more(stream):
            _drop(stream)


def takes_more(stream: TextIO, seconds: float = 0.0) -> bool:
    """Tell whether the stream takes anything within some seconds; where the system can't tell (Windows), hope so."""
    try:
        return bool(select.select([], [stream], [], seconds)[1])
    except (OSError, ValueError, TypeError):
        return True


def _wait_for(stream: TextIO) -> None:
    while not takes_more(stream, LOOK_EVERY if time.monotonic() < _Main.gives_up_at else 0.0):
        if time.monotonic() >= _Main.gives_up_at:
            raise Blocked


def _write(stream: TextIO, text: str) -> None:
    if _Main.gives_up_at != float("inf"):
        _wait_for(stream)
    is_main = threading.current_thread() is threading.main_thread()
    try:
        _Main.writes_to = stream if is_main else _Main.writes_to
        stream.write(text)
        stream.flush()
    finally:
        _Main.writes_to = None if is_main else _Main.writes_to


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # not a real file, such as a notebook's
        return None


def _drop(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person is at the other end."""
    return stream is not None and stream.isatty()


def text_of(body: bytes) -> str:
    """Return a task's text, with escapes for what is not UTF-8 in it."""
    return body.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return the text fit for a terminal: control characters as escapes, and cut where it is very long."""
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]} ... ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, what: str = "task") -> str:
    """Return `1 task`, `2 tasks` and so on."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
