"""What may go wrong before a connection is one: addresses that don't work, and limits of the machine."""

from __future__ import annotations

import resource
import signal
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from harness import Run, Scripts, eventually
from pika import spec
from scripted_server import Server, Session

WITHOUT_IPV6 = """
    import socket
    class Socket(socket.socket):
        def __init__(self, family=-1, *arguments, **named):
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *arguments, **named)
    look_up = socket.getaddrinfo
    def getaddrinfo(host, port, *arguments, **named):
        ipv6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        return [ipv6] if host == "six" else look_up("127.0.0.1", port, *arguments, **named)
    socket.socket, socket.getaddrinfo = Socket, getaddrinfo
"""
TWO_ADDRESSES = """
    import socket
    look_up = socket.getaddrinfo
    def getaddrinfo(host, port, *arguments, **named):
        (record,) = look_up("127.0.0.1", port, *arguments, **named)
        return [(*record[:4], ("127.0.0.1", 1)), record]
    socket.getaddrinfo = getaddrinfo
"""
NO_MORE_THREADS = """
    import threading
    def start(self):
        raise RuntimeError("can't start new thread")
    threading.Timer.start = start
"""
HANGING_LOOK_UP = """
    import socket, time
    def getaddrinfo(*arguments, **named):
        open("asked", "w").close()
        time.sleep(1000)
    socket.getaddrinfo = getaddrinfo
"""


def start(scripts: Scripts, machine: str, script: str, *arguments: object, **popen: Any) -> Run:
    """Start a script on a machine that lacks something, which a sitecustomize of its Python imitates."""
    (scripts.folder / "sitecustomize.py").write_text(textwrap.dedent(machine))
    return scripts.start(script, *arguments, env={"PYTHONPATH": str(scripts.folder)}, **popen)


def test_the_next_node_is_tried_when_an_address_can_not_be_used(at_server: Scripts, server: Server) -> None:
    urls = f"amqp://guest:guest@six:5672/,{server.url}"
    start(at_server, WITHOUT_IPV6, "emitter_of_tasks.py", "--url", urls, "task").ends()
    assert [got.body for got in server.got("Basic.Publish")] == [b"task"]


def test_nodes_are_tried_in_the_order_in_which_they_are_given(
    at_server: Scripts, new_server: Callable[[], Server]
) -> None:
    servers = [new_server() for _ in range(3)]
    for each in servers:
        each.on("Connection.Open", Session.hang_up)
    at_server.emit("--url", ",".join(each.url for each in servers), "task", status=1)
    tried = [each.session(0).began for each in servers]
    assert tried == sorted(tried)


@pytest.mark.parametrize("is_first", [True, False])
def test_of_a_host_with_two_addresses_the_refused_password_is_said_and_is_final(
    at_server: Scripts, server: Server, is_first: bool
) -> None:
    """Not that nothing listens at the first address, which would be tried again for ever."""
    refused = spec.Connection.Close(
        403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.", 0, 0
    )
    server.on("Connection.StartOk", lambda session, _: session.send(refused), connection=None if is_first else 1)
    server.on("Basic.Publish", Session.hang_up)
    run = start(at_server, TWO_ADDRESSES, "emitter_of_tasks.py", "task").ends(1)
    assert "refused user guest with this password" in run.err
    assert len(server.sessions) == 1 + (not is_first)
    assert "Nothing listens" not in run.err


@pytest.mark.parametrize(
    ("script", "machine", "url", "why"),
    [
        ("emitter_of_tasks.py", WITHOUT_IPV6, "amqp://six:5672/", "No IPv6 here, so six:5672 can't be reached"),
        ("listening_worker.py", NO_MORE_THREADS, "amqp://localhost:1/", "can't start new thread"),
    ],
)
def test_what_the_machine_lacks_is_said_in_one_line(
    at_server: Scripts, script: str, machine: str, url: str, why: str
) -> None:
    words = ["task"] * (script == "emitter_of_tasks.py")
    run = start(at_server, machine, script, "--url", url, *words).ends(1)
    assert run.err.startswith(" [!] ")
    assert why in run.err
    assert run.err.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "limit"),
    [("emitter_of_tasks.py", 5), ("listening_worker.py", 7), ("emitter_of_tasks.py", 8), ("listening_worker.py", 9)],
)
def test_a_limit_of_open_files_is_said_in_one_line_or_enough(
    at_server: Scripts, server: Server, script: str, limit: int
) -> None:
    server.put(b"task")
    arguments = ["task"] if script == "emitter_of_tasks.py" else ["--max-tasks", "1", "--seconds-per-dot", "0"]
    command = at_server.command(script, *arguments)
    run = at_server.start_command(["bash", "-c", f'ulimit -n {limit}; exec "$@"', "-", *command])
    run.process.wait(20)
    assert "Traceback" not in run.err
    assert run.process.returncode in (0, 1)
    assert (run.process.returncode == 0) == (run.err == "")
    assert run.err.count("\n") <= 1


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_worker_without_descriptors_comes_back_when_there_are_some(
    at_server: Scripts, server: Server, is_busy: bool
) -> None:
    """Whoever drives the loop, the keeper beside a task or the main thread, must not end by it."""
    worker = at_server.start("listening_worker.py")
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


@pytest.mark.parametrize(
    ("script", "number"), [("emitter_of_tasks.py", signal.SIGINT), ("listening_worker.py", signal.SIGTERM)]
)
def test_a_look_up_that_hangs_keeps_no_one_from_ending(at_server: Scripts, script: str, number: signal.Signals) -> None:
    words = ["task"] * (script == "emitter_of_tasks.py")
    run = start(at_server, HANGING_LOOK_UP, script, *words)
    eventually((at_server.folder / "asked").exists, "the host's name is looked up")
    run.send(number)
    run.ends(130 if words else 0, within=5)


def test_a_look_up_that_hangs_after_a_loss_keeps_no_one_from_ending(
    at_server: Scripts, new_server: Callable[[], Server]
) -> None:
    server = new_server()
    hangs_later = HANGING_LOOK_UP.replace("def getaddrinfo(*arguments, **named):", LATER)
    worker = start(at_server, hangs_later, "listening_worker.py", "--url", server.url)
    server.gets("Basic.Consume")
    server.session(0).hang_up()
    eventually((at_server.folder / "asked").exists, "the host's name is looked up")
    worker.send(signal.SIGTERM)
    worker.ends(within=5)


LATER = """look_up, calls = socket.getaddrinfo, []
    def getaddrinfo(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            return look_up(*arguments, **named)"""
