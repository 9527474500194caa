#!/usr/bin/env python3
"""Sends tasks to a RabbitMQ queue, and says that one is sent when RabbitMQ has confirmed that it keeps it.

    emitter_of_tasks.py First task.           one task made of the words; each dot is a second of work
    emitter_of_tasks.py --file tasks.csv      one task a row, of any other file a line; - is standard input
    some-command | emitter_of_tasks.py        one task a line
    emitter_of_tasks.py                       asks for one task after another
    emitter_of_tasks.py --retry-dead-letters  moves the tasks that failed too often back to the queue

Exit status: 0 every task confirmed; 1 some not; 2 usage; 130 Ctrl+C with tasks unconfirmed.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports is no traceback either
    gc.disable()  # the imports leave no garbage, and to look for some would take as long as a tenth of them

import argparse
import contextlib
import itertools
import os
import re
import select
import socket
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, TextIO

# Before pika, because it says in words when pika is missing.
from task_queue import Connection, EventLog, QueueError, SettingsError
from task_queue import add_settings, dead_letters_of, default_name, nodes_in, queue_named
from task_queue import complain, printable, run, say, text_of

import pika
from pika.channel import Channel

WINDOW = 1000  # unconfirmed tasks; more bring little speed, and more to send again after a lost connection
REFILL = 250  # confirms to wait for when the window is full; if it were half of it, RabbitMQ would run dry meanwhile
WINDOW_BYTES = 16 * 1024 * 1024  # in unconfirmed tasks, so that large ones do not fill the memory
FULL_PAUSE = 1.0  # seconds until tasks are tried again that a full queue did not take
FULL_PAUSES = 5  # until they are tried on another connection
LAST_CONFIRMS = 1.0  # seconds after Ctrl+C for confirms that are on their way
PROGRESS_EVERY = 0.2  # seconds


class InputError(Exception):
    """The tasks can't be read to their end; the text says where and why."""


class Task(NamedTuple):
    """One task to send.

    Attributes:
        body: its text in UTF-8; of a dead letter, any bytes.
        properties: the message's; the message_id stays the same when it is sent again.
        line, next_line: where it begins in a file or a pipe, and where the next one does.
        letter: of a dead letter, the channel that it came by and its delivery tag there.
    """

    body: bytes
    properties: pika.BasicProperties
    line: int | None = None
    next_line: int = 1
    letter: tuple[Channel, int] | None = None


def new_task(text: str, line: int | None = None, next_line: int = 1) -> Task:
    """Return a task as a durable message."""
    properties = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        message_id=str(uuid.uuid4()),
        timestamp=int(time.time()),
    )
    return Task(text.encode(), properties, line, next_line)


class Publisher:
    """The queue as an emitter sees it: publish, then wait for confirms.

    Args:
        nodes, queue, name: as for Connection.
        report: told outside of pika, in either thread, of each task that RabbitMQ has confirmed or refuses for good.
    """

    def __init__(self, nodes: list[pika.URLParameters], queue: str, name: str, report: Report) -> None:
        self.connection = Connection(
            nodes, queue, name, self._on_ready, self._on_lost, background=self._report_in_background
        )
        self.confirmed = self.refused = 0
        self.next_line = 1  # of the input, behind the last task that was published
        self._report = report
        self._settled: deque[tuple[Task, str | None]] = deque()  # and not reported yet
        self._reporting = threading.Lock()
        self._unsent: deque[Task] = deque()  # because there is no connection, or RabbitMQ wants no tasks now
        self._unconfirmed: dict[int, Task] = {}  # by delivery tag, in the order of publishing
        self._bytes = 0  # in both
        self._letters: list[tuple[Task, int] | None] = []  # a dead letter and how many there are besides, or none
        self._holds_off = self._said_full = False
        self._pauses = 0  # since a task was taken
        self._next_tag = 1
        self._largest = float("inf")  # bytes that RabbitMQ takes in one message, once it has told us

    def publish(self, task: Task) -> None:
        """Send a task. Waits for confirms only when too many are missing.

        Raises:
            QueueError: the connection is lost and can't be made again as things are.
        """
        with self.connection as connection:
            self._bytes += len(task.body)
            self.next_line = task.next_line
            self._unsent.append(task)
            connection.check()
            self._send()
        if self.pending() >= WINDOW or self._bytes >= WINDOW_BYTES:
            self.wait(WINDOW - REFILL, WINDOW_BYTES // 2)

    def wait(self, tasks: int = 0, size: int = 0, seconds: float = float("inf")) -> None:
        """Wait until at most so many tasks, with so many bytes, are not settled; or until the time is up.

        Raises:
            QueueError: the connection is lost and can't be made again as things are.
        """

        def enough() -> bool:
            return self.pending() <= tasks and self._bytes <= size

        deadline = time.monotonic() + seconds
        while not enough() and time.monotonic() < deadline:
            with self.connection as connection:
                connection.wait(lambda: self._settled or enough(), deadline - time.monotonic())
            self.report_settled()
        self.report_settled()

    def settled(self) -> int:
        """Return how many tasks are confirmed or refused for good."""
        return self.confirmed + self.refused

    def pending(self) -> int:
        """Return how many tasks are neither confirmed nor refused for good."""
        return len(self._unconfirmed) + len(self._unsent)

    def pending_tasks(self) -> list[Task]:
        """Return these tasks."""
        return [*self._unconfirmed.values(), *self._unsent]

    def dead_letters(self) -> Iterator[Task]:
        """Yield each task that is in the dead letters now; it leaves them when its copy is confirmed.

        Raises:
            InputError: some can't be had, because a connection that was lost holds them still, or none can be read.
        """
        total, finished, rounds = None, 0, 0  # taken once, or a task that fails again would go round for ever
        channel = None
        while total is None or self.settled() < total:
            all_are_fetched = total is not None and self.settled() + self.pending() >= total
            letter = None if all_are_fetched else self._fetch_dead_letter()
            if letter is not None:
                task, others = letter
                if task.letter and task.letter[0] is not channel:  # what a lost connection held is counted anew
                    channel = task.letter[0]
                    total = self.settled() + self.pending() + 1 + others
                yield task
                continue
            self.wait()  # all are on their way; what a connection takes with it is fetched again
            if total is None:
                say(f" [*] No dead letters in {dead_letters_of(self.connection.queue)}.")
                return
            rounds = rounds + 1 if self.settled() == finished else 0
            finished = self.settled()
            if rounds == 3:
                raise InputError(f"{counted(total - finished)} can't be moved for now. Run this again in a minute.")

    def _fetch_dead_letter(self) -> tuple[Task, int] | None:
        self._letters.clear()
        tries = 0
        with self.connection as connection:
            while not self._letters and not connection.stop_asked:
                tries += 1
                if tries > 5:
                    raise InputError("A dead letter can't be read: with each try, the connection was lost.")
                connection.wait(lambda: connection.channel)
                if (channel := connection.channel) is not None:
                    channel.basic_get(dead_letters_of(connection.queue), self._on_letter)
                    connection.wait(lambda: self._letters or connection.channel is not channel)
        self.report_settled()
        return self._letters[0]

    def _on_letter(
        self, channel: Channel, method: pika.spec.Basic.GetOk, properties: pika.BasicProperties, body: bytes
    ) -> None:
        task = Task(body, without_death(properties), letter=(channel, method.delivery_tag or 0))
        self._letters.append((task, method.message_count or 0))

    def report_settled(self) -> None:
        """Report the tasks that were settled since the last time."""
        with self._reporting:
            while self._settled:
                # Taken away afterwards: Ctrl+C in between may have it reported twice, but not left out.
                self._report.settled(*self._settled[0])
                self._settled.popleft()
            with self.connection:  # which holds Ctrl+C back
                self._report.write_log()

    def _report_in_background(self) -> None:
        # Heartbeats depend on this thread: it must not wait for a terminal or a pipe that takes no more.
        while self._settled and can_write() and self._reporting.acquire(blocking=False):
            try:
                if self._settled:
                    self._report.settled(*self._settled.popleft())
                    self._report.write_log()
            finally:
                self._reporting.release()

    def _send(self) -> None:
        channel = self.connection.channel
        while self._unsent and channel is not None and not self._holds_off:
            task = self._unsent.popleft()
            if task.letter is not None and task.letter[0] is not channel:
                self._bytes -= len(task.body)  # a lost connection has put it back, and it will be fetched again
                continue
            if len(task.body) > self._largest:
                self._settle(task, f"it has {len(task.body):,} bytes, and RabbitMQ takes {self._largest:,} at most")
                continue
            self._unconfirmed[self._next_tag] = task
            self._next_tag += 1
            # mandatory: without it, RabbitMQ confirms a task for a queue that is gone.
            channel.basic_publish("", self.connection.queue, task.body, task.properties, mandatory=True)

    def _settle(self, task: Task, refused: str | None = None) -> None:
        self._said_full = False
        self._pauses = 0
        self._bytes -= len(task.body)
        self.confirmed += not refused
        self.refused += bool(refused)
        self._settled.append((task, refused))

    def _on_ready(self, channel: Channel) -> None:
        gone = QueueError(f"Queue {self.connection.queue} is gone; it will be declared again.")
        channel.add_on_return_callback(lambda *_: self.connection.lose(gone))
        channel.confirm_delivery(self._on_confirm)
        channel.add_callback(lambda _: self._letters.append(None), [pika.spec.Basic.GetEmpty], one_shot=False)
        self._unsent, self._unconfirmed, self._next_tag = deque(self.pending_tasks()), {}, 1
        self._send()

    def _on_confirm(self, frame: pika.frame.Method[pika.spec.Basic.Ack | pika.spec.Basic.Nack]) -> None:
        if self.connection.channel is None:  # given up; and a returned task is confirmed too, after its return
            return
        last = frame.method.delivery_tag or 0
        tags = [last]
        if frame.method.multiple:
            tags = list(itertools.takewhile(lambda tag: tag <= last, self._unconfirmed))
        for task in [self._unconfirmed.pop(tag) for tag in tags if tag in self._unconfirmed]:
            if isinstance(frame.method, pika.spec.Basic.Nack):
                self._hold_off(task)
                continue
            if task.letter is not None:
                channel, tag = task.letter
                channel.basic_ack(tag)
            self._settle(task)

    def _hold_off(self, task: Task) -> None:
        self._unsent.append(task)
        if not self._holds_off:
            self._holds_off = True
            self.connection.call_later(FULL_PAUSE, self._hold_off_no_more)
        if not self._said_full:
            self._said_full = True
            complain(" [*] The queue takes no tasks for now: is it full? Trying again ...")

    def _hold_off_no_more(self) -> None:
        self._holds_off = False
        self._pauses += 1
        if self._pauses % FULL_PAUSES == 0:
            # In a cluster, a channel may go on asking a node that has died, and refuse each task. Told to nobody, for
            # most queues are just full. Source: https://github.com/rabbitmq/rabbitmq-server/pull/9221
            self.connection.lose(QueueError())
        self._send()

    def _on_lost(self, why: str) -> None:
        too_large = re.search(r"message size \d+ is larger than \D*(\d+)", why)
        if too_large:
            self._largest = int(too_large[1])


def without_death(properties: pika.BasicProperties) -> pika.BasicProperties:
    """Return a dead letter's properties without what RabbitMQ noted there about its end, fit for a new life."""
    properties.user_id = None  # RabbitMQ takes it from the user of that name only
    death = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-opt-")
    headers = {name: value for name, value in (properties.headers or {}).items() if not str(name).startswith(death)}
    properties.headers = headers or None
    properties.delivery_mode = pika.DeliveryMode.Persistent.value
    return properties


# ---- Input


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
                os.set_blocking(self._stream.fileno(), True)  # what is not there yet is not the end
            if self._stream.seekable():
                self.size = os.fstat(self._stream.fileno()).st_size
        except (OSError, AttributeError) as error:
            raise SettingsError(f"{self.name} can't be read: {getattr(error, 'strerror', 'it is closed')}.") from None

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks. Blank lines are none.

        Raises:
            InputError: a line is not UTF-8, not CSV, or can't be read.
        """
        with self._stream:
            for first_line, text in self._csv_rows() if self._is_csv else self._plain_lines():
                if text.strip():
                    yield new_task(text, first_line, self._line + 1)

    def _plain_lines(self) -> Iterator[tuple[int, str]]:
        for text in self._lines():
            yield self._line, text.rstrip("\r\n")

    def _csv_rows(self) -> Iterator[tuple[int, str]]:
        import csv  # only here: most runs send one task, and start faster without it

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


def typed_tasks() -> Iterator[Task]:
    """Ask the person at the terminal for tasks, until end of input."""
    while True:
        try:
            text = input("Enter new task: ")
            if text.strip():
                yield new_task(text)
        except UnicodeError:
            complain(" [!] That is not text in this terminal's encoding. Please type it again.")
        except (EOFError, OSError, RuntimeError):  # the last two when standard output is closed
            say("")
            return


# ---- Output


class Report:
    """Tells the person and the log what became of the tasks: one by one or, for bulk input, in sum.

    Args:
        log: gets a record of each task.
        source: the bulk input, if it is that.
        is_verbose: a line for each task of bulk input too.
    """

    def __init__(self, log: EventLog, source: Source | None, is_verbose: bool) -> None:
        self._log, self._source = log, source
        self._one_by_one = source is None or is_verbose
        self._sent = 0
        self._started = time.monotonic()
        # On a terminal only; each line ends at the left margin, where the next text writes over it.
        self._next_progress = self._started if is_terminal(sys.stdout) and not self._one_by_one else float("inf")

    def settled(self, task: Task, refused: str | None) -> None:
        """Report a task that is confirmed (None), or refused for a reason."""
        text = text_of(task.body)
        message_id = task.properties.message_id
        if refused is not None:
            where = f"Line {task.line} of {self._source.name}" if self._source else "The task"
            complain(f" [!] {where} is not sent: {refused}. It begins with: {printable(text[:40])}")
            self._log.note("refused", message_id, text, line=task.line, error=refused)
            return
        self._sent += 1
        if self._one_by_one:
            self.write_log()  # of the tasks before, should a terminal that takes no more hold this one up
            say(f" [x] Sent {printable(text)}")
        elif time.monotonic() >= self._next_progress:
            self._show_progress()
        self._log.note("confirmed", message_id, text, line=task.line)

    def write_log(self) -> None:
        """Write down what was reported, all at once: one by one would cost bulk input a third of its speed."""
        self._log.write()

    def total(self, sent: int) -> None:
        """Say how many tasks of bulk input were sent."""
        if self._source is not None:
            seconds = time.monotonic() - self._started
            margin = "" if self._next_progress == float("inf") else "\x1b[K"
            say(f"{margin} [x] Sent {counted(sent)} in {seconds:.1f} s ({sent / seconds:,.0f}/s).")

    def _show_progress(self) -> None:
        now = time.monotonic()
        self._next_progress = now + PROGRESS_EVERY
        line = f" {self._sent:,} sent, {self._sent / (now - self._started):,.0f}/s"
        if self._source and self._source.size:
            part = self._source.bytes_read / self._source.size
            line += f", {part:.0%} of {self._source.name} read, {(now - self._started) * (1 / part - 1):.0f} s left"
        say(f"{line}\x1b[K", end="\r")


def what_is_left(publisher: Publisher, source: Source | None) -> list[str]:
    """Return what was not confirmed: the line from which to go on, or the tasks themselves."""
    pending = publisher.pending_tasks()
    if source is None:
        return [f"Not confirmed: {printable(text_of(task.body))}" for task in pending]
    line = min([publisher.next_line, *(task.line for task in pending if task.line)])
    return [f"{counted(publisher.confirmed)} confirmed. Go on from line {line} of {source.name}."]


def can_write() -> bool:
    """Tell whether standard output takes a line at once; where the system can't tell (Windows), hope so."""
    try:
        return bool(select.select([], [sys.stdout], [], 0)[1])
    except (OSError, ValueError, TypeError):
        return True


def counted(number: int) -> str:
    """Return `1 task`, `2 tasks` and so on."""
    return f"{number:,} task{'' if number == 1 else 's'}"


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person is at the other end."""
    return stream is not None and stream.isatty()


def offer_admin_panel(answer: bool | None, url: str) -> None:
    """Open the queues' page of RabbitMQ's admin panel, if the person wants it. Without an answer, ask at a terminal."""
    if answer is None and is_terminal(sys.stdin) and is_terminal(sys.stdout):
        typed = "?"
        while typed not in ("y", "yes", "n", "no", ""):
            try:
                typed = input("Would you like to monitor RabbitMQ queues? y or n ").strip().lower()
            except (EOFError, OSError, RuntimeError, UnicodeError):
                typed = ""
        answer = typed.startswith("y")
    if answer:
        import webbrowser  # only here: it takes long to load
        from urllib.parse import urlsplit

        say(f" [*] RabbitMQ's admin panel: {printable(url)}")
        try:
            parts = urlsplit(url)
            socket.create_connection((parts.hostname, parts.port or 80), timeout=2).close()
        except (OSError, ValueError):
            complain(" [!] Nothing answers there. Switch it on:  rabbitmq-plugins enable rabbitmq_management")
        if not webbrowser.open(url):
            say(" [*] No browser was found here: open that address in yours.")


# ---- The way of it


def settings() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description="Send tasks to a RabbitMQ queue, and say so when RabbitMQ has confirmed them.",
        epilog="Without words and --file, tasks come from standard input; at a terminal they are asked for.",
    )
    flag = parser.add_argument
    flag("words", nargs="*", metavar="WORD", help="one task made of the words")
    add_settings(parser)
    flag("--file", help="one task a row (.csv) or a line (anything else); - is standard input")
    flag("--retry-dead-letters", action="store_true", help="move every dead letter back to the queue")
    flag("--verbose", action="store_true", help="a line for each task of a file or pipe too")
    admin_help = "open RabbitMQ's admin panel, or do not, without asking"
    flag("--admin", action=argparse.BooleanOptionalAction, help=admin_help)
    flag("--admin-url", metavar="URL", help="the panel's address (default: http://HOST:15672/#/queues)")
    chosen = parser.parse_args()
    if bool(chosen.words) + bool(chosen.file) + chosen.retry_dead_letters > 1:
        parser.error("give either words, or --file, or --retry-dead-letters")
    chosen.task = " ".join(chosen.words)
    if chosen.words and not chosen.task.strip():
        parser.error("the task is empty")
    if re.search("[\ud800-\udfff]", chosen.task):  # how Python hands on bytes that are not text
        parser.error("the task is not text in this terminal's encoding")
    return chosen


def emit(chosen: argparse.Namespace) -> int:
    """Send what was asked for, say what came of it, and return the exit status."""
    nodes, queue, name = nodes_in(chosen.url), queue_named(chosen.queue), default_name("emitter")
    log = EventLog(chosen.log_file, name)
    asks = is_terminal(sys.stdin) and not (chosen.task or chosen.file or chosen.retry_dead_letters)
    source = None if asks or chosen.task or chosen.retry_dead_letters else Source(chosen.file or "-")
    host = f"[{nodes[0].host}]" if ":" in nodes[0].host else nodes[0].host
    offer_admin_panel(chosen.admin, chosen.admin_url or f"http://{host}:15672/#/queues")

    report = Report(log, source, chosen.verbose)
    publisher = Publisher(nodes, queue, name, report)
    if source is not None:
        todo = source.tasks()
    elif chosen.retry_dead_letters:
        todo = publisher.dead_letters()
    else:
        todo = typed_tasks() if asks else iter([new_task(chosen.task)])

    status, is_cut_short = 1, True
    try:
        with contextlib.closing(publisher.connection):
            send(publisher, todo, wait_for_each=asks)
        status, is_cut_short = 1 if publisher.refused else 0, False
    except KeyboardInterrupt:
        say("")
        status = 0 if asks and not publisher.pending() else 130
    except (InputError, QueueError) as error:
        complain(f" [!] {error}")
    publisher.report_settled()  # what was confirmed while the connection was closed
    if status == 0 or publisher.confirmed or publisher.pending():
        report.total(publisher.confirmed)
        for line in what_is_left(publisher, source) if is_cut_short else []:
            complain(f" [!] {line}")
    return status


def send(publisher: Publisher, todo: Iterator[Task], wait_for_each: bool) -> None:
    """Publish the tasks, and wait until each is confirmed or refused."""
    publisher.connection.open()
    try:
        for task in todo:
            publisher.publish(task)
            if wait_for_each:
                publisher.wait()
        publisher.wait()
    except InputError:
        publisher.wait()
        raise
    except KeyboardInterrupt:
        publisher.wait(seconds=LAST_CONFIRMS)
        raise


def main() -> int:
    """Run the emitter and return its exit status."""
    chosen = settings()
    try:
        return emit(chosen)
    except SettingsError as error:
        complain(f" [!] {error}")
        return error.exit_code


if __name__ == "__main__":
    run(main)
