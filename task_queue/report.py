"""What the emitter prints and logs: a line per task, or progress and a total for bulk input; and unconfirmed tasks."""

from __future__ import annotations

import sys
import time

from task_queue.event_log import EventLog
from task_queue.publisher import Publisher
from task_queue.message import Message
from task_queue.sources import Source
from task_queue.system import WINDOWS
from task_queue.terminal import complain, is_terminal, say
from task_queue.text import counted, printable, shown, text_of
from task_queue.window import Settled

PROGRESS_EVERY = 0.2  # seconds


class Report:
    """Tells the person and the log what became of the tasks.

    Args:
        log: gets a record for each task.
        source: the bulk input; None without one.
        is_verbose: also print a line for each task of bulk input.

    Attributes:
        confirmed, refused: how many tasks were reported as such.
    """

    def __init__(self, log: EventLog, source: Source | None, is_verbose: bool) -> None:
        self.confirmed = self.refused = 0
        self._log, self._source = log, source
        self._one_by_one = source is None or is_verbose
        self._started = time.monotonic()
        # On a terminal only; each line ends with a carriage return, and the next one is written over it.
        self._next_progress = self._started if is_terminal(sys.stdout) and not self._one_by_one else float("inf")

    def settled(self, batch: list[Settled]) -> None:
        """Report tasks that are confirmed, or refused for a reason."""
        for message, refused in batch:
            if refused is None:
                self.confirmed += 1
                self._show_confirmed(message)
                self._note("confirmed", message)
            else:
                self.refused += 1
                task = f"Line {message.line} of {self._source.name}" if self._source else "The task"
                begin = printable(text_of(message.body[:160])[:40])
                complain(f" [!] {task} is not sent: {refused}. It begins with: {begin}")
                self._note("refused", message, error=refused)
        self._log.write()  # all at once: writing one by one makes bulk input a third slower

    def total(self) -> None:
        """Say how many tasks of bulk input were sent."""
        if self._source is not None:
            seconds = self._seconds()
            text = f" [x] Sent {counted(self.confirmed)} in {seconds:.1f} s ({self.confirmed / seconds:,.0f}/s)."
            say(text if self._next_progress == float("inf") else filling_the_row(text))

    def left(self, publisher: Publisher) -> None:
        """Say what was not confirmed: the line to go on from, or the tasks themselves."""
        pending = publisher.pending()
        if self._source is None:
            for message in pending:
                complain(f" [!] Not confirmed: {shown(message.body)}")
            return
        next_line = publisher.next_line or 1
        line = min([next_line, *(message.line for message in pending if message.line)])
        complain(f" [!] {counted(self.confirmed)} confirmed. Go on from line {line} of {self._source.name}.")

    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 0.001)  # the clock may tick 16 ms at a time

    def _note(self, event: str, message: Message, **more: str) -> None:
        where = {"line": message.line, "after": message.after, "next_line": message.next_line}
        self._log.note(event, message.message_id, message.body, **where, **more)

    def _show_confirmed(self, message: Message) -> None:
        if self._one_by_one:
            self._log.write()  # of the tasks before, because a blocked terminal may hold this one up
            say(f" [x] Sent {shown(message.body)}")
        elif time.monotonic() >= self._next_progress:
            self._show_progress()

    def _show_progress(self) -> None:
        self._next_progress = time.monotonic() + PROGRESS_EVERY
        seconds = self._seconds()
        line = f" {self.confirmed:,} sent, {self.confirmed / seconds:,.0f}/s"
        if self._source and self._source.size:
            part = min(1.0, self._source.bytes_read / self._source.size)  # a file may grow while it is read
            line += f", {part:.0%} of {self._source.name} read, {seconds * (1 / part - 1):.0f} s left"
        say(filling_the_row(line), end="\r")


def filling_the_row(line: str) -> str:
    """Return a line with what removes the rest of a longer one in the same row of the terminal."""
    return line.ljust(79) if WINDOWS else f"{line}\x1b[K"  # an old console shows escape sequences as they are
