"""The way of a task from one script to the other, with the newest pika and with the oldest that is promised."""

import signal

import pytest
from harness import Scripts


@pytest.fixture(params=["newest", "1.3.2"])
def pika_version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_words_are_one_task(scripts: Scripts) -> None:
    assert scripts.emit("First", "task.").lines == [" [x] Sent First task."]
    worker = scripts.work("--name", "anna")
    assert worker.lines == [
        f" [*] Waiting for tasks in queue {scripts.queue}. Stops when the queue is empty.",
        " [x] Received First task.",
        "     . 1 of 1",
        " [x] Done.",
        " [*] Stopped.",
    ]
    assert worker.err == ""
    assert scripts.broker.messages(scripts.queue) == []


def test_a_pipe_is_one_task_a_line(scripts: Scripts) -> None:
    emitter = scripts.emit(stdin=b"one\n\n  \ntwo\r\nthree")
    assert emitter.out.startswith(" [x] Sent 3 tasks in ")
    assert scripts.broker.bodies(scripts.queue) == ["one", "two", "three"]


def test_a_killed_workers_task_goes_to_another_marked_as_redelivered(scripts: Scripts) -> None:
    scripts.emit("Long", "task" + 30 * ".")
    first = scripts.worker("--name", "first")
    first.shows("Received")
    second = scripts.worker("--name", "second", "--seconds-per-dot", "0.01")
    first.send(signal.SIGKILL)
    second.shows(f" [x] Received Long task{30 * '.'} (redelivered)", within=4)
    second.shows("Done.")


def test_a_failed_task_is_tried_again(scripts: Scripts) -> None:
    scripts.emit("task")
    flag = scripts.folder / "flag"
    worker = scripts.work("--run", f"sh -c 'test -e {flag} || ! touch {flag}'")
    assert " [!] Failed (try 1 of 21): sh ended with exit status 1" in worker.out
    assert worker.lines[-3:] == [" [x] Received task (redelivered)", " [x] Done.", " [*] Stopped."]


def test_a_task_may_take_longer_than_the_heartbeat(scripts: Scripts) -> None:
    scripts.emit("task" + 12 * ".")
    worker = scripts.start(
        "listening_worker.py",
        "--burst",
        "--log-file",
        scripts.log,
        env={"AMQP_URL": f"{scripts.broker.url}?heartbeat=2"},
    ).ends()
    assert worker.out.count("Received") == 1
    assert worker.err == ""
    assert [event["event"] for event in scripts.events()] == ["received", "done"]
    assert 12 <= scripts.events("done")[0]["seconds"] < 14
