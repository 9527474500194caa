"""Where an emitter's tasks come from: a file, a pipe, or a person at the prompt."""

from __future__ import annotations

import codecs
import functools
import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

from task_queue.emitter.message import Message, new_message
from task_queue.exceptions import InputError, SettingsError
from task_queue.terminal.printing import complain, say
from task_queue.terminal.prompt import Prompt
from task_queue.terminal.text import printable
from task_queue.threads import WINDOWS

LONGEST_LINE = 128 * 1024 * 1024  # bytes, so that no input fills the memory; RabbitMQ's limit for a message is lower
PACKED = (b"PK\x03\x04", b"\x1f\x8b")  # the first bytes of a zip file, as of a spreadsheet, and of a gzip file
NO_INPUT = (
    "No task is given. Give one as words, or a file with --file, or start this in a terminal and type tasks there."
)
AS_TEXT = 'Save it as text in UTF-8 (a spreadsheet as "CSV UTF-8"), or convert it, as with:  iconv -f {} -t utf-8'


def typed_tasks(queue: str) -> Iterator[Message]:
    """Ask the person at the terminal for tasks for a queue, and yield each as it is typed.

    Raises:
        EOFError: the input has ended.
    """
    say(f" [*] Sending tasks to queue {queue}. To exit press CTRL+C")
    prompt = Prompt("Enter new task: ", has_history=True)
    while True:
        try:
            if (text := prompt.ask()).strip():
                yield new_message(text)
        except UnicodeError:
            prompt.edit_no_more()
            complain(" [!] That is not text in this terminal's encoding. Please type it again.")


class Source:
    """Bulk input: a file or a pipe, read as its tasks are needed.

    Args:
        name: a path; - or None is standard input. A task is a row of a .csv file, or a line of anything else.
        log: the descriptor of the log file, which must not be the input; None without one.

    Attributes:
        size: of the file, in bytes; 0 for a pipe.
        bytes_read: how far it has been read; this may become more than its size, if the file grows.

    Raises:
        SettingsError: there is nothing to read.
    """

    def __init__(self, name: str | None, log: int | None) -> None:
        # Standard input is /dev/null, as under cron: there is none. (Windows can't tell this from a pipe.)
        if name is None and not WINDOWS and os.path.samestat(os.fstat(0), os.stat(os.devnull)):
            raise SettingsError(NO_INPUT)
        name = name or "-"
        self.name = "standard input" if name == "-" else printable(name)
        self._is_csv = name.lower().endswith(".csv")
        self._number = 0  # of the last line that was read
        self._begin = 1  # the line where the task that is being read begins
        try:
            self._stream: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
            if not WINDOWS:
                os.set_blocking(self._stream.fileno(), True)  # else an empty non-blocking pipe looks like its end
            status = os.fstat(self._stream.fileno())
            is_file = stat.S_ISREG(status.st_mode)  # not seekable(), which pipes are on Windows
            self.size, self.bytes_read = (status.st_size, self._stream.tell()) if is_file else (0, 0)
        except (OSError, AttributeError) as error:
            raise SettingsError(f"{self.name} can't be read: {getattr(error, 'strerror', 'it is closed')}.") from None
        if log is not None and is_file and os.path.samestat(status, os.fstat(log)):
            self._stream.close()
            raise SettingsError("--log-file is the file with the tasks: every log record would become a task.")

    def tasks(self) -> Iterator[Message]:
        """Yield each task as a message, as soon as it is read. Blank lines are skipped.

        Raises:
            InputError: a line is not UTF-8, not CSV, or can't be read. The tasks before it have been yielded.
        """
        if self._stream.isatty():
            key = "Ctrl+Z, then Enter," if WINDOWS else "Ctrl+D"
            complain(f" [*] Tasks are read from {self.name}, one per line. {key} ends them.")
        after = 1
        try:
            with self._stream:
                for body in self._rows() if self._is_csv else (raw.rstrip(b"\r\n") for raw in self._lines()):
                    next_line = self._number + 1
                    if body.decode().strip():
                        yield new_message(body, self._begin, after, next_line)
                        after = next_line
                    self._begin = next_line
        except OSError as error:
            raise InputError(f"Line {self._number + 1} of {self.name} can't be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise self._wrong(f"is not UTF-8. {AS_TEXT.format('windows-1252')}") from None
        except MemoryError:
            raise InputError(f"Line {self._begin} of {self.name} is too long for the memory here.") from None

    def _rows(self) -> Iterator[bytes]:
        import csv  # only here: most runs send one task, and start faster without it

        csv.field_size_limit(LONGEST_LINE)
        try:
            for cells in csv.reader(map(bytes.decode, self._lines()), strict=True):
                yield " ".join(cells).encode()
        except csv.Error as error:
            why = str(error).partition(" - ")[0]  # what follows is advice for programmers
            raise InputError(f"Line {self._begin} of {self.name} is not CSV: {why}.") from None

    def _lines(self) -> Iterator[bytes]:
        for raw in iter(functools.partial(self._stream.readline, LONGEST_LINE + 1), b""):
            self._number += 1
            self.bytes_read += len(raw)
            if self._number == 1 and raw.startswith(PACKED):
                raise InputError(f"{self.name} is a zip or gzip file. Unpack it. {AS_TEXT.format('windows-1252')}")
            if len(raw) > LONGEST_LINE:
                raise self._wrong(f"has more than {LONGEST_LINE:,} bytes.")
            if b"\0" in raw:
                raise self._wrong(f"has NUL characters in it: is it UTF-16? {AS_TEXT.format('utf-16')}")
            yield raw.removeprefix(codecs.BOM_UTF8)  # of any line: several files may have been joined

    def _wrong(self, what: str) -> InputError:
        return InputError(f"Line {self._number} of {self.name} {what}")
