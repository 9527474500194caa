"""Who drives pika: tasks go out though the main thread is busy, and a signal waits until pika is in order again."""

import itertools
import os
import pkgutil
import signal
import struct
import time

import pytest
from harness import Scripts
from in_process import emitting, said_by
from pika import spec
from scripted_server import Server, nothing

from task_queue.emitter.publisher import WINDOW
from task_queue.rabbitmq import shared_loop

EMITTER, WORKER = "emitter_of_tasks.py", "listening_worker.py"
ACK = struct.pack(">HHQ", *divmod(spec.Basic.Ack.INDEX, 65536), 1)


def interrupt(monkeypatch: pytest.MonkeyPatch, place: str, mark: bytes) -> None:
    """Have Ctrl+C come at the end of the first call of a function that has to do with some bytes."""
    real, come = pkgutil.resolve_name(place), list[bool]()

    def interrupting(*arguments: object) -> object:
        result = real(*arguments)
        if not come and any(mark in (each if isinstance(each, bytes) else str(each).encode()) for each in arguments):
            come.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(place, interrupting)


@pytest.mark.parametrize(
    ("script", "place"),
    [
        (EMITTER, "socket.socket.send"),
        (EMITTER, "pika.adapters.base_connection.BaseConnection._adapter_emit_data"),
        (WORKER, "socket.socket.send"),
    ],
)
def test_ctrl_c_within_a_call_of_pika_waits_until_it_is_in_order_again(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch, script: str, place: str
) -> None:
    server.on("Basic.Publish", nothing)
    server.put(b"task")
    if script == EMITTER:
        interrupt(monkeypatch, place, b"the task")
        status, _, err = said_by(at_server, script, "the task")
        assert (status, "Not confirmed: the task" in err) == (130, True)
    else:
        interrupt(monkeypatch, place, ACK)
        assert said_by(at_server, script)[1].endswith(" [x] Done.\n [*] Stopped.\n")
    assert len(server.got("Basic.Publish" if script == EMITTER else "Basic.Ack")) == 1
    assert len(server.got("Connection.Close")) == 1


def test_ctrl_c_within_a_report_tells_of_no_task_twice(at_server: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, "task_queue.terminal.blocked_output.write", b"Sent the task")
    assert said_by(at_server, EMITTER, "the task")[1].count("Sent the task") == 1


def test_ctrl_c_counts_that_comes_before_the_work_has_begun(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as while a paused terminal holds up the line that tells of the task."""
    interrupt(monkeypatch, "task_queue.worker.task_report.say", b"Received")
    server.put(b"task")
    assert said_by(at_server, WORKER, "--log-file", at_server.log)[0] == 0
    assert [record["event"] for record in at_server.events()] == ["received", "requeued"]


def test_tasks_that_come_every_few_milliseconds_are_sent_before_the_window_is_full(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread is never away for long, and never waits. A loaded machine has it away for 20 ms now and then."""
    monkeypatch.setattr(shared_loop, "KEEPER_DELAY", 0.3)
    with emitting(server.url) as emitter:
        for number in itertools.count():
            assert number < WINDOW, "nothing is sent"
            if server.got("Basic.Publish"):
                break
            emitter.send(number)
            time.sleep(0.002)


def test_the_main_thread_gets_the_loop_back_at_once_from_the_keeper(server: Server) -> None:
    """The keeper has it nearly always, and would take it again as soon as it has let it go."""
    waits = []
    with emitting(server.url) as emitter:
        for _ in range(100):
            time.sleep(0.03)  # until the keeper drives
            asked_at = time.monotonic()
            with emitter.connection.loop:
                waits.append(time.monotonic() - asked_at)
    assert sorted(waits)[-4] < 0.1, "all but three, for which a busy machine may have no time"
