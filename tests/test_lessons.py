"""What the README says you will see, and why: each answer that no other test gives."""

import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from harness import PROJECT, Broker, Run, Scripts, eventually, new_queue_name

Lesson = Callable[[int, int], None]

LONG_TASK = "A long task" + 60 * "."
README = (PROJECT / "README.md").read_text()
# What the README has its reader change in the plain scripts
AUTOMATIC = {
    'channel.basic_consume("plain_tasks", perform)': 'channel.basic_consume("plain_tasks", perform, auto_ack=True)',
    "    channel.basic_ack(method.delivery_tag)\n": "",
}
NOT_PERSISTENT = {"DeliveryMode.Persistent": "DeliveryMode.Transient"}
NOT_DURABLE = {"durable=True": "durable=False"}
CONFIRMED = {"channel = connection.channel()\n": "channel = connection.channel()\nchannel.confirm_delivery()\n"}


@pytest.fixture
def lesson(record_property: Callable[[str, object], None]) -> Lesson:
    """Notes down how many tasks a lesson has lost, and how many not; conftest.py shows it at the end."""
    return lambda lost, kept: record_property("lesson", f"{lost:2} tasks lost, {kept:2} not lost")


def plain(scripts: Scripts, script: str, changes: dict[str, str], *words: str) -> Run:
    """Start a script of docs/plain_pika on the test's queue, changed as the README says."""
    text = (PROJECT / "docs/plain_pika" / script).read_text()
    for old, new in changes.items():
        assert f"`{new.replace(old, '').strip()}`" in README or not new
        assert text.count(old) == 1
        text = text.replace(old, new)
    (scripts.folder / script).write_text(text.replace("plain_tasks", scripts.queue))
    return scripts.start_command([sys.executable, script, *words])


def send_three(scripts: Scripts, changes: dict[str, str]) -> None:
    for _ in range(3):
        plain(scripts, "send.py", changes, "A", "task.....").ends()


def test_the_idea_in_plain_pika_works(scripts: Scripts) -> None:
    for task in ("task..", "another"):
        assert plain(scripts, "send.py", {}, "A", task).ends().lines == [f" [x] Sent A {task}"]
    worker = plain(scripts, "worker.py", {})
    worker.shows("Received A another")  # which comes when the first one is acknowledged
    assert worker.lines[:3] == [" [x] Received A task..", " [x] Done.", " [x] Received A another"]


@pytest.mark.parametrize(("changes", "left"), [({}, 3), (AUTOMATIC, 0)], ids=["by hand", "automatic"])
def test_a_killed_worker_leaves_what_it_has_not_acknowledged(
    scripts: Scripts, lesson: Lesson, changes: dict[str, str], left: int
) -> None:
    send_three(scripts, {})
    worker = plain(scripts, "worker.py", changes)
    worker.shows("Received")
    worker.send(signal.SIGKILL)
    worker.ends(-signal.SIGKILL)
    eventually(lambda: scripts.broker.counts(scripts.queue) == (left, 0), "RabbitMQ notices")
    lesson(3 - left, left)


def test_a_restart_takes_what_is_not_durable_and_not_persistent(
    own_broker: Broker, tmp_path: Path, lesson: Lesson
) -> None:
    changes = ({}, NOT_PERSISTENT, NOT_DURABLE)
    found = [Scripts(own_broker, new_queue_name(), tmp_path) for _ in changes]
    for scripts, change in zip(found, changes):
        send_three(scripts, change)
    own_broker.node.stop()
    own_broker.node.start()
    assert [own_broker.counts(scripts.queue)[0] for scripts in found] == [3, 0, 0]
    there = [queue["name"] for queue in own_broker.api("GET", "queues/%2F")]
    assert [scripts.queue in there for scripts in found] == [True, True, False]
    own_broker.drop(found[0].queue, found[1].queue)
    lesson(6, 3)


def test_without_confirms_nobody_hears_that_a_task_is_not_taken(scripts: Scripts, lesson: Lesson) -> None:
    ctl, name = scripts.broker.node.ctl, scripts.queue
    (policy,) = re.findall(r"ctl set_policy one (.*?}\')", README)
    ctl("set_policy", "--priority", "1", name, *shlex.split(policy.replace("plain_tasks", name)))
    send_three(scripts, {})
    assert scripts.broker.bodies(name) == ["A task....."]
    confirmed = plain(scripts, "send.py", CONFIRMED, "A", "task.....")
    assert confirmed.process.wait(30) == 1
    assert "NackError" in confirmed.err.splitlines()[-1]
    ctl("clear_policy", name)
    lesson(2, 1)


def test_a_worker_that_ctrl_z_pauses_keeps_its_task_until_heartbeats_are_missing(
    scripts: Scripts, lesson: Lesson
) -> None:
    worker = scripts.worker(env={"AMQP_URL": f"{scripts.broker.url}?heartbeat=2"})
    scripts.emit(LONG_TASK)
    worker.shows("1 of 60")
    worker.send(signal.SIGSTOP)
    assert scripts.broker.counts(scripts.queue) == (0, 1)
    eventually(lambda: scripts.broker.counts(scripts.queue) == (1, 0), "RabbitMQ misses its heartbeats")
    lesson(0, 1)


def test_ctrl_backslash_ends_a_worker_that_can_not_hand_its_task_back(scripts: Scripts, lesson: Lesson) -> None:
    worker = scripts.at_terminal("listening_worker.py")
    scripts.emit(LONG_TASK)
    worker.expect_exact("1 of 60")
    worker.send("\x1c")
    worker.expect(pexpect.EOF)
    worker.close()
    assert worker.signalstatus == signal.SIGQUIT
    eventually(lambda: scripts.broker.counts(scripts.queue) == (1, 0), "the task is back")
    lesson(0, 1)


@pytest.mark.parametrize(
    ("body", "query", "interrupted", "error"),
    [
        pytest.param(b"A task.....", "?heartbeat=1", False, "StreamLostError", id="a task longer than heartbeats"),
        pytest.param(b"\xff", "", False, "UnicodeDecodeError", id="a task that raises"),
        pytest.param(b"A task.........", "", True, "KeyboardInterrupt", id="ctrl c"),
    ],
)
def test_the_plain_worker_ends_in_a_traceback_after(
    scripts: Scripts, lesson: Lesson, body: bytes, query: str, interrupted: bool, error: str
) -> None:
    """What the README's table says of the lines of the tutorial alone: the task comes again."""
    scripts.broker.declare(scripts.queue)
    scripts.broker.publish(scripts.queue, body)
    scripts.environment["AMQP_URL"] += query
    worker = plain(scripts, "worker.py", {})
    if interrupted:
        worker.shows("Received")
        worker.send(signal.SIGINT)
    status = worker.process.wait(30)
    assert status == (-signal.SIGINT if interrupted else 1)
    assert error in worker.err.splitlines()[-1]
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "the task is back")
    lesson(0, 1)
