"""Where an emitter's tasks come from, and the message that is made of each."""

from __future__ import annotations

import csv
import os
import sys
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import pika

from task_queue.failures import InputError, SettingsError
from task_queue.terminal import complain, printable, say


class Message(NamedTuple):
    """One task to send.

    Attributes:
        body: its text in UTF-8.
        properties: the message_id stays the same when it is sent again.
        line, next_line: where it begins in a file or a pipe, and where the next one does.
    """

    body: bytes
    properties: pika.BasicProperties
    line: int | None = None
    next_line: int = 1


def new_message(text: str, line: int | None = None, next_line: int = 1) -> Message:
    """Return a task as a persistent message."""
    properties = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        message_id=str(uuid.uuid4()),
        timestamp=int(time.time()),
    )
    return Message(text.encode(), properties, line, next_line)


def typed_tasks() -> Iterator[Message]:
    """Ask the person at the terminal for tasks, until end of input."""
    while True:
        try:
            text = input("Enter new task: ")
            if text.strip():
                yield new_message(text)
        except UnicodeError:
            complain(" [!] That is not text in this terminal's encoding. Please type it again.")
        except (EOFError, OSError, RuntimeError):  # the last two when standard output is closed
            say("")
            return


class Source:
    """Bulk input: a file or a pipe, read as its tasks are needed.

    Args:
        name: a path; - is standard input. The rows of a .csv file are tasks, of any other file the lines.

    Raises:
        SettingsError: there is nothing to read.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else printable(name)
        self.size = self.bytes_read = 0  # the size of a pipe is 0
        self._line = 0  # the last one read
        self._is_csv = name.lower().endswith(".csv")
        try:
            self._stream: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
            if hasattr(os, "set_blocking"):
                os.set_blocking(self._stream.fileno(), True)  # else an empty non-blocking pipe looks like its end
            if self._stream.seekable():
                self.size = os.fstat(self._stream.fileno()).st_size
        except (OSError, AttributeError) as error:
            raise SettingsError(f"{self.name} can't be read: {getattr(error, 'strerror', 'it is closed')}.") from None

    def messages(self) -> Iterator[Message]:
        """Yield the tasks as messages. Blank lines are skipped.

        Raises:
            InputError: a line is not UTF-8, not CSV, or can't be read.
        """
        with self._stream:
            for first_line, text in self._csv_rows() if self._is_csv else self._plain_lines():
                if text.strip():
                    yield new_message(text, first_line, self._line + 1)

    def _plain_lines(self) -> Iterator[tuple[int, str]]:
        for text in self._lines():
            yield self._line, text.rstrip("\r\n")

    def _csv_rows(self) -> Iterator[tuple[int, str]]:
        csv.field_size_limit(2**31 - 1)
        first_line = 1
        try:
            for cells in csv.reader(self._lines(), strict=True):
                yield first_line, " ".join(cells)
                first_line = self._line + 1
        except csv.Error as error:
            raise InputError(f"Line {first_line} of {self.name} is not CSV: {error}.") from None

    def _lines(self) -> Iterator[str]:
        # Decoded one by one, so that all lines before a bad one are sent and the bad one is named.
        try:
            for raw in self._stream:
                self.bytes_read += len(raw)
                text = raw.decode("utf-8" if self._line else "utf-8-sig")
                self._line += 1
                yield text
        except UnicodeDecodeError:
            convert = f"iconv -f latin1 -t utf-8 {self.name}"
            raise InputError(f"Line {self._line + 1} of {self.name} is not UTF-8. Convert it:  {convert}") from None
        except OSError as error:
            raise InputError(f"Line {self._line + 1} of {self.name} can't be read: {error.strerror}.") from None
