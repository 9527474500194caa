"""What a task does with signals and with RabbitMQ, and what stays as promised all the same."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from harness import PROJECT, Scripts
from scripted_server import Got, Server, Session

ASYNCIO = """
import asyncio, signal, time
from listening_worker import listen, run

async def tidy_up_on_sigterm():
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, print)
        loop.remove_signal_handler(number)

def perform(task):
    if task.text == "asyncio":
        asyncio.run(tidy_up_on_sigterm())
    else:
        print("began", flush=True)
        time.sleep(float(task.text))

run(lambda: listen(perform, log_file="events.jsonl"))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_taken_back_from_a_task_that_has_kept_them(
    at_server: Scripts, server: Server, number: signal.Signals
) -> None:
    (at_server.folder / "work.py").write_text(ASYNCIO)
    server.put(b"asyncio", b"0.5" if number == signal.SIGTERM else b"60")
    worker = at_server.start(str(at_server.folder / "work.py"), env={"PYTHONPATH": str(PROJECT)})
    worker.shows("began")
    worker.send(number)
    worker.ends(0 if number == signal.SIGTERM else 130)
    last = "done" if number == signal.SIGTERM else "requeued"
    assert [event["event"] for event in at_server.events()] == ["received", "done", "received", last]


def test_a_worker_that_waits_hears_a_signal_at_once_after_such_a_task(at_server: Scripts, server: Server) -> None:
    (at_server.folder / "work.py").write_text(ASYNCIO)
    server.put(b"asyncio")
    worker = at_server.start(str(at_server.folder / "work.py"), env={"PYTHONPATH": str(PROJECT)})
    worker.shows("Done.")
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    worker.ends(0)
    assert time.monotonic() - began < 4  # pika's loop looks up every five seconds by itself


PUBLISHES = """
import time
from listening_worker import listen
from task_queue.publisher import Publisher
from task_queue.settings import settings_for
from task_queue.message import new_message

def perform(task):
    publisher = Publisher(settings_for(None, "results", "results", 0.0), tell=lambda batch: print("told", len(batch)))
    publisher.connection.open()
    publisher.publish(new_message("result"))
    publisher.wait()
    print("began", flush=True)
    time.sleep(1)
    publisher.connection.close()

listen(perform, log_file="events.jsonl")
"""


def test_a_task_that_publishes_is_finished_and_done_once_when_sigterm_comes(at_server: Scripts, server: Server) -> None:
    server.put(b"one", b"two")
    (at_server.folder / "work.py").write_text(PUBLISHES)
    worker = at_server.start(str(at_server.folder / "work.py"), env={"PYTHONPATH": str(PROJECT)})
    worker.shows("began")
    worker.send(signal.SIGTERM)
    worker.ends(0)
    assert [(event["event"], event["task"]) for event in at_server.events()] == [("received", "one"), ("done", "one")]
    assert "told 1" in worker.lines
    assert [body for body, _ in server.tasks] == [b"two"]


# ---- What arrives when no more is wanted


@pytest.mark.parametrize(("version", "cancels"), [("3.10.8", 1), ("3.11.0", 0), ("4.3.6", 0), ("unknown", 0)])
def test_a_failed_task_costs_a_subscription_only_where_rabbitmq_needs_it(
    at_server: Scripts, server: Server, version: str, cancels: int
) -> None:
    server.version = version
    server.put(b"bad")
    worker = at_server.start("listening_worker.py", "--run", "sh -c 'test -e once || ! touch once'")
    worker.shows("Done.")
    assert len(server.got("Basic.Reject")) == 1
    assert len(server.got("Basic.Cancel")) == cancels
    assert len(server.got("Basic.Consume")) == 1 + cancels


def test_a_burst_unsubscribes_before_it_rejects_though_a_task_comes_while_it_asks(
    at_server: Scripts, server: Server
) -> None:
    """Else RabbitMQ 3.10 would deliver one more task, and its return untried would count as a try."""
    server.version = "3.10.8"
    looks = []

    def look(session: Session, got: Got) -> None:
        looks.append(got)
        if len(looks) == 3:  # the first two declare the queues
            session.deliver(b"task")
            threading.Timer(0.5, session.answer, [got]).start()
        else:
            session.answer(got)

    server.on("Queue.Declare", look)
    at_server.start("listening_worker.py", "--burst", "--max-tasks", 2, "--run", "false")
    (reject,) = server.gets("Basic.Reject")
    assert server.got("Basic.Cancel")[0].at <= reject.at


# ---- What comes out of pika's loop


def test_an_error_out_of_pikas_loop_is_a_lost_connection_with_a_reason(at_server: Scripts, server: Server) -> None:
    """One that pika catches, as it does what comes while it reads, and one that it does not."""
    (at_server.folder / "sitecustomize.py").write_text(
        "import pika.channel\n"
        "real = pika.channel.Channel._on_deliver\n"
        "def fails_once(self, *arguments):\n"
        "    if not hasattr(pika, 'has_failed'):\n"
        "        pika.has_failed = True\n"
        "        raise RuntimeError('pika is in disorder')\n"
        "    real(self, *arguments)\n"
        "pika.channel.Channel._on_deliver = fails_once\n"
        "from pika.adapters.select_connection import IOLoop\n"
        "steps = IOLoop.process_timeouts\n"
        "def fails_too(self):\n"
        "    if hasattr(pika, 'has_failed') and not hasattr(pika, 'has_failed_too'):\n"
        "        pika.has_failed_too = True\n"
        "        raise ValueError('its loop, too')\n"
        "    steps(self)\n"
        "IOLoop.process_timeouts = fails_too\n"
    )
    server.put(b"task")
    worker = at_server.start("listening_worker.py", env={"PYTHONPATH": str(at_server.folder)})
    worker.shows("Done.")
    assert "was lost (its loop, too)" in worker.err or "was lost (pika is in disorder)" in worker.err
    worker.send(signal.SIGTERM)
    worker.ends()
