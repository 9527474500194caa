#!/usr/bin/env python3
"""Takes one task at a time from a RabbitMQ queue, does it, and acknowledges it.

Run it in two or more terminals and send tasks with emitter_of_tasks.py. A task leaves the queue only when a worker
has finished it: stop a worker in the middle of one, and another worker gets it.

    listening_worker.py                      work is one second of sleep per dot in the task
    listening_worker.py --run './resize {}'  work is a command; {} becomes the task's text

From Python: `from listening_worker import listen`, then `listen(perform)` with a function `perform(task)`.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports is no traceback either
    gc.disable()  # the imports leave no garbage, and to look for some would take as long as a tenth of them

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Before pika, because it says in words when pika is missing.
from task_queue import DELIVERY_LIMIT, ENDING_SIGNALS, Connection, EventLog, QueueError, SettingsError
from task_queue import add_settings, default_name, nodes_in, queue_named
from task_queue import complain, printable, run, say, text_of

import pika
from pika.channel import Channel

ACK_TIMEOUT_HOURS = 24.0
BURST_PATIENCE = 0.1  # seconds without a task before --burst asks RabbitMQ whether the queue is empty
COMMAND_GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a command that Ctrl+C ends


class Task(NamedTuple):
    """One task as it was delivered.

    Attributes:
        body: the message's body, whatever its bytes are.
        message_id: the same at each delivery, to know a task again; None if its sender set none.
        redelivered: it was handed out before, so it may have been done in part or whole.
        delivery_count: its tries that ended without acknowledgement; after too many it becomes a dead letter.
        channel, delivery_tag, received: what this module needs to settle it.
    """

    body: bytes
    message_id: str | None
    redelivered: bool
    delivery_count: int
    channel: Channel
    delivery_tag: int  # good on this channel only
    received: float  # on the monotonic clock

    @property
    def text(self) -> str:
        """The body as text, with escapes for what is not UTF-8 in it."""
        return text_of(self.body)

    @property
    def is_last_try(self) -> bool:
        """Whether it becomes a dead letter if it fails this time."""
        return self.delivery_count >= DELIVERY_LIMIT

    def seconds(self) -> float:
        """Return how long ago the task was received."""
        return round(time.monotonic() - self.received, 6)


Perform = Callable[[Task], object]


class Consumer:
    """The queue as a worker sees it: the next task, then its acknowledgement.

    Args:
        nodes, queue, name: as for Connection.
        ack_timeout: hours a task may take before RabbitMQ takes it back. Honoured from RabbitMQ 3.11.15 on; source:
            https://www.rabbitmq.com/docs/consumers#per-consumer-delivery-timeouts-using-a-queue-argument
    """

    def __init__(self, nodes: list[pika.URLParameters], queue: str, name: str, ack_timeout: float) -> None:
        self.in_hand: Task | None = None
        self.connection = Connection(nodes, queue, name, self._on_ready, self._on_lost, is_worker=True)
        self._tag = name
        self._arguments = {"x-consumer-timeout": int(ack_timeout * 3_600_000)}  # milliseconds
        self._delivered: deque[Task] = deque()  # and not in hand yet; one, if RabbitMQ keeps to the prefetch
        self._is_hungry = False  # the main thread waits for a task
        self._is_subscribed = False

    def next(self, burst: bool) -> Task | None:
        """Wait for a task and return it; None when asked to stop or, with `burst`, when the queue is empty."""
        with self.connection as connection:
            self._is_hungry = True
            self._subscribe()
            connection.wait(self._has_news, BURST_PATIENCE if burst else float("inf"))
            empty_looks = 0
            # Two looks: a task on its way to us has left the queue and is not here yet.
            while burst and empty_looks < 2 and not self._has_news():
                empty_looks = empty_looks + 1 if self._queue_is_empty() else 0
                connection.wait(self._has_news, BURST_PATIENCE)
            self._is_hungry = False
            if self._delivered and not connection.stop_asked:
                self.in_hand = self._delivered.popleft()
        return self.in_hand

    def acknowledge(self, last: bool) -> bool:
        """Tell RabbitMQ that the task in hand is done; false if its connection is gone, so that it will come again."""
        return self._settle(lambda task: task.channel.basic_ack(task.delivery_tag), last)

    def reject(self, last: bool) -> bool:
        """Give the task in hand back as failed, which counts against its delivery limit."""

        def answer(task: Task) -> None:
            if not last:
                # When this try was the last one, RabbitMQ 3.10 grants the subscription two tasks at a time from now
                # on. Source: https://github.com/rabbitmq/rabbitmq-server/pull/5609
                task.channel.basic_cancel(self._tag, callback=self._on_unsubscribed)
            task.channel.basic_reject(task.delivery_tag, requeue=True)

        return self._settle(answer, last)

    def requeue(self) -> bool:
        """Give the task in hand back as not done, which counts too before RabbitMQ 4.3."""
        return self._settle(lambda task: task.channel.basic_nack(task.delivery_tag, requeue=True), last=True)

    def close(self) -> None:
        """Give back what came too late, and close the connection."""
        with contextlib.closing(self.connection):
            while self._delivered:
                self.in_hand = self._delivered.popleft()
                self.requeue()

    def _settle(self, answer: Callable[[Task], None], last: bool) -> bool:
        with self.connection as connection:
            task, self.in_hand = self.in_hand, None
            if task is None or task.channel is not connection.channel:
                return False
            if last or connection.stop_asked:  # before the answer, which would bring one more task
                task.channel.basic_cancel(self._tag)
            answer(task)
            connection.flush()  # so that RabbitMQ acts on it while we tell how it went
            return task.channel is connection.channel

    def _has_news(self) -> bool:
        return bool(self._delivered) or self.connection.stop_asked

    def _queue_is_empty(self) -> bool:
        channel, answers = self.connection.channel, list[tuple[int, int]]()
        if channel is None:
            return False

        def on_declared(frame: pika.frame.Method[pika.spec.Queue.DeclareOk]) -> None:
            answers.append((frame.method.message_count or 0, frame.method.consumer_count or 0))

        channel.queue_declare(self.connection.queue, passive=True, callback=on_declared)
        self.connection.wait(lambda: answers or self._has_news() or channel is not self.connection.channel)
        # We are a consumer: without any, it is not the queue that has answered, because its leader is busy or gone.
        return bool(answers) and answers[0][0] == 0 and answers[0][1] > 0

    def _subscribe(self) -> None:
        # Only while the main thread waits for a task: a worker whose connection is made again in the middle of one
        # must not hold a second.
        channel = self.connection.channel
        if channel is not None and self._is_hungry and not self._is_subscribed:
            self._is_subscribed = True
            channel.basic_consume(
                self.connection.queue, self._on_delivery, consumer_tag=self._tag, arguments=self._arguments
            )

    def _on_ready(self, channel: Channel) -> None:
        cancelled = QueueError("RabbitMQ cancelled this worker's subscription. Was the queue deleted?")
        channel.add_on_cancel_callback(lambda _: self.connection.lose(cancelled))
        channel.basic_qos(prefetch_count=1)
        self._subscribe()

    def _on_unsubscribed(self, _frame: object) -> None:
        self._is_subscribed = False
        self.connection.call_later(0, self._subscribe)  # not before pika, too, knows that the tag is free

    def _on_lost(self, _why: str) -> None:
        self._delivered.clear()
        self._is_subscribed = False

    def _on_delivery(
        self, channel: Channel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        count = (properties.headers or {}).get("x-delivery-count")
        message_id: str | bytes | None = properties.message_id  # bytes if it is not UTF-8
        task = Task(
            body=body,
            message_id=text_of(message_id) if isinstance(message_id, bytes) else message_id,
            redelivered=bool(method.redelivered),
            delivery_count=count if isinstance(count, int) else 0,
            channel=channel,
            delivery_tag=method.delivery_tag or 0,
            received=time.monotonic(),
        )
        self._delivered.append(task)


def listen(
    perform: Perform,
    *,
    url: str | None = None,
    queue: str | None = None,
    name: str | None = None,
    burst: bool = False,
    max_tasks: int | None = None,
    ack_timeout: float = ACK_TIMEOUT_HOURS,
    log_file: str | None = None,
) -> None:
    """Take tasks one at a time and perform them, saying so on the terminal, until Ctrl+C or SIGTERM.

    Args:
        perform: called with each Task, in this thread. Returning is success, raising is failure.
        url, queue, name, burst, max_tasks, ack_timeout (in hours), log_file: as the flags of those names.

    Raises:
        QueueError: RabbitMQ can't be used as asked; the text says why.
    """
    name = name or default_name("worker")
    if len(os.fsencode(name)) > 255 or re.search("[\ud800-\udfff]", name):
        raise SettingsError("--name is too long, or is not text in this terminal's encoding.")
    log = EventLog(log_file, name)
    consumer = Consumer(nodes_in(url), queue_named(queue), name, ack_timeout)
    with contextlib.closing(log), contextlib.closing(consumer):
        consumer.connection.open()
        if not consumer.connection.stop_asked:
            say(f" [*] Waiting for tasks in queue {consumer.connection.queue}. To exit press CTRL+C")
        taken = 0
        while taken != max_tasks and (task := consumer.next(burst)):
            taken += 1
            handle(task, perform, consumer, log, last=taken == max_tasks)
    say(" [*] Stopped.")


def handle(task: Task, perform: Perform, consumer: Consumer, log: EventLog, last: bool) -> None:
    """Perform one task, and tell RabbitMQ, the person and the log how it went."""

    def record(event: str, **more: object) -> None:
        log.note(event, task.message_id, task.text, **more)
        log.write()

    say(f" [x] Received {printable(task.text)}{' (redelivered)' if task.redelivered else ''}")
    record("received", redelivered=task.redelivered, delivery_count=task.delivery_count)
    pid = os.getpid()
    try:
        # Only here does Ctrl+C interrupt: what is done is acknowledged and told, and what is not is handed back.
        consumer.connection.interruptible = True
        try:
            consumer.connection.interrupt_if_asked()
            perform(task)
        finally:
            consumer.connection.interruptible = False
            if os.getpid() != pid:  # a process that the task has forked must not answer for it
                os._exit(1 if sys.exc_info()[0] else 0)
    except KeyboardInterrupt:
        consumer.connection.stop_asked = True
        consumer.requeue()
        record("requeued", seconds=task.seconds())
        say(f"\n [*] Not finished, so it goes back to the queue: {printable(task.text)}")
    except BaseException as error:  # whatever a task raises is its failure, and not the end of the worker
        why = reason_of(error)
        consumer.reject(last)
        record("failed", error=why, seconds=task.seconds())
        say(f" [!] Failed: {printable(why)}")
        if task.is_last_try:
            say(f" [!] It failed too often, and is a dead letter now: {printable(task.text)}")
    else:
        if consumer.acknowledge(last):
            record("done", seconds=task.seconds())
            say(" [x] Done.")
        else:
            record("ack-lost", seconds=task.seconds())
            complain(" [!] Done, but the connection was lost meanwhile: RabbitMQ will hand this task out again.")


def reason_of(error: BaseException) -> str:
    """Return in one line why a task failed; of an error in Python code with its place."""
    if isinstance(error, CommandFailed):
        return str(error)
    try:
        text = str(error)
    except Exception:
        text = "and why can't be said"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({os.path.basename(place.filename)}, line {place.lineno})"


# ---- The work


class CommandFailed(Exception):
    """A command did not succeed; the text says how it ended."""


def sleeping(seconds_per_dot: float) -> Perform:
    """Return the tutorial's stand-in for work: a sleep for each dot in the task, counted off on screen."""

    def perform(task: Task) -> None:
        dots = task.body.count(b".")
        for dot in range(1, dots + 1):
            time.sleep(max(0.0, dot * seconds_per_dot - task.seconds()))
            say(f"     . {dot} of {dots}")

    return perform


def running(command: str) -> Perform:
    """Return work that is a command: `{}` in it becomes the task as (part of) one argument, and no shell sees it.

    Raises:
        SettingsError: there is no such command.
    """
    import shutil  # only here: it brings three compressors with it, and workers may be many

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"--run '{printable(command)}' is not a command: {error}.") from None
    if not words:
        raise SettingsError("--run needs a command.")
    program = words[0]
    if shutil.which(program) is None:
        raise SettingsError(f"--run: there is no command {printable(program)} here that may be executed.")

    def perform(task: Task) -> None:
        arguments = [os.fsencode(word).replace(b"{}", task.body) for word in words]
        process = None
        try:
            with signals_held_back():  # a command that starts just now could not be ended
                # A session of its own: Ctrl+C reaches it only through us, and then with all its children.
                process = subprocess.Popen(arguments, stdin=subprocess.PIPE, start_new_session=True)
            process.communicate(task.body)
        except BaseException:
            if process is not None:
                end_command(process)
            raise
        if process.returncode < 0:
            number = -process.returncode
            name = signal.Signals(number).name if number in [*signal.Signals] else f"signal {number}"
            raise CommandFailed(f"{program} was killed by {name}")
        if process.returncode > 0:
            raise CommandFailed(f"{program} ended with exit status {process.returncode}")

    return perform


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Have Ctrl+C and its like take effect only behind the block."""
    if threading.current_thread() is not threading.main_thread():  # no signal interrupts it
        yield
        return
    # Not those that are ignored, as by nohup: the command inherits that.
    handlers = {number: handler for number in ENDING_SIGNALS if callable(handler := signal.getsignal(number))}
    held_back: list[int] = []
    for number in handlers:
        signal.signal(number, lambda number, _frame: held_back.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in held_back:
            signal.raise_signal(number)


def end_command(process: subprocess.Popen[bytes]) -> None:
    """End a command with its children: asked at first, then, after a while or a second Ctrl+C, killed."""

    def signal_all(name: str) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, name))
            else:  # Windows knows no process groups
                process.kill()

    try:
        signal_all("SIGTERM")
        process.wait(COMMAND_GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        signal_all("SIGKILL")
        process.communicate()


# ---- The command line


def at_least_0(text: str) -> float:
    """Read a number."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 1e9:
            return value
    raise argparse.ArgumentTypeError(f"{printable(text)} is not a number from 0 on")


def at_least_1(text: str) -> int:
    """Read a whole number."""
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"{printable(text)} is not a whole number from 1 on")


def settings() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description="Take one task at a time from a RabbitMQ queue, do it, and acknowledge it."
    )
    flag = parser.add_argument
    add_settings(parser)
    flag("--name", help="the worker's name in the admin panel and in the log (default: worker-HOST-PID)")
    flag("--seconds-per-dot", type=at_least_0, default=1.0, metavar="S", help="(default: 1)")
    flag("--run", metavar="COMMAND", help="the work: {} becomes the task's text, its body is on standard input")
    flag("--burst", action="store_true", help="stop when the queue is empty")
    flag("--max-tasks", type=at_least_1, metavar="N", help="stop after N tasks")
    ack_help = "how long a task may take before RabbitMQ takes it back (default: 24)"
    flag("--ack-timeout", type=at_least_0, default=ACK_TIMEOUT_HOURS, metavar="HOURS", help=ack_help)
    return parser.parse_args()


def main() -> int:
    """Run the worker and return its exit status."""
    options = vars(settings())
    seconds_per_dot, command = options.pop("seconds_per_dot"), options.pop("run")
    try:
        listen(sleeping(seconds_per_dot) if command is None else running(command), **options)
    except QueueError as error:
        complain(f" [!] {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    run(main)
