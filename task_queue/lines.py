"""The lines of a file or a pipe: read in blocks, and checked to be text in UTF-8."""

from __future__ import annotations

import codecs
import io
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from task_queue.failures import InputError
from task_queue.file_forms import Form
from task_queue.text import pieces_of

BLOCK = 64 * 1024  # bytes that are read at once, if so many are there
LONGEST_LINE = 128 * 1024 * 1024  # bytes, so that no input fills the memory; RabbitMQ's limit for a message is lower


class Lines:
    """Yields lines with their ends, as they are needed.

    Args:
        stream: what to read.
        form: names the stream, and says what it is if it is not text.

    Attributes:
        number: of the line that was yielded last, counted from 1; 0 before.
        bytes_read: in the lines that were yielded.

    Raises:
        InputError: while lines are yielded: a line is not UTF-8, is too long, or can't be read.
    """

    def __init__(self, stream: BinaryIO, form: Form) -> None:
        self.number = self.bytes_read = 0
        self._stream, self._form = stream, form
        self._at_hand: deque[bytes] = deque()
        self._begun: list[bytes] = []  # pieces of the line behind these
        self._is_plain = False  # in none of those at hand is anything to be checked

    @property
    def are_at_hand(self) -> bool:
        """Whether the next line has been read already, so that nobody waits for it."""
        return bool(self._at_hand)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from iter(self._next, b"")
        except OSError as error:
            raise InputError(f"Line {self.number + 1} of {self._form.name} can't be read: {error.strerror}.") from None
        except MemoryError:
            raise InputError(f"Line {self.number + 1} of {self._form.name} is too long for the memory here.") from None

    def _next(self) -> bytes:
        if not self._at_hand:
            self._read()
            if not self._at_hand:
                return b""
        raw = self._at_hand.popleft()
        self.number += 1
        self.bytes_read += len(raw)
        if self._is_plain:
            return raw
        self._check(raw)
        return raw.removeprefix(codecs.BOM_UTF8)  # of any line, because files may have been joined

    def _read(self) -> None:
        size = 0
        while size <= LONGEST_LINE and (block := self._stream.read1(BLOCK)):  # type: ignore[attr-defined]
            size += len(block)
            first, *others = io.BytesIO(block).readlines()
            self._begun.append(first)
            if first.endswith(b"\n"):
                self._at_hand.extend([b"".join(self._begun), *others])
                self._begun = [] if block.endswith(b"\n") else [self._at_hand.pop()]
                break
        else:
            if self._begun:
                self._at_hand.append(b"".join(self._begun))
                self._begun = []
        self._is_plain = self.number > 0 and are_plain(self._at_hand)

    def _check(self, raw: bytes) -> None:
        if self.number == 1 and (why := self._form.whole(raw)):
            raise InputError(why)
        if len(raw) > LONGEST_LINE:
            raise InputError(f"Line {self.number} of {self._form.name} has more than {LONGEST_LINE:,} bytes.")
        if b"\0" in raw:
            raise InputError(self._form.with_nul(self.number, raw))
        try:
            deque(pieces_of(raw), maxlen=0)
        except UnicodeDecodeError:
            raise InputError(self._form.undecodable(self.number, raw)) from None


def are_plain(lines: deque[bytes]) -> bool:
    """Tell whether lines are short, and text in UTF-8: much faster than to check them one by one."""
    if sum(map(len, lines)) > 2 * BLOCK:
        return False
    together = b"".join(lines)
    try:
        together.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in together and codecs.BOM_UTF8 not in together
