"""What the README says you will see, and why: each answer that no other test gives."""

import contextlib
import signal
import sys
from collections.abc import Callable

import pexpect
import pika
import pytest
from harness import PROJECT, Broker, Run, Scripts, eventually, new_queue_name

Lesson = Callable[[int, int], None]

TEN_TASKS = b"".join(b"task %d.\n" % number for number in range(1, 11))
LONG_TASK = "A long task" + 60 * "."
TAKES_ALL_AND_FORGETS = """
import os, time, pika
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
def callback(ch, method, properties, body):
    print("Received", body.decode(), flush=True)
    time.sleep(60)
channel.basic_consume(os.environ["TASK_QUEUE"], callback, auto_ack=True)
channel.start_consuming()
"""


@pytest.fixture
def lesson(record_property: Callable[[str, object], None]) -> Lesson:
    """Notes down how many tasks a lesson has lost, and how many not; conftest.py shows it at the end."""
    return lambda lost, kept: record_property("lesson", f"{lost:2} tasks lost, {kept:2} not lost")


def left_by(worker: Run, scripts: Scripts) -> int:
    """Kill a worker in the first of ten tasks, and return how many RabbitMQ still has."""
    worker.shows("Received task 1.")
    worker.send(signal.SIGKILL)
    worker.ends(-signal.SIGKILL)
    eventually(lambda: scripts.broker.counts(scripts.queue)[1] == 0, "RabbitMQ notices")
    return scripts.broker.counts(scripts.queue)[0]


def test_automatic_acknowledgement_loses_what_a_killed_worker_has_taken(scripts: Scripts, lesson: Lesson) -> None:
    scripts.emit(stdin=TEN_TASKS)
    left = left_by(scripts.start_program(TAKES_ALL_AND_FORGETS), scripts)
    assert left == 0
    lesson(10 - left, left)


def test_acknowledgement_by_hand_loses_none_of_them(scripts: Scripts, lesson: Lesson) -> None:
    scripts.emit(stdin=TEN_TASKS)
    left_by(scripts.worker("--seconds-per-dot", "60"), scripts)
    eventually(lambda: scripts.broker.counts(scripts.queue) == (10, 0), "all are there again")
    lesson(0, 10)


def test_a_restart_takes_what_is_not_durable_and_not_persistent(own_broker: Broker, lesson: Lesson) -> None:
    transient, durable = new_queue_name(), new_queue_name()
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(own_broker.url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for queue in (transient, durable):  # classic ones: a quorum queue takes each message for persistent
            channel.queue_declare(queue, durable=queue == durable)
            for mode in pika.DeliveryMode:
                properties = pika.BasicProperties(delivery_mode=mode.value)
                channel.basic_publish("", queue, mode.name.encode(), properties, mandatory=True)
    own_broker.node.stop()
    own_broker.node.start()
    assert transient not in [queue["name"] for queue in own_broker.api("GET", "queues/%2F")]
    assert own_broker.bodies(durable) == ["Persistent"]
    own_broker.drop(durable)
    lesson(3, 1)


def test_without_confirms_nobody_hears_that_a_task_is_not_taken(broker: Broker, lesson: Lesson) -> None:
    queue = new_queue_name()
    broker.declare(queue, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(broker.url))) as connection:
        channel = connection.channel()
        for number in range(5):
            channel.basic_publish("", queue, b"task %d" % number, mandatory=True)
    eventually(lambda: broker.bodies(queue) == ["task 0"], "one is there")
    broker.drop(queue)
    lesson(4, 1)


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
    text = (PROJECT / "docs/plain_pika/worker.py").read_text()
    scripts.broker.declare(scripts.queue)
    scripts.broker.publish(scripts.queue, body)
    (scripts.folder / "plain.py").write_text(text.replace("plain_tasks", scripts.queue))
    command = [sys.executable, "plain.py"]
    worker = scripts.start_command(command, {"AMQP_URL": f"{scripts.broker.url}{query}"})
    if interrupted:
        worker.shows("Received")
        worker.send(signal.SIGINT)
    status = worker.process.wait(30)
    assert status == (-signal.SIGINT if interrupted else 1)
    assert error in worker.err.splitlines()[-1]
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "the task is back")
    lesson(0, 1)
