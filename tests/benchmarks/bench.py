"""What every measurement needs: queues to measure on, processes with a clock, and rounds of them in turn."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import machine
import pika
from harness import PROJECT, Broker, Scripts, counts_on, eventually, new_queue_name

PEERS = Path(__file__).resolve().parent / "peers"
STARTED_WITHIN = 60.0  # seconds
DONE_WITHIN = 600.0  # seconds
QUIET = 0.5  # seconds before each measurement, in which RabbitMQ writes down the last one's rest
ANY_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

Results = dict[str, list[float]]  # of each contender, a figure for each round


class Message(NamedTuple):
    """A message as some publisher made it."""

    properties: pika.BasicProperties
    body: bytes

    def with_new_id(self) -> Message:
        """Return the same message with another identity, wherever its publisher put that."""
        new_id = str(uuid.uuid4())
        properties = pika.BasicProperties(**vars(self.properties))
        for name in ("message_id", "correlation_id"):
            if getattr(properties, name):
                setattr(properties, name, new_id)
        properties.headers = {
            name: re.sub(ANY_UUID, new_id, value) if isinstance(value, str) else value
            for name, value in (properties.headers or {}).items()
        }
        return Message(properties, re.sub(ANY_UUID.encode(), new_id.encode(), self.body))


class Bench(Scripts):
    """A RabbitMQ with nothing else to do, one queue of it at a time, and the processes that use it.

    Args:
        project: the checkout whose scripts are measured.
    """

    def __init__(self, broker: Broker, folder: Path, project: Path = PROJECT) -> None:
        super().__init__(broker, new_queue_name(), folder, "newest")
        self._project = project
        self.environment = {
            **machine.clean_environment(),
            **self.environment,
            "PYTHONPATH": str(project),
            "BENCH_URL": broker.url,
            "dramatiq_queue_prefetch": "1",
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or all but pika would be compiled anew each time

    def at(self, queue: str) -> Bench:
        """Return the same for another queue."""
        other = copy.copy(self)
        other.queue = queue
        other.environment = {**self.environment, "TASK_QUEUE": queue, "BENCH_QUEUE": queue}
        return other

    def command(self, script: str, *arguments: object) -> list[str]:
        """Return the command of a script, or of a peer: without `-W error`, which nobody types."""
        file = self._project / script if (self._project / script).exists() else PEERS / script
        return [sys.executable, str(file), *map(str, arguments)]

    def compiled(self, name: str) -> str:
        """Return the program of a peer in C."""
        program = self.folder / name
        if not program.exists():
            subprocess.run(["cc", "-O2", "-o", program, PEERS / f"{name}.c", "-lrabbitmq"], check=True)
        return str(program)

    def lines(self, number: int) -> Path:
        """Return a file of so many tasks of 40 bytes each."""
        file = self.folder / f"{number}.txt"
        if not file.exists():
            file.write_text("".join(f"A task of forty bytes, number {count:>10}\n" for count in range(number)))
        return file

    @contextlib.contextmanager
    def new_queue(self, is_declared: bool = True, keeps_others: bool = False) -> Iterator[str]:
        """Give a queue with the emitter's arguments, or the name of one that a peer declares in its own way.

        All others go with it, unless it keeps them.
        """
        self.queue = queue_name = new_queue_name()
        self.environment = self.at(queue_name).environment
        if is_declared:
            self.emit("--file", os.devnull)
        time.sleep(QUIET)
        try:
            yield queue_name
        finally:
            # All of them, because Celery and dramatiq declare many more for themselves.
            names = [queue["name"] for queue in self.broker.api("GET", "queues/%2F?columns=name")]
            self.broker.drop(*(name for name in names if not keeps_others or name.startswith(queue_name)))

    def seconds(self, command: list[str]) -> float:
        """Run a process to its end, and return how long it took, from its start."""
        began = time.perf_counter()
        subprocess.run(command, env=self.environment, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    @contextlib.contextmanager
    def running(self, commands: list[list[str]], output: Path | None = None) -> Iterator[list[int]]:
        """Run workers for the time of the block; gives their process ids."""
        with (output or Path(os.devnull)).open("wb") as out:
            workers = [
                subprocess.Popen(command, env=self.environment, stdout=out, stderr=subprocess.STDOUT)
                for command in commands
            ]
        try:
            yield [worker.pid for worker in workers]
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            for worker in workers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(10)
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()

    @contextlib.contextmanager
    def channel(self) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        """Give a channel of our own."""
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self.broker.url))) as connection:
            yield connection.channel()

    def message_of(self, command: list[str]) -> Message:
        """Return a message as a peer sends it, by a command that sends one."""
        self.seconds(command)
        with self.channel() as channel:
            method, properties, body = eventually(lambda: one_of(channel, self.queue), f"a message of {command}")
            channel.basic_ack(method.delivery_tag)
        (properties.headers or {}).pop("x-delivery-count", None)
        return Message(properties, body)

    def fill(self, message: Message, number: int, queue: str = "") -> None:
        """Put so many of its like into the queue, or into another one, and wait until they are there."""
        queue = queue or self.queue
        with self.sent(message, number, queue) as channel:
            # Not confirmed, which would take half a minute, so counted before the connection is closed.
            eventually(lambda: counts_on(channel, queue)[0] == number, f"{number} messages in {queue}", DONE_WITHIN)

    @contextlib.contextmanager
    def sent(
        self, message: Message, number: int, queue: str
    ) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        """Send so many of its like, and keep the connection for the time of the block.

        What was not confirmed may be lost when it is closed.
        """
        with self.channel() as channel:
            for _ in range(number):
                properties, body = message.with_new_id()
                channel.basic_publish("", queue, body, properties)
            yield channel

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many workers have subscribed."""
        eventually(lambda: self.broker.counts(self.queue)[1] == number, f"{number} consumers", STARTED_WITHIN)

    def rate(self, workers: int, tasks: int) -> float:
        """Return how many of the queue's tasks a second are done, when all workers are there and at work.

        Looked at from RabbitMQ's side, so that it is the same for every worker and asks nothing of it.
        """

        def are_at_work() -> bool:
            left, consumers = self.broker.counts(self.queue)
            return left < 0.95 * tasks and consumers == workers

        eventually(are_at_work, f"{workers} workers at work", STARTED_WITHIN)
        left, began = self.broker.counts(self.queue)[0], time.perf_counter()
        eventually(lambda: self.broker.counts(self.queue)[0] == 0, "all tasks done", DONE_WITHIN)
        return left / (time.perf_counter() - began)


def one_of(channel: pika.adapters.blocking_connection.BlockingChannel, queue: str) -> tuple | None:
    """Return a message of the queue with what it came with, if there is one."""
    found = channel.basic_get(queue)
    return found if found[0] else None


def peak_memory(pid: int) -> float:
    """Return the largest resident memory that a process and its children have had so far, in MB."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(peak[1] if peak else 0) / 1000 + sum(peak_memory(int(child)) for child in children)


def in_turn(runs: int, contenders: Mapping[str, Callable[[], float]]) -> Results:
    """Measure each contender in each round, so that what the machine does besides hits all of them alike."""
    results: Results = {name: [] for name in contenders}
    for number in range(1, runs + 1):
        for name, measure in contenders.items():
            value = measure()
            results[name].append(value)
            print(f"  round {number}: {name}: {value:,.4g}", flush=True)
    return results


def median(results: Results, name: str) -> float:
    """Return a contender's middle figure."""
    return statistics.median(results[name])


def ratio(results: Results, name: str, to: str) -> float:
    """Return the middle one of the rounds' ratios of a contender to another: only within a round are they alike."""
    return statistics.median(ratios(results, name, to))


def spread(results: Results, name: str, to: str, digits: int = 3) -> str:
    """Return the smallest and the largest of the rounds' ratios."""
    each = ratios(results, name, to)
    return f"{min(each):.{digits}f} to {max(each):.{digits}f}"


def ratios(results: Results, name: str, to: str) -> list[float]:
    """Return a contender's ratio to another in each round."""
    return [mine / other for mine, other in zip(results[name], results[to])]


def rates(results: Results, to: str, digits: int) -> list[list[str]]:
    """Return a row for each contender: its rate, and its ratio to one of them with the spread."""
    return [
        [
            name,
            f"{median(results, name):,.0f}",
            f"{ratio(results, name, to):.{digits}f}",
            spread(results, name, to, digits),
        ]
        for name in results
    ]


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown; numbers stand on the right."""
    lines = [columns, ["---", *["---:" if cell[:1].isdigit() else "---" for cell in rows[0][1:]]], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
