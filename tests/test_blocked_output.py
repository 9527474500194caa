"""Output that nobody takes, as at a paused terminal or on a full disk: it costs no heartbeat, no memory, no Ctrl+C."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Scripts, eventually, feed, fill, limit_files, start_own, waits_for_output, waits_in
from relay import Relay
from scripted_server import Server

from listening_worker import listen


@pytest.fixture
def full_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    fill(writer)
    with os.fdopen(reader), os.fdopen(writer):
        yield writer


def told(scripts: Scripts) -> list[str]:
    return [f"{record['event']} {record['task']}" for record in scripts.events()]


def test_an_emitter_that_can_not_tell_takes_in_no_more_than_its_window(
    at_server: Scripts, server: Server, full_pipe: int
) -> None:
    go = at_server.folder / "go"
    lines = f"echo first; until test -e {go}; do sleep 0.05; done; exec yes {'x' * 3000}"
    source = subprocess.Popen(["timeout", "60", "sh", "-c", lines], stdout=subprocess.PIPE)
    emitter = at_server.emitter("--verbose", "--log-file", at_server.log, stdin=source.stdout, stdout=full_pipe)
    source.stdout.close()  # type: ignore[union-attr]
    server.gets("Basic.Publish")
    others = Path(f"/proc/{emitter.process.pid}/task")
    eventually(lambda: any(map(waits_for_output, sorted(map(int, os.listdir(others)))[1:])), "the printer waits")
    go.touch()
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 3, "time goes by in which it could take in everything")
    assert len(server.got("Basic.Publish")) <= 1000
    status = Path(f"/proc/{emitter.process.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 60_000, "kB"
    emitter.send(signal.SIGINT)
    emitter.ends(130)
    source.wait()
    assert f" [!] {len(server.got('Basic.Publish')):,} tasks confirmed. Go on with:  --from-line" in emitter.err
    assert len(at_server.events("confirmed")) == len(server.got("Basic.Publish"))


@pytest.mark.parametrize("tasks", [1, 1000])
def test_output_that_is_full_does_not_stop_the_heartbeats(scripts: Scripts, relay: Relay, tasks: int) -> None:
    """The main thread reads, and another one reports what is confirmed; or the main thread itself waits to report."""
    reader, writer = os.pipe()
    emitter = scripts.emitter("--verbose", "--url", f"{relay.url}?heartbeat=1", stdin=subprocess.PIPE, stdout=writer)
    fill(writer)
    os.close(writer)
    feed(emitter, b"task\n" * tasks)
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == tasks, "all are sent")
    before = relay.heartbeats
    eventually(lambda: relay.heartbeats > before + 4, "it is alive long after the confirm came")
    with os.fdopen(reader, "rb") as output:
        feed(emitter, b"last\n", is_last=True)
        *sent, last, total = output.read().strip(b".").splitlines()
    assert sent == [b" [x] Sent task"] * tasks
    assert last == b" [x] Sent last"
    assert total.startswith(b" [x] Sent %s tasks" % f"{tasks + 1:,}".encode())
    assert emitter.ends().err == ""


def test_a_prompt_at_a_paused_terminal_ends_when_asked(at_server: Scripts, server: Server) -> None:
    terminal = at_server.at_terminal("emitter_of_tasks.py")
    terminal.expect("Would you like to monitor RabbitMQ queues")
    terminal.send("\x13")  # Ctrl+S
    terminal.kill(signal.SIGTERM)
    eventually(lambda: not terminal.isalive(), "it ends", within=5)


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


def test_ctrl_c_ends_a_program_of_ones_own_though_nobody_reads_what_it_says(
    at_server: Scripts, server: Server, full_pipe: int
) -> None:
    worker = start_own(at_server, "run(lambda: listen(print))", stdout=full_pipe)
    eventually(lambda: waits_for_output(worker.process.pid), "it can't say that it waits for tasks")
    worker.send(signal.SIGINT)
    worker.ends(130, within=10)


def test_a_worker_that_can_not_tell_of_a_task_finishes_it_and_does_no_further_one(
    at_server: Scripts, server: Server
) -> None:
    reader, writer = os.pipe()
    worker = at_server.start("listening_worker.py", "--log-file", at_server.log, stdout=writer)
    assert b"Waiting" in os.read(reader, 1000)
    fill(writer)
    os.close(writer)
    server.put(b"one..", b"two")
    eventually(lambda: server.session(0).in_hand, "it has the task")
    eventually(lambda: waits_for_output(worker.process.pid), "it can't tell so")
    worker.send(signal.SIGTERM)
    with open(reader, "rb") as pipe:
        assert pipe.read().splitlines()[-2:] == [b" [x] Done.", b" [*] Stopped."]
    worker.ends()
    assert told(at_server) == ["received one..", "done one.."]
    assert [body for body, _ in server.tasks] == [b"two"]


def test_a_terminal_that_is_paused_holds_up_nothing_but_its_worker(at_server: Scripts, server: Server) -> None:
    """A terminal takes a part of a line, and then nothing: the write itself waits, not what looks before it."""
    server.put(*(b"x" * 400 for _ in range(1000)))
    terminal = at_server.at_terminal("listening_worker.py")
    eventually(lambda: "wait_woken" in waits_in(terminal.pid), "it writes, and can't go on", within=60)
    assert 0 < len(server.got("Basic.Ack")) < 1000
    terminal.kill(signal.SIGTERM)
    eventually(lambda: not terminal.isalive(), "it ends, though nobody has read a line")


@pytest.mark.parametrize("begin", ["start", "run"])  # in another thread, and in this one
def test_a_stop_event_ends_a_worker_whose_output_nobody_reads(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    reader, writer = os.pipe()
    stop = threading.Event()

    def perform(_: object) -> None:
        fill(writer)
        stop.set()

    server.put(b"one", b"two")
    with os.fdopen(reader), os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        worker = threading.Thread(target=listen, args=[perform], kwargs={"url": server.url, "stop": stop}, daemon=True)
        getattr(worker, begin)()
        eventually(lambda: not worker.is_alive(), "it ends", within=10)
    assert len(server.got("Basic.Ack")) == 1
    assert list(server.tasks) == [(b"two", False)]


def test_output_and_the_log_go_on_when_the_disk_has_room_again(at_server: Scripts, server: Server) -> None:
    output, log = at_server.folder / "output", at_server.log
    with output.open("ab") as file:
        worker = at_server.start("listening_worker.py", "--log-file", log, stdout=file)
    server.put(b"one")
    eventually(lambda: at_server.events("done") and "Done" in output.read_text(), "the first is logged and told")
    size = log.stat().st_size + 10
    with output.open("ab") as file:  # full to the same byte
        file.write(b"." * (size - output.stat().st_size - 1) + b"\n")
    limit_files(worker.process.pid, size)
    server.put(b"two", b"three")
    server.gets("Basic.Ack", times=3)
    worker.shows(" [!] Standard output can't be written: File too large. The tasks go on.")
    worker.shows(" [!] The log file can't be written: File too large. The tasks go on.")
    limit_files(worker.process.pid, resource.RLIM_INFINITY)
    server.put(b"four")
    eventually(lambda: "done four" in told(at_server), "it is logged")
    eventually(lambda: "four" in output.read_text(), "it is shown")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert "two" not in output.read_text()
    torn = [line for line in log.read_text().splitlines() if not line.endswith("}")]
    assert [len(line) for line in torn] == [10], "only what the full disk has cut off is torn"
    whole = [event for event in told(at_server) if event.endswith((" one", " four"))]
    assert whole == ["received one", "done one", "received four", "done four"]
    assert worker.err.count("can't be written") == 2


FORKS = """
from task_queue.terminal.console import complain_in_background, finish_background
for name in ("parent", "child"):
    complain_in_background(name)
    finish_background()
    if name == "parent" and (pid := os.fork()):
        os.waitpid(pid, 0)
        break
"""


def test_a_process_that_was_forked_prints_in_the_background_too(at_server: Scripts) -> None:
    assert start_own(at_server, FORKS).ends().err == "parent\nchild\n"
