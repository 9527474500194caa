"""What goes over the wire, and what comes of odd things there: at a server that does what no RabbitMQ does at will."""

from __future__ import annotations

import contextlib
import itertools
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pika
import pytest
import task_queue.publisher
from harness import DEADLINE, Run, Scripts, eventually
from pika import frame, spec
from scripted_server import Answer, Got, Server, Session, nothing

from task_queue import QueueError
from task_queue.message import new_message
from task_queue.publisher import Publisher
from task_queue.settings import settings_for

EMITTER, WORKER = SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]


def bodies(published: list[Got]) -> list[str]:
    return [got.body.decode() for got in published]


@contextlib.contextmanager
def piped(scripts: Scripts, *arguments: object) -> Iterator[tuple[Run, Callable[..., None]]]:
    """Start an emitter that reads a pipe, and what writes lines into that; it is closed behind the block."""
    emitter = scripts.emitter("--verbose", *arguments, stdin=subprocess.PIPE)

    def write(*lines: object) -> None:
        emitter.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        emitter.process.stdin.flush()

    with emitter.process.stdin:
        yield emitter, write


# ---- Confirms


def test_a_multiple_confirm_settles_what_it_names_and_no_more(at_server: Scripts, server: Server) -> None:
    server.on("Basic.Publish", nothing)
    with piped(at_server, "--log-file", at_server.log) as (emitter, write):
        write(*range(1, 11))
        server.gets("Basic.Publish", times=10)
        server.session(0).send(spec.Basic.Ack(4, multiple=True))
        emitter.shows("Sent 4\n")
        emitter.send(signal.SIGINT)
        emitter.ends(130)
    assert "4 tasks confirmed. Go on from line 5 of standard input.\n" in emitter.err
    assert [event["task"] for event in at_server.events("confirmed")] == ["1", "2", "3", "4"]


def test_what_was_not_confirmed_is_published_again_in_order_before_anything_newer(
    at_server: Scripts, server: Server
) -> None:
    for connection in (0, 1):
        server.on("Basic.Publish", nothing, connection)
    with piped(at_server) as (emitter, write):
        write(*range(1, 13))
        server.gets("Basic.Publish", times=12)
        for tag, multiple in ((3, True), (7, False), (5, False), (12, False)):
            server.session(0).send(spec.Basic.Ack(tag, multiple=multiple))
        emitter.shows("Sent", times=6)
        server.session(0).hang_up()
        emitter.shows("Reconnecting")
        write(13, 14)
        server.gets("Basic.Publish", times=12 + 8)
        assert bodies(server.session(1).got("Basic.Publish")) == ["4", "6", "8", "9", "10", "11", "13", "14"]
        for tag in (2, 1, 6):  # 6, 4, 11
            server.session(1).send(spec.Basic.Ack(tag))
        emitter.shows("Sent", times=9)
        server.session(1).hang_up()
        server.session(2)
        write(15)
    emitter.ends()
    assert "Sent 15 tasks" in emitter.out
    assert bodies(server.session(2).got("Basic.Publish")) == ["8", "9", "10", "13", "14", "15"]
    ids = {(got.body, got.properties.message_id) for got in server.got("Basic.Publish")}
    assert len(ids) == len(dict(ids)) == len({each for _, each in ids}) == 15


@pytest.mark.parametrize("refusals", [[(3, True)], [(1, False), (2, False), (3, False)]])
def test_what_was_refused_is_published_again_in_order_before_anything_newer(
    at_server: Scripts, server: Server, refusals: list[tuple[int, bool]]
) -> None:
    server.on("Basic.Publish", nothing)
    with piped(at_server) as (emitter, write):
        write(1, 2, 3, 4)
        server.gets("Basic.Publish", times=4)
        for tag, multiple in refusals:
            server.session(0).send(spec.Basic.Nack(tag, multiple=multiple))
        emitter.shows("takes no tasks for now")
        write(5)
        assert bodies(server.gets("Basic.Publish", times=8)) == ["1", "2", "3", "4", "1", "2", "3", "5"]
        server.session(0).send(spec.Basic.Ack(8, multiple=True))
    emitter.ends()
    assert len(server.got("Basic.Publish")) == 8


@pytest.fixture
def patience() -> float:
    """For how many seconds a publisher keeps trying after an error that looks final."""
    return float("inf")


@pytest.fixture
def publisher(server: Server, patience: float) -> Iterator[Publisher]:
    """An emitter's publisher in this process, which is connected."""
    it = Publisher(settings_for(server.url, "tasks", "emitter", patience), lambda _: None)
    it.connection.open()
    yield it
    it.connection.close()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Returns what was said on standard error until then."""
    pieces: list[str] = []

    def said() -> str:
        pieces.append(capsys.readouterr().err)
        return "".join(pieces)

    return said


WAITS = "RabbitMQ has confirmed nothing for 0 s. Waiting ...\n"
IS_FULL = "The queue takes no tasks for now: is it full? Trying again ...\n"


def test_an_emitter_says_that_it_waits_when_nothing_is_confirmed_for_long(
    server: Server, publisher: Publisher, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a queue has lost most of its nodes. Said once, and not where RabbitMQ has said why on this connection."""
    monkeypatch.setattr(task_queue.publisher, "SILENCE", 0.1)
    server.on("Basic.Publish", nothing)
    publisher.publish(new_message("task"))
    server.gets("Basic.Publish")
    server.session(0).send(spec.Connection.Blocked("low on memory"))
    eventually(lambda: "low on memory" in said(), "it is said")
    publisher.wait(seconds=0.5)
    assert WAITS not in said()
    server.session(0).hang_up()
    server.gets("Basic.Publish", times=2)
    publisher.wait(seconds=0.5)
    eventually(lambda: WAITS in said(), "it is said that nothing comes on the new connection")
    assert said().count(WAITS) == 1


@pytest.mark.parametrize("patience", [0.0])
def test_no_task_is_taken_in_when_the_connection_is_lost_for_good(
    server: Server, publisher: Publisher, said: Callable[[], str], patience: float
) -> None:
    """As of a slow pipe, whose emitter would go on reading."""
    publisher.publish(new_message("task"))
    publisher.wait(seconds=DEADLINE)
    gone = spec.Connection.Close(530, "NOT_ALLOWED - vhost / not found", 10, 40)
    server.on("Connection.Open", lambda session, _: session.send(gone))
    server.session(0).hang_up()
    eventually(lambda: "has no virtual host" in said(), "it is said")
    with pytest.raises(QueueError):
        publisher.publish(new_message("another"))


def test_a_queue_that_was_full_when_the_connection_was_lost_is_tried_on_the_next_one(
    server: Server, publisher: Publisher, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_queue.publisher, "FULL_PAUSE", 3600.0)
    server.on("Basic.Publish", lambda session, _: session.send(spec.Basic.Nack(1)), connection=0)
    publisher.publish(new_message("task"))
    eventually(lambda: IS_FULL in said(), "it is said")
    server.session(0).hang_up()
    publisher.wait(seconds=DEADLINE)
    assert publisher.pending() == []


def test_a_pause_for_a_full_queue_ends_with_its_connection(
    server: Server, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the middle of the pause of the next one."""

    def answer(session: Session, _: Got) -> None:
        session.send(next(answers))
        if session.number == 0:
            session.hang_up()

    monkeypatch.setattr(task_queue.publisher, "FULL_PAUSE", 0.5)
    answers = iter([spec.Basic.Nack(1), spec.Basic.Nack(1), spec.Basic.Ack(2)])
    server.on("Basic.Publish", answer)
    publisher.publish(new_message("task"))
    publisher.wait(seconds=DEADLINE)
    _, refused, confirmed = server.got("Basic.Publish")
    assert refused.session is confirmed.session
    assert confirmed.at - refused.at > 0.45


def test_pauses_for_a_full_queue_begin_anew_after_a_confirm(
    server: Server, publisher: Publisher, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said again, and another connection is tried only after five pauses in a row."""

    def answer(session: Session, _: Got) -> None:
        method = spec.Basic.Nack if next(refuses) else spec.Basic.Ack
        session.send(method(len(session.got("Basic.Publish"))))

    monkeypatch.setattr(task_queue.publisher, "FULL_PAUSE", 0.05)
    server.on("Basic.Publish", answer)
    for number, refusals in enumerate((4, 4, 5), 1):
        refuses = iter([True] * refusals + [False])
        publisher.publish(new_message("task"))
        publisher.wait(seconds=DEADLINE)
        assert publisher.pending() == []
        assert len(server.sessions) == (2 if refusals == 5 else 1)
        eventually(lambda times=number: said().count(IS_FULL) == times, "it is said each time")  # type: ignore[misc]
    assert "Reconnecting" not in said()


@pytest.mark.parametrize(("length", "least", "most"), [(1, 1000, 1000), (2**20, 16, 17)])
def test_a_server_that_never_confirms_gets_so_many_tasks_and_no_more(
    at_server: Scripts, server: Server, length: int, least: int, most: int
) -> None:
    server.on("Basic.Publish", nothing)
    file = at_server.folder / "tasks.txt"
    file.write_bytes((b"x" * length + b"\n") * (most + 8))
    emitter = at_server.emitter("--file", file)
    server.gets("Basic.Publish", times=least)
    time.sleep(0.3)  # only time shows that no more come
    assert least <= len(server.got("Basic.Publish")) <= most
    emitter.send(signal.SIGINT)
    emitter.ends(130)
    assert len(server.got("Basic.Publish")) <= most


# ---- Tasks


@pytest.mark.parametrize(
    ("task", "settled"), [(b"true", "Basic.Ack"), (b"false", "Basic.Reject"), (b"sleep 60", "Basic.Nack")]
)
def test_done_is_ack_failed_is_reject_and_stopped_is_nack(
    at_server: Scripts, server: Server, task: bytes, settled: str
) -> None:
    """Which RabbitMQ tells apart from 4.3 on: reject counts against the delivery limit, nack does not."""
    server.put(task)
    worker = at_server.start(WORKER, "--run", "sh -c {}", "--max-tasks", 1)
    if settled == "Basic.Nack":
        worker.shows("Received")
        worker.send(signal.SIGINT)
    worker.ends()
    (got,) = [got for name in ("Basic.Ack", "Basic.Reject", "Basic.Nack") for got in server.got(name)]
    assert (got.name, got.method.delivery_tag) == (settled, 1)
    assert not getattr(got.method, "multiple", False)
    assert getattr(got.method, "requeue", True)


def test_burst_waits_for_a_task_that_has_left_the_queue_and_is_not_here_yet(at_server: Scripts, server: Server) -> None:
    def answer(session: Session, got: Got) -> None:
        session.answer(got)
        if session.consumer and not on_its_way:
            on_its_way.append(threading.Timer(0.05, server.put, [b"task"]))
            on_its_way[0].start()

    on_its_way: list[threading.Timer] = []
    server.on("Queue.Declare", answer)
    worker = at_server.work()
    on_its_way[0].join()
    assert "Done." in worker.out


def test_a_task_that_is_not_in_hand_yet_when_its_connection_is_lost_is_done_once(
    at_server: Scripts, server: Server
) -> None:
    """RabbitMQ 3.10 may hand out two in spite of the prefetch."""
    server.put(b"until test -e gate; do sleep 0.02; done")
    worker = at_server.start(WORKER, "--run", "sh -c {}")
    worker.shows("Received until")
    server.session(0).deliver(b"true")
    server.session(0).hang_up()
    worker.shows("Reconnecting")
    (at_server.folder / "gate").touch()
    server.gets("Basic.Ack", times=2)
    worker.send(signal.SIGTERM)
    worker.ends()
    assert [line for line in worker.lines if "Received true" in line] == [" [x] Received true (redelivered)"]


INTERRUPTING = """
import os, signal, socket
import pika.adapters.base_connection

def interrupting(do):
    def does(self, *arguments):
        result = do(self, *arguments)
        if {mark!r} in bytes(arguments[0] if arguments else result) and not interrupted:
            interrupted.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return result

    return does

interrupted = []
{place} = interrupting({place})
"""


@pytest.mark.parametrize(
    "place", ["socket.socket.send", "pika.adapters.base_connection.BaseConnection._adapter_emit_data"]
)
def test_ctrl_c_within_a_publish_waits_until_pika_is_in_order_again(
    at_server: Scripts, server: Server, place: str
) -> None:
    (at_server.folder / "sitecustomize.py").write_text(INTERRUPTING.format(place=place, mark=b"the task"))
    server.on("Basic.Publish", nothing)
    emitter = at_server.emit("the task", env={"PYTHONPATH": str(at_server.folder)}, status=130)
    assert "Not confirmed: the task" in emitter.err
    assert bodies(server.got("Basic.Publish")) == ["the task"]
    assert len(server.got("Connection.Close")) == 1


def test_ctrl_c_within_an_acknowledgement_waits_until_pika_is_in_order_again(
    at_server: Scripts, server: Server
) -> None:
    ack = struct.pack(">HHQ", *divmod(spec.Basic.Ack.INDEX, 65536), 1)
    (at_server.folder / "sitecustomize.py").write_text(INTERRUPTING.format(place="socket.socket.send", mark=ack))
    server.put(b"task")
    worker = at_server.start(WORKER, env={"PYTHONPATH": str(at_server.folder)}).ends()
    assert worker.lines[-2:] == [" [x] Done.", " [*] Stopped."]
    assert len(server.got("Basic.Ack")) == len(server.got("Connection.Close")) == 1


def test_ctrl_c_within_a_report_tells_of_no_task_twice(at_server: Scripts, server: Server) -> None:
    (at_server.folder / "sitecustomize.py").write_text(INTERRUPTING.format(place="os.write", mark=b"Sent the task"))
    emitter = at_server.emit("the task", env={"PYTHONPATH": str(at_server.folder)})
    assert emitter.out.count("Sent the task") == 1


# ---- Connections that are lost


class Busy:
    """A script that can be had to do one task after another, to see that it still does.

    Its standard input is closed behind the block, which ends an emitter.
    """

    def __init__(self, scripts: Scripts, script: str, server: Server, query: str = "") -> None:
        self.server, self.is_worker = server, script == WORKER
        arguments = ["--run", "sh -c {}"] if self.is_worker else ["--verbose"]
        self.run = scripts.start(script, *arguments, stdin=subprocess.PIPE, env={"AMQP_URL": server.url + query})
        self._numbers = itertools.count(1)

    def __enter__(self) -> Busy:
        self.does_a_task()
        return self

    def __exit__(self, *_: object) -> None:
        self.run.process.stdin.close()

    def does_a_task(self, task: str = "") -> None:
        """Give it a task, and wait until that is done or sent."""
        task = task or f"true {next(self._numbers)}"
        if self.is_worker:
            self.server.put(task.encode())
            self.run.shows(f"Received {task}")
            eventually(lambda: " [x] Done." in self.run.out.partition(f"Received {task}")[2], f"{task} is done")
        else:
            self.run.process.stdin.write(f"{task}\n".encode())
            self.run.process.stdin.flush()
            self.run.shows(f" [x] Sent {task}\n")

    def is_cut_off(self) -> float:
        """Hang up on it, and return when."""
        self.server.sessions[-1].hang_up()
        return time.monotonic()

    @contextlib.contextmanager
    def says_why(self, step: str) -> Iterator[None]:
        """Check that it says in the block why it has lost a connection."""
        complaints = self.run.err.count(" [!] ")
        yield
        assert self.run.err.count(" [!] ") > complaints, step

    def stops(self) -> None:
        """Have it stop, and see that it does so in good order."""
        if self.is_worker:
            self.run.send(signal.SIGTERM)
        else:
            self.run.process.stdin.close()
        self.run.ends()


@pytest.mark.parametrize("script", SCRIPTS)
def test_pauses_grow_and_differ_and_are_short_again_after_a_success(
    at_server: Scripts, new_server: Callable[[], Server], script: str
) -> None:
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(Busy(at_server, script, new_server())) for _ in range(3)]
        began = []
        for run in runs:
            for connection in (1, 2, 3):
                run.server.on("ProtocolHeader", Session.hang_up, connection)
            began.append([run.is_cut_off()])
        for run, times in zip(runs, began):
            times += [run.server.session(connection).began for connection in (1, 2, 3, 4)]
        firsts, *others, lasts = zip(*([after - before for before, after in zip(t, t[1:])] for t in began))
        assert max(lasts) > max(2 * min(firsts), 0.3)
        assert any(max(each) - min(each) > max(each) / 20 for each in (*others, lasts))
        for run, last in zip(runs, lasts):
            run.does_a_task()
            cut_off = run.is_cut_off()
            assert run.server.session(5).began - cut_off < last


# ---- Connections that end in odd ways


def frame_of(payload: bytes, kind: int = spec.FRAME_METHOD, channel: int = 0, end: int = spec.FRAME_END) -> bytes:
    return struct.pack(f">BHL{len(payload)}sB", kind, channel, len(payload), payload, end)


def sends(*pieces: bytes, then: Answer = Session.fall_silent) -> Answer:
    def end(session: Session, got: Got | None) -> None:
        session.write(b"".join(pieces))
        then(session, got)

    return end


def closes_the_channel(code: int, why: str) -> Answer:
    def end(session: Session, got: Got | None) -> None:
        session.send(spec.Channel.Close(code, why, 0, 0))
        if got and got.name == "Channel.Close":  # the two have crossed
            session.answer(got)

    return end


A_METHOD = frame.Method(0, spec.Connection.Blocked("no reason")).marshal()
BODY = frame.Body(1, b"task").marshal()
ENDS: dict[str, Answer] = {
    "it hangs up": Session.hang_up,
    "it resets the connection": Session.reset,
    "it falls silent": Session.fall_silent,
    "half a frame": sends(A_METHOD[:-3], then=Session.hang_up),
    "a frame without its end": sends(A_METHOD[:-1], b"x"),
    "a frame of a kind that there is not": sends(frame_of(b"", kind=9)),
    "a method that there is not": sends(frame_of(struct.pack(">HH", 60, 199))),
    "a method without its arguments": sends(frame_of(struct.pack(">HH", 10, 60))),
    "a header without its method": sends(frame.Header(1, 4, pika.BasicProperties()).marshal(), BODY),
    "a body without its header": sends(BODY),
    "what is not AMQP": sends(b"HTTP/1.1 400 Bad Request\r\n\r\n", then=Session.hang_up),
    "it closes the connection": lambda session, _: session.send(
        spec.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)
    ),
    "it closes the channel, 404": closes_the_channel(404, "NOT_FOUND - gone"),
    "it closes the channel, 541": closes_the_channel(541, "INTERNAL_ERROR"),
}
HANDSHAKE = ["ProtocolHeader", "Connection.StartOk", "Connection.Open"]
OPENING = ["Channel.Open", "Queue.Declare", "Queue.Declare 2"]  # the first time, and the second
READY = {EMITTER: ["Confirm.Select", "Basic.Publish"], WORKER: ["Basic.Qos", "Basic.Consume"]}

FEW_ENDS = ["it hangs up", "it falls silent", "a body without its header", "it closes the channel, 404"]  # of each kind

# Twenty times as fast: the pauses between connections, and how soon silence is noticed.
QUICKLY = """
from pika.adapters import select_connection
call_later = select_connection.IOLoop.call_later
select_connection.IOLoop.call_later = lambda self, delay, callback: call_later(self, delay / 20, callback)
"""
QUICK = "?heartbeat=1&stack_timeout=10"


@pytest.fixture
def quick(at_server: Scripts) -> Scripts:
    """The scripts with a clock that runs fast in pika's loop. A busy machine may lose them a connection too many."""
    (at_server.folder / "sitecustomize.py").write_text(QUICKLY)
    at_server.environment["PYTHONPATH"] = str(at_server.folder)
    return at_server


def have_end(server: Server, step: str, end: str, only_once: bool = True) -> None:
    """Have a connection end instead of an answer to a method; after `METHOD 2`, to the second from now on."""

    def answer(session: Session, got: Got) -> None:
        left[0] -= 1
        is_the_end = left[0] == 0 if only_once else left[0] <= 0
        (ENDS[end] if is_the_end else Session.answer)(session, got)

    name, _, number = step.partition(" ")
    left = [int(number or 1)]
    server.on(name, answer)


def steps_to(end: str, *groups: list[str]) -> list[str]:
    """Return the steps at which it can end so: a channel is closed only once there is one."""
    return [step for group in groups for step in group if group is not HANDSHAKE or "channel" not in end]


def test_an_odd_end_of_each_nodes_first_connection_is_said_of_each(
    quick: Scripts, new_server: Callable[[], Server]
) -> None:
    servers = {(end, step): new_server() for end in ENDS for step in steps_to(end, HANDSHAKE, OPENING)}
    for (end, step), server in servers.items():
        have_end(server, step, end, only_once=False)
    urls = ",".join(server.url + QUICK for server in servers.values())
    run = quick.start(WORKER, env={"AMQP_URL": urls}).ends(1, within=60)
    for case, server in servers.items():
        assert server.sessions, case
        assert server.at in run.err, case


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_node_whose_connection_ends_before_the_first_success_is_passed_over(
    quick: Scripts, new_server: Callable[[], Server], script: str
) -> None:
    urls = []
    for end, step in itertools.product(FEW_ENDS, READY[script]):
        server = new_server()
        have_end(server, step, end, only_once=False)
        urls.append(server.url + QUICK)
    good = new_server()
    good.put(b"true")
    arguments = ["task"] if script == EMITTER else ["--max-tasks", 1]
    quick.start(script, *arguments, env={"AMQP_URL": ",".join([*urls, good.url + QUICK])}).ends(within=60)
    assert good.got("Basic.Publish") or good.got("Basic.Ack")


@pytest.mark.parametrize(("script", "ends"), [(EMITTER, FEW_ENDS), *((WORKER, [*ENDS][part::4]) for part in range(4))])
def test_an_odd_end_of_a_later_connection_is_said_and_another_one_is_made(
    quick: Scripts, server: Server, script: str, ends: list[str]
) -> None:
    # What both scripts do, and which odd bytes pika does not take, is the same in both: a worker tries all that.
    groups = [HANDSHAKE, OPENING] if script == WORKER else []
    with Busy(quick, script, server, QUICK) as run:
        for end in ends:
            for step in steps_to(end, *groups, READY[script]):
                with run.says_why(f"{step}: {end}"):
                    have_end(server, step, end)
                    run.is_cut_off()
                    run.does_a_task()
            with run.says_why(f"idle: {end}"):
                ENDS[end](server.sessions[-1], None)
                run.does_a_task()
        have_end(server, "Connection.Close", "a body without its header", only_once=False)
        run.stops()


def test_a_worker_goes_on_when_its_connection_ends_in_odd_ways_around_a_task(quick: Scripts, server: Server) -> None:
    server.version = "3.10.8"  # where a worker cancels its subscription after a failure
    with Busy(quick, WORKER, server, QUICK) as run:
        for number, end in enumerate(FEW_ENDS):
            gate, task = quick.folder / f"gate {number}", f"until test -e 'gate {number}'; do sleep 0.02; done"
            with run.says_why(f"in the middle of a task: {end}"):
                server.put(task.encode())
                run.run.shows(f"Received {task}")
                losses = run.run.err.count("Reconnecting")
                ENDS[end](server.sessions[-1], None)
                run.run.shows("Reconnecting", times=losses + 1)
                gate.touch()
                run.run.shows("Done, but the connection was lost meanwhile", times=number + 1)
            run.does_a_task()
            with run.says_why(f"Basic.Ack: {end}"):
                have_end(server, "Basic.Ack", end)
                run.does_a_task()
                run.does_a_task()
            with run.says_why(f"Basic.Cancel: {end}"):
                have_end(server, "Basic.Cancel", end)
                run.does_a_task(f"test -e 'tried {number}' || ! touch 'tried {number}'")
        have_end(server, "Channel.Close", "it hangs up", only_once=False)
        run.stops()


def test_burst_goes_on_when_the_connection_ends_in_its_look_at_the_queue(quick: Scripts, server: Server) -> None:
    def answer(session: Session, got: Got) -> None:
        if session.consumer and ends:
            server.tasks.extend([(b"task", False)] if len(ends) > 1 else [])  # meanwhile; at the last look, nothing
            ENDS[ends.pop(0)](session, got)
        else:
            session.answer(got)

    ends = [*FEW_ENDS, FEW_ENDS[0]]
    server.on("Queue.Declare", answer)
    worker = quick.work("--url", server.url + QUICK)
    assert worker.out.count("Done.") >= len(FEW_ENDS)
    assert not ends


@pytest.mark.parametrize("method", ["Channel.Close", "Connection.Close"])
def test_an_end_that_is_not_answered_does_not_take_for_ever(at_server: Scripts, server: Server, method: str) -> None:
    server.on(method, nothing)
    emitter = at_server.emitter("task")
    assert emitter.process.wait(DEADLINE) == 0  # not ends(): of a socket that is left open, Python warns
    assert "Traceback" not in emitter.err


def test_what_is_done_after_rabbitmq_has_cancelled_is_not_acknowledged(at_server: Scripts, server: Server) -> None:
    """It has been taken back, or its queue was deleted; which of both is asked for only a moment later."""
    command = "sh -c 'until test -e go; do sleep 0.02; done'"
    worker = at_server.start("listening_worker.py", "--run", command, "--log-file", at_server.log, "--max-tasks", 1)
    server.gets("Basic.Consume")
    server.session(0).deliver(b"task")
    worker.shows("Received")
    asked = len(server.got("Queue.Declare")) + 1
    server.on("Queue.Declare", nothing, 0)
    server.session(0).send(pika.spec.Basic.Cancel(server.session(0).consumer, nowait=True))
    server.gets("Queue.Declare", asked)
    (at_server.folder / "go").touch()
    worker.ends()
    assert [record["event"] for record in at_server.events()] == ["received", "ack-lost"]
    assert server.got("Basic.Ack") == []
