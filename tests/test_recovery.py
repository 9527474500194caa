"""After a loss: what is sent again, where another connection is looked for, and when that is of no use."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import subprocess
import termios
import urllib.error
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import quote

import pexpect
import pytest
import trustme
from harness import Scripts, eventually
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorSocketConnectError
from pika.exceptions import AMQPConnectionError
from relay import Relay
from tls import tls_server

from task_queue import QueueError
from task_queue.connection import Connection
from task_queue.errors import in_words
from task_queue.settings import nodes_in, settings_for

PROMPT = "Enter new task: "


# ---- What is sent again


def test_just_what_was_not_confirmed_is_sent_again_in_order_with_the_same_ids_before_anything_newer(
    scripts: Scripts, relay: Relay
) -> None:
    emitter = scripts.emitter("--url", relay.url, "--log-file", scripts.log, stdin=subprocess.PIPE)
    pipe = emitter.process.stdin
    assert pipe is not None
    write_numbers(pipe, range(300))
    eventually(lambda: len(scripts.events("confirmed")) == 300, "these are confirmed")
    relay.freeze_answers()
    write_numbers(pipe, range(300, 800))
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 800, "these are there, which the emitter can't know")
    relay.cut()
    emitter.shows("Reconnecting")
    write_numbers(pipe, range(800, 1000))
    eventually(lambda: is_empty(pipe), "these are read while there is no connection")
    relay.thaw()
    pipe.close()
    emitter.ends()

    found = [(int(m["body"]), m["properties"]["message_id"]) for m in scripts.broker.messages(scripts.queue)]
    assert [number for number, _ in found] == [*range(300), *range(300, 800), *range(300, 800), *range(800, 1000)]
    assert found[300:800] == found[800:1300]
    assert len({message_id for _, message_id in found}) == 1000
    confirmed = [(int(event["task"]), event["message_id"]) for event in scripts.events("confirmed")]
    assert len(confirmed) == 1000
    assert set(confirmed) == set(found)


def write_numbers(pipe: BinaryIO, numbers: range) -> None:
    """Write one a line."""
    pipe.write(b"".join(b"%d\n" % number for number in numbers))
    pipe.flush()


def is_empty(pipe: BinaryIO) -> bool:
    """Tell whether what was written into a pipe has been read."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))) == (0,)


# ---- Where another connection is looked for


def test_reconnecting_goes_round_the_nodes(scripts: Scripts, relay: Relay) -> None:
    with contextlib.closing(Relay(scripts.broker.node.amqp_port)) as second:
        worker = scripts.worker("--url", f"{relay.url},{second.url}", "--seconds-per-dot", 0)
        tasks = 0

        def serves(node: Relay, other: Relay) -> None:
            nonlocal tasks
            tasks += 1
            scripts.broker.publish(scripts.queue, f"task {tasks}".encode())
            # The one before may be done again, because its ack was cut off; so may this one be handed out again.
            task = f"task {tasks}"
            eventually(lambda: "Done." in worker.out.partition(f"Received {task}")[2], f"{task} is done")
            assert node.sockets
            assert not other.sockets

        serves(relay, second)
        relay.cut()
        serves(second, relay)  # though the first would take it again
        second.cut()
        serves(relay, second)
        relay.close()
        serves(second, relay)
        second.cut()
        serves(second, relay)  # by way of the first, which is gone


def test_a_connection_that_an_operator_closes_is_made_again(scripts: Scripts) -> None:
    worker = scripts.worker("--name", scripts.queue)
    api = scripts.broker.api

    def mine() -> list[str]:
        properties = {each["name"]: each.get("client_properties", {}) for each in api("GET", "connections")}
        return [name for name, known in properties.items() if known.get("connection_name") == scripts.queue]

    (connection,) = eventually(mine, "the panel knows the connection")
    api("DELETE", f"connections/{quote(connection)}")
    worker.shows("closed the connection (CONNECTION_FORCED")
    worker.shows("Connected again.")


# ---- When it is of no use


@pytest.fixture
def tenant(scripts: Scripts, relay: Relay) -> Iterator[Scripts]:
    """The scripts as a user with a virtual host, both named like the queue, that a test may spoil."""
    name, api = scripts.queue, scripts.broker.api
    api("PUT", f"vhosts/{name}")
    api("PUT", f"users/{name}", {"password": "right", "tags": ""})
    allow(scripts)
    scripts.environment["AMQP_URL"] = relay.url.replace("guest:guest", f"{name}:right").replace("%2F", name)
    yield scripts
    scripts.end_all()
    for path in (f"users/{name}", f"vhosts/{name}"):
        with contextlib.suppress(urllib.error.HTTPError):
            api("DELETE", path)


def allow(tenant: Scripts, configure: str = ".*") -> None:
    permissions = {"configure": configure, "write": ".*", "read": ".*"}
    tenant.broker.api("PUT", f"permissions/{tenant.queue}/{tenant.queue}", permissions)


def change_password(tenant: Scripts, password: str) -> None:
    tenant.broker.api("PUT", f"users/{tenant.queue}", {"password": password, "tags": ""})


def replace_queue(tenant: Scripts) -> None:
    queue = f"queues/{tenant.queue}/{tenant.queue}"
    with contextlib.suppress(urllib.error.HTTPError):
        tenant.broker.api("DELETE", queue)
    tenant.broker.api("PUT", queue, {"durable": True})


# What RabbitMQ refuses for good, and what is said of it. The last one stays.
FINAL = {
    "Queue NAME has other settings": replace_queue,
    "User NAME may not do this": lambda tenant: allow(tenant, configure="^$"),
    "does not let user NAME into virtual host NAME": lambda tenant: tenant.broker.api(
        "DELETE", f"permissions/{tenant.queue}/{tenant.queue}"
    ),
    "has no virtual host NAME": lambda tenant: tenant.broker.api("DELETE", f"vhosts/{tenant.queue}"),
    "refused user NAME with this password": lambda tenant: change_password(tenant, "another"),
}


def test_what_trying_again_can_not_mend_is_told_at_the_prompt_before_anything_is_typed(
    tenant: Scripts, relay: Relay
) -> None:
    terminal = tenant.at_terminal("emitter_of_tasks.py", "--no-admin")
    terminal.expect(PROMPT)
    change_password(tenant, "another")
    relay.cut()
    terminal.expect_exact(f"refused user {tenant.queue} with this password")
    terminal.sendline("task")
    terminal.expect_exact("Not confirmed: task")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 1


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What is said of each connection that can't be had in this process, and whether that is final."""
    said: list[tuple[str, bool]] = []

    def note(*what: Any) -> tuple[str, bool]:
        said.append(in_words(*what))
        return said[-1]

    monkeypatch.setattr("task_queue.connection.in_words", note)
    return said


def connect(url: str, queue: str) -> None:
    """Fail to connect, in this process."""
    settings = settings_for(url, queue, "name", 0)
    connection = Connection(settings, on_ready=lambda _: None, on_lost=lambda _: None)
    with contextlib.closing(connection), pytest.raises(QueueError):
        connection.open()


def test_what_rabbitmq_refuses_is_final(tenant: Scripts, said: list[tuple[str, bool]]) -> None:
    for words, spoil in FINAL.items():
        spoil(tenant)
        connect(tenant.environment["AMQP_URL"], tenant.queue)
        assert words.replace("NAME", tenant.queue) in said[-1][0]
        assert said[-1][1], words
    assert not any("set_permissions" in words or "delete" in words for words, _ in said), "a hint takes nothing away"


NOT_FINAL = {
    "No machine named no-such-host.invalid is known": "amqp://no-such-host.invalid",
    "Nothing listens at localhost:1": "amqp://localhost:1",
    "If an authority of your own has signed it": "amqps://localhost:{of_a_stranger}",
    "certificate is not valid for 'localhost'": "amqps://localhost:{for_another_host}",
    "Is that its TLS port?": "amqps://localhost:{amqp}",
    "does not answer": "amqp://localhost:{silent}?stack_timeout=0.2",
    "without a word of AMQP": "amqp://localhost:{of_a_stranger}",
}


@pytest.fixture
def ports(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Those of the servers in NOT_FINAL."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(scripts.folder / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(scripts.folder / "authority.pem"))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        tls_server(trustme.CA().issue_cert("localhost")) as of_a_stranger,
        tls_server(authority.issue_cert("elsewhere.invalid")) as for_another_host,
    ):
        yield {
            "amqp": scripts.broker.node.amqp_port,
            "silent": silent.getsockname()[1],
            "of_a_stranger": of_a_stranger,
            "for_another_host": for_another_host,
        }


def test_what_may_be_otherwise_in_a_minute_is_not_final(
    scripts: Scripts, ports: dict[str, int], said: list[tuple[str, bool]]
) -> None:
    connect(",".join(NOT_FINAL.values()).format(**ports), scripts.queue)
    assert len(said) == len(NOT_FINAL)
    for (words, is_final), expected in zip(said, NOT_FINAL):
        assert expected in words
        assert not is_final, expected


def test_of_a_host_with_several_addresses_the_last_error_is_said() -> None:
    """The machine's own address comes last, after that of IPv6."""
    errors = [AMQPConnectorSocketConnectError(error) for error in (ConnectionRefusedError(), TimeoutError())]
    failed = AMQPConnectionError(AMQPConnectionWorkflowFailed(errors))
    words, is_final = in_words(failed, nodes_in(None)[0], "tasks")
    assert "does not answer" in words
    assert not is_final


def test_what_is_not_final_is_tried_again_though_the_other_node_refuses_for_good(tenant: Scripts, relay: Relay) -> None:
    nodes = f"{tenant.environment['AMQP_URL']},amqp://localhost:1"
    terminal = tenant.at_terminal("emitter_of_tasks.py", "--no-admin", AMQP_URL=nodes)
    terminal.expect(PROMPT)
    change_password(tenant, "another")
    relay.cut()
    terminal.expect_exact("Nothing listens at localhost:1")
    terminal.expect_exact(f"refused user {tenant.queue} with this password")
    change_password(tenant, "right")
    terminal.expect_exact("Connected again.")
    terminal.sendline("task")
    terminal.expect_exact(" [x] Sent task\r\n")
