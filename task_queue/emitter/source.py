"""Where an emitter's tasks come from: a file, a pipe, or a person at the prompt."""

from __future__ import annotations

import codecs
import functools
import os
import re
import stat
import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import BinaryIO

from task_queue.emitter.message import Message, new_message
from task_queue.exceptions import InputError, SettingsError
from task_queue.rabbitmq.connection import Connection
from task_queue.terminal.console import complain, say
from task_queue.terminal.prompt import Prompt
from task_queue.terminal.text import printable
from task_queue.windows import WINDOWS

LONGEST_LINE = 128 * 1024 * 1024  # bytes, so that no input fills the memory; RabbitMQ's limit for a message is lower
PACKED = (b"PK\x03\x04", b"\x1f\x8b")  # the first bytes of a zip file (a spreadsheet is one) and of a gzip file
NO_INPUT = (
    "No task is given. Give one as words, or a file with --file, or start this in a terminal and type tasks there."
)
FIRST_ROW = 100  # lines that are read at most to find the separator in it
SEPARATORS = {"\t": "tabs", ";": "semicolons"}  # of the cells of a row, besides the comma; the first one counts
AS_TEXT = 'Save it as text in UTF-8 (a spreadsheet as "CSV UTF-8"), or convert it; on Linux with:  iconv -f {} -t utf-8'


def typed_tasks(connection: Connection) -> Iterator[Message]:
    """Ask the person at the terminal for tasks, and yield each as it is typed.

    Raises:
        EOFError: the input has ended.
        InputError: what is typed is not text in the terminal's encoding.
    """
    say(f" [*] Sending tasks to {connection.where}. To exit press CTRL+C")
    prompt = Prompt("Enter new task: ", has_history=True)
    try:
        while True:
            if (text := prompt.ask()).strip():
                yield new_message(text)
    except UnicodeError:
        raise InputError("That is not text in this terminal's encoding.") from None


class Source:
    """Bulk input: a file or a pipe, read as its tasks are needed.

    Args:
        name: a path; - or None is standard input. A task is a row of a .csv file, or a line of anything else.
        log: the descriptor of the log file, which must not be the input; None without one.
        separator: between the cells of a .csv file; None to find it out from the first row.
        from_line: the line to begin with.

    Attributes:
        size: of the file, in bytes; 0 for a pipe.
        bytes_read: how far it has been read; this may become more than its size, if the file grows.

    Raises:
        SettingsError: there is nothing to read.
    """

    def __init__(self, name: str | None, log: int | None, separator: str | None = None, from_line: int = 1) -> None:
        # Standard input is closed, or /dev/null (cron does that). (Windows can't tell this from a pipe.)
        if name is None and (sys.stdin is None or (not WINDOWS and os.path.samestat(os.fstat(0), os.stat(os.devnull)))):
            raise SettingsError(NO_INPUT)
        name = name or "-"
        self.name = "standard input" if name == "-" else printable(name)
        self._is_csv = is_csv(name)
        self._separator, self._from_line = separator, from_line
        self._number = 0  # of the last line that was read
        self._begin = 1  # the line where the task that is being read begins
        try:
            if name != "-" and stat.S_ISFIFO(os.stat(name).st_mode):
                complain(f" [*] {self.name} is a named pipe: waiting for a program that writes to it ...")
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
        """Yield each task as a message, as soon as it is read. Blank lines are skipped, and what is before `from_line`.

        Raises:
            InputError: a line is not UTF-8, not CSV, or can't be read. The tasks before it have been yielded.
            SettingsError: `from_line` is in the middle of a row.
        """
        if self._stream.isatty():
            key = "Ctrl+Z, then Enter," if WINDOWS else "Ctrl+D"
            complain(f" [*] Tasks are read from {self.name}, one per line. {key} ends them.")
        after = self._from_line
        try:
            with self._stream:
                for body in self._rows() if self._is_csv else (raw.rstrip(b"\r\n") for raw in self._lines()):
                    next_line = self._number + 1
                    if self._begin < self._from_line < next_line:
                        raise SettingsError(f"--from-line: line {self._from_line} is in the row of line {self._begin}.")
                    if self._begin >= self._from_line and body.decode().strip():
                        yield new_message(body, self._begin, after, next_line)
                        after = next_line
                    self._begin = next_line
            if self._from_line > max(self._number, 1):
                raise InputError(f"--from-line: {self.name} has no line {self._from_line}, only {self._number}.")
        except OSError as error:
            raise InputError(f"Line {self._number + 1} of {self.name} can't be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise self._wrong(f"is not UTF-8. {AS_TEXT.format('windows-1252')}") from None
        except MemoryError:
            raise InputError(f"Line {self._begin} of {self.name} is too long for the memory here.") from None

    def ends_before(self, line: int | None) -> bool:
        """Tell whether it is a file that was read to its end, and `line` is the one after the last."""
        return 0 < self.size <= self.bytes_read and line == self._number + 1

    def _rows(self) -> Iterator[bytes]:
        import csv  # only here: most runs send one task, and start faster without it

        csv.field_size_limit(LONGEST_LINE)
        lines = map(bytes.decode, self._lines())
        first = list(islice(lines, 1))  # the lines of the first row
        if told := re.fullmatch("sep=(.)\r?\n?", "".join(first)):  # as Excel writes it, and reads it
            first = []
            yield b""  # an empty row, so that this line counts as read
        elif not self._separator:
            while not is_whole_row("".join(first)) and len(first) < FIRST_ROW and (more := next(lines, "")):
                first.append(more)
        separator = self._separator or (told[1] if told else separator_of("".join(first)))
        if separator != ",":
            complain(f" [*] In {self.name}, {SEPARATORS.get(separator, separator)} separate the cells of a row.")
        try:
            for cells in csv.reader(chain(self._again(first), lines), delimiter=separator, strict=True):
                yield " ".join(cells).encode()
        except csv.Error as error:
            why = str(error).partition(" - ")[0]  # what follows is advice for programmers
            advice = "Inside a cell in quotes, write each quote twice."
            raise InputError(f"Line {self._begin} of {self.name} is not CSV: {why}. {advice}") from None

    def _again(self, lines: list[str]) -> Iterator[str]:
        """Yield lines from the beginning of the file that were read before, and count them as if they were read now."""
        for self._number, line in enumerate(lines, 1):
            yield line

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


def is_csv(name: str | None) -> bool:
    """Tell whether a file has rows, and not lines, by its name."""
    return name is not None and name.lower().endswith(".csv")


def without_quoted_cells(text: str) -> str:
    """Return the text without its cells in quotes. A quote in the middle of a cell begins none."""
    return re.sub('(?<![^\t;,\n])(?:"[^"]*")+', "", text)


def is_whole_row(text: str) -> bool:
    """Tell whether the text is not blank, and no cell in quotes goes on in the next line."""
    return bool(text.strip()) and not re.search('(?<![^\t;,\n])"', without_quoted_cells(text))


def separator_of(row: str) -> str:
    """Return what separates the cells of a row: what stands outside of quotes, first of all tabs, then semicolons."""
    outside = without_quoted_cells(row)
    return next((each for each in SEPARATORS if each in outside), ",")
