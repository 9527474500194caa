"""An emitter's window and its confirms: nothing is lost, sent needlessly, or out of order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator

import pytest
from harness import Scripts, eventually, waits_in
from in_process import Emitter, emitting
from pika import spec
from scripted_server import Got, Server, Session, nothing, refuse

import task_queue.emitter.publisher
from task_queue import QueueError
from task_queue.emitter.message import Message

IS_FULL = "The queue takes no tasks for now: is it full? Trying again ...\n"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Returns what the publisher has said until then."""
    pieces: list[str] = []

    def said() -> str:
        pieces.append(capsys.readouterr().err)
        return "".join(pieces)

    return said


@pytest.fixture
def emitter(server: Server) -> Iterator[Emitter]:
    with emitting(server.url) as emitter:
        yield emitter


def texts(messages: Iterable[Got | Message]) -> list[str]:
    return [each.body.decode() for each in messages]


def says(said: Callable[[], str], words: str) -> None:
    eventually(lambda: words in said(), f"it says: {words}")


def test_a_multiple_confirm_settles_what_it_names_and_no_more(server: Server, emitter: Emitter) -> None:
    server.on("Basic.Publish", nothing)
    emitter.send(*range(1, 11))
    server.gets("Basic.Publish", times=10)
    server.session(0).send(spec.Basic.Ack(4, multiple=True))
    eventually(lambda: len(emitter.told) >= 4, "they are told of")
    assert texts(emitter.told) == ["1", "2", "3", "4"]
    assert texts(emitter.pending()) == ["5", "6", "7", "8", "9", "10"]


def test_what_was_not_confirmed_is_published_again_in_order_before_anything_newer(
    server: Server, emitter: Emitter, said: Callable[[], str]
) -> None:
    for connection in (0, 1):
        server.on("Basic.Publish", nothing, connection)
    emitter.send(*range(1, 13))
    server.gets("Basic.Publish", times=12)
    for tag, multiple in ((3, True), (7, False), (5, False), (12, False)):
        server.session(0).send(spec.Basic.Ack(tag, multiple=multiple))
    eventually(lambda: len(emitter.told) == 6, "these are told of")
    server.session(0).hang_up()
    says(said, "Reconnecting")
    emitter.send(13, 14)
    server.gets("Basic.Publish", times=12 + 8)
    assert texts(server.session(1).got("Basic.Publish")) == ["4", "6", "8", "9", "10", "11", "13", "14"]
    for tag in (2, 1, 6):  # 6, 4, 11
        server.session(1).send(spec.Basic.Ack(tag))
    eventually(lambda: len(emitter.told) == 9, "these are told of")
    server.session(1).hang_up()
    server.session(2)
    emitter.send(15)
    emitter.settle()
    assert texts(server.session(2).got("Basic.Publish")) == ["8", "9", "10", "13", "14", "15"]
    assert sorted(map(int, texts(emitter.told))) == [*range(1, 16)]
    ids = {(got.body, got.properties.message_id) for got in server.got("Basic.Publish")}
    assert len(ids) == len(dict(ids)) == len({each for _, each in ids}) == 15


@pytest.mark.parametrize(
    "refusals", [[(3, True)], [(1, False), (2, False), (3, False)], [(2, False), (1, False), (3, False)]]
)
def test_what_was_refused_is_published_again_in_order_before_anything_newer(
    server: Server, emitter: Emitter, said: Callable[[], str], refusals: list[tuple[int, bool]]
) -> None:
    server.on("Basic.Publish", nothing)
    emitter.send(1, 2, 3, 4)
    server.gets("Basic.Publish", times=4)
    for tag, multiple in refusals:
        server.session(0).send(spec.Basic.Nack(tag, multiple=multiple))
    says(said, IS_FULL)
    emitter.send(5)
    assert texts(server.gets("Basic.Publish", times=8)) == ["1", "2", "3", "4", "1", "2", "3", "5"]
    server.session(0).send(spec.Basic.Ack(8, multiple=True))
    emitter.settle()
    assert len(server.got("Basic.Publish")) == 8


def test_no_task_is_taken_in_when_the_connection_is_lost_for_good(
    server: Server, emitter: Emitter, said: Callable[[], str]
) -> None:
    """As of a slow pipe, whose emitter would go on reading. A final error ends it before its first confirm at once."""
    server.on("Connection.StartOk", refuse)
    server.session(0).hang_up()
    says(said, "refused user guest")
    with pytest.raises(QueueError):
        emitter.send("task")
    assert said().count("refused user guest") == 1


def test_a_pause_for_a_full_queue_ends_with_its_connection(server: Server, emitter: Emitter) -> None:
    def refuse_and_hang_up(session: Session, _: Got) -> None:
        session.send(spec.Basic.Nack(1))
        session.hang_up()

    server.on("Basic.Publish", refuse_and_hang_up, connection=0)
    emitter.send("task")
    emitter.settle()


def test_pauses_for_a_full_queue_reset_after_a_confirm(
    server: Server, emitter: Emitter, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said again; and after five in a row, another connection is tried without a word: in a cluster, a channel
    may ask a dead node for ever."""

    def answer(session: Session, _: Got) -> None:
        method = spec.Basic.Nack if next(refuses) else spec.Basic.Ack
        session.send(method(len(session.got("Basic.Publish"))))

    monkeypatch.setattr(task_queue.emitter.publisher, "FULL_QUEUE_PAUSE", 0.05)
    server.on("Basic.Publish", answer)
    for number, refusals in enumerate((4, 4, 5), 1):
        refuses = iter([True] * refusals + [False])
        emitter.send("task")
        emitter.settle()
        assert len(server.sessions) == (2 if refusals == 5 else 1)
        eventually(lambda times=number: said().count(IS_FULL) == times, "it is said each time")
    assert said() == f" [*] {IS_FULL}" * 3


@pytest.mark.parametrize(("length", "least", "most"), [(1, 1000, 1000), (2**20, 16, 17)])
def test_a_server_that_never_confirms_gets_so_many_tasks_and_no_more(
    at_server: Scripts, server: Server, length: int, least: int, most: int
) -> None:
    server.on("Basic.Publish", nothing)
    file = at_server.folder / "tasks.txt"
    file.write_bytes((b"x" * length + b"\n") * (most + 8))
    run = at_server.emitter("--file", file)
    server.gets("Basic.Publish", times=least)
    eventually(lambda: "poll" in waits_in(run.process.pid), "it waits for confirms")
    run.send(signal.SIGINT)
    run.ends(130)
    assert least <= len(server.got("Basic.Publish")) <= most
