"""Connections that do not last, and errors that trying again should not mend: paced, told once, given up in time."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Run, Scripts, eventually
from pika import spec
from scripted_server import Answer, Server, Session

from task_queue import outage

GONE = spec.Connection.Close(530, "NOT_ALLOWED - vhost / not found", 10, 40)
MEND = "has no virtual host /.\nIn a URL, / is written /%2F. Another one is added on RabbitMQ's machine:  rabbitmqctl"

# A clock that a test can put forward. Patched from outside, before anything else is imported.
CLOCK = """
import os, time
real = time.monotonic
def monotonic():
    try:
        with open(os.environ["CLOCK"]) as file:
            return real() + float(file.read())
    except (OSError, ValueError):
        return real()
time.monotonic = monotonic
"""


@pytest.fixture
def put_forward(at_server: Scripts) -> Callable[[float], None]:
    """Put the scripts' clock forward by some seconds."""
    (at_server.folder / "sitecustomize.py").write_text(CLOCK)
    clock = at_server.folder / "clock"
    at_server.environment.update(PYTHONPATH=str(at_server.folder), CLOCK=str(clock))

    def put(seconds: float) -> None:
        new = Path(f"{clock}.new")
        new.write_text(str(seconds))
        new.rename(clock)

    return put


def then_hang_up(seconds: float) -> Answer:
    """Answer as RabbitMQ does, and hang up a little later."""

    def answer(session: Session, got: object) -> None:
        session.answer(got)  # type: ignore[arg-type]
        threading.Timer(seconds, session.hang_up).start()

    return answer


def lose_for_good(run: Run, server: Server) -> None:
    """Hang up, and refuse each further connection with an error that trying again should not mend."""
    server.on("Connection.Open", lambda session, _: session.send(GONE))
    server.session(0).hang_up()
    run.shows(MEND)


def tries_again(server: Server) -> None:
    """Wait for two more connections: one of them began after this call."""
    server.session(len(server.sessions) + 1)


def put_forward_until_it_ends(run: Run, server: Server, put_forward: Callable[[float], None]) -> None:
    """Let five minutes go by; and again, where the jump of the clock looked like a server that does not answer.

    Never in the middle of an attempt that is seen; and not once for several, for half a minute may lie between two.
    """

    def has_tried() -> bool:
        return len(server.sessions) > seen and not server.sessions[-1].thread.is_alive()

    for jump in range(1, 12):
        seen = len(server.sessions)
        put_forward(290 + 310 * jump)
        eventually(lambda: run.process.poll() is not None or has_tried(), "it tries")
        if run.process.poll() is not None:
            break
    run.ends(1)


@pytest.mark.parametrize("script", ["listening_worker.py", "emitter_of_tasks.py"])
def test_connections_that_do_not_last_are_made_ever_more_slowly_and_told_of_in_few_lines(
    at_server: Scripts, server: Server, script: str
) -> None:
    server.on("Channel.Open", then_hang_up(0.1))
    run = at_server.start(script, stdin=subprocess.PIPE)
    server.session(1)
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 5, "five seconds go by")
    assert len(server.sessions) <= 7  # pauses of 0.2 seconds would make it 15
    lines = [line for line in run.err.splitlines() if "Nothing comes from standard input" not in line]
    assert len(lines) <= 6
    assert lines[-1] == " [*] Reconnecting ..."
    server.on("Channel.Open", Session.answer)
    server.put(b"task")
    assert run.process.stdin
    run.process.stdin.write(b"task\n")
    run.process.stdin.flush()
    if script.startswith("listening"):
        run.shows("Done.")
    else:
        server.gets("Basic.Publish")
    run.shows("Connected again.", times=2)
    run.process.stdin.close()


def test_a_connection_that_lasts_ends_the_outage_without_any_task(
    at_server: Scripts, server: Server, put_forward: Callable[[float], None]
) -> None:
    for connection in range(4):
        server.on("Basic.Consume", then_hang_up(0.1), connection)
    worker = at_server.start("listening_worker.py")
    server.session(4)
    put_forward(6)  # five seconds of life
    worker.shows("Connected again.", times=2)
    gap = time.monotonic()
    server.session(4).hang_up()
    server.session(5)
    assert time.monotonic() - gap < 1.4  # the next pause would have been 1.6 or more


QUICKLY = """
from pika.adapters import select_connection
call_later = select_connection.IOLoop.call_later
select_connection.IOLoop.call_later = lambda self, delay, callback: call_later(self, delay / 20, callback)
"""


def test_a_channel_that_refuses_every_task_is_left_without_a_word(at_server: Scripts, server: Server) -> None:
    """In a cluster it may ask a dead node for ever. Of the full queue, which it looks like, there is a word."""
    (at_server.folder / "sitecustomize.py").write_text(QUICKLY)

    def refuse(session: Session, _got: object) -> None:
        session.send(spec.Basic.Nack(len(session.got("Basic.Publish"))))

    server.on("Basic.Publish", refuse, connection=0)
    emitter = at_server.emit("task", env={"PYTHONPATH": str(at_server.folder)})
    assert emitter.err == " [*] The queue takes no tasks for now: is it full? Trying again ...\n"
    assert len(server.sessions) == 2


def test_a_final_error_is_told_once_and_tried_again_by_a_worker_that_had_a_subscription(
    at_server: Scripts, server: Server, put_forward: Callable[[float], None]
) -> None:
    worker = at_server.start("listening_worker.py")
    server.gets("Basic.Consume")
    worker.shows("Waiting")
    lose_for_good(worker, server)
    put_forward(100_000)
    tries_again(server)
    assert worker.err.count("has no virtual host") == 1
    server.on("Connection.Open", Session.answer)
    server.put(b"task")
    worker.shows("Done.", within=60)
    worker.process.terminate()
    worker.ends()


def test_a_final_error_is_counted_from_the_last_time_that_it_worked(
    at_server: Scripts, server: Server, put_forward: Callable[[float], None]
) -> None:
    """And not from an earlier outage, which is over: a task was done."""
    worker = at_server.start("listening_worker.py", "--max-tasks", 9)
    server.gets("Basic.Consume")
    lose_for_good(worker, server)
    server.on("Connection.Open", Session.answer)
    server.put(b"task")
    worker.shows("Done.", within=60)
    put_forward(400)
    tried = len(server.sessions)
    server.on("Connection.Open", lambda session, _: session.send(GONE))
    server.sessions[-1].send(GONE)
    eventually(lambda: len(server.sessions) >= tried + 2, "it tries again and again")
    assert worker.process.poll() is None
    worker.process.terminate()
    worker.ends()


def test_pauses_grow_to_five_seconds_and_after_two_minutes_to_thirty(monkeypatch: pytest.MonkeyPatch) -> None:
    """With jitter, a quarter at most: on this clock each pause goes by at once."""
    now = 1000.0
    monkeypatch.setattr(outage.time, "monotonic", lambda: now)
    lost = outage.Outage(patience=300.0, nodes=1)

    def pauses_for(seconds: float) -> list[float]:
        nonlocal now
        pauses, end = [], now + seconds
        while now < end:
            pauses.append(lost.pause())
            now += pauses[-1]
        return pauses

    first = pauses_for(119)
    assert 0.15 <= first[0] <= 0.25
    assert max(first) <= 6.25
    assert all(3.75 <= pause <= 6.25 for pause in first[5:])
    assert len({*first[5:]}) > 1, "there is jitter"
    now += 10
    later = pauses_for(600)
    assert all(22.5 <= pause <= 37.5 for pause in later[3:])
    assert later[0] < 15, "they grow"
    lost.success()
    assert lost.pause() <= 0.25


@pytest.mark.parametrize("ends_by_itself", ["--burst", "--max-tasks=9"])
def test_a_worker_that_would_end_by_itself_gives_up_after_five_minutes(
    at_server: Scripts, server: Server, put_forward: Callable[[float], None], ends_by_itself: str
) -> None:
    server.put(b"..........")
    worker = at_server.start("listening_worker.py", ends_by_itself, "--seconds-per-dot", 0.2)
    worker.shows("Received")
    lose_for_good(worker, server)
    put_forward(290)
    tries_again(server)
    assert worker.process.poll() is None
    put_forward_until_it_ends(worker, server, put_forward)


def test_an_emitter_of_a_pipe_gives_up_after_five_minutes_and_says_what_is_left(
    at_server: Scripts, server: Server, put_forward: Callable[[float], None]
) -> None:
    emitter = at_server.emitter("--verbose", stdin=subprocess.PIPE)
    pipe = emitter.process.stdin
    assert pipe
    pipe.write(b"one\n")
    pipe.flush()
    emitter.shows("Sent one")
    lose_for_good(emitter, server)
    pipe.write(b"two\nthree\n")
    pipe.close()
    put_forward(290)
    tries_again(server)
    assert emitter.process.poll() is None
    put_forward_until_it_ends(emitter, server, put_forward)
    assert "1 task confirmed. Go on from line 2 of standard input." in emitter.err


def test_before_its_first_confirm_a_final_error_ends_an_emitter_at_once(at_server: Scripts, server: Server) -> None:
    emitter = at_server.emitter(stdin=subprocess.PIPE)
    pipe = emitter.process.stdin
    assert pipe
    server.gets("Confirm.Select")
    lose_for_good(emitter, server)
    pipe.write(b"one\n")
    pipe.close()
    emitter.ends(1)
    assert emitter.err.count("has no virtual host") == 1
