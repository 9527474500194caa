"""A signal in the middle of pika's work waits until pika is in order again."""

from __future__ import annotations

import struct

import pytest
from harness import Scripts
from pika import spec
from scripted_server import Server, nothing

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
    "place", ["socket.socket.send", "pika.adapters.base_connection.BaseConnection._adapter_emit_data"]
)
def test_ctrl_c_within_a_publish_waits_until_pika_is_in_order_again(
    at_server: Scripts, server: Server, place: str
) -> None:
    interrupt(at_server, place, b"the task")
    server.on("Basic.Publish", nothing)
    emitter = at_server.emit("the task", status=130)
    assert "Not confirmed: the task" in emitter.err
    assert [got.body for got in server.got("Basic.Publish")] == [b"the task"]
    assert len(server.got("Connection.Close")) == 1


def test_ctrl_c_within_an_acknowledgement_waits_until_pika_is_in_order_again(
    at_server: Scripts, server: Server
) -> None:
    ack = struct.pack(">HHQ", *divmod(spec.Basic.Ack.INDEX, 65536), 1)
    interrupt(at_server, "socket.socket.send", ack)
    server.put(b"task")
    worker = at_server.start("listening_worker.py").ends()
    assert worker.lines[-2:] == [" [x] Done.", " [*] Stopped."]
    assert len(server.got("Basic.Ack")) == len(server.got("Connection.Close")) == 1


def test_ctrl_c_within_a_report_tells_of_no_task_twice(at_server: Scripts) -> None:
    interrupt(at_server, "os.write", b"Sent the task")
    assert at_server.emit("the task").out.count("Sent the task") == 1
