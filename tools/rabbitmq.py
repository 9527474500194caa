#!/usr/bin/env python3
"""A private RabbitMQ: a node of the installed rabbitmq-server with ports and data of its own.

Run by itself it keeps such a node up until Ctrl+C, on RabbitMQ's usual ports when they are free, so that the
two scripts find it without any flag. Its queues are kept in .rabbitmq/ and are there again at the next start.

    python3 tools/rabbitmq.py

Needs no root, no configuration, and nothing of the system's own RabbitMQ but its program files.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import machine

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

AMQP_PORT, MANAGEMENT_PORT = 5672, 15672
# Below those that systems give to outgoing connections, one of which might take a port before its node does, or while
# it restarts; and each process begins elsewhere.
OTHER_PORTS = (20_000 + number % 12_000 for number in itertools.count(100 * os.getpid()))
DATA = machine.PROJECT / ".rabbitmq"
STARTED_WITHIN = 90.0  # seconds; a loaded machine of two cores takes about ten
STOPPED_WITHIN = 30.0  # seconds
ANSWERS_WITHIN = 30.0  # seconds

# The wrapper in /usr/sbin insists on root or the rabbitmq user; the script it wraps runs as anybody.
SERVER_SCRIPTS = (
    "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server",  # Debian, Ubuntu, Fedora
    "/usr/lib/rabbitmq/sbin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",  # macOS
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
)


class NodeError(machine.CommandError):
    """A private node can't be started; the text says why and where its log is."""


def find_server() -> Path | None:
    """Return the script of an installed rabbitmq-server that runs without root, or None."""
    for pattern in SERVER_SCRIPTS:
        for script in sorted(Path("/").glob(pattern[1:]), reverse=True):
            return script
    return None


def ensure_server() -> Path:
    """Return the script of rabbitmq-server, installed first if need be.

    Raises:
        machine.SetupError: it is not installed and can't be without a question; the text has the command.
    """
    script = find_server()
    if script is None:
        machine.install("rabbitmq-server")
        script = find_server()
    if script is None:
        raise machine.SetupError("rabbitmq-server is installed, but not where this program looks for it.")
    return script


def is_rabbitmq(host: str, port: int) -> bool:
    """Tell whether an AMQP 0-9-1 server answers there: it greets our protocol header with connection.start."""
    connection_start = b"\x00\x0a\x00\x0a"  # class 10, method 10, seven bytes into a frame
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=3) as peer:
        peer.sendall(b"AMQP\x00\x00\x09\x01")
        return peer.recv(11)[7:] == connection_start
    return False


def free_port(wanted: int = 0) -> int:
    """Return the wanted port if it is free on every local address, else another one, reserved for this process."""
    port = wanted or next(OTHER_PORTS)
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        if not wanted:
            reserve(port)
        return port
    return free_port()


def reserve(port: int) -> None:
    """Have no other process get this port from free_port(), though a node takes some seconds to listen there.

    Raises:
        OSError: another one has it.
    """
    sign = socket.socket(type=socket.SOCK_DGRAM)  # UDP, which leaves the TCP port to the node
    atexit.register(sign.close)
    sign.bind(("127.0.0.1", port))


class Node:
    """One RabbitMQ node under this process: start(), then stop() or kill(), and start() again on the same data.

    Args:
        data: folder for everything the node writes; made if need be.
        amqp_port, management_port: 0 means any free one.
        name: the part of the node's name before `@localhost`.
        config: further lines for rabbitmq.conf.
        epmd_port: of an epmd that runs, for nodes of one cluster; 0 means one of the node's own, so that none is left
            behind and no other node on the machine is disturbed.
    """

    def __init__(
        self,
        data: Path,
        amqp_port: int = 0,
        management_port: int = 0,
        name: str = "tasks",
        config: str = "",
        epmd_port: int = 0,
    ) -> None:
        self.data = data.resolve()
        self.amqp_port = amqp_port or free_port()
        self.management_port = management_port or free_port()
        self.name = f"{name}@localhost"
        self.config = config
        self.url = f"amqp://guest:guest@localhost:{self.amqp_port}/%2F"
        self.admin_url = f"http://localhost:{self.management_port}"
        self.log = self.data / "log" / "rabbitmq.log"
        self._has_own_epmd = not epmd_port
        self._epmd_port = epmd_port or free_port()
        self._distribution_port = free_port()
        self._lock: BinaryIO | None = None  # held while the node runs, for its data can have one owner only
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node and return when it answers on both its ports.

        Raises:
            NodeError: it ended, or did not answer in time; or another one has this data.
            machine.SetupError: rabbitmq-server is not installed.
        """
        script = ensure_server()
        self._write_settings()
        self._lock = locked(self.data / "lock")
        if self._has_own_epmd:
            self._epmd = start_epmd(self._epmd_port)
        output = (self.data / "log" / "startup.log").open("ab")
        # A session of its own, so that Ctrl+C in this terminal is ours to handle.
        self._server = subprocess.Popen(
            [str(script)],
            env=self.environment(),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        output.close()
        try:
            self._wait_until_up()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut the node down in good order, as a reboot of its machine would."""
        if self._server is not None:
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(STOPPED_WITHIN)
        self.kill()

    def kill(self) -> None:
        """End the node at once with SIGKILL, as a power cut would."""
        for process in (self._server, self._epmd):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._server = self._epmd = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def has_ended(self) -> bool:
        """Tell whether the node is not running, stopped or by itself."""
        return self._server is None or self._server.poll() is not None

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node and return what it prints."""
        command = [str(ensure_server().with_name("rabbitmqctl")), *arguments]
        return subprocess.check_output(command, env=self.environment(), text=True, stderr=subprocess.STDOUT)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask the admin panel's HTTP interface, and return what it answers.

        Raises:
            urllib.error.HTTPError: it refused.
        """
        request = urllib.request.Request(
            f"{self.admin_url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()},
        )
        with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN) as answer:
            return json.loads(answer.read() or "null")

    def environment(self) -> dict[str, str]:
        """Return the environment in which RabbitMQ's own commands (rabbitmqctl ...) reach this node."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.data),  # for the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Makes the script become the node, instead of a shell beside it that would be its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.data / "log"),
            "RABBITMQ_LOGS": str(self.log),
            "RABBITMQ_CONFIG_FILE": str(self.data / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.data / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.data / "none.sh"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data / "enabled_plugins"),
            # Idle schedulers that spin would take the processor from the programs beside the node.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _write_settings(self) -> None:
        (self.data / "log").mkdir(parents=True, exist_ok=True)
        (self.data / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.data / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.amqp_port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.management_port}\n"
            "collect_statistics_interval = 1000\n"
            "disk_free_limit.absolute = 50MB\n"
            "log.file.level = warning\n" + self.config
        )

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + STARTED_WITHIN
        while not (is_rabbitmq("localhost", self.amqp_port) and is_open("localhost", self.management_port)):
            if self.has_ended():
                raise NodeError(f"RabbitMQ ended while it started. Its log: {self.log.parent}")
            if time.monotonic() > deadline:
                raise NodeError(
                    f"RabbitMQ did not answer on port {self.amqp_port} within {STARTED_WITHIN:.0f} s. "
                    f"Its log: {self.log.parent}"
                )
            time.sleep(0.1)


def locked(file: Path) -> BinaryIO | None:
    """Return a file that nobody else has locked, until it is closed; None where the system has no such locks.

    Raises:
        NodeError: somebody has locked it.
    """
    if fcntl is None:
        return None
    lock = file.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise NodeError(f"A RabbitMQ is running or starting on {file.parent}: use that one, in a moment.") from None
    return lock


def start_epmd(port: int) -> subprocess.Popen[bytes]:
    """Start Erlang's port mapper, by which nodes find each other, for this machine only."""
    return subprocess.Popen(
        [epmd_program(), "-address", "127.0.0.1", "-port", str(port)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def epmd_program() -> str:
    """Return the port mapper's program, which is not on the path on every system."""
    found = shutil.which("epmd")
    if found is None:
        candidates = sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))
        found = str(candidates[-1]) if candidates else "epmd"
    return found


def is_open(host: str, port: int) -> bool:
    """Tell whether anything listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=3):
        return True
    return False


def start_usual_node() -> Node:
    """Start the node of this checkout, on RabbitMQ's usual ports where they are free, and return it."""
    ensure_server()
    machine.say("Starting a private RabbitMQ (about ten seconds) ...")
    node = Node(DATA, free_port(AMQP_PORT), free_port(MANAGEMENT_PORT))
    node.start()
    return node


@contextlib.contextmanager
def found_or_started() -> Iterator[str]:
    """Give the URL of a RabbitMQ to use: AMQP_URL, one on localhost, or a private node for the time of the block."""
    if url := os.environ.get("AMQP_URL"):
        yield url
    elif is_rabbitmq("localhost", AMQP_PORT):
        yield f"amqp://guest:guest@localhost:{AMQP_PORT}/%2F"
    else:
        node = start_usual_node()
        try:
            yield node.url
        finally:
            node.stop()


def main() -> int:
    """Keep a private node running until Ctrl+C."""
    argparse.ArgumentParser(
        description="Run a private RabbitMQ until Ctrl+C, with its data in .rabbitmq/.",
    ).parse_args()
    if is_rabbitmq("localhost", AMQP_PORT):
        print(f"A RabbitMQ already answers on localhost:{AMQP_PORT}; the scripts will use it.")
        return 0
    node = start_usual_node()
    try:
        print(f"RabbitMQ is up.  Admin panel: {node.admin_url}  (user guest, password guest)")
        if node.amqp_port != AMQP_PORT:
            print(f"Port {AMQP_PORT} was taken. In the other terminals first:  export AMQP_URL='{node.url}'")
        print("Its queues are kept in .rabbitmq/. To stop it press CTRL+C", flush=True)
        while not node.has_ended():
            time.sleep(0.5)
        raise NodeError(f"RabbitMQ has ended by itself. Its log: {node.log.parent}")
    except KeyboardInterrupt:
        print("\nStopping RabbitMQ ...", flush=True)
    finally:
        node.stop()
    return 0


if __name__ == "__main__":
    machine.run_main(main)
