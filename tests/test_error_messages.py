"""What may go wrong before a connection is one: addresses that don't work, and limits of the machine."""

from __future__ import annotations

import errno
import re
import signal
import socket
import ssl
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import trustme
from harness import Scripts, eventually
from in_process import said_by
from scripted_server import Server, Session
from tls import tls_server

from task_queue.emitter.admin_panel import answers

EMITTER = "emitter_of_tasks.py"


def test_a_server_that_wants_a_certificate_says_so_and_gets_it(
    at_server: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(at_server.folder)
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    authority.issue_cert("us").private_key_and_cert_chain_pem.write_to_path("client.pem")
    own = authority.issue_cert("localhost")
    with tls_server(authority.issue_cert("other.example")) as port:
        url = f"amqps://localhost:{port}/?ssl_options={{'ca_certs':'ca.pem'}}"
        assert "is for another name: " in said_by(at_server, EMITTER, "task", "--url", url)[2]
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


def test_a_panel_may_use_https_and_any_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("socket.create_connection", lambda address, _timeout: asked.append(address) or socket.socket())
    for url in ("http://panel.example/#/queues", "https://panel.example/rabbitmq/", "https://[::1]:15671/"):
        assert answers(url)
    assert asked == [("panel.example", 80), ("panel.example", 443), ("::1", 15671)]
    assert not answers("http://panel.example:port/")


# ---- Addresses


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
