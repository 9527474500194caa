"""The two scripts as processes, run as a person runs them; and what nearly all tests use, from here."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import debian_root
import pexpect
from broker_view import CONFIG, Broker, TlsNode, counts_on, leader_of
from waiting import DEADLINE, eventually, waits_for_output, waits_in

__all__ = ["CONFIG", "DEADLINE", "Broker", "TlsNode", "counts_on", "eventually"]  # of others, and all that is below
__all__ += ["leader_of", "waits_for_output", "waits_in"]

PROJECT = Path(__file__).resolve().parent.parent
OLD_PIKA = PROJECT / ".venv" / "pika-1.3.2"  # put there by tools/test.py


class Run:
    """A script that runs, with what it prints kept in files, so that nothing waits for a reader."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], **popen: Any) -> None:
        self.out_file = folder / f"{uuid.uuid4().hex}.out"
        self.err_file = self.out_file.with_suffix(".err")
        with self.out_file.open("wb") as out, self.err_file.open("wb") as err:
            popen = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "cwd": folder, **popen}
            self.process = subprocess.Popen(command, env=environment, **popen)

    @property
    def out(self) -> str:
        return self.out_file.read_text()

    @property
    def err(self) -> str:
        return self.err_file.read_text()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def printed(self) -> str:
        """What to show of a failure."""
        return f"\n--- output:\n{self.out}\n--- errors:\n{self.err}"

    def shows(self, text: str, times: int = 1, within: float = DEADLINE) -> None:
        """Wait until the text was printed so many times."""
        what = f"{times} x {text!r} of {self.process.args}"
        try:
            eventually(lambda: (self.out + self.err).count(text) >= times, what, within)
        except AssertionError as error:
            raise AssertionError(f"{error}{self.printed}") from None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, status: int = 0, within: float = DEADLINE) -> Run:
        """Wait for its end, and check its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within)
        assert self.process.returncode == status, f"exit status {self.process.returncode}{self.printed}"
        assert "Traceback" not in self.err, self.err
        assert "Warning" not in self.err, self.err
        return self


class Scripts:
    """Starts the two scripts against one queue of their own, by the environment, as the README does."""

    def __init__(self, broker: Broker, queue: str, folder: Path, pika_version: str = "newest") -> None:
        self.broker, self.queue, self.folder = broker, queue, folder
        self.dead_letters = f"{queue}.dead-letters"
        self.log = folder / "events.jsonl"
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
        self.environment.update(AMQP_URL=broker.url, TASK_QUEUE=queue)
        if pika_version != "newest":
            assert OLD_PIKA.is_dir(), "run the tests with tools/test.py, which installs the old pika"
            self.environment["PYTHONPATH"] = str(OLD_PIKA)
        self._started: list[Run | pexpect.spawn] = []

    def command(self, script: str, *arguments: object) -> list[str]:
        return [sys.executable, "-W", "error", str(PROJECT / script), *map(str, arguments)]

    def start(self, script: str, *arguments: object, env: dict[str, str] | None = None, **popen: Any) -> Run:
        return self.start_command(self.command(script, *arguments), env, **popen)

    def start_command(self, command: list[str], env: dict[str, str] | None = None, **popen: Any) -> Run:
        """Start a program that starts one of the scripts, or a user's own."""
        run = Run(command, self.folder, {"PYTHONPATH": str(PROJECT), **self.environment, **(env or {})}, **popen)
        self._started.append(run)
        return run

    def emitter(self, *arguments: object, **popen: Any) -> Run:
        return self.start("emitter_of_tasks.py", *arguments, **popen)

    def worker(self, *arguments: object, **popen: Any) -> Run:
        """Start a worker, and return when it waits for tasks and RabbitMQ knows it."""
        known = self.broker.counts(self.queue)[1]
        run = self.start("listening_worker.py", *arguments, **popen)
        run.shows("Waiting for tasks")
        eventually(lambda: self.broker.counts(self.queue)[1] > known, "the worker subscribes")
        return run

    def emit(self, *arguments: object, status: int = 0, stdin: bytes = b"", **popen: Any) -> Run:
        """Run the emitter to its end, with `stdin` piped into it."""
        file = self.folder / uuid.uuid4().hex
        file.write_bytes(stdin)
        with file.open("rb") as pipe:
            return self.emitter(*arguments, stdin=pipe, **popen).ends(status)

    def start_program(self, text: str, env: dict[str, str] | None = None, **popen: Any) -> Run:
        """Start a user's own program, which imports the worker."""
        file = self.folder / "work.py"
        file.write_text(text)
        return self.start(str(file), env={"PYTHONPATH": str(PROJECT), **(env or {})}, **popen)

    def work(self, *arguments: object, **popen: Any) -> Run:
        """Run a worker until the queue is empty."""
        return self.start("listening_worker.py", "--burst", "--seconds-per-dot", 0, *arguments, **popen).ends()

    def at_terminal(self, script: str, *arguments: object, **environment: str) -> pexpect.spawn:
        """Start a script at a terminal of its own."""
        command, *rest = self.command(script, *arguments)
        environment = {**self.environment, "TERM": "xterm", **environment}
        options: dict[str, Any] = {"encoding": "utf-8", "codec_errors": "backslashreplace", "dimensions": (50, 200)}
        terminal = pexpect.spawn(command, rest, DEADLINE, cwd=str(self.folder), env=environment, **options)
        self._started.append(terminal)
        return terminal

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the records of the log file, or those of some events."""
        records = records_in(self.log) if self.log.exists() else []
        return [record for record in records if not names or record["event"] in names]

    def end_all(self) -> None:
        for run in self._started:
            if isinstance(run, pexpect.spawn):
                run.close(force=True)
            elif run.process.poll() is None:
                run.process.kill()
                run.process.wait()


def records_in(file: Path) -> list[dict[str, Any]]:
    """Return the JSON objects in a file, a line each; a writer may still be at one, or was killed there."""
    lines = file.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines if line.endswith("}")]


def line_to_go_on_from(records: list[dict[str, Any]]) -> int:
    """Return where an emitter's input is to be sent from, by the rule of docs/guarantees.md for its log."""
    here = 1
    next_of = {record["after"]: record["next_line"] for record in records}
    while here in next_of:
        here = next_of[here]
    return here


def copy_project(target: Path) -> None:
    """Copy the project, with what takes long to make: the virtual environment, and the root that the suite runs on."""
    shutil.copytree(PROJECT, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    (target / ".venv").symlink_to(PROJECT / ".venv")
    if release := debian_root.chosen():
        (target / ".rabbitmq").mkdir()
        root = debian_root.ensure_root(release)
        (target / ".rabbitmq" / root.name).symlink_to(root)


def write_program(file: Path, text: str) -> None:
    """Write a shell script that may be executed."""
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def fill(pipe: int) -> None:
    """Write into a pipe until it takes no more."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"." * 4096)
    os.set_blocking(pipe, True)


def limit_files(pid: int, size: int) -> None:
    """Let a process write no file beyond a size, as a full disk would."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def new_queue_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def servers_own_timeout(broker: Broker, milliseconds: int) -> Iterator[None]:
    """Have the server itself take tasks back soon, whatever its consumers say."""
    look = "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    broker.eval(look.format(milliseconds, 200))
    try:
        yield
    finally:
        broker.eval(look.format(1_800_000, 60_000))


def start_own(scripts: Scripts, program: str, **popen: Any) -> Run:
    """Start a user's own program, which has what it needs imported."""
    modules = "import os, signal, subprocess, sys, threading, time\n"
    imports = f"{modules}from listening_worker import listen, run, running\n"
    return scripts.start_program(imports + textwrap.dedent(program), **popen)


def feed(run: Run, data: bytes, is_last: bool = False) -> None:
    """Write to a script's standard input, which it got as subprocess.PIPE, and end that with what is last."""
    assert run.process.stdin
    run.process.stdin.write(data)
    run.process.stdin.flush()
    if is_last:
        run.process.stdin.close()
