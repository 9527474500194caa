"""What a scenario has to work with: a queue and dice of its own, its tasks, its workers, and their books."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from checker import Account, Record, settle
from harness import CONFIG, PROJECT, Broker, Run, Scripts, eventually, new_queue_name, records_in
from rabbitmq import Node
from relay import Relay

HEARTBEAT = 2  # seconds
LONGEST_WAIT = 10.0  # seconds; where the virtual host has none of the suite's policies, a second for each try
RECOVERY = 60.0  # seconds in which everything goes on again after a fault; pauses between attempts grow to 30
SOON = 20.0  # seconds


class Stage(Scripts):
    """One run of one scenario.

    Args:
        broker: RabbitMQ; a scenario of the node may do anything to it.
        folder: for its files.
        seed: of its dice.
        is_full: the full load instead of the short one.
    """

    def __init__(self, broker: Broker, folder: Path, seed: int, is_full: bool) -> None:
        super().__init__(broker, new_queue_name(), folder, "newest")
        self.random = random.Random(seed)
        self.tasks: list[str] = []
        self._counts = threading.Lock()  # held by who adds tasks: an emitter is fed by a thread
        self.faults = 0
        self.account = Account()
        self._is_full = is_full
        self.book_file = folder / "book.jsonl"
        self._ends = contextlib.ExitStack()

    def load(self, full: int, short: int) -> int:
        """Return how much of something this run takes."""
        return full if self._is_full else short

    def pause(self, most: float) -> None:
        """Let a random time of at most so many seconds go by, so that a fault comes at any moment."""
        time.sleep(self.random.uniform(0, most))

    def new_tasks(self, number: int) -> list[str]:
        """Return the texts of so many further tasks."""
        with self._counts:
            texts = [f"task {count}" for count in range(len(self.tasks) + 1, len(self.tasks) + number + 1)]
            self.tasks += texts
        return texts

    def tasks_file(self, number: int) -> Path:
        """Return a file of so many further tasks."""
        file = self.folder / f"{len(self.tasks)}.txt"
        file.write_text("\n".join(self.new_tasks(number)))
        return file

    def send(self, number: int) -> None:
        """Send so many further tasks, with nothing in their way."""
        self.emit("--file", self.tasks_file(number), "--log-file", self.log)

    @contextlib.contextmanager
    def fed(self, per_second: int, *arguments: object) -> Iterator[Run]:
        """Give an emitter that gets tasks through a pipe for the time of the block, so that it does not end before."""
        emitter = self.emitter("--log-file", self.log, *arguments, stdin=subprocess.PIPE)
        enough = threading.Event()

        def write() -> None:
            pipe = emitter.process.stdin
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError), pipe:
                while not enough.wait(0.05):
                    write_lines(pipe, self.new_tasks(per_second // 20))

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            eventually(lambda: self.confirmed(emitter), "it has begun", RECOVERY)
            yield emitter
        finally:
            enough.set()
        writer.join(RECOVERY)

    def book_worker(self, *arguments: object, seconds: float = 0.0, url: str = "", **popen: Any) -> Run:
        """Start a worker whose tasks take so long, and write into the book when they are done."""
        return self.start(
            "tests/faults/worker_with_book.py",
            self.book_file,
            "--log-file",
            self.log,
            *arguments,
            env={"PYTHONPATH": str(PROJECT), "SECONDS": str(seconds), "AMQP_URL": url or self.environment["AMQP_URL"]},
            **popen,
        )

    def relay(self) -> Relay:
        """Return a relay to the broker, which ends with the scenario."""
        return self._ends.enter_context(contextlib.closing(Relay(self.broker.node.amqp_port)))

    def node(self, name: str, config: str = "", epmd_port: int = 0) -> Node:
        """Return a further RabbitMQ, not started yet, which ends with the scenario."""
        node = Node(self.folder / name, name=name, config=CONFIG + config, epmd_port=epmd_port)
        self._ends.callback(node.kill)
        return node

    def book(self) -> list[Record]:
        """Return what the tasks wrote when they were done."""
        return records_in(self.book_file) if self.book_file.exists() else []

    def done(self) -> int:
        """Return how many tasks wrote that they are done."""
        return self.book_file.read_bytes().count(b"\n") if self.book_file.exists() else 0

    def confirmed(self, emitter: Run | None = None) -> int:
        """Return how many tasks an emitter has reported as confirmed, or all emitters have."""
        what = f'-{emitter.process.pid}"' if emitter else '"confirmed"'
        return self.log.read_bytes().count(what.encode()) if self.log.exists() else 0

    def wait_for_done(self, number: int | None = None, within: float = RECOVERY) -> None:
        """Wait until so many tasks, or all, were done at least once, as long as work goes on."""
        number = len(self.tasks) if number is None else number

        def are_done() -> bool:  # reading the book takes time, so it is read only when it is long enough
            return self.done() >= number and len({entry["task"] for entry in self.book()}) >= number

        while not are_done():
            before = self.done()
            eventually(lambda: self.done() > before or are_done(), f"{number} tasks are done", within)  # noqa: B023

    def drain(self, all_are_sent: bool = True) -> None:
        """Do what waits in the queue; then count.

        From RabbitMQ 4.3 on, a task whose worker was cut off waits for its next try, and is in no count until then; a
        burst waits only for what failed in itself. So there it is tried again, until that time has gone by.
        """
        deadline = time.monotonic() + (LONGEST_WAIT if self.broker.version >= (4, 3) else 0.0)
        while True:
            self.book_worker("--burst").ends(within=2 * RECOVERY)
            is_late = time.monotonic() > deadline
            try:
                return self.settle(all_are_sent)
            except AssertionError:
                if is_late:
                    raise

    def settle(self, all_are_sent: bool = True, thrown_away: Collection[str] = ()) -> None:
        """Count what became of the tasks, and insist on what holds in every scenario: nothing confirmed is lost.

        Args:
            all_are_sent: every task was given to an emitter that went on to its end, with a log.
            thrown_away: what an administrator deleted, and nobody can keep.
        """
        queues = (self.dead_letters, self.queue)
        dead, left = (self.broker.bodies(name) if self.broker.counts(name)[0] else [] for name in queues)
        self.account = account = settle(self.tasks, self.events(), self.book(), dead, left, thrown_away)
        assert not all_are_sent or not account.unsent, f"never confirmed: {account.unsent[:5]}"
        assert not account.lost, f"{len(account.lost)} lost, such as {account.lost[:5]}"
        assert not account.unknown, f"never sent, but here: {account.unknown[:5]}"
        assert not account.untrue, f"reported as done, but not done: {account.untrue[:5]}"

    def on_end(self, callback: Callable[[], object]) -> None:
        """Have something called when the scenario ends, however it does."""
        self._ends.callback(callback)

    def close(self) -> None:
        """End every process and node of the scenario."""
        self.end_all()
        self.broker.close()
        self._ends.close()


class Crew:
    """Workers with a book that are replaced when they are ended, as by a supervisor.

    Args:
        stage: where they work.
        size: how many.
        seconds: how long their tasks take.
        url: where RabbitMQ is for them, if not where it is for all.
    """

    def __init__(self, stage: Stage, size: int, seconds: float = 0.0, url: str = "") -> None:
        self._stage, self._seconds, self._url = stage, seconds, url
        self.workers = [self._hire() for _ in range(size)]
        for worker in self.workers:
            worker.shows("Waiting for tasks", within=RECOVERY)

    def replace(self, worker: Run, number: signal.Signals, status: int) -> None:
        """Send a worker a signal, check how it ends, and start another one."""
        worker.shows("Waiting for tasks", within=RECOVERY)
        worker.send(number)
        worker.ends(status, within=RECOVERY)
        self._stage.faults += 1
        self.workers[self.workers.index(worker)] = self._hire()

    def replace_the_dead(self) -> None:
        """Start another worker for each that has been killed by its task."""
        for worker in self.workers:
            if worker.process.poll() is not None:
                self.replace(worker, signal.SIGKILL, -signal.SIGKILL)

    def kill_one(self) -> None:
        """Kill a worker, and start another one."""
        self.replace(self._stage.random.choice(self.workers), signal.SIGKILL, -signal.SIGKILL)

    def dismiss(self, number: signal.Signals = signal.SIGTERM, status: int = 0) -> None:
        """Have all end: by themselves when they have finished what they do, or by another signal at once."""
        for worker in self.workers:
            worker.shows("Waiting for tasks", within=RECOVERY)
            worker.send(number)
        for worker in self.workers:
            worker.ends(status, within=RECOVERY)

    def _hire(self) -> Run:
        return self._stage.book_worker(seconds=self._seconds, url=self._url)


Scenario = Callable[[Stage], None]
SCENARIOS: dict[str, Scenario] = {}
OF_THE_NODE: set[str] = set()  # the names of those that do to RabbitMQ what others would notice who use it
LONG: set[str] = set()  # the names of those that are in the full run only, because they have no short form


class Skipped(Exception):
    """This machine, or this RabbitMQ, can't play the scenario; the text says why."""


def scenario(function: Scenario) -> Scenario:
    """Add a scenario to the list under its own name."""
    SCENARIOS[function.__name__] = function
    return function


def scenario_of_the_node(function: Scenario) -> Scenario:
    """Add a scenario that needs a RabbitMQ for itself."""
    OF_THE_NODE.add(function.__name__)
    return scenario(function)


def long_scenario(function: Scenario) -> Scenario:
    """Add a scenario that is for the full run alone."""
    LONG.add(function.__name__)
    return scenario(function)


@contextlib.contextmanager
def at_work(stage: Stage, size: int, seconds: float = 0.0, url: str = "") -> Iterator[Crew]:
    """Have a crew for the time of the block; afterwards it finishes in good order."""
    crew = Crew(stage, size, seconds, url)
    yield crew
    crew.dismiss()


def write_lines(pipe: IO[bytes], texts: list[str]) -> None:
    """Write tasks into an emitter's pipe."""
    pipe.write("".join(f"{text}\n" for text in texts).encode())
    pipe.flush()


def seconds_until(happens: Callable[[], object], what: str) -> float:
    """Return how long something takes to happen."""
    began = time.monotonic()
    eventually(happens, what, RECOVERY)
    return time.monotonic() - began
