"""The connection: explained when it can't be had, made again when it is lost; and nothing confirmed goes with it."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from harness import PROJECT, Scripts, eventually
from relay import Relay

SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]


def refused(scripts: Scripts, script: str, url: str, *arguments: str, status: int = 1) -> str:
    """Run a script that can't start, and return what it says of it: in one or two lines, on standard error."""
    task = ["task"] if script == "emitter_of_tasks.py" else []
    run = scripts.start(script, *arguments, *task, env={"AMQP_URL": url}).ends(status)
    assert run.out == ""
    assert 1 <= len(run.err.splitlines()) <= 2
    assert "secret" not in run.err
    return run.err


# ---- First connections that fail


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_listens_there(scripts: Scripts, script: str) -> None:
    said = refused(scripts, script, "amqp://localhost:1/%2F")
    assert said == (
        " [!] Nothing listens at localhost:1: is RabbitMQ running there?\nStart one with:  python3 tools/rabbitmq.py\n"
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_it_loads_is_no_traceback(scripts: Scripts, script: str) -> None:
    slow = scripts.folder / "slow" / "pika"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    run = scripts.start(script, env={"PYTHONPATH": str(slow.parent)})
    run.shows("loading")
    run.send(signal.SIGINT)
    run.ends(-signal.SIGINT)
    assert run.err == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_password(scripts: Scripts, script: str) -> None:
    said = refused(scripts, script, scripts.broker.url.replace(":guest@", ":secret@"))
    assert "refused user guest with this password" in said
    assert "check both in --url or AMQP_URL.\nOr set another password on RabbitMQ's machine:" in said
    assert "sudo rabbitmqctl change_password USER PASSWORD  (in Docker: docker exec rabbitmq rabbitmqctl change" in said


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_host(scripts: Scripts, script: str) -> None:
    assert "No machine named no-such-host.invalid is known" in refused(scripts, script, "amqp://no-such-host.invalid")


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
        scripts.broker.drop(name)


@pytest.mark.parametrize(
    "url", ["localhost", "http://localhost", "amqp://u:se/cret@h:x", "amqp://guest@h", "amqp://h?secret=1"]
)
def test_what_is_no_url(scripts: Scripts, url: str) -> None:
    assert "is not a URL like amqp://" in refused(scripts, "emitter_of_tasks.py", url, status=2)


@pytest.mark.parametrize("name", ["amq.tasks", "x" * 250, "a\nb"])
def test_what_is_no_queue_name(scripts: Scripts, name: str) -> None:
    assert "a queue's name" in refused(scripts, "listening_worker.py", scripts.broker.url, "--queue", name, status=2)


def test_tls_on_a_port_without_it(scripts: Scripts) -> None:
    url = scripts.broker.url.replace("amqp:", "amqps:")
    assert "is that its TLS port?" in refused(scripts, "emitter_of_tasks.py", url)


def test_a_server_that_is_not_rabbitmq(scripts: Scripts) -> None:
    url = f"amqp://localhost:{scripts.broker.node.management_port}"
    assert "without a word of AMQP" in refused(scripts, "emitter_of_tasks.py", url)


def test_a_file_that_can_not_be_read(scripts: Scripts) -> None:
    assert "no.txt can't be read: No such file" in scripts.emit("--file", "no.txt", status=2).err
    assert "can't be read: Is a directory" in scripts.emit("--file", scripts.folder, status=2).err


def test_a_log_file_that_can_not_be_written(scripts: Scripts) -> None:
    for script in SCRIPTS:
        said = refused(scripts, script, scripts.broker.url, "--log-file", "no/log", status=2)
        assert "The log file no/log can't be opened: No such file or directory." in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("emitter_of_tasks.py", "--file", "a", "word"),
        ("emitter_of_tasks.py", ""),
        ("emitter_of_tasks.py", b"\xff"),
        ("emitter_of_tasks.py", "--retry-dead-letters", "word"),
        ("listening_worker.py", "--max-tasks", "0"),
        ("listening_worker.py", "--seconds-per-dot", "-1"),
        ("listening_worker.py", "--ack-timeout", "nan"),
        ("listening_worker.py", "--run", "'"),
        ("listening_worker.py", "--run", ""),
        ("listening_worker.py", "word"),
        ("listening_worker.py", "--name", "x" * 256),
        ("listening_worker.py", "--url", "amqp://h?ssl_options=("),
    ],
)
def test_usage(scripts: Scripts, arguments: tuple[str, ...]) -> None:
    command = scripts.command(arguments[0])
    done = subprocess.run(
        [*command, *arguments[1:]], env=scripts.environment, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


# ---- Defaults


@pytest.fixture
def learner(scripts: Scripts) -> Iterator[Scripts]:
    """The scripts without any setting, where every name and port leads to the suite's RabbitMQ, and is noted down."""
    for name in ("AMQP_URL", "TASK_QUEUE"):
        del scripts.environment[name]
    scripts.environment["PYTHONPATH"] = f"{scripts.folder}:{PROJECT}"
    (scripts.folder / "sitecustomize.py").write_text(
        "import socket\n"
        "getaddrinfo = socket.getaddrinfo\n"
        "def lead_elsewhere(host, port, *more, **named):\n"
        "    with open('asked', 'a') as asked:\n"
        "        print(host, port, file=asked)\n"
        f"    return getaddrinfo('127.0.0.1', {scripts.broker.node.amqp_port}, *more, **named)\n"
        "socket.getaddrinfo = lead_elsewhere\n"
    )
    yield scripts
    scripts.end_all()
    scripts.broker.drop("tasks", "tasks.dead-letters")


def asked_for(learner: Scripts) -> set[str]:
    """Return the names and ports that led to the suite's RabbitMQ."""
    return set((learner.folder / "asked").read_text().splitlines())


def test_without_settings_it_is_the_queue_tasks_on_this_machine(learner: Scripts) -> None:
    learner.emit(stdin=b"one\ntwo\n")
    assert learner.broker.counts("tasks") == (2, 0)
    worker = learner.work("--max-tasks", 1)
    assert worker.lines[:2] == [
        " [*] Waiting for tasks in queue tasks. Stops when the queue is empty.",
        " [x] Received one",
    ]
    program = learner.program("from listening_worker import listen\nlisten(print, burst=True)\n", **learner.environment)
    assert " [x] Received two" in program.lines
    assert asked_for(learner) == {"localhost 5672"}


@pytest.mark.parametrize(
    ("url", "port", "status"), [("amqp://guest:guest@a-machine/%2F", 5672, 0), ("amqps://a-machine", 5671, 1)]
)
def test_a_url_may_leave_the_port_out(learner: Scripts, url: str, port: int, status: int) -> None:
    run = learner.emit("task", "--url", url, status=status)
    assert asked_for(learner) == {f"a-machine {port}"}
    assert status == 0 or f"No TLS with a-machine:{port}" in run.err  # which that RabbitMQ does not speak


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


def test_an_idle_worker_comes_back(scripts: Scripts, relay: Relay) -> None:
    worker = scripts.worker("--url", relay.url)
    relay.cut()
    worker.shows("Reconnecting")
    scripts.emit("task")
    worker.shows("Done.")
    assert f"The connection to RabbitMQ at 127.0.0.1:{relay.url.split(':')[3][:-4]} was lost" in worker.err


def test_a_task_goes_on_when_its_connection_is_lost_and_is_handed_out_again(scripts: Scripts, relay: Relay) -> None:
    scripts.emit("task....")
    worker = scripts.worker("--url", relay.url, "--seconds-per-dot", "0.5", "--log-file", scripts.log)
    worker.shows("1 of 4")
    relay.cut()
    worker.shows("Reconnecting")
    worker.shows("4 of 4")
    worker.shows("the connection was lost meanwhile: RabbitMQ will hand this task out again")
    worker.shows("Received task.... (redelivered)")
    worker.shows(" [x] Done.")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert [event["event"] for event in scripts.events()] == ["received", "ack-lost", "received", "done"]
    assert scripts.broker.messages(scripts.queue) == []


def test_a_worker_that_reconnects_in_the_middle_of_a_task_holds_no_second_one(scripts: Scripts, relay: Relay) -> None:
    scripts.emit("long" + 100 * ".")
    first = scripts.worker("--url", relay.url)
    first.shows("1 of 100")
    relay.cut()
    first.shows("Reconnecting")
    eventually(lambda: relay.sockets, "it is connected again")
    second = scripts.worker("--seconds-per-dot", "0")
    second.shows("Received long")
    scripts.emit("short")
    second.shows("Received short")
    assert scripts.broker.counts(scripts.queue)[1] == 1


def test_burst_does_not_end_early_where_the_network_is_slow(scripts: Scripts, relay: Relay) -> None:
    scripts.emit(stdin=b"one\ntwo\nthree\n")
    relay.delay = 0.3
    assert scripts.work("--url", relay.url).out.count("Done.") == 3


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
    worker = scripts.worker("--url", f"{relay.url},{refuses}")
    relay.cut()
    worker.shows("Connected again.")
    worker.send(signal.SIGTERM)
    worker.ends()


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
        scripts.emit("task")
        worker.shows("Done.")
        worker.send(signal.SIGTERM)
        worker.ends()


def test_a_limit_on_connections_is_waited_out(own_scripts: Scripts) -> None:
    """As after a cut that RabbitMQ has not noticed, when the old connection counts still."""
    worker = own_scripts.start("listening_worker.py")
    worker.shows("Waiting")
    ctl = own_scripts.broker.node.ctl
    ctl("set_vhost_limits", '{"max-connections": 0}')
    ctl("close_all_connections", "test")
    worker.shows("takes no more connections")
    ctl("clear_vhost_limits")
    worker.shows("Connected again.", within=60)
