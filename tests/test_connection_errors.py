"""Connections that can't be had: two lines say why, and an error is final where trying again can't mend it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from harness import Scripts
from in_process import said_by
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorSocketConnectError
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker
from tls import tls_server

from task_queue import QueueError
from task_queue.rabbitmq.error_messages import in_words
from task_queue.settings import nodes_in

SCRIPTS = {"emitter_of_tasks.py": ["task"], "listening_worker.py": []}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Checks what both scripts say of a first connection that they can't have, and whether they take it for final."""
    finals: list[bool] = []

    def note(*what: Any) -> tuple[str, bool]:
        words, is_final = in_words(*what)
        finals.append(is_final)
        return words, is_final

    def refused(scripts: Scripts, words: list[str], is_final: bool, **environment: str) -> None:
        for script, task in SCRIPTS.items():
            finals.clear()
            status, out, err = said_by(scripts, script, *task, **environment)
            assert (status, out) == (1, "")
            assert len(err.splitlines()) <= 2
            assert [each for each in words if each not in err] == [], err
            assert [each for each in ("secret", "set_permissions", "delete") if each in err] == [], err
            assert finals == [is_final]

    monkeypatch.setattr("task_queue.rabbitmq.connection.in_words", note)
    return refused


CLASSIC, NO_RIGHTS = {"durable": True}, {"configure": "^$", "write": "^$", "read": "^$"}
RIGHT, ANOTHER = ({"password": password, "tags": ""} for password in ("secret", "another"))
OPERATIONS = "docs/operations.md has the rights that it needs"
FINAL = [  # one after the other, and what is said then; the last one stays
    ("PUT", "queues/NAME/NAME.dead-letters", CLASSIC, ["Queue NAME.dead-letters has other settings", "--passive"]),
    ("DELETE", "queues/NAME/NAME", None, []),
    ("PUT", "queues/NAME/NAME", CLASSIC, ["Queue NAME has other settings", "--passive"]),
    ("PUT", "permissions/NAME/NAME", NO_RIGHTS, ["User NAME may not do this", OPERATIONS]),
    ("DELETE", "permissions/NAME/NAME", None, ["let user NAME into virtual host NAME (NOT_ALLOWED - ", OPERATIONS]),
    ("DELETE", "vhosts/NAME", None, ["has no virtual host NAME.\nIn a URL, / is written /%2F.", "ctl add_vhost "]),
    ("PUT", "users/NAME", ANOTHER, ["refused user NAME with this password", "rabbitmqctl change_password USER"]),
]


def test_what_rabbitmq_refuses_is_final(scripts: Scripts, refused: Callable[..., None]) -> None:
    """Of a user who has a virtual host; both are named like the queue."""

    def change(method: str, path: str, body: object = None) -> None:
        scripts.broker.api(method, path.replace("NAME", scripts.queue), body)

    change("PUT", "vhosts/NAME")
    change("PUT", "users/NAME", RIGHT)
    change("PUT", "permissions/NAME/NAME", {"configure": ".*", "write": ".*", "read": ".*"})
    url = scripts.broker.url.replace("guest:guest", f"{scripts.queue}:secret")
    scripts.environment["AMQP_URL"] = url.replace("%2F", scripts.queue)
    try:
        for method, path, body, words in FINAL:
            change(method, path, body)
            if words:
                refused(scripts, [each.replace("NAME", scripts.queue) for each in words], is_final=True)
    finally:
        change("DELETE", "users/NAME")


NOT_FINAL = {
    "No machine named no-such-host.invalid is known": "amqp://no-such-host.invalid",
    "No machine named rabbit..example is known": "amqp://rabbit..example",
    "Nothing listens at localhost:1: is RabbitMQ running there? (The address is that of AMQP_URL.)\n": "amqp://localhost:1",
    "If an authority of your own has signed it": "amqps://localhost:{of_a_stranger}",
    "certificate is not valid for 'localhost'": "amqps://localhost:{for_another_host}",
    "Is that its TLS port?": "amqps://localhost:{amqp}",
    "does not answer: a firewall in between, or a RabbitMQ that": "amqp://localhost:{silent}?stack_timeout=0.2",
    "without a word of AMQP": "amqp://localhost:{of_a_stranger}",
}


def test_what_may_be_otherwise_in_a_minute_is_not_final(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(scripts.folder / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(scripts.folder / "authority.pem"))
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tls_server(trustme.CA().issue_cert("localhost")) as of_a_stranger,
        tls_server(authority.issue_cert("elsewhere.invalid")) as for_another_host,
    ):
        amqp, silent = scripts.broker.node.amqp_port, listener.getsockname()[1]
        ports = {"of_a_stranger": of_a_stranger, "for_another_host": for_another_host, "amqp": amqp, "silent": silent}
        for words, url in NOT_FINAL.items():
            refused(scripts, [words], is_final=False, AMQP_URL=url.format(**ports))


def test_of_a_host_with_several_addresses_the_last_error_is_said() -> None:
    """The machine's own address comes last, after that of IPv6."""
    errors = [AMQPConnectorSocketConnectError(error) for error in (ConnectionRefusedError(), TimeoutError())]
    failed = AMQPConnectionError(AMQPConnectionWorkflowFailed(errors))
    assert "does not answer" in in_words(failed, nodes_in(None)[0], "tasks")[0]


def test_what_ends_a_connection_later_is_not_final() -> None:
    closed = [(404, "no queue"), (406, "acknowledgement"), (320, "shutdown")]
    lost = OSError("Address family"), ConnectionResetError(), QueueError("")
    for error in (*lost, *(ChannelClosedByBroker(*why) for why in closed)):
        assert not in_words(error, nodes_in(None)[0], "tasks")[1]
