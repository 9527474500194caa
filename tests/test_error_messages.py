"""What may go wrong before a connection is one: addresses that don't work, and limits of the machine."""

from __future__ import annotations

import re
import resource
import signal
import socket
import ssl
import sys
import textwrap
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import trustme
from harness import PROJECT, Scripts, eventually
from in_process import said_by
from scripted_server import Server, Session
from tls import tls_server

from task_queue.emitter.admin_panel import answers

EMITTER, WORKER = "emitter_of_tasks.py", "listening_worker.py"


def test_each_node_that_takes_no_emitter_is_named_with_the_reason(scripts: Scripts) -> None:
    """Also `//` at the end of a URL, a habit from Celery, where it stands for the virtual host /."""
    nodes = {
        scripts.broker.url.replace("%2F", "/"): "has no virtual host .\nIn a URL, / is written /%2F.",
        scripts.broker.url.replace("%2F", "it's"): "has no virtual host it's.",
        "amqp://rabbit..example/": "No machine named rabbit..example is known",
        "amqp://[::1]:1/": "Nothing listens at [::1]:1: ",
    }
    status, _, err = said_by(scripts, EMITTER, "task", "--url", ",".join(nodes))
    assert status == 1
    for words in nodes.values():
        assert words in err


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
    """Also when an address can't be used."""
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
    status, _, err = said_by(at_server, EMITTER, "task", "--url", urls[0])
    assert "No IPv6 here, so six:5672 can't be reached" in err
    assert (status, err.count("\n")) == (1, 1)


def test_what_the_machine_lacks_is_said_in_one_line(at_server: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.Thread.start", mock.Mock(side_effect=RuntimeError("can't start new thread")))
    status, _, err = said_by(at_server, EMITTER, "task")
    assert "can't start new thread" in err
    assert (status, err.count("\n")) == (1, 1)


@pytest.mark.parametrize(("script", "first"), [(EMITTER, 0), (WORKER, 0), (WORKER, 1)])
def test_a_look_up_that_hangs_keeps_no_one_from_ending(
    at_server: Scripts, server: Server, script: str, first: int
) -> None:
    """The first one, or that after a loss."""
    machine = f"""
        import itertools, socket, time
        look_up, calls = socket.getaddrinfo, itertools.count()
        def getaddrinfo(*arguments, **named):
            if next(calls) < {first}:
                return look_up(*arguments, **named)
            open("asked", "w").close()
            time.sleep(1000)
        socket.getaddrinfo = getaddrinfo
    """
    (at_server.folder / "sitecustomize.py").write_text(textwrap.dedent(machine))
    words = ["task"] * (script == EMITTER)
    run = at_server.start(script, *words, env={"PYTHONPATH": str(at_server.folder)})
    if first:
        server.gets("Basic.Consume")
        server.session(0).hang_up()
    eventually((at_server.folder / "asked").exists, "the host's name is looked up")
    run.send(signal.SIGINT if words else signal.SIGTERM)
    run.ends(130 if words else 0, within=5)


# ---- Descriptors


@pytest.mark.parametrize(("script", "limit"), [(EMITTER, 5), (WORKER, 7), (EMITTER, 8), (WORKER, 9)])
def test_a_limit_of_open_files_is_said_in_one_line_or_enough(
    at_server: Scripts, server: Server, script: str, limit: int
) -> None:
    server.put(b"task")
    arguments = ["task"] if script == EMITTER else ["--max-tasks", "1", "--seconds-per-dot", "0"]
    # Without -W error: Python would warn of what is left open when the program ends.
    command = ["bash", "-c", f'ulimit -n {limit}; exec "$@"', "-", sys.executable, str(PROJECT / script), *arguments]
    run = at_server.start_command(command)
    run.process.wait(20)
    assert "Traceback" not in run.err
    assert (run.process.returncode, run.err.count("\n")) in ((0, 0), (1, 1))


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_worker_without_descriptors_comes_back_when_there_are_some(
    at_server: Scripts, server: Server, is_busy: bool
) -> None:
    """Whoever drives the loop, the keeper beside a task or the main thread, must not end by it."""
    worker = at_server.start(WORKER)
    server.gets("Basic.Consume")
    if is_busy:
        server.put(b"long ...")
        worker.shows("Received")
    soft, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (3, hard))
    server.session(0).hang_up()
    worker.shows("Reconnecting")
    if is_busy:
        worker.shows("RabbitMQ will hand this task out again")
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    server.gets("Basic.Consume", times=2)
    worker.shows("Connected again")
    worker.send(signal.SIGTERM)
    worker.ends()
