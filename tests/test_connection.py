"""A connection: where it goes, what is refused before it is made, and that it is made again when it is lost."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import DEADLINE, Scripts, eventually
from in_process import Emitter, put, said_by, working
from relay import Relay
from scripted_server import Server, nothing, refuse

from listening_worker import listen

EMITTER, WORKER = SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]


def test_a_worker_that_reconnects_in_the_middle_of_a_task_holds_no_second_one(scripts: Scripts, relay: Relay) -> None:
    goes_on = threading.Event()

    def received(name: str) -> list[str]:
        return [record["task"] for record in scripts.events("received") if record["name"] == name]

    with working(scripts, lambda _: goes_on.wait(DEADLINE), url=relay.url, name="first"):
        put(scripts, b"long")
        eventually(lambda: received("first") == ["long"], "it has the task")
        relay.cut()
        eventually(lambda: relay.sockets, "it is connected again")
        with working(scripts, lambda _: None, name="second"):
            eventually(lambda: received("second") == ["long"], "the task is handed out again")
            put(scripts, b"short")
            eventually(lambda: received("second") == ["long", "short"], "so is the next one")
            assert scripts.broker.counts(scripts.queue)[1] == 1
        goes_on.set()


def test_reconnecting_goes_round_the_nodes(new_server: Callable[[], Server]) -> None:
    first, second, refusing = (new_server() for _ in range(3))
    refusing.on("Connection.StartOk", refuse)  # for good, and it is passed over
    emitter = Emitter(",".join(each.url for each in (first, second, refusing)), "tasks")
    with contextlib.closing(emitter.connection):
        for task, node in enumerate((first, second, first, second, second)):
            emitter.send(task)
            emitter.settle()
            assert node.got("Basic.Publish")[-1].body == str(task).encode()
            if task == 2:
                first.close()  # so that the last one comes by way of it
            else:
                node.sessions[-1].hang_up()  # though it would take it again
    assert len(refusing.sessions) >= 2


@pytest.mark.parametrize("method", ["Channel.Close", "Connection.Close"])
def test_an_end_that_is_not_answered_does_not_take_for_ever(at_server: Scripts, server: Server, method: str) -> None:
    server.on(method, nothing)
    emitter = at_server.emitter("task")
    assert emitter.process.wait(DEADLINE) == 0  # not ends(): of a socket that is left open, Python warns
    assert "Traceback" not in emitter.err


@pytest.mark.parametrize(
    ("script", "arguments", "why"),
    [
        (EMITTER, ["--file", "a", "word"], "give either words, or --file"),
        (EMITTER, ["--file", "no.txt"], "no.txt can't be read: No such file"),
        (EMITTER, ["--file", "/"], "/ can't be read: Is a directory"),
        (EMITTER, [""], "the task is empty"),
        (EMITTER, ["\udcff"], "not text in this terminal's encoding"),  # how Python represents a byte that is not text
        (EMITTER, ["task", "--url", "amqp://u:se/cret@h:x"], "is not a URL like amqp://"),
        (EMITTER, ["task", "--log-file", "/no/log"], "The log file /no/log can't be opened: No such file or directory"),
        (WORKER, ["--queue", "amq.tasks"], "a queue's name"),
        (WORKER, ["--queue", "x" * 250], "a queue's name"),
        (WORKER, ["--queue", "a\nb"], "a queue's name"),
        (WORKER, ["--name", "x" * 256], "--name"),
        (WORKER, ["--max-tasks", "0"], "max_tasks must be"),
        (WORKER, ["--seconds-per-dot", "-1"], "--seconds-per-dot"),
        (WORKER, ["--ack-timeout", "nan"], "ack_timeout must be"),
        (WORKER, ["--run", "'"], "--run"),
        (WORKER, ["--run", "no-such-command"], "no-such-command"),
        (WORKER, ["word"], "unrecognized arguments: word"),
    ],
)
def test_usage(at_server: Scripts, server: Server, script: str, arguments: list[str], why: str) -> None:
    status, out, err = said_by(at_server, script, *arguments)
    assert (status, out) == (2, "")
    assert why in err
    assert "cret" not in err
    assert err.startswith("usage:") or len(err.splitlines()) <= 2
    assert server.sessions == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_it_loads_is_no_traceback(at_server: Scripts, script: str) -> None:
    (at_server.folder / "pika.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    run = at_server.start(script, env={"PYTHONPATH": str(at_server.folder)})
    run.shows("loading")
    run.send(signal.SIGINT)
    run.ends(-signal.SIGINT)
    assert run.err == ""


def test_without_settings_it_is_the_queue_tasks_on_this_machine(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lead_to_server(host: str, port: int, *more: Any, **named: Any) -> Any:
        asked.add((host, port))
        return look_up("127.0.0.1", int(server.at.split(":")[1]), *more, **named)

    look_up, asked = socket.getaddrinfo, set[tuple[str, int]]()
    monkeypatch.setattr(socket, "getaddrinfo", lead_to_server)
    for name in ("AMQP_URL", "TASK_QUEUE"):
        del at_server.environment[name]
        monkeypatch.delenv(name, raising=False)
    server.put(b"one", b"two")
    assert said_by(at_server, EMITTER, "task")[0] == 0
    _, out, _ = said_by(at_server, WORKER, "--max-tasks", 1)
    listen(lambda _: None, burst=True)
    assert out.startswith(" [*] Waiting for tasks in queue tasks. To exit press CTRL+C\n [x] Received one\n")
    assert asked == {("localhost", 5672)}
    assert [got.method.routing_key for got in server.got("Basic.Publish")] == ["tasks"]
    assert [got.method.queue for got in server.got("Basic.Consume")] == ["tasks", "tasks"]
