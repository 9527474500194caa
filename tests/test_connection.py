"""The connection: explained when it can't be had, made again when it is lost; and nothing confirmed goes with it."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from harness import DEADLINE, Scripts, eventually
from in_process import put, said_by, work, working
from pika import spec
from relay import Relay
from scripted_server import Got, Server, Session

from listening_worker import listen

SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]


def refused(scripts: Scripts, script: str, url: str, *arguments: object, expected: int = 1) -> str:
    """Run a script that can't start, and return what it says of it: in one or two lines, on standard error."""
    task = ["task"] if script == "emitter_of_tasks.py" else []
    status, out, err = said_by(scripts, script, *arguments, *task, AMQP_URL=url)
    assert status == expected
    assert out == ""
    assert 1 <= len(err.splitlines()) <= 2
    assert "secret" not in err
    return err


# ---- First connections that fail


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_listens_there(at_server: Scripts, script: str) -> None:
    """As a process: what it says is on standard error, without a traceback, and its exit status is 1."""
    run = at_server.start(script, *["task"][: script.startswith("emitter")], "--url", "amqp://localhost:1/%2F").ends(1)
    assert run.out == ""
    assert run.err == (
        " [!] Nothing listens at localhost:1: is RabbitMQ running there?\nStart one with:  python3 tools/rabbitmq.py\n"
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_it_loads_is_no_traceback(at_server: Scripts, script: str) -> None:
    slow = at_server.folder / "slow" / "pika"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    run = at_server.start(script, env={"PYTHONPATH": str(slow.parent)})
    run.shows("loading")
    run.send(signal.SIGINT)
    run.ends(-signal.SIGINT)
    assert run.err == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_password(scripts: Scripts, script: str) -> None:
    said = refused(scripts, script, scripts.broker.url.replace(":guest@", ":secret@"))
    assert "refused user guest with this password" in said
    assert "check both in --url or AMQP_URL.\nOr set another password on RabbitMQ's machine:" in said
    assert "rabbitmqctl change_password USER PASSWORD" in said


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_host(at_server: Scripts, script: str) -> None:
    said = refused(at_server, script, "amqp://no-such-host.invalid")
    assert "No machine named no-such-host.invalid is known" in said


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_virtual_host(scripts: Scripts, script: str) -> None:
    said = refused(scripts, script, scripts.broker.url.replace("%2F", "nowhere"))
    assert "has no virtual host nowhere" in said
    assert "rabbitmqctl add_vhost NAME" in said


def test_a_user_without_permission(scripts: Scripts) -> None:
    scripts.broker.api("PUT", "users/stranger", {"password": "secret", "tags": ""})
    url = scripts.broker.url.replace("guest:guest", "stranger:secret")
    said = refused(scripts, "listening_worker.py", url)
    assert "does not let user stranger into virtual host /" in said
    assert "docs/operations.md has the rights that it needs." in said


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_queue_with_other_settings(scripts: Scripts, script: str) -> None:
    for name in (scripts.queue, scripts.dead_letters):
        scripts.broker.declare(name)
        said = refused(scripts, script, scripts.broker.url)
        assert f"Queue {name} has other settings" in said
        assert "--passive" in said
        scripts.broker.drop(scripts.queue, scripts.dead_letters)


@pytest.mark.parametrize(
    "url", ["localhost", "http://localhost", "amqp://u:se/cret@h:x", "amqp://guest@h", "amqp://h?secret=1"]
)
def test_what_is_no_url(at_server: Scripts, url: str) -> None:
    assert "is not a URL like amqp://" in refused(at_server, "emitter_of_tasks.py", url, expected=2)


@pytest.mark.parametrize("name", ["amq.tasks", "x" * 250, "a\nb"])
def test_what_is_no_queue_name(at_server: Scripts, server: Server, name: str) -> None:
    said = refused(at_server, "listening_worker.py", server.url, "--queue", name, expected=2)
    assert "a queue's name" in said
    assert server.sessions == []


def test_tls_on_a_port_without_it(scripts: Scripts) -> None:
    url = scripts.broker.url.replace("amqp:", "amqps:")
    assert "Is that its TLS port?" in refused(scripts, "emitter_of_tasks.py", url)


def test_a_server_that_is_not_rabbitmq(scripts: Scripts) -> None:
    url = f"amqp://localhost:{scripts.broker.node.management_port}"
    assert "without a word of AMQP" in refused(scripts, "emitter_of_tasks.py", url)


def test_a_file_that_can_not_be_read(at_server: Scripts, server: Server) -> None:
    for name, why in (("no.txt", "no.txt can't be read: No such file"), (".", "can't be read: Is a directory")):
        status, _, err = said_by(at_server, "emitter_of_tasks.py", "--file", at_server.folder / name)
        assert status == 2
        assert why in err
    assert server.sessions == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_log_file_that_can_not_be_written(at_server: Scripts, server: Server, script: str) -> None:
    log = at_server.folder / "no" / "log"
    said = refused(at_server, script, server.url, "--log-file", log, expected=2)
    assert f"The log file {log} can't be opened: No such file or directory." in said


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("emitter_of_tasks.py", ["--file", "a", "word"]),
        ("emitter_of_tasks.py", [""]),
        ("emitter_of_tasks.py", ["\udcff"]),  # how Python represents a byte that is not text
        ("emitter_of_tasks.py", ["--retry-dead-letters", "word"]),
        ("listening_worker.py", ["--max-tasks", "0"]),
        ("listening_worker.py", ["--seconds-per-dot", "-1"]),
        ("listening_worker.py", ["--ack-timeout", "nan"]),
        ("listening_worker.py", ["--run", "'"]),
        ("listening_worker.py", ["--run", ""]),
        ("listening_worker.py", ["--run", "no-such-command"]),
        ("listening_worker.py", ["word"]),
        ("listening_worker.py", ["--name", "x" * 256]),
        ("listening_worker.py", ["--url", "amqp://h?ssl_options=("]),
    ],
)
def test_usage(at_server: Scripts, server: Server, script: str, arguments: list[str]) -> None:
    status, out, err = said_by(at_server, script, *arguments)
    assert status == 2
    assert out == ""
    assert err
    assert server.sessions == []


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
        assert said_by(scripts, "emitter_of_tasks.py", word)[0] == 0
    assert asked_for == {"localhost 5672"}
    _, out, _ = said_by(scripts, "listening_worker.py", "--burst", "--max-tasks", 1)
    assert out.splitlines()[:2] == [
        " [*] Waiting for tasks in queue tasks. Stops when the queue is empty.",
        " [x] Received one",
    ]
    texts: list[str] = []
    listen(lambda task: texts.append(task.text), burst=True)
    assert texts == ["two"]
    assert asked_for == {"localhost 5672"}


@pytest.mark.parametrize(
    ("url", "port", "status"), [("amqp://guest:guest@a-machine/%2F", 5672, 0), ("amqps://a-machine", 5671, 1)]
)
def test_a_url_may_leave_the_port_out(scripts: Scripts, asked_for: set[str], url: str, port: int, status: int) -> None:
    ended, _, err = said_by(scripts, "emitter_of_tasks.py", "task", "--url", url)
    assert ended == status
    assert asked_for == {f"a-machine {port}"}
    assert status == 0 or f"No TLS with a-machine:{port}" in err  # which that RabbitMQ does not speak


# ---- Connections that are lost


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_broker_that_hangs_is_told_from_one_that_is_not_there(scripts: Scripts, relay: Relay, script: str) -> None:
    relay.freeze()
    said = refused(scripts, script, f"{relay.url}?stack_timeout=1")
    assert "does not answer: a firewall in between, or a RabbitMQ that hangs?" in said


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_signal_in_the_middle_of_the_first_attempt_ends_it(scripts: Scripts, relay: Relay, script: str) -> None:
    relay.freeze()
    run = scripts.start(script, *["task"][: script.startswith("emitter")], "--url", relay.url)
    eventually(lambda: relay.sockets, "it connects")
    run.send(signal.SIGTERM)
    run.ends(0 if script == "listening_worker.py" else 130)
    assert "Waiting" not in run.out
    assert run.err == ""


def test_a_worker_comes_back_and_a_task_goes_on_meanwhile_and_is_handed_out_again(
    scripts: Scripts, relay: Relay
) -> None:
    worker = scripts.worker("--url", relay.url, "--seconds-per-dot", "0.5", "--log-file", scripts.log)
    relay.cut()
    worker.shows("Reconnecting")
    assert f"The connection to RabbitMQ at 127.0.0.1:{relay.url.split(':')[3][:-4]} was lost" in worker.err
    put(scripts, b"task....")
    worker.shows("1 of 4")
    relay.cut()
    worker.shows("Reconnecting", times=2)
    worker.shows("4 of 4")
    worker.shows("the connection was lost meanwhile: RabbitMQ will hand this task out again")
    worker.shows("Received task.... (redelivered)")
    worker.shows(" [x] Done.")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert [event["event"] for event in scripts.events()] == ["received", "ack-lost", "received", "done"]
    assert scripts.broker.messages(scripts.queue) == []


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


def test_burst_does_not_end_early_where_the_network_is_slow(scripts: Scripts, relay: Relay) -> None:
    put(scripts, b"one", b"two", b"three")
    relay.delay = 0.3
    assert work(scripts, lambda _: None, url=relay.url).count(" [x] Done.") == 3


def test_an_emitter_sends_again_what_was_not_confirmed(scripts: Scripts, relay: Relay) -> None:
    emitter = scripts.emitter("--url", relay.url, "--log-file", scripts.log, stdin=subprocess.PIPE)
    assert emitter.process.stdin
    for number in range(1, 6_001):
        emitter.process.stdin.write(b"%d\n" % number)
        if number % 1500 == 0:
            emitter.process.stdin.flush()
            eventually(lambda: len(scripts.events("confirmed")) > number - 1400, "it is connected and sends")  # noqa: B023
            relay.cut()
    emitter.process.stdin.close()
    emitter.ends()
    assert "Connected again." in emitter.err
    assert "Sent 6,000 tasks" in emitter.out
    assert sorted(int(event["task"]) for event in scripts.events("confirmed")) == list(range(1, 6_001))
    sent = scripts.broker.take(scripts.queue, scripts.broker.counts(scripts.queue)[0])
    assert {int(body) for body in sent} == set(range(1, 6_001))


def test_a_node_that_refuses_the_password_is_passed_over_while_another_one_takes_it(
    scripts: Scripts, relay: Relay
) -> None:
    refuses = scripts.broker.url.replace(":guest@", ":wrong@")
    with working(scripts, lambda _: None, url=f"{relay.url},{refuses}"):
        eventually(lambda: scripts.broker.counts(scripts.queue)[1] == 1, "it listens")
        relay.cut()
        put(scripts, b"task")
        eventually(lambda: scripts.events("done"), "it is connected again")


def test_an_emitter_at_its_prompt_comes_back_by_itself(scripts: Scripts, relay: Relay) -> None:
    terminal = scripts.at_terminal("emitter_of_tasks.py", "--no-admin", AMQP_URL=relay.url)
    terminal.expect("Enter new task: ")
    relay.cut()
    terminal.expect("Reconnecting")
    eventually(lambda: relay.sockets, "it is connected again")
    terminal.sendline("task")
    terminal.expect(r" \[x\] Sent task\r\n")


@contextlib.contextmanager
def leaver(scripts: Scripts) -> Iterator[str]:
    """Give the URL of a user who may do everything for now."""
    scripts.broker.api("PUT", "users/leaver", {"password": "secret", "tags": ""})
    scripts.broker.api("PUT", "permissions/%2F/leaver", {"configure": ".*", "write": ".*", "read": ".*"})
    yield scripts.broker.url.replace("guest:guest", "leaver:secret")
    scripts.broker.api("DELETE", "users/leaver")


def close_connections_of(scripts: Scripts, user: str) -> None:
    """Close them as soon as RabbitMQ's panel, which takes seconds, knows of one."""

    def found() -> list[str]:
        every = scripts.broker.api("GET", "connections") or []
        return [each["name"] for each in every if each.get("user") == user]

    for name in eventually(found, "the panel knows the connection"):
        scripts.broker.api("DELETE", f"connections/{quote(name)}")


def test_a_password_that_was_changed_is_said_once_and_tried_until_it_is_right_again(scripts: Scripts) -> None:
    with leaver(scripts) as url:
        worker = scripts.worker(env={"AMQP_URL": url})
        scripts.broker.api("PUT", "users/leaver", {"password": "other", "tags": ""})
        close_connections_of(scripts, "leaver")
        worker.shows("refused user leaver with this password")
        eventually(lambda: scripts.broker.node.log.read_text().count("'leaver' - invalid") > 2, "it tries again")
        assert worker.err.count("refused user leaver with this password") == 1
        scripts.broker.api("PUT", "users/leaver", {"password": "secret", "tags": ""})
        worker.shows("Connected again.")
        put(scripts, b"task")
        worker.shows("Done.")
        worker.send(signal.SIGTERM)
        worker.ends()


def test_a_limit_on_connections_is_waited_out(at_server: Scripts, server: Server) -> None:
    """As after a cut that RabbitMQ has not noticed, when the old connection counts still."""

    def refuse(session: Session, _got: Got) -> None:
        words = "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (1) is reached"
        session.send(spec.Connection.Close(530, words, 10, 40))

    server.on("Connection.Open", refuse, connection=1)
    worker = at_server.start("listening_worker.py")
    server.gets("Basic.Consume")
    server.session(0).hang_up()
    worker.shows("connection limit (1) is reached")
    worker.shows("Connected again.")
