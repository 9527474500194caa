"""A private RabbitMQ: `python3 tools/rabbitmq.py`, and the node under it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import debian_root
import installation
import pytest
from harness import Broker, eventually
from ports import free_port, is_rabbitmq
from private_node import Node, NodeError, epmd_port_of
from relay import Relay
from tools_copy import SLOW, Copy


def script_in(copy: Copy, url: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run one of a copy's scripts."""
    environment = {**os.environ, "AMQP_URL": url, "BROWSER": "true"}
    return subprocess.run([sys.executable, *command], cwd=copy.folder, env=environment, capture_output=True, text=True)


def test_a_private_rabbitmq_serves_the_scripts_and_keeps_their_tasks(copy: Copy, broker: Broker) -> None:
    """Started, stopped, started again beside another RabbitMQ: the task that was sent before is done after."""
    amqp_port, management_port = free_port(), free_port()  # the usual ones may be in use here
    usual = "AMQP_PORT, MANAGEMENT_PORT = "
    copy.change("tools/rabbitmq.py", f"{usual}5672, 15672", f"{usual}{amqp_port}, {management_port}")
    assert "No RabbitMQ of this folder is running." in copy.run("rabbitmq.py", "ctl", "list_queues").ends(1).err
    private = copy.run("rabbitmq.py")
    eventually(lambda: epmd_port_of(copy.folder / ".rabbitmq"), "it starts")  # and is up some seconds later
    assert "A RabbitMQ is running or starting on" in copy.run("rabbitmq.py", "--private").ends(1).err
    private.shows("Its queues are kept in .rabbitmq/.", within=SLOW)
    assert re.search(r"^RabbitMQ \d+\.\d+\.\d+ is up\.  Admin panel: http", private.out, re.MULTILINE)
    assert "In the other terminals" not in private.out
    with urllib.request.urlopen(f"http://localhost:{management_port}/") as panel:
        assert b"RabbitMQ Management" in panel.read()
    said = copy.run("rabbitmq.py").ends().out
    assert "A RabbitMQ already answers" in said
    assert "It is this folder's." in said
    sent = script_in(copy, f"amqp://localhost:{amqp_port}", "emitter_of_tasks.py", "hello.")
    assert "Sent hello." in sent.stdout
    private.send(signal.SIGKILL)  # what it runs goes on
    private.ends(-signal.SIGKILL)
    assert f"use that one, at amqp://localhost:{amqp_port}\n" in copy.run("rabbitmq.py", "--private").ends(1).err
    said = copy.run("rabbitmq.py").ends().out
    (stop,) = re.findall("If its terminal is gone, stop it with:  python3 tools/(.*)", said)
    copy.run(*stop.split()).ends(within=SLOW)
    assert not is_rabbitmq("localhost", amqp_port)
    eventually(lambda: copy.processes() == [], "nothing is left of it", within=SLOW)

    beside = f"{usual}{broker.node.amqp_port}, {broker.node.management_port}"
    copy.change("tools/rabbitmq.py", f"{usual}{amqp_port}, {management_port}", beside)
    private = copy.run("rabbitmq.py", "--private")
    private.shows("Its queues are kept in .rabbitmq/.", within=SLOW)
    (url,) = re.findall(r"was taken\. In the other terminals first:  export AMQP_URL='(.*)'", private.out)
    assert f":{amqp_port}/" in url, "as it was typed before"
    # What a script says that mends something works as it stands.
    refused = script_in(copy, url.replace("%2F", "school"), "emitter_of_tasks.py", "task").stderr
    (command,) = re.findall("on RabbitMQ's machine:  rabbitmqctl (.*) NAME", refused)
    assert copy.run("rabbitmq.py", "ctl", *shlex.split(command), "school").ends(0, SLOW).err == ""
    assert "school" in copy.run("rabbitmq.py", "ctl", "list_vhosts").ends(0, SLOW).lines
    copy.run("rabbitmq.py", "ctl", "no_such_command").ends(64, SLOW)
    done = script_in(copy, url, "listening_worker.py", "--burst", "--seconds-per-dot", "0")
    assert " [x] Received hello.\n     . 1 of 1\n [x] Done.\n" in done.stdout
    private.send(signal.SIGQUIT)  # Ctrl+\\, which the README teaches for a worker
    private.ends(within=SLOW)
    assert "Stopping RabbitMQ" in private.out


def test_a_node_of_another_release_than_was_asked_for_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broker: Broker
) -> None:
    """With the RabbitMQ that the suite runs on, in the place of another release."""
    version = broker.node.version
    other = next(release for release in debian_root.SUITES if not version.startswith(f"{release}."))
    monkeypatch.setenv(debian_root.CHOSEN, other)
    monkeypatch.setattr(debian_root, "ensure_root", lambda _: tmp_path)
    monkeypatch.setattr(installation, "find_server", lambda _: Path("/usr/sbin/rabbitmq-server"))
    monkeypatch.setattr(debian_root, "inside", lambda *_: ["sleep", "600"])
    node = Node(tmp_path / "node")
    ports = {broker.node.amqp_port: node.amqp_port, broker.node.management_port: node.management_port}
    with contextlib.ExitStack() as relays:
        for there, here in ports.items():
            relays.enter_context(contextlib.closing(Relay(there, at=here)))
        with pytest.raises(NodeError, match=rf"^RabbitMQ {version} answered, and {other} was asked for\.$"):
            node.start()
    assert node.has_ended()


def test_what_the_panel_refuses_is_closed(broker: Broker) -> None:
    """Python 3.13.5 and newer warn of an HTTPError that nobody closes."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        broker.api("GET", "queues/%2F/none")
    assert refused.value.code == 404
    assert refused.value.closed
