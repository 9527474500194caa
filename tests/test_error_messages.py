"""Connections that can't be had: two lines say why, and an error is final where trying again can't mend it."""

from __future__ import annotations

import contextlib
import errno
import re
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import trustme
from harmful import HARM, SHOWN, harmless
from harness import Scripts, eventually
from in_process import said_by
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorSocketConnectError
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker
from relay import shut
from scripted_server import Server, Session

from task_queue import QueueError
from task_queue.rabbitmq.error_messages import in_words
from task_queue.settings import connection_settings

EMITTER = "emitter_of_tasks.py"
SETTINGS = connection_settings(None, "tasks", "emitter", patience=0)
SCRIPTS = {EMITTER: ["task"], "listening_worker.py": []}


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
            assert len(harmless(err).splitlines()) <= 2
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


@contextlib.contextmanager
def tls_server(
    certificate: trustme.LeafCert, clients: trustme.CA | None = None, version: ssl.TLSVersion | None = None
) -> Iterator[int]:
    """Run a server that speaks TLS, `version` at most, and no AMQP; give its port. `clients` certify who may come."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version or ssl.TLSVersion.MAXIMUM_SUPPORTED
    certificate.configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)

    def serve() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                with listener.accept()[0] as peer, contextlib.suppress(OSError):  # who does not like it
                    context.wrap_socket(peer, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        shut(listener)


NOT_FINAL = {
    "No machine named no-such-host.invalid is known": "amqp://no-such-host.invalid",
    "No machine named rabbit..example is known": "amqp://rabbit..example",
    f"No machine named {SHOWN} is known": f"amqp://{HARM}",
    "Nothing listens at localhost:1: is RabbitMQ running there? (The address is that of AMQP_URL.)\n": "amqp://localhost:1",
    "If an authority of your own has signed it": "amqps://localhost:{of_a_stranger}",
    "is for another name: ": "amqps://localhost:{for_another_host}",
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
    assert "does not answer" in in_words(failed, SETTINGS.nodes[0], SETTINGS)[0]


def test_what_ends_a_connection_later_is_not_final() -> None:
    closed = [(404, "no queue"), (406, "acknowledgement"), (320, "shutdown")]
    lost = OSError("Address family"), ConnectionResetError(), QueueError("")
    for error in (*lost, *(ChannelClosedByBroker(*why) for why in closed)):
        assert not in_words(error, SETTINGS.nodes[0], SETTINGS)[1]


def test_a_server_that_wants_a_certificate_says_so_and_gets_it(
    at_server: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(at_server.folder)
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    authority.issue_cert("us").private_key_and_cert_chain_pem.write_to_path("client.pem")
    own = authority.issue_cert("localhost")
    with (
        tls_server(own, clients=authority, version=ssl.TLSVersion.TLSv1_2) as older,
        tls_server(own, clients=authority, version=ssl.TLSVersion.TLSv1_3) as newer,
    ):
        urls = ",".join(f"amqps://localhost:{port}/?ssl_options={{'ca_certs':'ca.pem'}}" for port in (older, newer))
        _, _, refused = said_by(at_server, EMITTER, "task", "--url", urls)
        _, _, let_in = said_by(at_server, EMITTER, "task", "--url", urls.replace("}", ",'certfile':'client.pem'}"))
    for port in (older, newer):  # a server may hang up before its alert is read
        assert re.search(f"localhost:{port} (ended the connection|was lost)|No TLS with localhost:{port}", refused)
    assert "Does it want a certificate of yours, as docs/operations.md shows it?" in refused
    assert "No TLS" not in let_in


def test_nodes_are_tried_in_the_order_in_which_they_are_given(
    at_server: Scripts, new_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when an address can't be used; and if none takes an emitter, each is named with the reason."""
    look_up = socket.getaddrinfo
    no_family = (45, socket.SOCK_STREAM, 6, "", ("::1", 5672, 0, 0))  # what IPv6 is to a machine without it

    def addresses(host: str, *what: Any, **named: Any) -> Any:
        return [no_family] if host == "six" else look_up(host, *what, **named)

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    servers = [new_server() for _ in range(3)]
    for each in servers[:2]:
        each.on("Connection.Open", Session.hang_up)
    urls = ["amqp://six:5672/", *(each.url for each in servers)]
    assert said_by(at_server, EMITTER, "task", "--url", ",".join(urls))[0] == 0
    tried = [each.session(0).began for each in servers]
    assert tried == sorted(tried)
    status, _, err = said_by(at_server, EMITTER, "task", "--url", f"{urls[0]},amqp://[::1]:1")
    assert "No IPv6 here, so six:5672 can't be reached" in err
    assert "Nothing listens at [::1]:1: " in err
    assert (status, err.count("\n")) == (1, 2)


@pytest.mark.parametrize(
    ("lacks", "error"),
    [
        ("threading.Thread.start", RuntimeError("can't start new thread")),
        ("socket.socketpair", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_what_the_machine_lacks_is_said_in_one_line(
    at_server: Scripts, monkeypatch: pytest.MonkeyPatch, lacks: str, error: Exception
) -> None:
    monkeypatch.setattr(lacks, mock.Mock(side_effect=error))
    status, _, err = said_by(at_server, EMITTER, "task")
    assert str(error) in err
    assert (status, err.count("\n")) == (1, 1)


def test_a_look_up_that_hangs_keeps_no_one_from_ending(at_server: Scripts) -> None:
    hang = "import socket, time\nsocket.getaddrinfo = lambda *_, **__: (open('asked', 'w').close(), time.sleep(1000))\n"
    (at_server.folder / "sitecustomize.py").write_text(hang)
    run = at_server.emitter("task", env={"PYTHONPATH": str(at_server.folder)})
    eventually((at_server.folder / "asked").exists, "the host's name is looked up")
    run.send(signal.SIGINT)
    run.ends(130, within=5)
