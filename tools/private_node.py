"""A private RabbitMQ node with its own ports and data: its settings, its start and its end.

Needs no root and no configuration. Of the RabbitMQ that it starts, it uses only the program files.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import debian_root
import installation
import machine
from ports import free_port, is_free, is_rabbitmq

PORTS = "ports"  # file in the node's data while it runs
STARTED_WITHIN = 90.0  # seconds; a loaded machine of two cores takes about ten
STOPPED_WITHIN = 30.0  # seconds
ANSWERS_WITHIN = 30.0  # seconds


class NodeError(machine.CommandError):
    """A private node can't be started; the text says why and where its log is."""


class Node:
    """One RabbitMQ node of this process: start(), then stop() or kill(), and start() again on the same data.

    Args:
        data: folder for everything that the node writes; made if it is missing.
        amqp_port, management_port: 0 means any free one.
        config: more lines for rabbitmq.conf.
        epmd_port: of a running epmd, for nodes of one cluster. With 0 the node has its own, and disturbs no other node.
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
        self.log = self.data / "log"
        self._plugins = self.data / "plugins"
        self._has_own_epmd = not epmd_port
        self._epmd_port = epmd_port or free_port()
        self._distribution_port = free_port()
        self.version = ""  # as the node reports it when it is up
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node and return when it answers on both its ports; NodeError says why it does not."""
        server = installation.command("rabbitmq-server")
        if self._has_own_epmd and any(ports_of(self.data)):
            raise NodeError(f"A RabbitMQ is running or starting on {self.data}: wait a moment and use that one.")
        self.log.mkdir(parents=True, exist_ok=True)
        self._write_settings()
        installation.link_needed_plugins(self._plugins)
        if self._has_own_epmd:
            (self.data / PORTS).write_text(f"{self._epmd_port} {self.amqp_port}")
            self._epmd = start_epmd(self._epmd_port)
        with (self.log / "startup.log").open("ab") as output:
            self._server = subprocess.Popen(
                server,
                env=self.environment(),
                start_new_session=True,  # so that Ctrl+C in this terminal reaches only us
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            self._wait_until_up()
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
        if self._epmd is not None:
            (self.data / PORTS).unlink(missing_ok=True)
        for process in (self._server, self._epmd):
            if process is not None:
                process.kill()
                process.wait()
        self._server = self._epmd = None

    def has_ended(self) -> bool:
        """Tell whether the node is not running, for whatever reason."""
        return self._server is None or self._server.poll() is not None

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node and return what it prints."""
        rabbitmqctl = installation.command("rabbitmqctl", *arguments)
        return subprocess.check_output(rabbitmqctl, env=self.environment(), text=True, stderr=subprocess.STDOUT)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the admin panel's HTTP API, and return the answer, or raise urllib.error.HTTPError."""
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
            "ERL_CRASH_DUMP": str(self.log / "erl_crash.dump"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Makes the script become the node, instead of staying as its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.log),
            "RABBITMQ_CONFIG_FILE": str(self.data / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.data / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.data / "none.sh"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data / "enabled_plugins"),
            **({"RABBITMQ_PLUGINS_DIR": str(self._plugins)} if self._plugins.is_dir() else {}),
            # Without these flags, idle schedulers spin and take CPU time from other programs.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _write_settings(self) -> None:
        (self.data / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.data / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.amqp_port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.management_port}\n"
            "collect_statistics_interval = 1000\n"
            "log.file.level = warning\n" + self.config
        )

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + STARTED_WITHIN
        while not self._is_up():
            if self.has_ended():
                raise NodeError(f"RabbitMQ ended while it started. Its log: {self.log}")
            if time.monotonic() > deadline:
                raise NodeError(f"RabbitMQ did not answer within {STARTED_WITHIN:.0f} s. Its log: {self.log}")
            time.sleep(0.1)
        release = debian_root.chosen()
        if release and not self.version.startswith(f"{release}."):
            raise NodeError(f"RabbitMQ {self.version} answered, and {release} was asked for.")

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError):
            self.version = self.api("GET", "overview")["rabbitmq_version"]
            return is_rabbitmq("localhost", self.amqp_port)
        return False


def ports_of(data: Path) -> tuple[int, int]:
    """Return the ports of epmd and of AMQP of the node that is running or starting on this data; 0 and 0 if none is."""
    with contextlib.suppress(OSError, ValueError):  # the file is not there, or is being written
        epmd_port, amqp_port = map(int, (data / PORTS).read_text().split())
        if not is_free(epmd_port):
            return epmd_port, amqp_port
    return 0, 0


def start_epmd(port: int, address: str = "127.0.0.1") -> subprocess.Popen[bytes]:
    """Start Erlang's port mapper, by which nodes find each other: for this machine only, if no address is given."""
    command = installation.epmd_command("-address", address, "-port", str(port))
    none = subprocess.DEVNULL
    return subprocess.Popen(command, start_new_session=True, stdin=none, stdout=none, stderr=none)
