#!/usr/bin/env python3
"""Shows the work queue in action: one emitter, two workers, and who did what.

    python3 tools/demo.py
    python3 tools/demo.py --workers 4 --file my-tasks.csv

Installs what is missing first. Uses its own queue and deletes it afterwards. The exit status is 0 only if each task
that the emitter reported as sent was done exactly once, and nothing is left in the queue.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import machine
import rabbitmq
from machine import CommandError

TASKS = Path(__file__).with_name("demo_tasks.csv")
TIMELINE_WIDTH = 72  # characters
# On Windows the only signal for another process is Ctrl+Break, which the scripts take for SIGTERM.
AFTER_THE_TASK = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
AT_ONCE = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT)
ENDS_WITHIN = 30.0  # seconds, for a process that was asked to end


class Cast:
    """The processes of the demo. Each line that they print is shown here after the process's name."""

    def __init__(self, url: str, queue: str, log: Path) -> None:
        # In the environment, because no process list shows it.
        self._environment = {**machine.clean_environment(), "AMQP_URL": url, "TASK_QUEUE": queue}
        self._log = log  # a folder with a log for each, because on Windows several processes can't share one
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self.waiting: set[str] = set()  # workers that wait for tasks; now they also react to SIGTERM

    def start(self, name: str, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a script; its lines appear as they come."""
        process = subprocess.Popen(
            [sys.executable, str(machine.PROJECT / script), "--log-file", str(self._log / name), *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that Ctrl+C reaches only us
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        self._processes[name] = process
        self._readers.append(threading.Thread(target=self._relay, args=(name, process), daemon=True))
        self._readers[-1].start()
        return process

    def check(self) -> None:
        """Raise CommandError if a process has failed."""
        for name, process in self._processes.items():
            if process.poll() not in (None, 0):
                raise CommandError(f"{name} ended with exit status {process.returncode}.")

    def stop(self, number: int) -> None:
        """Send every process a signal to end, and wait for it."""
        for process in self._processes.values():
            process.send_signal(number)
        for process in self._processes.values():
            try:
                process.wait(ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
        for reader in self._readers:
            reader.join()

    def _relay(self, name: str, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            machine.say(f"{name:9} | {line.rstrip()}")
            if "Waiting for tasks" in line:
                self.waiting.add(name)


def play(url: str, queue: str, file: Path, workers: int, log: Path) -> None:
    """Run the emitter and the workers until every task that was sent is done, or one of them fails."""
    cast = Cast(url, queue, log)
    try:
        for number in range(1, workers + 1):
            cast.start(f"worker-{number}", "listening_worker.py", "--name", f"worker-{number}")
        emitter = cast.start("emitter", "emitter_of_tasks.py", "--verbose", "--file", str(file))
        while (
            emitter.poll() is None
            or len(events(log, "done")) < len(events(log, "confirmed"))
            or len(cast.waiting) < workers  # one may still be starting when the others have done all tasks
        ):
            cast.check()
            time.sleep(0.05)
    except BaseException:
        cast.stop(AT_ONCE)
        raise
    cast.stop(AFTER_THE_TASK)
    cast.check()


def events(log: Path, name: str) -> list[dict[str, Any]]:
    """Return the records of an event, in the order of their times."""
    whole = [file.read_text().rpartition("\n")[0] for file in log.iterdir()]  # the last line may be incomplete
    records = [json.loads(line) for text in whole for line in text.splitlines()]
    return sorted((record for record in records if record["event"] == name), key=when)


@contextlib.contextmanager
def own_queue(url: str) -> Iterator[str]:
    """Print RabbitMQ's version, give the name of a new queue, and delete it after the block."""
    from task_queue import QueueError  # here, because they need pika, which may have had to be installed first
    from task_queue.process.shutdown import Shutdown
    from task_queue.rabbitmq.connection import Connection
    from task_queue.rabbitmq.queues import dead_letters_of
    from task_queue.settings import connection_settings

    queue = f"demo-{uuid.uuid4().hex[:8]}"
    left: list[int] = []
    try:
        settings = connection_settings(url, queue, "demo", 0.0)
        with contextlib.closing(Connection(settings, Shutdown(), lambda _: None, lambda _: None)) as connection:
            connection.open()
            machine.say(f"RabbitMQ {'.'.join(map(str, connection.rules.version))} is up.")
            try:
                yield queue
            finally:
                with connection.loop:
                    connection.wait(lambda: connection.channel, ENDS_WITHIN)
                    for name in (queue, dead_letters_of(queue)):
                        if channel := connection.channel:
                            channel.queue_delete(name, callback=lambda ok: left.append(ok.method.message_count or 0))
                    connection.wait(lambda: len(left) == 2, ENDS_WITHIN)
    except QueueError as error:
        raise CommandError(str(error)) from None
    if left != [0, 0]:
        raise CommandError(f"{sum(left)} tasks were left in the queue.")


def show(log: Path) -> None:
    """Print which worker did which tasks, and when."""
    received, done = events(log, "received"), events(log, "done")
    if not done:
        return
    numbers = {record["message_id"]: number for number, record in enumerate(events(log, "confirmed"), 1)}
    shares = collections.defaultdict(list)
    for record in done:
        shares[record["name"]].append(record)

    print(f"\n{'worker':9} | {'tasks':>5} | {'at work':>7} | which tasks, in the order received")
    for name, records in sorted(shares.items()):
        busy = sum(record["seconds"] for record in records)
        which = ", ".join(str(numbers[record["message_id"]]) for record in records)
        print(f"{name:9} | {len(records):5} | {busy:5.1f} s | {which}")

    start, end = when(received[0]), when(done[-1])
    scale = TIMELINE_WIDTH / max(end - start, 0.001)
    print(f"\nTimeline (each = is {1 / scale:.2f} s, {end - start:.1f} s in all):")
    for name, records in sorted(shares.items()):
        row = ""
        for record in records:  # a short one moves those behind it, so that none is hidden
            last = int((when(record) - start) * scale)
            first = min(int((when(record) - record["seconds"] - start) * scale), last)
            row = row.ljust(first) + str(numbers[record["message_id"]]).ljust(last - first, "=") + " " * (first == last)
        print(f"{name:9} | {row.rstrip()}")


def when(record: dict[str, Any]) -> float:
    """Return the time of a record, in seconds."""
    return datetime.fromisoformat(record["time"]).timestamp()


def check(log: Path) -> None:
    """Compare what the emitter reported as sent with what the workers reported as done; CommandError if they differ."""
    sent, done, taken = (
        collections.Counter(record["message_id"] for record in events(log, event))
        for event in ("confirmed", "done", "received")
    )
    if not sent:
        raise CommandError("No task was sent.")
    if not sent == done == taken:
        raise CommandError(f"{len(sent - done)} tasks were not done, {len(done - sent)} were done more than once.")
    print("\nGo on with README.md, Three terminals. docs/how-it-works.md leads you through the code.\n")
    print(f"All {len(sent)} tasks were sent, received and done exactly once. Nothing is left in the queue.")


def main() -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(description="Show one emitter and some workers at work, and who did what.")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="how many workers (default: 2)")
    parser.add_argument("--file", type=Path, default=TASKS, help="tasks, as for the emitter (default: the demo's own)")
    chosen = parser.parse_args()
    if chosen.workers < 1:
        parser.error("--workers: at least one")
    if not chosen.file.is_file():
        parser.error(f"--file: there is no file {chosen.file}")
    machine.run_in_venv("requirements.txt")
    machine.let_children_hear_signals()
    sys.path.insert(0, str(machine.PROJECT))
    with rabbitmq.found_or_started() as url, tempfile.TemporaryDirectory() as folder:
        log = Path(folder)
        with own_queue(url) as queue:
            play(url, queue, chosen.file, chosen.workers, log)
        show(log)
        check(log)
    return 0


if __name__ == "__main__":
    machine.run_main(main)
