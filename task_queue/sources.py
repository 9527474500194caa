"""Where an emitter's tasks come from: a file, a pipe, or a person at the prompt."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from operator import methodcaller
from typing import BinaryIO, TextIO

from task_queue import outbox
from task_queue.aside import Aside
from task_queue.failures import InputError, SettingsError
from task_queue.file_forms import Form
from task_queue.lines import LONGEST_LINE, Lines
from task_queue.message import BATCH, Message, new_message
from task_queue.prompt import Prompt
from task_queue.system import WINDOWS
from task_queue.terminal import complain, is_terminal, say
from task_queue.text import is_blank

NO_INPUT = (
    "No task is given. Give one as words, or a file with --file, or start this in a terminal and type tasks there."
)
SILENCE = 3.0  # seconds without a line until we say what we wait for


def typed_tasks(queue: str) -> Iterator[list[Message]]:
    """Ask the person at the terminal for tasks for a queue, and yield each by itself.

    Raises:
        EOFError: the input has ended.
    """
    say(f" [*] Sending tasks to queue {queue}. To exit press CTRL+C")
    prompt = Prompt("Enter new task: ", has_history=True)
    while True:
        try:
            if (text := prompt.ask()).strip():
                yield [new_message(text)]
        except UnicodeError:
            prompt.edit_no_more()
            complain(" [!] That is not text in this terminal's encoding. Please type it again.")


class Source:
    """Bulk input: a file or a pipe, read as its tasks are needed.

    Args:
        name: a path: a task is a row of a .csv file, or a line of any other file. - is standard input, and None is
            standard input if there is any.
        log: the descriptor of the log file, which must not be the input; None without one.

    Raises:
        SettingsError: there is nothing to read.
    """

    def __init__(self, name: str | None, log: int | None) -> None:
        if name is None and is_nothing(sys.stdin):
            raise SettingsError(NO_INPUT)
        name = name or "-"
        self.size = self._begins_at = 0  # bytes; the size of a pipe is 0
        self._form = Form(None if name == "-" else name)
        self.name = self._form.name
        try:
            self._stream: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
            if not WINDOWS:
                os.set_blocking(self._stream.fileno(), True)  # else an empty non-blocking pipe looks like an end
            # Not seekable(): on Windows pipes say that they are.
            status = os.fstat(self._stream.fileno())
            self._is_file = stat.S_ISREG(status.st_mode)
            if self._is_file:
                self.size, self._begins_at = status.st_size, self._stream.tell()
        except (OSError, AttributeError) as error:
            raise SettingsError(f"{self.name} can't be read: {getattr(error, 'strerror', 'it is closed')}.") from None
        if log is not None and is_same_file(self._stream.fileno(), log):
            self._stream.close()
            raise SettingsError("--log-file is the file with the tasks: every log record would become a task.")
        self._lines = Lines(self._stream, self._form)

    @property
    def bytes_read(self) -> int:
        """How far the file has been read; as it may grow meanwhile, this may become more than its size."""
        return self._begins_at + self._lines.bytes_read

    def batches(self) -> Iterator[list[Message]]:
        """Yield the tasks as messages: those together that were read together, so that none waits for a later one.

        Blank lines are skipped.

        Raises:
            InputError: a line is not UTF-8, not CSV, or can't be read. The tasks before it have been yielded.
        """
        if not self._is_file:
            Aside(self._tell_if_nothing_comes, "silence").start()
        batch, after, lines = list[Message](), 1, self._lines
        with self._stream:
            try:
                for first_line, body in self._csv_rows() if self._form.is_csv else self._plain_lines():
                    if not is_blank(body):
                        batch.append(new_message(body, first_line, after, lines.number + 1))
                        after = lines.number + 1
                    if len(batch) == BATCH or (batch and not lines.are_at_hand):
                        yield batch
                        batch = []
            except InputError:
                if batch:
                    yield batch
                raise

    def _tell_if_nothing_comes(self) -> None:
        # Some terminals and editors on Windows give us a pipe, though a person sits at its other end.
        time.sleep(SILENCE)
        if self._lines.number == 0 and not self._stream.closed:
            key = "Ctrl+Z, then Enter," if WINDOWS else "Ctrl+D"
            how = f" {key} ends them." if is_terminal(sys.stdin) else ""
            outbox.complain(f" [*] Nothing comes from {self.name} yet. Tasks are read from there, one per line.{how}")

    def _plain_lines(self) -> Iterator[tuple[int, bytes]]:
        for body in map(methodcaller("rstrip", b"\r\n"), self._all_lines()):  # no variable keeps a second copy
            if b"\r" in body:
                raise InputError(self._form.with_carriage_returns(self._lines.number))
            yield self._lines.number, body

    def _csv_rows(self) -> Iterator[tuple[int, bytes]]:
        import csv  # only here: most runs send one task, and start faster without it

        csv.field_size_limit(LONGEST_LINE)
        first_line = 1
        try:
            for cells in csv.reader(map(bytes.decode, self._all_lines()), strict=True):
                yield first_line, " ".join(cells).encode()
                first_line = self._lines.number + 1
        except csv.Error as error:
            if "new-line character" in str(error):
                raise InputError(self._form.with_carriage_returns(self._lines.number)) from None
            raise InputError(f"Line {first_line} of {self.name} is not CSV: {error}.") from None
        except MemoryError:
            raise InputError(f"Line {first_line} of {self.name} is too long for the memory here.") from None

    def _all_lines(self) -> Iterator[bytes]:
        yield from self._lines
        if self.bytes_read < self.size and os.fstat(self._stream.fileno()).st_size < self.size:
            behind = f"behind line {self._lines.number}"
            raise InputError(f"{self.name} was cut off while it was read: it ends {behind} now.")


def is_nothing(stream: TextIO | None) -> bool:
    """Tell whether there is no standard input, for example because an editor or cron has started the program."""
    try:
        is_there = stream is not None and os.fstat(stream.fileno())
        # On Windows all that is no file looks the same here.
        return not is_there or (not WINDOWS and os.path.samestat(is_there, os.stat(os.devnull)))
    except (OSError, ValueError):  # it is closed
        return True


def is_same_file(one: int, other: int) -> bool:
    """Tell whether two descriptors belong to the same file on a disk."""
    return stat.S_ISREG(os.fstat(one).st_mode) and os.path.samestat(os.fstat(one), os.fstat(other))
