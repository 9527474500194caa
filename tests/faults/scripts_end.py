"""Workers and emitters end: they are asked to, interrupted, or killed, at any moment."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from harness import Run, eventually, line_to_go_on_from
from odd_headers import channel_to
from pika import BasicProperties
from stage import RECOVERY, SOON, Stage, at_work, scenario

from task_queue.emitter.unconfirmed_window import WINDOW


@scenario
def workers_killed(stage: Stage) -> None:
    """Workers are killed at random moments, and replaced."""
    stage.send(stage.load(1000, 60))
    with at_work(stage, stage.load(8, 3), seconds=stage.load(80, 30) / 1000) as crew:
        for _ in range(stage.load(100, 8)):
            stage.pause(0.1)
            crew.kill_one()
        stage.wait_for_done()
    stage.drain()
    assert stage.account.twice <= stage.faults


@scenario
def rolling_restart(stage: Stage) -> None:
    """Workers are asked to end while they work, one after the other, again and again."""
    stage.send(stage.load(500, 60))
    with at_work(stage, stage.load(6, 3), seconds=stage.load(200, 30) / 1000) as crew:
        for _ in range(stage.load(5, 2)):
            for worker in list(crew.workers):
                stage.pause(0.1)
                crew.replace(worker, signal.SIGTERM, 0)
        stage.wait_for_done()
    stage.drain()
    assert stage.account.twice == 0
    assert not stage.events("requeued", "failed", "ack-lost"), "each finishes the task in hand"


@scenario
def ctrl_c(stage: Stage) -> None:
    """Workers get Ctrl+C at any moment: in a task, between two, while they acknowledge."""
    interruptions = stage.load(200, 8)
    stage.send(100 * interruptions)
    for number in range(interruptions):
        worker = stage.book_worker(seconds=0 if number % 2 else 0.005)
        worker.shows("Waiting for tasks")
        stage.pause(0.15)
        for _ in range(stage.random.choice((1, 1, 1, 2))):
            worker.send(signal.SIGINT)
            stage.pause(0.002)
        worker.ends()
        stage.faults += 1
    stage.drain()
    assert stage.account.twice <= stage.faults


def emitter_ends(stage: Stage, number: signal.Signals, next_line: Callable[[Run], int]) -> None:
    """Have an emitter end in the middle of a file, and another one go on from the line that is named, a few times."""
    stage.book_worker("--burst").ends()
    lines: list[str] = []
    relay = stage.relay()
    relay.delay = 0.1  # so that few are at their end too soon
    first = 0
    while stage.faults < stage.load(5, 2):
        lines += stage.new_tasks(2 * WINDOW)
        rest = stage.folder / "rest.txt"
        rest.write_text("\n".join(lines[first:]))
        goal = stage.random.randrange(WINDOW)
        emitter = stage.emitter("--file", rest, "--log-file", stage.log, "--url", relay.url)
        eventually(lambda: stage.confirmed(emitter) > goal, "it goes on")  # noqa: B023
        emitter.send(number)
        emitter.process.wait(SOON)
        with stage.log.open("ab") as log:
            log.write(b"\n")  # else half a line of a killed one would spoil the next one's first record
        if emitter.process.returncode == 0:  # it had sent the last one before the signal came
            assert stage.confirmed(emitter) == len(lines) - first
            first = len(lines)
            continue
        stage.faults += 1
        first += next_line(emitter) - 1
    stage.emit("--log-file", stage.log, stdin="\n".join(lines[first:]).encode())
    stage.drain()
    assert stage.account.sent_twice <= stage.faults * WINDOW
    assert stage.account.twice == 0
    assert {entry["task"] for entry in stage.book()} == set(lines)


@scenario
def emitter_killed(stage: Stage) -> None:
    """The emitter is killed in the middle of a file, and run again from the line to which its log leads."""

    def where_the_log_leads(emitter: Run) -> int:
        records = [record for record in stage.events("confirmed") if record["name"].endswith(f"-{emitter.process.pid}")]
        return line_to_go_on_from(records)

    emitter_ends(stage, signal.SIGKILL, where_the_log_leads)


@scenario
def emitter_interrupted(stage: Stage) -> None:
    """The emitter gets Ctrl+C in the middle of a file, and is run again from the line that it names."""

    def named_line(emitter: Run) -> int:
        emitter.ends(130)
        named = re.search(r"tasks? confirmed. Go on with:  --from-line (\d+)", emitter.err)
        assert named, emitter.err
        return int(named[1])

    emitter_ends(stage, signal.SIGINT, named_line)


@scenario
def crowd_killed(stage: Stage) -> None:
    """A crowd of workers is killed at once, and another one started at once."""
    stage.send(stage.load(2000, 200))
    size = stage.load(50, 8)
    with at_work(stage, size, seconds=0.01) as crew:
        eventually(lambda: stage.done() > len(stage.tasks) // 4, "they are at work", RECOVERY)
        crew.dismiss(signal.SIGKILL, -signal.SIGKILL)
        stage.faults += size
        crew.workers.clear()
    with at_work(stage, size, seconds=0.01):
        stage.wait_for_done()
    stage.drain()
    assert stage.account.twice <= stage.faults


@scenario
def poison(stage: Stage) -> None:
    """A task kills its worker every time, another always fails; among others that must not wait for them."""
    ordinary, tries = stage.load(200, 40), stage.load(21, 5)
    stage.broker.set_policy(stage.queue, **{"delivery-limit": tries - 1})
    poisonous = ["deadly task", "hopeless task"]
    stage.tasks += poisonous
    stage.send(ordinary // 2)
    stage.emit("--log-file", stage.log, stdin="\n".join(poisonous).encode())
    stage.send(ordinary // 2)
    with at_work(stage, 2) as crew:
        # The last one's dead letter may be there before that worker is seen to be dead.
        for victims in range(1, tries + 1):
            eventually(lambda: crew.replace_the_dead() or stage.faults >= victims, f"{victims} are killed", RECOVERY)  # noqa: B023
        eventually(lambda: stage.broker.counts(stage.dead_letters)[0] == 2, "both are dead letters", RECOVERY)
        stage.wait_for_done(ordinary, within=SOON)
    assert all(worker.err == "" for worker in crew.workers)
    letters = stage.broker.messages(stage.dead_letters)
    assert {letter["body"].decode() for letter in letters} == set(poisonous)
    for letter in letters:
        assert letter["properties"]["headers"]["x-death"][0]["reason"] == "delivery_limit"
    received = [event for event in stage.events("received") if event["task"] in poisonous]
    assert len(received) == 2 * tries
    assert all("ValueError: as it always does" in event["error"] for event in stage.events("failed"))
    stage.settle()
    assert stage.account.dead == set(poisonous)
    assert stage.account.twice == 0


@scenario
def retry_killed(stage: Stage) -> None:
    """--retry-dead-letters is killed half way, and run again."""
    stage.book_worker("--burst").ends()
    texts = stage.new_tasks(stage.load(2000, 600))
    with channel_to(stage) as channel:
        for text in texts:
            channel.basic_publish("", stage.dead_letters, text.encode(), BasicProperties(message_id=text))

    def waiting() -> tuple[int, int]:
        return stage.broker.counts(stage.queue)[0], stage.broker.counts(stage.dead_letters)[0]

    relay = stage.relay()
    relay.delay, relay.piece = 0.02, 1024  # a few letters at a time, or it would be over too soon
    for _ in range(stage.load(5, 2)):
        before, _ = waiting()
        some = stage.random.randrange(1, 100)
        retry = stage.emitter("--retry-dead-letters", "--url", relay.url)
        eventually(lambda: waiting()[0] >= before + some, "it moves some")  # noqa: B023
        retry.send(signal.SIGKILL)
        retry.ends(-signal.SIGKILL)
        stage.faults += 1
        eventually(lambda: sum(waiting()) == len(texts), "RabbitMQ notices the end: nobody holds any")
    stage.emit("--retry-dead-letters")
    eventually(lambda: waiting() == (len(texts), 0), "RabbitMQ has moved all")
    stage.drain(all_are_sent=False)
    assert {entry["task"] for entry in stage.book()} == set(texts)
    assert not stage.account.dead
    assert stage.account.twice == 0
