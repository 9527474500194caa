"""A RabbitMQ as the tests see it, and the two scripts as processes, run as a person runs them."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import debian_root
import installation
import pexpect
import pika
import pika.exceptions
import trustme
from pika.adapters.blocking_connection import BlockingChannel
from rabbitmq import Node, free_port

PROJECT = Path(__file__).resolve().parent.parent
OLD_PIKA = PROJECT / ".venv" / "pika-1.3.2"  # put there by tools/test.py
CONFIG = (  # of every node of the tests
    "max_message_size = 16777216\n"  # the limit that RabbitMQ 4 has by itself
    # The panel looks every second, and not every five, who has come and gone.
    "management.sample_retention_policies.global.minute = 1\n"
    "management.sample_retention_policies.basic.minute = 1\n"
    "management.sample_retention_policies.detailed.minute = 1\n"
)
SILENT_QUEUE = 0.2  # seconds; of a queue that does not answer within 0.25, RabbitMQ says: no messages, no consumers
DEADLINE = 30.0  # seconds for whatever should happen at once; generous, for a loaded machine


def eventually(happens: Callable[[], Any], what: str, within: float = DEADLINE) -> Any:
    """Return the first true value of `happens()`; fail if there is none in time."""
    deadline = time.monotonic() + within
    while True:
        if value := happens():
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.02)


class TlsNode(Node):
    """A node that listens with TLS, too, with the certificate in its folder, which a test may replace.

    Attributes:
        tls_port: where.
        certificate, key: the files.
    """

    def __init__(self, data: Path) -> None:
        self.tls_port = free_port()
        self.certificate, self.key = data.resolve() / "certificate.pem", data.resolve() / "key.pem"
        config = (
            f"listeners.ssl.local = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.certfile = {self.certificate}\n"
            f"ssl_options.keyfile = {self.key}\n"
        )
        super().__init__(data, config=CONFIG + config)
        data.mkdir(exist_ok=True)
        self.show(trustme.CA().issue_cert("localhost"))

    def show(self, certificate: trustme.LeafCert) -> None:
        """Have this certificate shown from the start, or from when the node has forgotten the one before."""
        certificate.cert_chain_pems[0].write_to_path(str(self.certificate))
        certificate.private_key_pem.write_to_path(str(self.key))


class Broker:
    """A node, and the tests' own view of it through the admin panel's HTTP interface."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.url = node.url
        self._connection: pika.BlockingConnection | None = None  # kept, because counts() is called in loops
        self._channel: BlockingChannel | None = None

    def api(self, method: str, path: str, body: object = None) -> Any:
        try:
            return self.node.api(method, path, body)
        except urllib.error.HTTPError as error:
            if method != "GET" or error.code < 500:
                raise
        return self.node.api(method, path, body)  # a loaded node may have failed to collect what a page shows

    @property
    def version(self) -> tuple[int, int]:
        """Return major and minor of the RabbitMQ."""
        major, minor = self.node.version.split(".")[:2]
        return int(major), int(minor)

    def set_policy(self, queue: str, pattern: str | None = None, **definition: object) -> None:
        """Give a queue a policy, by which a failed task hardly waits, where RabbitMQ would have it wait."""
        if self.version >= (4, 3):
            definition = {"delayed-retry-min": 50, "delayed-retry-max": 100, **definition}
        policy = {
            "pattern": pattern or f"^{queue}$",
            "definition": definition,
            "apply-to": "queues",
            "priority": int(pattern is None),
        }
        if definition:
            self.api("PUT", f"policies/%2F/{queue}", policy)

    def shorten_waits(self) -> None:
        """Give all queues of the tests that policy."""
        self.set_policy("short-waits", "^test-")

    def drop(self, *queues: str) -> None:
        for name in queues:
            self._on_channel(lambda channel: channel.queue_delete(name))  # noqa: B023

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Return what is ready in the queue, and put it back, which to RabbitMQ 4.3 is a failed try."""
        request = {"count": 100_000, "ackmode": "ack_requeue_true", "encoding": "base64"}
        found = list(self.api("POST", f"queues/%2F/{queue}/get", request))
        for message in found:
            message["body"] = base64.b64decode(message.pop("payload"))
        # For RabbitMQ, whoever still has what was asked for by basic.get is a consumer, too.
        eventually(lambda: self.counts(queue)[0] >= len(found), "RabbitMQ has put them back")
        return found

    def bodies(self, queue: str) -> list[str]:
        return [message["body"].decode() for message in self.messages(queue)]

    def take(self, queue: str, number: int) -> list[str]:
        """Take so many messages out of the queue: for thousands, much faster than bodies()."""

        def take(channel: BlockingChannel) -> list[str]:
            taken = channel.consume(queue, auto_ack=True, inactivity_timeout=DEADLINE)
            bodies = [body.decode() for _, _, body in itertools.islice(taken, number)]
            channel.cancel()
            return bodies

        return list(self._on_channel(take))

    def publish(self, queue: str, body: bytes) -> None:
        """Send a message as another client would: with no properties at all."""
        request = {
            "properties": {},
            "routing_key": queue,
            "payload": base64.b64encode(body).decode(),
            "payload_encoding": "base64",
        }
        assert self.api("POST", "exchanges/%2F/amq.default/publish", request)["routed"]

    def counts(self, queue: str) -> tuple[int, int]:
        """Return how many messages wait in a queue, and how many consumers it has, as of now."""
        deadline = time.monotonic() + DEADLINE
        while True:
            began = time.monotonic()
            try:
                counts: tuple[int, int] = self._on_channel(lambda channel: counts_on(channel, queue))
            except pika.exceptions.ChannelClosedByBroker:
                return 0, 0
            now = time.monotonic()
            if counts != (0, 0) or now - began < SILENT_QUEUE or now > deadline:
                return counts

    def freeze(self, queue: str) -> None:
        """Have the queue's leader answer nothing until thaw()."""
        self.eval(f"sys:suspend({leader_of(queue)}).")

    def thaw(self, queue: str, seconds: float) -> None:
        """Have the queue's leader answer again after so many further seconds."""
        self.eval(f"timer:sleep({seconds * 1000:.0f}), sys:resume({leader_of(queue)}).")

    def eval(self, code: str) -> None:
        """Have the node evaluate some Erlang, as `rabbitmqctl eval` does, which takes a hundred times as long."""
        cookie = (self.node.data / ".erlang.cookie").read_text()
        command = installation.in_its_root(["erl_call", "-c", cookie, "-sname", self.node.name, "-e"])
        environment = self.node.environment()

        def answer() -> str:  # empty if a busy node lets nobody in for now
            return subprocess.run(command, input=f"{code}\n", env=environment, stdout=subprocess.PIPE, text=True).stdout

        said = eventually(answer, "the node evaluates it")
        assert said.startswith("{ok, "), said

    def _on_channel(self, do: Callable[[BlockingChannel], Any]) -> Any:
        """Do something on the connection, and again on a new one if that was closed, or its node, meanwhile."""
        is_new = self._connection is None
        try:
            return do(self._own_channel())
        except pika.exceptions.ChannelClosedByBroker:
            raise
        except pika.exceptions.AMQPError:
            self.close()
            if is_new:
                raise
        return do(self._own_channel())

    def _own_channel(self) -> BlockingChannel:
        if self._connection is None:
            parameters = pika.URLParameters(self.url)
            parameters.heartbeat = 0  # nobody drives the connection between two looks
            self._connection = pika.BlockingConnection(parameters)
        if self._channel is None or self._channel.is_closed:
            self._channel = self._connection.channel()
        return self._channel

    def close(self) -> None:
        """Close the connection, if there is one; the next look makes another."""
        if self._connection is not None:
            with contextlib.suppress(pika.exceptions.AMQPError):
                self._connection.close()
        self._connection = self._channel = None

    def declare(self, queue: str, **arguments: object) -> None:
        self.api("PUT", f"queues/%2F/{queue}", {"durable": True, "arguments": arguments})


def copy_project(target: Path) -> None:
    """Copy the project, with what takes long to make: the virtual environment, and the root that the suite runs on."""
    shutil.copytree(PROJECT, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    (target / ".venv").symlink_to(PROJECT / ".venv")
    if release := debian_root.chosen():
        (target / ".rabbitmq").mkdir()
        root = debian_root.ensure_root(release)
        (target / ".rabbitmq" / root.name).symlink_to(root)


def leader_of(queue: str) -> str:
    """Return how Erlang finds the process of a quorum queue's leader."""
    return f'whereis(list_to_atom("%2F_{queue}"))'


def counts_on(channel: BlockingChannel, queue: str) -> tuple[int, int]:
    """Return how many messages wait in a queue, and how many consumers it has."""
    answer = channel.queue_declare(queue, passive=True).method
    return answer.message_count or 0, answer.consumer_count or 0


def waits_in(pid: int) -> str:
    """Return where in Linux the main thread of a process waits, such as in a pipe or in epoll."""
    return Path(f"/proc/{pid}/wchan").read_text()


def waits_for_output(pid: int) -> bool:
    """Tell whether the main thread of a process waits until a pipe or a terminal takes more."""
    return any(where in waits_in(pid) for where in ("pipe", "poll_schedule"))


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


def line_to_go_on_from(records: list[dict[str, Any]]) -> int:
    """Return where an emitter's input is to be sent from, by the rule of docs/guarantees.md for its log."""
    here = 1
    next_of = {record["after"]: record["next_line"] for record in records}
    while here in next_of:
        here = next_of[here]
    return here


def records_in(file: Path) -> list[dict[str, Any]]:
    """Return the JSON objects in a file, a line each, to which others still write.

    A writer that was killed may have left the beginning of one.
    """
    lines = file.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines if line.endswith("}")]


class Run:
    """A script that runs, with what it prints kept in files, so that nothing waits for a reader.

    Its standard output and standard error are asked for separately; both are also what pytest shows of a failure.
    """

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

    def shows(self, text: str, times: int = 1, within: float = DEADLINE) -> None:
        """Wait until the text was printed so many times."""
        what = f"{times} x {text!r} of {self.process.args}"
        try:
            eventually(lambda: (self.out + self.err).count(text) >= times, what, within)
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- output:\n{self.out}\n--- errors:\n{self.err}") from None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, status: int = 0, within: float = DEADLINE) -> Run:
        """Wait for its end, and check its exit status."""
        try:
            ended = self.process.wait(within)
        except subprocess.TimeoutExpired:
            ended = None
        assert ended == status, f"exit status {ended}\n--- output:\n{self.out}\n--- errors:\n{self.err}"
        assert "Traceback" not in self.err, self.err
        assert "Warning" not in self.err, self.err
        return self


class Scripts:
    """Starts the two scripts against one queue of their own, by the environment, as the README does."""

    def __init__(self, broker: Broker, queue: str, folder: Path, pika_version: str) -> None:
        self.broker, self.queue, self.folder = broker, queue, folder
        self.dead_letters = f"{queue}.dead-letters"
        self.log = folder / "events.jsonl"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "AMQP_URL": broker.url,
            "TASK_QUEUE": queue,
        }
        if pika_version != "newest":
            assert OLD_PIKA.is_dir(), "run the tests with tools/test.py, which installs the old pika"
            self.environment["PYTHONPATH"] = str(OLD_PIKA)
        self._started: list[Run | pexpect.spawn] = []

    def command(self, script: str, *arguments: object) -> list[str]:
        return [sys.executable, "-W", "error", str(PROJECT / script), *map(str, arguments)]

    def start(self, script: str, *arguments: object, env: dict[str, str] | None = None, **popen: Any) -> Run:
        run = Run(self.command(script, *arguments), self.folder, {**self.environment, **(env or {})}, **popen)
        self._started.append(run)
        return run

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
        return self.start_command(self.command(str(file)), {"PYTHONPATH": str(PROJECT), **(env or {})}, **popen)

    def program(self, text: str, **environment: str) -> Run:
        """Run a user's own program to its end."""
        return self.start_program(text, env=environment).ends()

    def work(self, *arguments: object, **popen: Any) -> Run:
        """Run a worker until the queue is empty."""
        return self.start("listening_worker.py", "--burst", "--seconds-per-dot", 0, *arguments, **popen).ends()

    def at_terminal(self, script: str, *arguments: object, **environment: str) -> pexpect.spawn:
        """Start a script at a terminal of its own."""
        command = self.command(script, *arguments)
        terminal = pexpect.spawn(
            command[0],
            command[1:],
            env={**self.environment, "TERM": "xterm", **environment},
            cwd=str(self.folder),
            timeout=DEADLINE,
            encoding="utf-8",
            codec_errors="backslashreplace",
            dimensions=(50, 200),
        )
        self._started.append(terminal)
        return terminal

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the records of the log file, or those of some events."""
        if not self.log.exists():
            return []
        return [record for record in records_in(self.log) if not names or record["event"] in names]

    def end_all(self) -> None:
        for run in self._started:
            if isinstance(run, pexpect.spawn):
                run.close(force=True)
            elif run.process.poll() is None:
                run.process.kill()
                run.process.wait()


def new_queue_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


def feed(run: Run, data: bytes, is_last: bool = False) -> None:
    """Write to a script's standard input, which it got as subprocess.PIPE, and end that with what is last."""
    assert run.process.stdin
    run.process.stdin.write(data)
    run.process.stdin.flush()
    if is_last:
        run.process.stdin.close()
