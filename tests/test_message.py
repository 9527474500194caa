"""What is sent for a task, whichever way it comes in."""

from __future__ import annotations

import time
import uuid

from harness import Scripts
from in_process import said_by

EMITTER = "emitter_of_tasks.py"


def test_tasks_are_persistent_and_have_ids_whichever_way_they_come_in(scripts: Scripts) -> None:
    before = int(time.time())
    (scripts.folder / "tasks.CSV").write_text("of a,file.\n")
    terminal = scripts.at_terminal(EMITTER, "--no-admin")
    assert said_by(scripts, EMITTER, "of", "words: Größe") == (0, " [x] Sent of words: Größe\n", "")
    said_by(scripts, EMITTER, "--file", scripts.folder / "tasks.CSV")
    scripts.emit(stdin=b"of,a pipe\nof,a pipe\n")
    terminal.expect("Enter new task: ")
    terminal.sendline("typed")
    terminal.expect(r" \[x\] Sent typed\r\n")
    messages = scripts.broker.messages(scripts.queue)
    assert [message["body"].decode() for message in messages] == [
        *("of words: Größe", "of a file.", "of,a pipe", "of,a pipe", "typed")
    ]
    ids = set()
    for properties in (message["properties"] for message in messages):
        ids.add(message_id := properties.pop("message_id"))
        assert uuid.UUID(message_id).version == 4
        assert str(uuid.UUID(message_id)) == message_id
        assert before <= properties.pop("timestamp") <= time.time()
        assert properties.pop("headers", {}).keys() <= {"x-delivery-count"}  # which this look at it has put there
        assert properties == {"delivery_mode": 2, "content_type": "text/plain", "content_encoding": "utf-8"}
    assert len(ids) == 5
