"""What the README says you will see, and why: each answer that no other test gives."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pika
import pytest
from harness import PROJECT, Broker, Run, Scripts, eventually, new_queue_name

Lesson = Callable[[int, int], None]

TAKES_ALL_AND_FORGETS = """
import sys, time, pika
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
def callback(ch, method, properties, body):
    print("began", body.decode(), flush=True)
    time.sleep(60)
channel.basic_consume(sys.argv[2], callback, auto_ack=True)
channel.start_consuming()
"""


@pytest.fixture
def lesson(record_property: Callable[[str, object], None]) -> Lesson:
    """Notes down how many tasks a lesson has lost, and how many not; conftest.py shows it at the end."""
    return lambda lost, kept: record_property("lesson", f"{lost:2} tasks lost, {kept:2} not lost")


def test_automatic_acknowledgement_loses_what_a_killed_worker_has_taken(scripts: Scripts, lesson: Lesson) -> None:
    scripts.emit(stdin=b"".join(b"task %d\n" % number for number in range(1, 11)))
    program = scripts.folder / "forgets.py"
    program.write_text(TAKES_ALL_AND_FORGETS)
    command = [sys.executable, str(program), scripts.broker.url, scripts.queue]
    worker = Run(command, scripts.folder, scripts.environment)
    worker.shows("began task 1")
    worker.send(signal.SIGKILL)
    worker.ends(-signal.SIGKILL)
    eventually(lambda: scripts.broker.counts(scripts.queue)[1] == 0, "RabbitMQ notices")
    left = scripts.broker.counts(scripts.queue)[0]
    assert worker.out == "began task 1\n"
    assert left == 0
    lesson(10 - left, left)


def test_acknowledgement_by_hand_loses_none_of_them(scripts: Scripts, lesson: Lesson) -> None:
    scripts.emit(stdin=b"".join(b"task %d.\n" % number for number in range(1, 11)))
    worker = scripts.worker("--seconds-per-dot", "60")
    worker.shows("Received task 1")
    worker.send(signal.SIGKILL)
    worker.ends(-signal.SIGKILL)
    eventually(lambda: scripts.broker.counts(scripts.queue) == (10, 0), "all are there again")
    lesson(0, 10)


def test_a_restart_takes_what_is_not_durable_and_not_persistent(own_broker: Broker, lesson: Lesson) -> None:
    transient, durable = new_queue_name(), new_queue_name()
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(own_broker.url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(transient, durable=False)
        channel.queue_declare(durable, durable=True)  # a classic one: a quorum queue takes each message for persistent
        for queue in (transient, durable):
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
    scripts.emit("A long task" + 60 * ".")
    worker.shows("1 of 60")
    worker.send(signal.SIGSTOP)
    assert scripts.broker.counts(scripts.queue) == (0, 1)
    eventually(lambda: scripts.broker.counts(scripts.queue) == (1, 0), "RabbitMQ misses its heartbeats")
    lesson(0, 1)


def test_ctrl_backslash_ends_a_worker_that_can_not_hand_its_task_back(scripts: Scripts, lesson: Lesson) -> None:
    worker = scripts.at_terminal("listening_worker.py")
    scripts.emit("A long task" + 60 * ".")
    worker.expect_exact("1 of 60")
    worker.send("\x1c")
    worker.expect(pexpect.EOF)
    worker.close()
    assert worker.signalstatus == signal.SIGQUIT
    eventually(lambda: scripts.broker.counts(scripts.queue) == (1, 0), "the task is back")
    lesson(0, 1)


# ---- What goes wrong with the lines of the tutorial alone: the README's table


@pytest.fixture
def plain_worker(broker: Broker, tmp_path: Path, lesson: Lesson) -> Iterator[Callable[[bytes, str], Run]]:
    """Give a task to docs/plain_pika/worker.py, at a queue of the test's own, which has this task then."""
    queue, runs = new_queue_name(), list[Run]()

    def start(body: bytes, query: str) -> Run:
        program = tmp_path / "worker.py"
        program.write_text((PROJECT / "docs/plain_pika/worker.py").read_text().replace("plain_tasks", queue))
        broker.declare(queue)
        broker.publish(queue, body)
        runs.append(Run([sys.executable, str(program)], tmp_path, {"AMQP_URL": f"{broker.url}{query}"}))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.wait()
    eventually(lambda: broker.counts(queue)[0] == 1, "the task is back")
    broker.drop(queue)
    lesson(0, 1)


def test_a_task_that_is_longer_than_some_heartbeats_costs_the_plain_worker_its_connection(
    plain_worker: Callable[[bytes, str], Run],
) -> None:
    worker = plain_worker(b"A task.....", "?heartbeat=1")
    worker.shows("Done.")
    assert worker.process.wait(20) == 1
    assert "StreamLostError" in worker.err


def test_a_task_that_raises_ends_the_plain_worker(plain_worker: Callable[[bytes, str], Run]) -> None:
    worker = plain_worker(b"\xff", "")
    assert worker.process.wait(20) == 1
    assert "UnicodeDecodeError" in worker.err


def test_ctrl_c_is_a_traceback_of_the_plain_worker(plain_worker: Callable[[bytes, str], Run]) -> None:
    worker = plain_worker(b"A task.........", "")
    worker.shows("Received")
    worker.send(signal.SIGINT)
    worker.process.wait(20)
    assert "Traceback" in worker.err
