"""Output that nobody takes, as at a paused terminal or in a full pipe: it costs no heartbeat, memory or Ctrl+C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Run, Scripts, eventually, fill, waits_for_output
from scripted_server import Server


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """A pipe to write into that takes nothing, and that nobody reads."""
    reader, writer = os.pipe()
    fill(writer)
    yield writer
    os.close(writer)
    os.close(reader)


def memory(run: Run) -> float:
    """Return how many MB a process takes."""
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_an_emitter_that_can_not_tell_takes_in_no_more_than_its_window(
    at_server: Scripts, server: Server, full_pipe: int
) -> None:
    emitter = at_server.emitter("--verbose", stdin=subprocess.PIPE, stdout=full_pipe, bufsize=0)
    pipe = emitter.process.stdin
    assert pipe

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), pipe:
            for _ in range(20_000):
                pipe.write(b"x" * 3000 + b"\n")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    server.gets("Basic.Publish")
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 3, "time goes by in which it could take in everything")
    assert len(server.got("Basic.Publish")) <= 1000
    assert memory(emitter) < 60
    emitter.send(signal.SIGINT)
    emitter.ends(130)
    writer.join()
    assert "confirmed. Go on from line" in emitter.err


def test_a_worker_that_can_not_complain_comes_back_and_works(
    at_server: Scripts, server: Server, full_pipe: int
) -> None:
    worker = at_server.start("listening_worker.py", "--log-file", at_server.log, stderr=full_pipe)
    server.gets("Basic.Consume")
    for number in range(3):
        server.session(number).hang_up()
        server.gets("Basic.Consume", times=number + 2)
    server.put(b"task")
    eventually(lambda: at_server.events("done"), "the task is done")
    worker.send(signal.SIGTERM)
    worker.ends()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_can_not_even_say_that_it_waits_ends_when_asked(
    at_server: Scripts, server: Server, full_pipe: int, number: signal.Signals
) -> None:
    worker = at_server.start("listening_worker.py", stdout=full_pipe)
    server.gets("Basic.Qos")
    worker.send(number)
    worker.ends()
    assert server.got("Basic.Consume") == []


def test_a_worker_that_can_not_tell_of_a_task_finishes_it_and_does_no_further_one(
    at_server: Scripts, server: Server, full_pipe: int
) -> None:
    reader, writer = os.pipe()
    worker = at_server.start("listening_worker.py", "--log-file", at_server.log, stdout=writer)
    assert b"Waiting" in os.read(reader, 1000)
    fill(writer)
    server.put(b"one..", b"two")
    eventually(lambda: server.session(0).in_hand, "it has the task")
    eventually(lambda: waits_for_output(worker.process.pid), "it can't tell so")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert [(event["event"], event["task"]) for event in at_server.events()] == [
        ("received", "one.."),
        ("done", "one.."),
    ]
    assert [body for body, _ in server.tasks] == [b"two"]
    os.close(writer)
    os.close(reader)


def test_a_terminal_that_is_paused_holds_up_nothing_but_its_worker(at_server: Scripts, server: Server) -> None:
    """A terminal takes a part of a line, and then nothing: the write itself waits, not what looks before it."""
    server.put(*(b"x" * 400 for _ in range(1000)))
    terminal = at_server.at_terminal("listening_worker.py")
    server.gets("Basic.Ack")
    eventually(lambda: no_more_come(server), "it does no further task", within=60)
    assert len(server.got("Basic.Ack")) < 1000
    terminal.kill(signal.SIGTERM)
    eventually(lambda: not terminal.isalive(), "it ends, though nobody has read a line")


def no_more_come(server: Server) -> bool:
    before = len(server.got("Basic.Ack"))
    time.sleep(1)  # much longer than a task takes
    return len(server.got("Basic.Ack")) == before


# ---- Logs and prompts that block


@pytest.mark.parametrize("script", ["emitter_of_tasks.py", "listening_worker.py"])
def test_a_log_that_is_a_pipe_without_a_reader_is_an_error(at_server: Scripts, script: str) -> None:
    os.mkfifo(at_server.log)
    words = ["task"] * (script == "emitter_of_tasks.py")
    run = at_server.start(script, "--log-file", at_server.log, *words).ends(2)
    assert "can't be opened" in run.err


def test_a_log_that_is_a_pipe_gets_every_record_though_its_reader_is_late(at_server: Scripts, server: Server) -> None:
    os.mkfifo(at_server.log)
    reader = os.open(at_server.log, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    file = at_server.folder / "tasks.txt"
    file.write_text(f"{'x' * 400}\n" * 2000)
    emitter = at_server.emitter("--file", file, "--log-file", at_server.log)
    server.gets("Basic.Publish", times=1000)
    with os.fdopen(reader, "rb") as log:
        assert len(log.readlines()) == 2000
    emitter.ends()
    assert emitter.err == ""


def test_a_prompt_at_a_paused_terminal_ends_when_asked(at_server: Scripts, server: Server) -> None:
    terminal = at_server.at_terminal("emitter_of_tasks.py")
    terminal.expect("Would you like to monitor RabbitMQ queues")
    terminal.send("\x13")  # Ctrl+S
    terminal.kill(signal.SIGTERM)
    eventually(lambda: not terminal.isalive(), "it ends", within=5)


@pytest.mark.parametrize("where", ["the main thread", "another thread"])
def test_a_stop_event_ends_a_worker_whose_output_nobody_reads(at_server: Scripts, server: Server, where: str) -> None:
    program = f"""
import sys, threading
from pathlib import Path
from listening_worker import listen

stop = threading.Event()

def perform(task):
    Path("begun").touch()
    sys.stdin.read()
    stop.set()

worker = threading.Thread(target=listen, args=[perform], kwargs=dict(stop=stop))
worker.run() if {where == "the main thread"} else worker.start()
"""
    reader, writer = os.pipe()
    worker = at_server.start_program(program, stdin=subprocess.PIPE, stdout=writer)
    server.put(b"one", b"two")
    eventually(lambda: (at_server.folder / "begun").exists(), "it has the task")
    fill(writer)
    assert worker.process.stdin
    worker.process.stdin.close()
    worker.ends(within=10)
    assert len(server.got("Basic.Ack")) == 1
    assert [body for body, _ in server.tasks] == [b"two"]
    os.close(writer)
    os.close(reader)


def test_what_is_read_after_sigterm_has_the_last_line_in_it(at_server: Scripts, server: Server) -> None:
    reader, writer = os.pipe()
    worker = at_server.start("listening_worker.py", stdout=writer)
    assert b"Waiting" in os.read(reader, 1000)
    fill(writer)
    os.close(writer)
    server.put(b"task..")
    eventually(lambda: server.session(0).in_hand, "it has the task")
    eventually(lambda: waits_for_output(worker.process.pid), "it can't tell so")
    worker.send(signal.SIGTERM)
    with open(reader, "rb") as pipe:
        lines = pipe.read().splitlines()
    worker.ends()
    assert lines[-2:] == [b" [x] Done.", b" [*] Stopped."]
