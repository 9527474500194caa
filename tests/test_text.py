"""Foreign text on the terminal: whoever says it, with nothing in it that could harm."""

import contextlib
import os
import re
import signal
from pathlib import Path

from harmful import HARM, HARMFUL, SHOWN, harmless
from harness import Scripts
from in_process import printed, said_by
from pika import spec
from scripted_server import Got, Server, Session, nothing, takes_up_to

import listening_worker
from task_queue.worker.task import Task

# A family joined by U+200D, a space that does not break, a soft hyphen, a private character: odd, and no harm.
UNUSUAL = "👨\u200d👩\u200d👧 \xa0 \xad \ue000 \ufeff"


def test_what_a_worker_says_is_shown_harmless(at_server: Scripts, server: Server) -> None:
    def fail(_task: Task) -> None:
        raise ValueError(HARM)

    steps = iter([print, print, fail, lambda _: os.kill(os.getpid(), signal.SIGINT)])

    def hand_out(session: Session, got: Got) -> None:
        session.answer(got)
        if session.number == 0:
            session.send(spec.Connection.Close(320, f"CONNECTION_FORCED - because of {HARM}", 0, 0))
            return
        session.deliver(HARMFUL.encode() + b"\xed\xa0\x80")  # the last: half a surrogate pair
        session.deliver(f"Größe 日本 e\u0301 👍 {UNUSUAL}".encode())
        session.deliver(HARM.encode(), True, headers={"x-delivery-count": 20})
        session.deliver(f"stopped {HARM}".encode())

    server.on("Basic.Consume", hand_out)
    server.on("Basic.Reject", nothing)
    with printed() as out, contextlib.suppress(KeyboardInterrupt):
        listening_worker.listen(lambda task: next(steps)(task), url=server.url)
    said = harmless(out.getvalue())
    assert f"CONNECTION_FORCED - because of {SHOWN}" in said
    assert f" [x] Received {HARMFUL.encode('unicode_escape').decode()}\\xed\\xa0\\x80\n" in said
    assert f" [x] Received Größe 日本 e\u0301 👍 {UNUSUAL}\n" in said
    assert f"dead letter now: {SHOWN}\n" in said
    assert re.search(rf" \[!\] Failed.*: ValueError: {re.escape(SHOWN)} \(test_text.py, line \d+\)", said)
    assert f"goes back to the queue: stopped {SHOWN}\n" in said


def test_what_an_emitter_says_is_shown_harmless(at_server: Scripts, server: Server) -> None:
    def block(session: Session, got: Got) -> None:
        session.answer(got)
        session.send(spec.Connection.Blocked(f"low {HARM}"))
        session.send(spec.Connection.Unblocked())

    name = str(at_server.folder / HARM)
    shown = re.escape(f"{at_server.folder}/{SHOWN}")
    Path(f"{name}.txt").write_bytes(f"{HARM} good\n{HARM} large{'x' * 1000}\n".encode() + b"\xff\n")
    server.on("Basic.Publish", takes_up_to(500))
    server.on("Confirm.Select", block, connection=0)

    status, out, err = said_by(at_server, "emitter_of_tasks.py", "--verbose", "--file", f"{name}.txt")
    said = harmless(out + err)
    assert status == 1
    assert f" [*] RabbitMQ takes no tasks for now: low {SHOWN}. Waiting ...\n [*] RabbitMQ takes tasks again.\n" in said
    assert server.got("Connection.StartOk")[0].method.client_properties["capabilities"]["connection.blocked"]
    assert f" [x] Sent {SHOWN} good\n" in said
    assert re.search(rf"Line 2 of {shown}.txt is not sent: .*: {re.escape(SHOWN)} large", said)
    assert re.search(f"Line 3 of {shown}.txt is not UTF-8.", said)
    assert "Go on with:  --from-line 3" in said
    server.on("Basic.Publish", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    status, out, err = said_by(at_server, "emitter_of_tasks.py", f"task {HARM}")
    assert status == 130
    assert f" [!] Not confirmed: task {SHOWN}\n" in harmless(out + err)
