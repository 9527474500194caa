"""Tasks that failed too often: how they become dead letters, and how RabbitMQ moves them back, whole."""

import signal

import pytest
from harness import Scripts, eventually
from in_process import said_by, work
from odd_headers import IN_MILLISECONDS, NESTED, field, send_with_table
from pika import spec
from scripted_server import Got, Server, Session, nothing


def moved(scripts: Scripts) -> str:
    """Have the dead letters moved, and return what the emitter says."""
    status, out, err = said_by(scripts, "emitter_of_tasks.py", "--retry-dead-letters")
    assert (status, err) == (0, "")
    return out


def test_a_task_that_always_fails_is_a_dead_letter_with_the_reason_and_goes_back_to_the_queue(scripts: Scripts) -> None:
    scripts.emit("--log-file", scripts.log, stdin=b"good\nbad\nugly\n")
    said = scripts.work("--run", "grep -q good").out
    for number in range(1, 22):
        assert said.count(f" [!] Failed (try {number} of at most 21): grep ended with exit status 1") == 2
    assert said.count(" [!] It failed too often, and is a dead letter now") == 2
    way_back = " [*] When the cause is fixed, emitter_of_tasks.py --retry-dead-letters moves dead letters back.\n"
    assert said.count(way_back) == 1
    assert scripts.broker.bodies(scripts.queue) == []
    for _ in range(22):  # however often somebody looks at them
        letters = scripts.broker.messages(scripts.dead_letters)
        assert [letter["properties"]["headers"]["x-death"][0]["reason"] for letter in letters] == ["delivery_limit"] * 2
    assert sorted(letter["body"] for letter in letters) == [b"bad", b"ugly"]
    assert moved(scripts) == f" [x] Moved 2 dead letters back to queue {scripts.queue}.\n"
    assert moved(scripts) == f" [*] No dead letters in {scripts.dead_letters}.\n"
    # On RabbitMQ 4.3 without a look at them, which would be the one try that they have.
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 2, "they are back")
    assert scripts.work("--log-file", scripts.log).out.count("Done.") == 2
    ids = {event["message_id"] for event in scripts.events("done")}
    assert ids == {event["message_id"] for event in scripts.events("confirmed")[1:]}


# ---- At a server that does what no RabbitMQ does at will


def test_letters_whose_leader_does_not_answer_are_not_taken_for_none(at_server: Scripts, server: Server) -> None:
    """RabbitMQ says then that there are no letters, and no consumers."""
    server.on("Basic.Get", nothing)
    server.on("Basic.Consume", lambda session, got: session.send(spec.Basic.ConsumeOk(got.method.consumer_tag)))
    mover = at_server.emitter("--retry-dead-letters")
    server.gets("Basic.Get")
    server.gets("Queue.Declare", times=2 + 4)  # both queues are declared, and then come the looks
    session = server.session(0)
    session.gets(b"letter", left=1)
    (consume,) = server.gets("Basic.Consume")
    server.gets("Queue.Declare", times=len(server.got("Queue.Declare")) + 4)
    assert mover.process.poll() is None
    session.consumer = consume.method.consumer_tag
    session.deliver(b"letter")
    assert mover.ends().lines == [" [x] Moved 2 dead letters back to queue tasks."]
    assert len(server.got("Basic.Nack")) == 2


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_no_more_letters_are_moved_than_were_counted(at_server: Scripts, server: Server, is_cancelled: bool) -> None:
    """The others are tasks that have failed again meanwhile. A subscription that RabbitMQ cancels is made again."""

    def consume(session: Session, got: Got) -> None:
        session.answer(got)
        if is_cancelled and session.number == 0:
            session.send(spec.Basic.Cancel(session.consumer, nowait=True))
            return
        for _ in range(4):
            session.deliver(b"letter")

    server.on("Basic.Get", lambda session, _: session.gets(b"letter", left=1))
    server.on("Basic.Consume", consume)
    mover = at_server.emit("--retry-dead-letters")
    assert mover.lines == [" [x] Moved 2 dead letters back to queue tasks."]
    assert len(server.got("Basic.Nack")) == 2 or is_cancelled
    assert ("RabbitMQ cancelled the subscription to tasks.dead-letters." in mover.err) == is_cancelled


def first_of_three(session: Session, _got: Got) -> None:
    """Hand out one letter of three; the first connection gets no answer to a look from now on."""
    session.server.on("Queue.Declare", nothing, connection=0)
    session.gets(b"letter", left=2)


@pytest.mark.parametrize("arrive", [0, 2])
def test_letters_come_again_after_a_lost_connection_and_none_is_left(
    at_server: Scripts, server: Server, arrive: int
) -> None:
    """Of three that were rejected, RabbitMQ has got the answer for some, and needs a while to deliver the others."""

    def look(session: Session, got: Got) -> None:
        session.answer(got)
        if len(session.got("Queue.Declare")) == 2 + 6:
            for _ in range(3 - arrive):
                session.deliver(b"letter", redelivered=True)

    server.on("Basic.Get", first_of_three)
    server.on("Queue.Declare", look, connection=1)
    mover = at_server.emitter("--retry-dead-letters")
    first = server.session(0)
    eventually(lambda: first.consumer, "it subscribes")
    for _ in range(2):
        first.deliver(b"letter")
    server.gets("Basic.Nack", times=3)
    first.hang_up()
    mover.ends(within=30)
    assert len(server.got("Basic.Nack")) == 3 + 3 - arrive
    assert mover.lines == [f" [x] Moved {3 - arrive} dead letter{'s' * (arrive < 2)} back to queue tasks."]


def test_ctrl_c_says_how_many_letters_were_moved(at_server: Scripts, server: Server) -> None:
    server.on("Basic.Get", first_of_three)
    mover = at_server.emitter("--retry-dead-letters")
    server.gets("Basic.Nack")
    mover.send(signal.SIGINT)
    assert mover.ends(130).lines[-1] == " [x] Moved 1 dead letter back to queue tasks."


@pytest.mark.parametrize("pika_version", ["newest", "1.3.2"])
def test_a_task_whose_headers_pika_can_not_read_is_done_and_stops_no_other(scripts: Scripts) -> None:
    """Nor does a dead letter."""
    work(scripts, print)
    for body, value in ((b"odd", IN_MILLISECONDS), (b"odd too", NESTED)):
        for queue in (scripts.queue, scripts.dead_letters):
            send_with_table(scripts, queue, body, field(b"at", value))
    scripts.emit("ordinary")
    assert scripts.work("--log-file", scripts.log).err == ""
    assert [event["task"] for event in scripts.events("done")] == ["odd", "odd too", "ordinary"]
    assert [event["message_id"] for event in scripts.events("done")][:2] == ["an id", "an id"]
    assert scripts.emit("--retry-dead-letters").out.startswith(" [x] Moved 2 dead letters")
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 2, "they are back")
