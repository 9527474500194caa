"""An emitter whose node confirms nothing any more goes on at the next one, if the first really stands still."""

import contextlib
import threading
from collections.abc import Callable

import pytest
from in_process import emitting
from pika import spec
from relay import Relay
from scripted_server import Got, Server, Session, bodies, nothing

import task_queue.emitter.silent_node
from task_queue.emitter.message import new_message

SILENCE = 1.0  # seconds, in place of ten
SAID = f" [*] RabbitMQ has confirmed nothing for {SILENCE:.0f} s. "
MOVES, WAITS = f"{SAID}Going on at the next node ...\n", f"{SAID}Waiting ...\n"


@pytest.fixture
def servers(new_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """The nodes of a cluster."""
    monkeypatch.setattr(task_queue.emitter.silent_node, "SILENCE", SILENCE)
    monkeypatch.setattr(task_queue.emitter.silent_node, "WATCH_EVERY", 0.05)
    return [new_server() for _ in range(3)]


def test_it_goes_on_at_the_next_node_with_the_same_ids_and_waits_twice_as_long_there(
    servers: list[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    with emitting(*(server.url for server in servers)) as emitter:
        emitter.publish(new_message("old")._replace(timestamp=0))  # during a long outage, which does not count
        emitter.settle()
        emitter.told.clear()
        servers[0].received.clear()
        for server in servers[:2]:
            server.on("Basic.Publish", nothing)
            server.on("Connection.Close", nothing)
        emitter.send("one", "two")
        emitter.settle()
        came_at = [server.got("Basic.Publish")[0].at for server in servers]
        assert came_at[1] - came_at[0] >= SILENCE
        assert came_at[2] - came_at[1] >= 2 * SILENCE
        sent = [[got.properties.message_id for got in server.got("Basic.Publish")] for server in servers]
        assert sent == 3 * [[message.message_id for message in emitter.told]]
        assert bodies(servers[2]) == ["one", "two"]
    assert capsys.readouterr().err.count(MOVES) == 1


@pytest.mark.parametrize("why", ["there is no other node", "it has no task", "it is blocked", "the queue is full"])
def test_it_stays_where_no_confirm_can_be_expected(
    servers: list[Server], capsys: pytest.CaptureFixture[str], why: str
) -> None:
    server, is_alone = servers[0], why == "there is no other node"
    server.on("Basic.Publish", nothing)
    if why == "the queue is full":  # each time that it is asked
        server.on("Basic.Publish", lambda session, _: session.send(spec.Basic.Nack(len(bodies(server)))))
    with emitting(*(each.url for each in servers if each is server or not is_alone)) as emitter:
        if why != "it has no task":
            emitter.send("task")
            server.gets("Basic.Publish")
        if why == "it is blocked":
            server.session(0).send(spec.Connection.Blocked("low on memory"))
        emitter.wait_for_confirms(seconds=0.1)
        threading.Event().wait(3 * SILENCE)  # the keeper drives
    assert [len(server.sessions) for server in servers] == [1, 0, 0]
    said = capsys.readouterr().err
    assert (said == WAITS) if is_alone else (SAID not in said)


def test_it_stays_on_a_slow_link_while_a_large_task_is_on_its_way(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_queue.emitter.silent_node, "SILENCE", 3.0)  # a busy machine may pause for a second
    rate = 500_000  # bytes a second
    with contextlib.closing(Relay(int(servers[0].at.partition(":")[2]))) as slow:
        slow.piece, slow.pause = rate // 40, 1 / 40
        with emitting(slow.url, servers[1].url) as emitter:
            emitter.send("x" * 9 * rate)
            emitter.settle()
    assert [len(server.got("Basic.Publish")) for server in servers] == [1, 0, 0]


def test_a_slow_queue_gets_one_task_again_and_not_each(servers: list[Server]) -> None:
    """It is as slow on every node."""

    def confirm_late(session: Session, got: Got) -> None:
        threading.Timer(2.5 * SILENCE, session.answer, [got]).start()

    for server in servers:
        server.on("Basic.Publish", confirm_late)
    with emitting(*(server.url for server in servers)) as emitter:
        for task in ("one", "two", "three"):
            emitter.send(task)
            emitter.settle()
    assert sorted(body for server in servers for body in bodies(server)) == ["one", "one", "one", "three", "two"]
