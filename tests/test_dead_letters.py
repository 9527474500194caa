"""Tasks that failed too often: how they become dead letters, and how RabbitMQ moves them back, whole."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import pika
import pika.data
import pytest
from harness import Run, Scripts, counts_on, eventually
from odd_headers import FIELDS, NESTED, channel_to, field, send_with_table
from pika import spec
from relay import Relay
from scripted_server import Got, Server, Session, nothing


def moved(scripts: Scripts, *arguments: object) -> int:
    """Have the dead letters moved, and return how many there were, as the emitter says."""
    retry = scripts.emit("--retry-dead-letters", *arguments)
    assert retry.err == ""
    (line,) = retry.lines
    if line == f" [*] No dead letters in {scripts.dead_letters}.":
        return 0
    words = line.split()
    assert line == f" [x] Moved {words[2]} dead letter{'s'[: words[2] != '1']} back to queue {scripts.queue}."
    return int(words[2].replace(",", ""))


def wait_for(scripts: Scripts, *texts: str) -> None:
    """Wait until just these tasks are in the queue, in any order: RabbitMQ moves a rejected letter a little later.

    On RabbitMQ 4.3 without a look at them, which would be the one try that they have.
    """
    if scripts.broker.version >= (4, 3):
        eventually(lambda: scripts.broker.counts(scripts.queue)[0] == len(texts), f"so many are back: {len(texts)}")
        return
    eventually(lambda: sorted(scripts.broker.bodies(scripts.queue)) == sorted(texts), f"they are back: {texts[:5]}")


def fill(scripts: Scripts, number: int, size: int = 0) -> list[str]:
    """Put so many letters into the dead letters, as an administrator might, and return their texts."""
    scripts.work()  # declares both queues
    texts = [f"letter {count}".ljust(size) for count in range(number)]
    before = scripts.broker.counts(scripts.dead_letters)[0]
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(scripts.broker.url))) as connection:
        channel = connection.channel()
        for text in texts:
            channel.basic_publish("", scripts.dead_letters, text.encode(), mandatory=True)
        # Not confirmed one by one, which would take seconds, so counted before the connection is closed.
        eventually(lambda: counts_on(channel, scripts.dead_letters)[0] == before + number, "all letters are there")
    return texts


def test_a_task_that_always_fails_is_a_dead_letter_with_the_reason_and_goes_back_to_the_queue(scripts: Scripts) -> None:
    scripts.emit("--log-file", scripts.log, stdin=b"good\nbad\nugly\n")
    scripts.work("--run", "grep -q good")
    assert scripts.broker.bodies(scripts.queue) == []
    letters = scripts.broker.messages(scripts.dead_letters)
    assert [letter["properties"]["headers"]["x-death"][0]["reason"] for letter in letters] == ["delivery_limit"] * 2
    assert sorted(letter["body"] for letter in letters) == [b"bad", b"ugly"]
    assert moved(scripts) == 2
    assert moved(scripts) == 0
    wait_for(scripts, "bad", "ugly")
    assert scripts.work("--log-file", scripts.log).out.count("Done.") == 2
    ids = {event["message_id"] for event in scripts.events("done")}
    assert ids == {event["message_id"] for event in scripts.events("confirmed")[1:]}


def test_a_task_that_fails_again_at_once_is_not_moved_for_ever(scripts: Scripts) -> None:
    fill(scripts, 2)
    scripts.broker.set_policy(scripts.queue, **{"delivery-limit": 1})
    worker = scripts.worker("--run", "false")
    assert moved(scripts) == 2
    eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0] == 2, "they are dead letters again")
    worker.send(signal.SIGTERM)
    worker.ends()


def test_no_dead_letters_is_nothing_to_do_and_no_queue_is_an_error(scripts: Scripts) -> None:
    retry = scripts.emit("--retry-dead-letters", status=1)
    assert f"There is no queue {scripts.queue}, and with --passive or --retry-dead-letters it is not" in retry.err
    scripts.work()  # declares both queues
    retry = scripts.emit("--retry-dead-letters")
    assert (retry.out, retry.err) == (f" [*] No dead letters in {scripts.dead_letters}.\n", "")


def test_a_dead_letter_that_was_fetched_and_not_settled_is_still_there(scripts: Scripts) -> None:
    """However often: somebody looks at it, a mover is killed."""
    fill(scripts, 2)
    with channel_to(scripts) as channel:
        for _ in range(22):
            looks = channel.connection.channel()
            assert eventually(lambda: looks.basic_get(scripts.dead_letters)[0], "it is there")  # noqa: B023
            looks.close()
    eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0] == 2, "RabbitMQ has both back")
    assert moved(scripts) == 2


def test_a_dead_letter_keeps_any_bytes_and_its_properties(scripts: Scripts) -> None:
    scripts.work()
    request = {
        "properties": {"headers": {"tenant": "blue"}, "priority": 3, "user_id": "guest"},
        "routing_key": scripts.dead_letters,
        "payload": "/wD+",
        "payload_encoding": "base64",
    }
    scripts.broker.api("POST", "exchanges/%2F/amq.default/publish", request)
    assert moved(scripts) == 1
    (message,) = eventually(lambda: scripts.broker.messages(scripts.queue), "it is back")
    assert message["body"] == b"\xff\x00\xfe"
    assert message["properties"]["headers"]["tenant"] == "blue"
    assert message["properties"]["priority"] == 3
    assert message["properties"]["user_id"] == "guest"


def test_many_letters_and_large_ones_are_moved_once_each_in_little_memory(scripts: Scripts) -> None:
    """More than RabbitMQ delivers without our answers, which is twenty; and 40 MB."""
    first = fill(scripts, 5, 4_000_000)
    texts = fill(scripts, 60)
    large = fill(scripts, 5, 4_000_000)
    mover = scripts.emitter("--retry-dead-letters")
    peaks: list[int] = []

    def has_ended() -> bool:
        with contextlib.suppress(OSError, TypeError):  # it has ended meanwhile
            status = Path(f"/proc/{mover.process.pid}/status").read_text()
            peaks.append(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))  # type: ignore[index]
        return mover.process.poll() is not None

    eventually(has_ended, "all are moved")
    assert "Moved 70 dead letters" in mover.ends().out
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 70, "they are back")
    found = sorted(text[:10] for text in scripts.broker.take(scripts.queue, 70))
    assert found == sorted(text[:10] for text in first + texts + large)
    assert scripts.broker.counts(scripts.dead_letters)[0] == 0
    assert peaks[-1] < 50_000, "kB"


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


def test_no_more_letters_are_moved_than_were_counted(at_server: Scripts, server: Server) -> None:
    """The others are tasks that have failed again meanwhile."""

    def consume(session: Session, got: Got) -> None:
        session.answer(got)
        for _ in range(4):
            session.deliver(b"letter")

    server.on("Basic.Get", lambda session, _: session.gets(b"letter", left=1))
    server.on("Basic.Consume", consume)
    assert at_server.emit("--retry-dead-letters").lines == [" [x] Moved 2 dead letters back to queue tasks."]
    assert len(server.got("Basic.Nack")) == 2


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

    def first_of_three(session: Session, _got: Got) -> None:
        server.on("Queue.Declare", nothing, connection=0)
        session.gets(b"letter", left=2)

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


# ---- In the middle


def half_way(scripts: Scripts, relay: Relay, delay: float) -> Run:
    """Start an emitter that moves the letters behind a slow relay, and return it when it has moved some."""
    relay.delay = delay
    mover = scripts.emitter("--retry-dead-letters", "--url", relay.url)
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] > 20, "it moves")
    return mover


def test_two_who_move_them_at_once_both_succeed(scripts: Scripts) -> None:
    texts = fill(scripts, 500)
    movers = [scripts.emitter("--retry-dead-letters") for _ in range(2)]
    for mover in movers:
        mover.ends()
    wait_for(scripts, *texts)


def test_a_mover_that_is_killed_half_way_loses_nothing_and_moves_nothing_twice(scripts: Scripts, relay: Relay) -> None:
    texts = fill(scripts, 500)
    mover = half_way(scripts, relay, 0.05)
    mover.send(signal.SIGKILL)
    mover.ends(-signal.SIGKILL)

    def are_settled() -> bool:
        letters, consumers = scripts.broker.counts(scripts.dead_letters)
        return consumers == 0 and letters + scripts.broker.counts(scripts.queue)[0] == 500

    eventually(are_settled, "RabbitMQ notices, and no letter is on its way")
    before = scripts.broker.counts(scripts.queue)[0]
    assert moved(scripts) == 500 - before > 0
    wait_for(scripts, *texts)


def test_ctrl_c_says_how_many_were_moved(scripts: Scripts, relay: Relay) -> None:
    texts = fill(scripts, 500)
    mover = half_way(scripts, relay, 0.1)
    mover.send(signal.SIGINT)
    mover.ends(130)
    assert re.fullmatch(rf" \[x\] Moved \d+ dead letters? back to queue {scripts.queue}\.", mover.lines[-1])
    moved(scripts)
    wait_for(scripts, *texts)


def test_dead_letters_that_are_deleted_and_declared_again_meanwhile_end_the_move(
    scripts: Scripts, relay: Relay
) -> None:
    fill(scripts, 500)
    mover = half_way(scripts, relay, 0.05)
    mover.send(signal.SIGSTOP)
    scripts.broker.drop(scripts.dead_letters)
    scripts.emit("another")  # declares both queues
    mover.send(signal.SIGCONT)
    assert mover.ends().lines[-1].startswith(" [x] Moved ")
    assert f"RabbitMQ cancelled the subscription to {scripts.dead_letters}." in mover.err


def test_dead_letters_on_their_way_back_when_the_connection_is_lost_are_not_lost(
    scripts: Scripts, relay: Relay
) -> None:
    texts = fill(scripts, 500)
    mover = half_way(scripts, relay, 0.05)
    relay.freeze()  # so that answers are on their way
    relay.cut()
    relay.thaw()
    (words,) = re.findall(r" \[x\] Moved ([\d,]+) ", mover.ends().out)
    assert int(words.replace(",", "")) <= 500
    assert "Reconnecting" in mover.err
    wait_for(scripts, *texts)
    assert scripts.broker.counts(scripts.dead_letters)[0] == 0


# ---- Headers as other clients write them


def table_of_next(scripts: Scripts) -> bytes:
    """Take the next message of the queue, and return its table of headers as it came."""
    tables: list[bytes] = []

    def decode(encoded: bytes, offset: int) -> tuple[dict[str, object], int]:
        end = offset + 4 + int.from_bytes(encoded[offset : offset + 4], "big")
        tables.append(encoded[offset + 4 : end])
        return {}, end

    with channel_to(scripts) as channel, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pika.data.decode_table", decode)
        eventually(lambda: channel.basic_get(scripts.queue, auto_ack=True)[0], "it is back")
    return tables[-1]


def test_headers_of_every_type_come_back_byte_for_byte_and_stop_no_other_letter(scripts: Scripts) -> None:
    scripts.work()
    fields = [field(name.encode(), value) for name, value in FIELDS.items()]
    send_with_table(scripts, scripts.dead_letters, b"odd", b"".join(fields))
    fill(scripts, 2)
    assert moved(scripts) == 3
    table = table_of_next(scripts)
    assert [entry for entry in fields if entry not in table] == []


@pytest.mark.parametrize("pika_version", ["newest", "1.3.2"])
def test_a_task_whose_headers_pika_can_not_read_is_done_and_stops_no_other(scripts: Scripts) -> None:
    scripts.work()
    send_with_table(scripts, scripts.queue, b"odd", field(b"at", FIELDS["time in milliseconds"]))
    send_with_table(scripts, scripts.queue, b"odd too", field(b"at", NESTED))
    scripts.emit("ordinary")
    worker = scripts.work("--log-file", scripts.log)
    assert [event["task"] for event in scripts.events("done")] == ["odd", "odd too", "ordinary"]
    assert [event["message_id"] for event in scripts.events("done")][:2] == ["the id", "the id"]
    assert worker.err == ""
