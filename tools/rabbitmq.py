#!/usr/bin/env python3
"""A private RabbitMQ: a node with its own ports and data, from the installed rabbitmq-server or a Debian root.

As a command, it runs such a node until Ctrl+C, on RabbitMQ's usual ports if they are free, so that the two scripts
find it without any flag. Its queues are kept in .rabbitmq/ and are there again at the next start.

    python3 tools/rabbitmq.py
    python3 tools/rabbitmq.py --private            even if a RabbitMQ already uses those ports
    python3 tools/rabbitmq.py ctl list_queues      rabbitmqctl for the node that runs in another terminal

Needs no root and no configuration. Of the installed RabbitMQ, it uses only the program files.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import debian_root
import installation
import machine
from needed_plugins import link_needed_plugins

AMQP_PORT, MANAGEMENT_PORT = 5672, 15672
# Below the ports of outgoing connections: such a connection could take a port before its node starts, or while it
# restarts. Each process begins with a different port.
OTHER_PORTS = (20_000 + number % 12_000 for number in itertools.count(100 * os.getpid()))
DATA = machine.PROJECT / ".rabbitmq"
CONFIG = DATA / "rabbitmq.conf"
EPMD_PORT = "epmd_port"  # file in the node's data, for rabbitmqctl in another terminal
STARTED_WITHIN = 90.0  # seconds; a loaded machine of two cores takes about ten
STOPPED_WITHIN = 30.0  # seconds
UNLOCKED_WITHIN = 1.0  # seconds
ANSWERS_WITHIN = 30.0  # seconds


class NodeError(machine.CommandError):
    """A private node can't be started; the text says why and where its log is."""


def greeting(host: str, port: int) -> bytes:
    """Return the connection.start with which an AMQP 0-9-1 server answers our protocol header; empty if none does."""
    connection_start = b"\x00\x0a\x00\x0a"  # class 10, method 10
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=3) as peer:
        peer.sendall(b"AMQP\x00\x00\x09\x01")
        with peer.makefile("rb") as answer:
            head = answer.read(7)
            if head.startswith(b"\x01\x00\x00"):  # a method, on channel 0; its size follows
                method = answer.read(int.from_bytes(head[3:], "big"))
                return method if method.startswith(connection_start) else b""
    return b""


def is_rabbitmq(host: str, port: int) -> bool:
    """Tell whether an AMQP 0-9-1 server answers there."""
    return greeting(host, port) != b""


def version_at(host: str, port: int) -> str:
    """Return the version that the RabbitMQ there reports; empty if there is none, or it reports none."""
    found = re.search(rb"\x07versionS....([\w.+-]+)", greeting(host, port), re.DOTALL)
    return found[1].decode() if found else ""


def free_port(*wanted: int) -> int:
    """Return the first of these ports that is free on every local address, else another, reserved for this process."""
    for port in wanted:
        if port and not is_open("localhost", port) and can_be_bound(port):  # macOS lets two programs bind one
            return port
    while True:
        port = next(OTHER_PORTS)
        with contextlib.suppress(OSError):
            if can_be_bound(port):
                reserve(port)
                return port


def can_be_bound(port: int) -> bool:
    """Tell whether a server may listen at a port of every local address."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        return True
    return False


def reserve(port: int) -> None:
    """Reserve a port, so that free_port() gives it to no other process in the seconds before a node listens there.

    Raises:
        OSError: another process has it.
    """
    sign = socket.socket(type=socket.SOCK_DGRAM)  # UDP, which leaves the TCP port to the node
    atexit.register(sign.close)
    sign.bind(("127.0.0.1", port))


class Node:
    """One RabbitMQ node of this process: start(), then stop() or kill(), and start() again on the same data.

    Args:
        data: folder for everything that the node writes; made if it is missing.
        amqp_port, management_port: 0 means any free one.
        name: the part of the node's name before `@localhost`.
        config: more lines for rabbitmq.conf.
        epmd_port: port of a running epmd, for nodes of one cluster. With 0 the node starts its own epmd, so that none
            is left behind and no other node on the machine is disturbed.
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
        self._plugins = self.data / "plugins"
        self._has_own_epmd = not epmd_port
        self._epmd_port = epmd_port or free_port()
        self._distribution_port = free_port()
        self.version = ""  # as the node reports it when it is up
        self._lock: BinaryIO | None = None  # held while the node runs, because only one node can use its data
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node and return when it answers on both its ports.

        Raises:
            NodeError: it ended, or did not answer in time; or another node uses this data.
            machine.SetupError: rabbitmq-server is not installed.
        """
        server = installation.command("rabbitmq-server")
        (self.data / "log").mkdir(parents=True, exist_ok=True)
        self._lock = self._lock_data()
        self._write_settings()
        (self.data / EPMD_PORT).write_text(str(self._epmd_port))
        link_needed_plugins(*installation.plugins(), self._plugins)
        if self._has_own_epmd:
            self._epmd = start_epmd(self._epmd_port)
        output = (self.data / "log" / "startup.log").open("ab")
        # Its own session, so that Ctrl+C in this terminal reaches only us.
        self._server = subprocess.Popen(
            server,
            env=self.environment(),
            start_new_session=True,
            pass_fds=[self._lock.fileno()] if self._lock else [],  # should we be killed, it still has the data
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        output.close()
        try:
            self._wait_until_up()
            self._ask_for_version()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut the node down cleanly, as a reboot of its machine would."""
        try:
            if self._server is not None:
                self._server.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._server.wait(STOPPED_WITHIN)
        finally:  # also after a second Ctrl+C
            self.kill()

    def kill(self) -> None:
        """End the node at once with SIGKILL, as a power cut would."""
        for process in (self._server, self._epmd):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    if not machine.WINDOWS:  # where no node is started
                        os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._server = self._epmd = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def has_ended(self) -> bool:
        """Tell whether the node is not running, for whatever reason."""
        return self._server is None or self._server.poll() is not None

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node and return what it prints."""
        rabbitmqctl = installation.command("rabbitmqctl", *arguments)
        return subprocess.check_output(rabbitmqctl, env=self.environment(), text=True, stderr=subprocess.STDOUT)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the admin panel's HTTP API, and return the answer.

        Raises:
            urllib.error.HTTPError: it refused.
        """
        request = urllib.request.Request(
            f"{self.admin_url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()},
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            error.close()  # it is an open response, too, and callers need only its code
            raise

    def environment(self) -> dict[str, str]:
        """Return the environment in which RabbitMQ's own commands (rabbitmqctl ...) reach this node."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.data),  # for the Erlang cookie
            "ERL_CRASH_DUMP": str(self.data / "log" / "erl_crash.dump"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Makes the script become the node, instead of staying as its parent.
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
            **({"RABBITMQ_PLUGINS_DIR": str(self._plugins)} if self._plugins.is_dir() else {}),
            # Without these flags, idle schedulers spin and take CPU time from other programs.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _lock_data(self) -> BinaryIO | None:
        busy = f"A RabbitMQ is running or starting on {self.data}: wait a moment and use that one."
        for _ in range(int(UNLOCKED_WITHIN / 0.1)):  # a helper of the node before may take a moment to end
            with contextlib.suppress(machine.CommandError):
                return machine.locked(self.data / "lock", busy)
            time.sleep(0.1)
        return machine.locked(self.data / "lock", busy)

    def _write_settings(self) -> None:
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

    def _ask_for_version(self) -> None:
        self.version = version_at("localhost", self.amqp_port)
        release = debian_root.chosen()
        if release and not debian_root.is_of(self.version, release):
            raise NodeError(f"RabbitMQ {self.version} answered, and {release} was asked for.")


def start_epmd(port: int) -> subprocess.Popen[bytes]:
    """Start Erlang's port mapper, by which nodes find each other, for this machine only."""
    return subprocess.Popen(
        installation.epmd_command("-address", "127.0.0.1", "-port", str(port)),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def is_open(host: str, port: int) -> bool:
    """Tell whether anything listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=3):
        return True
    return False


def is_there() -> bool:
    """Tell whether a RabbitMQ answers on the usual port. If none does, install it first: that may start one."""
    if is_rabbitmq("localhost", AMQP_PORT):
        return True
    installation.ensure_server()
    return is_rabbitmq("localhost", AMQP_PORT)


def ports_of_last_time() -> tuple[int, int]:
    """Return the ports that this checkout's node had, so that addresses which people have typed stay good; or 0, 0."""
    with contextlib.suppress(OSError):
        line = r"^(?:listeners\.tcp\.local|management\.tcp\.port) = (?:\S+:)?(\d+)$"
        amqp_port, management_port = re.findall(line, CONFIG.read_text(), re.MULTILINE)
        return int(amqp_port), int(management_port)
    return 0, 0


def start_usual_node() -> Node:
    """Start the node of this checkout, on RabbitMQ's usual ports if they are free, and return it."""
    installation.ensure_server()
    machine.say("Starting a private RabbitMQ (about ten seconds) ...")
    amqp_port, management_port = ports_of_last_time()
    node = Node(DATA, free_port(AMQP_PORT, amqp_port), free_port(MANAGEMENT_PORT, management_port))
    node.start()
    return node


@contextlib.contextmanager
def found_or_started() -> Iterator[str]:
    """Give the URL of a RabbitMQ: AMQP_URL, or one on localhost, or a private node that runs during the block."""
    if url := os.environ.get("AMQP_URL"):
        yield url
    elif is_there():
        yield f"amqp://guest:guest@localhost:{AMQP_PORT}/%2F"
    else:
        node = start_usual_node()
        try:
            yield node.url
        finally:
            node.stop()


def ctl(arguments: list[str]) -> int:
    """Run rabbitmqctl for the node of this checkout, and return its exit status.

    Raises:
        NodeError: it does not run.
    """
    if not machine.is_locked(DATA / "lock"):
        raise NodeError("No RabbitMQ of this folder is running. Start it:  python3 tools/rabbitmq.py")
    epmd_port = (DATA / EPMD_PORT).read_text()
    node = Node(DATA, epmd_port=int(epmd_port))
    status = subprocess.run(installation.command("rabbitmqctl", *arguments), env=node.environment()).returncode
    if not machine.is_locked(DATA / "lock"):  # it was to shut down, and nobody else ends its port mapper
        subprocess.run(installation.epmd_command("-port", epmd_port, "-kill"), capture_output=True)
    return status


def main() -> int:
    """Keep a private node running until Ctrl+C."""
    if sys.argv[1:2] == ["ctl"]:
        return ctl(sys.argv[2:])
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--private] | ctl ARGUMENT ...",
        description="Run a private RabbitMQ until Ctrl+C, with its data in .rabbitmq/.",
        epilog="With ctl, run rabbitmqctl for the node in your other terminal: ctl list_queues",
    )
    parser.add_argument("--private", action="store_true", help="start one even if a RabbitMQ already runs here")
    if not parser.parse_args().private and is_there():
        print(f"A RabbitMQ already answers on localhost:{AMQP_PORT}, and the scripts will use it.")
        if machine.is_locked(DATA / "lock"):
            print("It is this folder's. If its terminal is gone, stop it with:  python3 tools/rabbitmq.py ctl shutdown")
        elif not machine.WINDOWS:
            print("To start one of your own beside it:  python3 tools/rabbitmq.py --private")
        return 0
    if machine.is_locked(DATA / "lock"):
        raise NodeError(
            f"A RabbitMQ is running or starting on {DATA}: use that one, at amqp://localhost:{ports_of_last_time()[0]}\n"
            "If its terminal is gone, stop it with:  python3 tools/rabbitmq.py ctl shutdown"
        )
    node = start_usual_node()
    try:
        print(f"RabbitMQ {node.version} is up.  Admin panel: {node.admin_url}  (user guest, password guest)")
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
