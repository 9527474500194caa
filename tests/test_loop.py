"""Who drives pika: tasks go out though the main thread is busy, and a signal waits until pika is in order again."""

from __future__ import annotations

import contextlib
import itertools
import struct
import time

import pytest
from harness import Scripts
from in_process import Emitter
from pika import spec
from scripted_server import Server, nothing

from task_queue.emitter.publisher import WINDOW
from task_queue.rabbitmq import loop

EMITTER, WORKER = "emitter_of_tasks.py", "listening_worker.py"
ACK = struct.pack(">HHQ", *divmod(spec.Basic.Ack.INDEX, 65536), 1)
DONE = [" [x] Done.", " [*] Stopped."]

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


def interrupt(scripts: Scripts, place: str, mark: bytes) -> None:
    """Have Ctrl+C come at the end of the first call of a function that has to do with some bytes."""
    (scripts.folder / "sitecustomize.py").write_text(INTERRUPTING.format(place=place, mark=mark))
    scripts.environment["PYTHONPATH"] = str(scripts.folder)


@pytest.mark.parametrize(
    ("script", "place", "mark", "sent", "status"),
    [
        (EMITTER, "socket.socket.send", b"the task", "Basic.Publish", 130),
        (EMITTER, "pika.adapters.base_connection.BaseConnection._adapter_emit_data", b"the task", "Basic.Publish", 130),
        (WORKER, "socket.socket.send", ACK, "Basic.Ack", 0),
    ],
)
def test_ctrl_c_within_a_call_of_pika_waits_until_it_is_in_order_again(
    at_server: Scripts, server: Server, script: str, place: str, mark: bytes, sent: str, status: int
) -> None:
    interrupt(at_server, place, mark)
    server.on("Basic.Publish", nothing)
    server.put(b"task")
    run = at_server.start(script, *["the task"] * (script == EMITTER)).ends(status)
    assert "Not confirmed: the task" in run.err if script == EMITTER else run.lines[-2:] == DONE
    assert len(server.got(sent)) == len(server.got("Connection.Close")) == 1


def test_ctrl_c_within_a_report_tells_of_no_task_twice(at_server: Scripts) -> None:
    interrupt(at_server, "os.write", b"Sent the task")
    assert at_server.emit("the task").out.count("Sent the task") == 1


def test_tasks_that_come_every_few_milliseconds_are_sent_before_the_window_is_full(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread is never away for long, and never waits. A loaded machine has it away for 20 ms now and then."""
    monkeypatch.setattr(loop, "KEEPER_DELAY", 0.3)
    emitter = Emitter(server.url, "tasks")
    with contextlib.closing(emitter.connection):
        for number in itertools.count():
            assert number < WINDOW, "nothing is sent"
            if server.got("Basic.Publish"):
                break
            emitter.send(number)
            time.sleep(0.002)
