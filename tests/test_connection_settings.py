"""Where the scripts connect to when nothing is said, and what they refuse before they connect."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Scripts
from in_process import said_by
from scripted_server import Server

from listening_worker import listen

EMITTER, WORKER = SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]


@pytest.mark.parametrize(
    ("script", "arguments", "why"),
    [
        (EMITTER, ["--file", "a", "word"], "give either words, or --file"),
        (EMITTER, ["--retry-dead-letters", "word"], "give either words, or --file"),
        (EMITTER, ["--file", "no.txt"], "no.txt can't be read: No such file"),
        (EMITTER, ["--file", "/"], "/ can't be read: Is a directory"),
        (EMITTER, [""], "the task is empty"),
        (EMITTER, ["\udcff"], "not text in this terminal's encoding"),  # how Python represents a byte that is not text
        (EMITTER, ["task", "--url", "amqp://u:se/cret@h:x"], "is not a URL like amqp://"),
        (EMITTER, ["task", "--log-file", "/no/log"], "The log file /no/log can't be opened: No such file or directory"),
        (WORKER, ["--log-file", "/no/log"], "The log file /no/log can't be opened: No such file or directory."),
        (WORKER, ["--url", "amqp://h?ssl_options=("], "is not a URL like amqp://"),
        (WORKER, ["--queue", "amq.tasks"], "a queue's name"),
        (WORKER, ["--queue", "x" * 250], "a queue's name"),
        (WORKER, ["--queue", "a\nb"], "a queue's name"),
        (WORKER, ["--name", "x" * 256], "--name"),
        (WORKER, ["--max-tasks", "0"], "max_tasks must be"),
        (WORKER, ["--seconds-per-dot", "-1"], "--seconds-per-dot"),
        (WORKER, ["--ack-timeout", "nan"], "ack_timeout must be"),
        (WORKER, ["--run", "'"], "--run"),
        (WORKER, ["--run", ""], "--run"),
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


# ---- Defaults


@pytest.fixture
def asked_for(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The names and ports that are looked up without any setting: each leads to the suite's RabbitMQ."""
    for name in ("AMQP_URL", "TASK_QUEUE"):
        del scripts.environment[name]
        monkeypatch.delenv(name, raising=False)
    look_up, asked = socket.getaddrinfo, set[str]()

    def lead_elsewhere(host: str, port: int, *more: Any, **named: Any) -> Any:
        asked.add(f"{host} {port}")
        return look_up("127.0.0.1", scripts.broker.node.amqp_port, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", lead_elsewhere)
    yield asked
    monkeypatch.undo()
    scripts.broker.drop("tasks", "tasks.dead-letters")


def test_without_settings_it_is_the_queue_tasks_on_this_machine(scripts: Scripts, asked_for: set[str]) -> None:
    for word in ("one", "two"):
        assert said_by(scripts, EMITTER, word)[0] == 0
    assert asked_for == {"localhost 5672"}
    _, out, _ = said_by(scripts, WORKER, "--burst", "--max-tasks", 1)
    waiting = " [*] Waiting for tasks in queue tasks. Stops when the queue is empty."
    assert out.splitlines()[:2] == [waiting, " [x] Received one"]
    texts: list[str] = []
    listen(lambda task: texts.append(task.text), burst=True)
    assert texts == ["two"]
    assert asked_for == {"localhost 5672"}


@pytest.mark.parametrize(
    ("url", "port", "status"), [("amqp://guest:guest@a-machine/%2F", 5672, 0), ("amqps://a-machine", 5671, 1)]
)
def test_a_url_may_leave_the_port_out(scripts: Scripts, asked_for: set[str], url: str, port: int, status: int) -> None:
    ended, _, err = said_by(scripts, EMITTER, "task", "--url", url)
    assert ended == status
    assert asked_for == {f"a-machine {port}"}
    assert status == 0 or f"No TLS with a-machine:{port}" in err  # which that RabbitMQ does not speak
