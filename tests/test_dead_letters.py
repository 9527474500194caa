"""Tasks that failed too often: how they become dead letters, and how RabbitMQ moves them back, whole."""

from __future__ import annotations

import contextlib
import re
import signal

import pika
import pika.data
import pytest
from harness import Run, Scripts, counts_on, eventually
from odd_headers import FIELDS, NESTED, channel_to, field, send_with_table
from relay import Relay


def fail_often(scripts: Scripts) -> None:
    """Make dead letters of the tasks `bad` and `ugly`."""
    scripts.emit("--log-file", scripts.log, stdin=b"good\nbad\nugly\n")
    scripts.work("--run", "grep -q good")
    assert scripts.broker.bodies(scripts.queue) == []


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


def test_a_task_that_always_fails_is_a_dead_letter_with_the_reason(scripts: Scripts) -> None:
    fail_often(scripts)
    letters = scripts.broker.messages(scripts.dead_letters)
    assert [letter["properties"]["headers"]["x-death"][0]["reason"] for letter in letters] == ["delivery_limit"] * 2
    assert sorted(letter["body"] for letter in letters) == [b"bad", b"ugly"]


def test_dead_letters_go_back_to_the_queue(scripts: Scripts) -> None:
    fail_often(scripts)
    assert moved(scripts) == 2
    assert moved(scripts) == 0
    wait_for(scripts, "bad", "ugly")
    assert scripts.work("--log-file", scripts.log).out.count("Done.") == 2
    ids = {event["message_id"] for event in scripts.events("done")}
    assert ids == {event["message_id"] for event in scripts.events("confirmed")[1:]}


def test_a_task_that_comes_back_from_the_dead_letters_begins_a_new_life(scripts: Scripts) -> None:
    """Nothing of its former life is shown or logged, though somebody has looked at the dead letter meanwhile.

    So it is on RabbitMQ 3.10, and on 4.0 but for the first try; on 4.3, a letter that is back counts on.
    """
    life = {(4, 3): (True, 21), (4, 0): (True, 1), (3, 10): (False, 0)}
    first = next(begins for version, begins in life.items() if scripts.broker.version >= version)
    scripts.emit("bad")
    scripts.work("--run", "false")
    eventually(lambda: scripts.broker.bodies(scripts.dead_letters) == ["bad"], "it is a dead letter")
    assert moved(scripts) == 1
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "it is back")
    said = scripts.work("--run", "false", "--log-file", scripts.log).lines
    tries = [(record["redelivered"], record["delivery_count"]) for record in scripts.events("received")]
    assert tries[0] == first
    # Not always 21: under load, some come to nobody's hands and are counted.
    assert len(tries) > 15 or (len(tries) == 1 and first[1] == 21)
    assert all(redelivered and before <= count for (_, before), (redelivered, count) in zip(tries, tries[1:]))
    words = [line for line in said if "Received" in line or "dead letter" in line]
    again = [" [x] Received bad (redelivered)"] * (len(tries) - 1)
    assert words[: len(tries)] == [f" [x] Received bad{' (redelivered)' * first[0]}", *again]


def test_a_task_that_fails_again_at_once_is_not_moved_for_ever(scripts: Scripts) -> None:
    fail_often(scripts)
    worker = scripts.worker("--run", "false")
    assert moved(scripts) == 2
    eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0] == 2, "they are dead letters again")
    worker.send(signal.SIGTERM)
    worker.ends()


def test_no_dead_letters_is_nothing_to_do(scripts: Scripts) -> None:
    retry = scripts.emit("--retry-dead-letters")
    assert (retry.out, retry.err) == (f" [*] No dead letters in {scripts.dead_letters}.\n", "")


def test_a_dead_letter_that_was_fetched_and_not_settled_is_still_there(scripts: Scripts) -> None:
    """However often: somebody looks at it, a mover is killed."""
    fail_often(scripts)
    for _ in range(22):
        with channel_to(scripts) as channel:
            assert eventually(lambda: channel.basic_get(scripts.dead_letters)[0], "it is there")
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


def test_letters_of_more_than_one_batch_and_large_ones_are_moved_once_each(scripts: Scripts) -> None:
    first = fill(scripts, 3, 1_100_000)
    texts = fill(scripts, 400)
    large = fill(scripts, 3, 1_100_000)
    assert moved(scripts) == 406
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 406, "they are back")
    assert sorted(text[:10] for text in scripts.broker.bodies(scripts.queue)) == sorted(
        t[:10] for t in first + texts + large
    )
    assert scripts.broker.counts(scripts.dead_letters)[0] == 0


def test_dead_letters_whose_leader_does_not_answer_are_not_taken_for_none(scripts: Scripts) -> None:
    texts = fill(scripts, 3)
    scripts.broker.freeze(scripts.dead_letters)
    mover = scripts.emitter("--retry-dead-letters")
    try:
        mover.shows("Waiting ...")
    finally:
        scripts.broker.thaw(scripts.dead_letters, 0)
    assert "Moved 3 dead letters" in mover.ends().out
    assert f" [*] {scripts.dead_letters} does not answer, or delivers nothing. Waiting ...\n" == mover.err
    wait_for(scripts, *texts)


def test_a_leader_that_does_not_answer_half_way_ends_nothing_too_soon(scripts: Scripts, relay: Relay) -> None:
    texts = fill(scripts, 700)
    mover = half_way(scripts, relay, 0.4)
    scripts.broker.freeze(scripts.dead_letters)
    scripts.broker.thaw(scripts.dead_letters, 2.5)
    assert "Moved 700 dead letters" in mover.ends().out
    wait_for(scripts, *texts)


def half_way(scripts: Scripts, relay: Relay, delay: float) -> Run:
    """Start an emitter that moves the letters behind a slow relay, and return it when it has moved some."""
    relay.delay = delay
    mover = scripts.emitter("--retry-dead-letters", "--url", relay.url)
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] > 100, "it moves")
    return mover


def test_two_who_move_them_at_once_both_succeed(scripts: Scripts) -> None:
    texts = fill(scripts, 700)
    movers = [scripts.emitter("--retry-dead-letters") for _ in range(2)]
    for mover in movers:
        mover.ends()
    wait_for(scripts, *texts)


def test_a_mover_that_is_killed_half_way_loses_nothing_and_moves_nothing_twice(scripts: Scripts, relay: Relay) -> None:
    texts = fill(scripts, 700)
    mover = half_way(scripts, relay, 0.05)
    mover.send(signal.SIGKILL)
    mover.ends(-signal.SIGKILL)

    def are_settled() -> bool:
        letters, consumers = scripts.broker.counts(scripts.dead_letters)
        return consumers == 0 and letters + scripts.broker.counts(scripts.queue)[0] == 700

    eventually(are_settled, "RabbitMQ notices, and no letter is on its way")
    before = scripts.broker.counts(scripts.queue)[0]
    assert moved(scripts) == 700 - before > 0
    wait_for(scripts, *texts)


def test_ctrl_c_says_how_many_were_moved(scripts: Scripts, relay: Relay) -> None:
    texts = fill(scripts, 700)
    mover = half_way(scripts, relay, 0.1)
    mover.send(signal.SIGINT)
    mover.ends(130)
    assert re.fullmatch(rf" \[x\] Moved (at least )?\d+ dead letters? back to queue {scripts.queue}\.", mover.lines[-1])
    moved(scripts)
    wait_for(scripts, *texts)


def test_dead_letters_that_are_deleted_and_declared_again_meanwhile_end_the_move(scripts: Scripts) -> None:
    fill(scripts, 5000)
    mover = scripts.emitter("--retry-dead-letters")
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] > 10, "it moves")
    mover.send(signal.SIGSTOP)
    scripts.broker.drop(scripts.dead_letters)
    scripts.emit("another")  # declares both queues
    mover.send(signal.SIGCONT)
    assert mover.ends().lines[-1].startswith(" [x] Moved ")
    assert f"RabbitMQ cancelled the subscription to {scripts.dead_letters}." in mover.err


def test_what_was_moved_when_the_connection_was_lost_is_a_lower_bound(scripts: Scripts, relay: Relay) -> None:
    texts = fill(scripts, 700)
    mover = half_way(scripts, relay, 0.1)
    relay.cut()
    (words,) = re.findall(r" \[x\] Moved (?:at least )?([\d,]+) ", mover.ends().out)
    assert words == "700" or "at least" in mover.out
    wait_for(scripts, *texts)


def test_dead_letters_on_their_way_back_when_the_connection_is_lost_are_not_lost(
    scripts: Scripts, relay: Relay
) -> None:
    texts = fill(scripts, 700)
    mover = half_way(scripts, relay, 0.05)
    relay.cut()
    mover.ends()
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


def test_headers_of_every_type_come_back_byte_for_byte(scripts: Scripts) -> None:
    scripts.work()
    fields = [field(name.encode(), value) for name, value in FIELDS.items()]
    send_with_table(scripts, scripts.dead_letters, b"odd", b"".join(fields))
    assert "headers of a task" in scripts.emit("--retry-dead-letters").err
    table = table_of_next(scripts)
    assert [entry for entry in fields if entry not in table] == []


@pytest.mark.parametrize("pika_version", ["newest", "1.3.2"])
@pytest.mark.parametrize("value", [FIELDS["time in milliseconds"], NESTED], ids=["time", "nested"])
def test_a_task_whose_headers_pika_can_not_read_is_done_and_stops_no_other(scripts: Scripts, value: bytes) -> None:
    scripts.work()
    send_with_table(scripts, scripts.queue, b"odd", field(b"at", value))
    send_with_table(scripts, scripts.queue, b"odd too", field(b"at", value))
    scripts.emit("ordinary")
    worker = scripts.work("--log-file", scripts.log)
    assert [event["task"] for event in scripts.events("done")] == ["odd", "odd too", "ordinary"]
    assert [event["message_id"] for event in scripts.events("done")][:2] == ["the id", "the id"]
    assert worker.err == " [*] The headers of a task can't be read by pika; it is taken without them.\n"


def test_a_dead_letter_whose_headers_pika_can_not_read_stops_no_other(scripts: Scripts) -> None:
    scripts.work()
    send_with_table(scripts, scripts.dead_letters, b"odd", field(b"at", FIELDS["time in milliseconds"]))
    fill(scripts, 2)
    retry = scripts.emit("--retry-dead-letters")
    assert retry.lines == [f" [x] Moved 3 dead letters back to queue {scripts.queue}."]
    assert "headers of a task can't be read" in retry.err
    wait_for(scripts, "odd", "letter 0", "letter 1")
