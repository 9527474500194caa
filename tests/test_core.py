"""The way of a task from one script to the other, with the newest pika and with the oldest that is promised."""

import signal

import pytest
from harness import Scripts
from in_process import put


@pytest.fixture(params=["newest", "1.3.2"])
def pika_version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_words_and_lines_are_tasks_and_a_failed_one_is_tried_again(scripts: Scripts) -> None:
    assert scripts.emit("First", "task.").lines == [" [x] Sent First task."]
    emitter = scripts.emit(stdin=b"one\n\n  \ntwo\r\nthree")
    assert emitter.out.startswith(" [x] Sent 3 tasks in ")
    worker, port = scripts.work("--name", "anna", "--max-tasks", 1), scripts.broker.node.amqp_port
    assert worker.lines == [
        f" [*] Waiting for tasks in queue {scripts.queue} at localhost:{port}. Stops when the queue is empty.",
        " [x] Received First task.",
        "     . 1 of 1",
        " [x] Done.",
        " [*] Stopped.",
    ]
    assert worker.err == ""
    left = scripts.broker.messages(scripts.queue)
    assert [each["body"] for each in left] == [b"one", b"two", b"three"]
    assert not any(each["redelivered"] for each in left)
    failing = f"sh -c 'test $1 != two -o -e {scripts.folder}/flag || ! touch {scripts.folder}/flag' sh {{}}"
    worker = scripts.work("--run", failing, "--log-file", scripts.log)
    assert "sh ended with exit status 1" in worker.out
    assert [record["task"] for record in scripts.events("done", "failed")].count("two") == 2
    assert {record["task"] for record in scripts.events("done")} == {"one", "two", "three"}
    assert worker.lines[-2:] == [" [x] Done.", " [*] Stopped."]
    assert scripts.broker.messages(scripts.queue) == []


def test_both_queues_are_declared_as_promised(scripts: Scripts) -> None:
    scripts.work()
    both = {
        **{"x-queue-type": "quorum", "x-overflow": "reject-publish"},
        **{"x-dead-letter-exchange": "", "x-dead-letter-strategy": "at-least-once"},
    }
    of_tasks = {
        **{"x-delivery-limit": 20, "x-dead-letter-routing-key": scripts.dead_letters},
        **{"x-delayed-retry-type": "failed", "x-delayed-retry-min": 1_000, "x-delayed-retry-max": 30_000},
        "x-consumer-timeout": 86_400_000,  # milliseconds
    }
    of_dead_letters = {"x-delivery-limit": 1_000_000_000, "x-dead-letter-routing-key": scripts.queue}
    for queue, own in ((scripts.queue, of_tasks), (scripts.dead_letters, of_dead_letters)):
        declared = scripts.broker.api("GET", f"queues/%2F/{queue}")
        assert declared["durable"]
        assert declared["arguments"] == {**both, **own}


def test_a_killed_workers_task_goes_to_another_marked_as_redelivered(scripts: Scripts) -> None:
    put(scripts, b"Long task" + 30 * b".")
    first = scripts.start("listening_worker.py", "--name", "first")
    first.shows("Received")
    first.send(signal.SIGKILL)
    second = scripts.start("listening_worker.py", "--max-tasks", 1, "--name", "second", "--seconds-per-dot", "0.01")
    second.shows(f" [x] Received Long task{30 * '.'} (redelivered)")
    second.shows("Done.")
    second.ends()


def test_a_task_may_take_longer_than_the_heartbeat(scripts: Scripts) -> None:
    put(scripts, b"task" + 9 * b".")
    options = ("--burst", "--log-file", scripts.log, "--url", f"{scripts.broker.url}?heartbeat=1")
    worker = scripts.start("listening_worker.py", *options, "--seconds-per-dot", 0.5).ends()
    assert worker.out.count("Received") == 1
    assert worker.err == ""
    assert [event["event"] for event in scripts.events()] == ["received", "done"]
    assert scripts.events("done")[0]["seconds"] >= 4.5
