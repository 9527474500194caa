"""Connections that end in odd ways, at each step: the next one is made, and the work goes on."""

from __future__ import annotations

import contextlib
import itertools
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator

import pika
import pytest
from harness import Scripts, before_imports, eventually
from pika import frame, spec
from scripted_server import Answer, Got, Server, Session

EMITTER, WORKER = SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]


def frame_of(payload: bytes, kind: int = spec.FRAME_METHOD) -> bytes:
    return struct.pack(f">BHL{len(payload)}sB", kind, 0, len(payload), payload, spec.FRAME_END)


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
SHUTDOWN = spec.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)
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
    "it closes the connection": lambda session, _: session.send(SHUTDOWN),
    "it closes the channel, 404": closes_the_channel(404, "NOT_FOUND - gone"),
    "it closes the channel, 541": closes_the_channel(541, "INTERNAL_ERROR"),
}
FEW_ENDS = ["it hangs up", "it falls silent", "a body without its header", "it closes the channel, 404"]  # of each kind
HANDSHAKE = ["ProtocolHeader", "Connection.StartOk", "Connection.Open"]
OPENING = ["Channel.Open", "Queue.Declare", "Queue.Declare 2"]  # the first time, and the second
READY = {EMITTER: ["Confirm.Select", "Basic.Publish"], WORKER: ["Basic.Qos", "Basic.Consume"]}
SETTLING = ["Basic.Ack", "Basic.Reject", "Basic.Cancel"]

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
    before_imports(at_server, QUICKLY)
    at_server.environment["AMQP_URL"] += QUICK
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


def cases(ends: list[str], *groups: list[str]) -> list[tuple[str, str]]:
    """Return each end with the steps at which it can come: a channel is closed only once there is one."""
    steps = [(step, group is HANDSHAKE) for group in groups for step in group]
    return [(end, step) for end in ends for step, is_early in steps if not is_early or "channel" not in end]


class Busy:
    """A script that can be had to do one task after another, to see that it still does."""

    def __init__(self, scripts: Scripts, script: str, server: Server) -> None:
        self.server, self.is_worker = server, script == WORKER
        arguments = ["--run", "sh -c {}"] if self.is_worker else ["--verbose"]
        self.run = scripts.start(script, *arguments, stdin=subprocess.PIPE)
        self._numbers = itertools.count(1)
        self.does_a_task()

    def does_a_task(self) -> None:
        """Give it a task, and wait until that is sent; or has failed, come again, and is acknowledged."""
        number = next(self._numbers)
        if self.is_worker:
            self.server.put(f"test -e {number} || ! touch {number}".encode())
            eventually(self.server.is_done, f"task {number} is done")
        else:
            self.run.process.stdin.write(b"%d\n" % number)
            self.run.process.stdin.flush()
            self.run.shows(f" [x] Sent {number}\n")

    @contextlib.contextmanager
    def reconnects(self, case: str) -> Iterator[None]:
        """Check that it says in the block that it has lost its connection, and then does a task."""
        times = self.run.err.count("Reconnecting") + 1
        yield
        eventually(lambda: self.run.err.count("Reconnecting") >= times, case)
        self.does_a_task()

    def stops(self) -> None:
        """Have it stop, and see that it does so in good order."""
        self.run.process.stdin.close()
        if self.is_worker:
            self.run.send(signal.SIGTERM)
        self.run.ends()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_node_whose_connection_ends_before_the_first_success_is_passed_over(
    quick: Scripts, new_server: Callable[[], Server], script: str
) -> None:
    ends = cases([*ENDS], HANDSHAKE, OPENING) if script == WORKER else []  # this is the same in both
    servers = {case: new_server() for case in [*ends, *cases(FEW_ENDS, READY[script])]}
    for (end, step), server in servers.items():
        have_end(server, step, end, only_once=False)
    good = new_server()
    good.put(b"true")
    arguments = ["task"] if script == EMITTER else ["--max-tasks", 1]
    urls = ",".join(server.url + QUICK for server in [*servers.values(), good])
    quick.start(script, *arguments, env={"AMQP_URL": urls}).ends(within=60)
    assert [case for case, server in servers.items() if not server.sessions] == []
    assert good.got("Basic.Publish") or good.got("Basic.Ack")


@pytest.mark.parametrize(("script", "ends"), [(EMITTER, FEW_ENDS), *((WORKER, [*ENDS][part::4]) for part in range(4))])
def test_an_odd_end_of_a_later_connection_is_said_and_another_one_is_made(
    quick: Scripts, server: Server, script: str, ends: list[str]
) -> None:
    # What both scripts do, and which odd bytes pika does not take, is the same in both: a worker tries all that.
    server.version = "3.10.8"  # where a worker cancels its subscription after a failure
    chosen = cases(ends, *([HANDSHAKE, OPENING] if script == WORKER else []), READY[script])
    if script == WORKER:
        chosen += cases([end for end in ends if end in FEW_ENDS], SETTLING)
    busy = Busy(quick, script, server)
    for end, step in chosen:
        with busy.reconnects(f"{step}: {end}"):
            have_end(server, step, end)
            server.sessions[-1].hang_up()
    for end in ends:
        with busy.reconnects(f"idle: {end}"):
            ENDS[end](server.sessions[-1], None)
    have_end(server, "Connection.Close", "a body without its header", only_once=False)
    busy.stops()


def test_a_worker_goes_on_when_its_connection_ends_in_odd_ways_around_a_task(quick: Scripts, server: Server) -> None:
    busy = Busy(quick, WORKER, server)
    for number, end in enumerate(FEW_ENDS, 1):
        with busy.reconnects(f"in the middle of a task: {end}"):
            server.put(f"until test -e gate{number}; do sleep 0.02; done".encode())
            busy.run.shows(f"Received until test -e gate{number}")
            ENDS[end](server.sessions[-1], None)
            busy.run.shows("Reconnecting", times=number)
            (quick.folder / f"gate{number}").touch()
            busy.run.shows("Done, but the connection was lost meanwhile", times=number)
    have_end(server, "Channel.Close", "it hangs up", only_once=False)
    busy.stops()


def test_burst_goes_on_when_the_connection_ends_in_its_look_at_the_queue(quick: Scripts, server: Server) -> None:
    def answer(session: Session, got: Got) -> None:
        if session.consumer and ends:
            server.tasks.extend([(b"task", False)] if len(ends) > 1 else [])  # meanwhile; at the last look, nothing
            ENDS[ends.pop(0)](session, got)
        else:
            session.answer(got)

    ends = [*FEW_ENDS, FEW_ENDS[0]]
    server.on("Queue.Declare", answer)
    worker = quick.work()
    assert worker.out.count("Done.") >= len(FEW_ENDS)
    assert not ends
