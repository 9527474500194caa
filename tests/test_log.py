"""The log: every event with exactly its fields, in whole lines."""

from __future__ import annotations

from typing import Any

from harness import PROJECT, Scripts
from pika import spec
from scripted_server import Got, Server, Session

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
    def answer(session: Session, got: Got) -> None:
        too_large = spec.Channel.Close(406, "PRECONDITION_FAILED - message size 9 is larger than 5", 60, 40)
        session.send(too_large) if len(got.body) > 5 else session.answer(got)

    server.on("Basic.Publish", answer)
    at_server.emit("--log-file", at_server.log, stdin=b"one\ntoo large\n", status=1)
    assert [(record["event"], record["line"]) for record in at_server.events()] == [("confirmed", 1), ("refused", 2)]
    for record in at_server.events():
        assert fields_of(record) == FIELDS[record["event"]]


def test_a_task_of_words_has_the_same_fields_and_no_line(at_server: Scripts, server: Server) -> None:
    at_server.emit("--log-file", at_server.log, "one")
    (record,) = at_server.events()
    assert fields_of(record) == {**EVERY, **dict.fromkeys(("line", "after", "next_line"), type(None))}


ONE_OF_EACH = """
import os, signal
from listening_worker import listen
from relay import Relay

relay = Relay(int(os.environ["BEHIND_RELAY"]))

def perform(task):
    if task.text == "bad" and not task.redelivered:
        raise ValueError("no good")
    if task.text == "cut" and not task.redelivered:
        relay.cut()
    if task.text == "stop":
        os.kill(os.getpid(), signal.SIGINT)

try:
    listen(perform, url=relay.url, log_file="events.jsonl", name="anna")
except KeyboardInterrupt:
    pass
"""


def test_the_events_of_a_worker_have_exactly_their_fields(scripts: Scripts) -> None:
    scripts.emit(stdin=b"good\nbad\ncut\nstop\n")
    path = f"{PROJECT}:{PROJECT / 'tests'}"
    scripts.program(ONE_OF_EACH, PYTHONPATH=path, BEHIND_RELAY=str(scripts.broker.node.amqp_port))
    ends = [(record["event"], record["task"]) for record in scripts.events() if record["event"] != "received"]
    assert sorted(ends) == [
        ("ack-lost", "cut"),
        ("done", "bad"),
        ("done", "cut"),
        ("done", "good"),
        ("failed", "bad"),
        ("requeued", "stop"),
    ]
    for record in scripts.events():
        assert fields_of(record) == FIELDS[record["event"]]
        assert record["name"] == "anna"
    assert scripts.events("failed")[0]["error"] == "ValueError: no good (work.py, line 10)"


def test_a_task_is_logged_as_received_before_the_work_begins(scripts: Scripts) -> None:
    """A worker that is killed in the middle of a task leaves its name."""
    scripts.emit("task")
    scripts.work("--log-file", scripts.log, "--run", f"cp {scripts.log} then.jsonl")
    scripts.log = scripts.folder / "then.jsonl"
    assert [(record["event"], record["task"]) for record in scripts.events()] == [("received", "task")]
