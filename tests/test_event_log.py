"""The log: every event with exactly its fields, in whole lines, whatever the file is."""

import contextlib
import os
import re
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from harness import Scripts, eventually
from in_process import put, said_by, work
from relay import Relay
from scripted_server import Server, takes_up_to

from task_queue.event_log import EventLog
from task_queue.worker.task import Task

# Each event's fields and their types, all of them: others read these records.
EVERY = {"time": str, "event": str, "name": str, "message_id": str, "task": str}
EMITTER = {**EVERY, "line": int, "after": int, "next_line": int}
FIELDS = {
    "confirmed": EMITTER,
    "refused": {**EMITTER, "error": str},
    "received": {**EVERY, "redelivered": bool, "delivery_count": int},
    "done": {**EVERY, "seconds": float},
    "failed": {**EVERY, "seconds": float, "error": str},
    "requeued": {**EVERY, "seconds": float},
    "ack-lost": {**EVERY, "seconds": float},
}


def fields_of(record: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in record.items()}


def test_the_events_of_an_emitter_have_exactly_their_fields(at_server: Scripts, server: Server) -> None:
    server.on("Basic.Publish", takes_up_to(5))
    emitter = at_server.emit("--log-file", at_server.log, stdin=b"one\n\ntoo large\n", status=1)
    ids = [got.properties.message_id for got in server.got("Basic.Publish")]
    told = []
    for record in at_server.events():
        assert fields_of(record) == FIELDS[record["event"]]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", record["time"])
        assert record["name"] == f"emitter-{socket.gethostname()}-{emitter.process.pid}"
        told.append([record[field] for field in ("event", "message_id", "task", "line", "after", "next_line")])
    assert told == [["confirmed", ids[0], "one", 1, 1, 2], ["refused", ids[1], "too large", 3, 2, 4]]
    said_by(at_server, "emitter_of_tasks.py", "--log-file", at_server.log, "words")
    assert fields_of(at_server.events()[-1]) == {**EVERY, **dict.fromkeys(("line", "after", "next_line"), type(None))}


def test_the_events_of_a_worker_have_exactly_their_fields(scripts: Scripts, relay: Relay) -> None:
    def perform(task: Task) -> None:
        assert scripts.events()[-1]["event"] == "received", "before the work begins"
        if task.text == "bad" and not task.redelivered:
            raise ValueError("no good")
        if task.text == "cut" and not task.redelivered:
            relay.cut()
            eventually(lambda: relay.sockets, "the connection is lost, and made again")
        if task.text == "stop":
            os.kill(os.getpid(), signal.SIGINT)

    put(scripts, b"good", b"bad", b"cut", b"stop")
    with contextlib.suppress(KeyboardInterrupt):
        work(scripts, perform, url=relay.url, name="anna", burst=False)
    ends = [f"{record['event']} {record['task']}" for record in scripts.events() if record["event"] != "received"]
    assert sorted(ends) == ["ack-lost cut", "done bad", "done cut", "done good", "failed bad", "requeued stop"]
    for record in scripts.events():
        assert fields_of(record) == FIELDS[record["event"]]
        assert record["name"] == "anna"
    assert re.fullmatch(r"ValueError: no good \(test_event_log.py, line \d+\)", scripts.events("failed")[0]["error"])


def test_a_log_that_is_a_pipe_gets_every_record_though_its_reader_is_late(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "log")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    log = EventLog(str(pipe), "worker")
    for _ in range(2000):
        log.note("done", None, b"task")
    writer = threading.Thread(target=lambda: (log.write(), log.close()))
    writer.start()
    writer.join(0.3)  # the pipe is full meanwhile
    with os.fdopen(reader, "rb") as lines:
        assert len(lines.readlines()) == 2000
