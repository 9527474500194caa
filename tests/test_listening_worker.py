"""What a worker shows and costs; what listen() refuses in a program of one's own, and how an event stops it."""

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from harness import Scripts, eventually, fill, start_own
from in_process import work
from scripted_server import Server

from task_queue import SettingsError
from task_queue.terminal import console
from task_queue.worker.consumer import Consumer

# ---- What it shows


def test_a_long_task_is_cut_on_the_terminal_only(at_server: Scripts, server: Server) -> None:
    """Of a very long one only the beginning is decoded, and no half of a character is shown."""
    server.put(b"x" * 100_000, "日".encode() * 100_000, b"\x1b\xff" * 100_000)
    shown = [line for line in work(at_server, lambda _: None) if "Received" in line]
    assert shown == [
        f" [x] Received {'x' * 500} ... (100,000 characters)",
        f" [x] Received {'日' * 500} ... (300,000 bytes)",
        " [x] Received " + r"\x1b\xff" * 100 + " ... (200,000 bytes)",
    ]
    assert at_server.events("done")[0]["task"] == "x" * 100_000


def test_a_task_may_print_though_nobody_will_ever_read_it(at_server: Scripts, server: Server) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    server.put(b"task")
    run = start_own(at_server, "listen(lambda task: print('printed', flush=True), max_tasks=1)", stdout=writer)
    os.close(writer)
    run.ends()
    assert len(server.got("Basic.Ack")) == 1
    assert server.got("Basic.Reject") == []


def test_a_pipe_that_does_not_wait_by_itself_is_waited_for() -> None:
    """Some programs share pipes that they make non-blocking."""
    reader, writer = os.pipe()
    fill(writer)
    os.set_blocking(writer, False)
    threading.Timer(0.2, os.read, [reader, 65536]).start()
    with open(writer, "w") as pipe:
        console.print_now("line\n", pipe)
    with open(reader, "rb") as pipe:
        assert pipe.read().endswith(b"line\n")


# ---- What it costs


def test_a_large_task_is_in_memory_once_beside_what_pika_makes_of_it(at_server: Scripts, server: Server) -> None:
    """Nor is the first there any more when the next one comes."""
    worker = at_server.start("listening_worker.py")
    size = 12_000_000

    def peak() -> int:
        (found,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.process.pid}/status").read_text())
        return int(found) * 1024

    server.put(b"small")
    worker.shows("Done.")
    before = peak()
    server.put(b"x" * size, b"y" * size)
    worker.shows("Done.", times=3)
    assert peak() - before < 2.2 * size


def test_an_idle_worker_costs_nothing_measurable(at_server: Scripts, server: Server) -> None:
    worker = at_server.start("listening_worker.py")
    server.gets("Basic.Consume")
    stat = Path(f"/proc/{worker.process.pid}/stat")

    def ticks() -> int:
        fields = stat.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def rests() -> bool:
        before = ticks()
        time.sleep(5)
        return ticks() - before <= 1  # of a hundredth of a second

    eventually(rests, "it has started, and costs nothing from then on")


# ---- What listen() refuses

NO_SETTINGS: list[tuple[str, object]] = [
    *((name, value) for name in ("max_tasks", "ack_timeout") for value in ("3", 0, -1, True, float("nan"))),
    ("ack_timeout", None),
    ("ack_timeout", float("inf")),
    *((name, "") for name in ("url", "queue", "name", "log_file")),  # empty, which is never the default
]


@pytest.mark.parametrize(("name", "value"), NO_SETTINGS)
def test_a_setting_that_makes_no_sense_is_refused_as_the_flag_would_be(
    at_server: Scripts, server: Server, name: str, value: object
) -> None:
    with pytest.raises(SettingsError) as refused:
        work(at_server, print, **{name: value})
    assert value == "" or str(refused.value).startswith(f"{name} must be ")
    assert server.sessions == []


# ---- Stopping it from another thread


def test_an_event_ends_a_worker_that_waits(at_server: Scripts, server: Server) -> None:
    stop = threading.Event()
    threading.Thread(target=lambda: (server.gets("Basic.Consume"), stop.set())).start()
    assert work(at_server, print, stop=stop, burst=False)[-1] == " [*] Stopped."
    assert server.gets("Connection.Close")[0].at - server.got("Basic.Consume")[0].at < 4  # pika looks up every 5 s


def test_a_task_that_comes_together_with_the_event_is_not_begun(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, deliver = threading.Event(), Consumer._on_delivery

    def deliver_and_stop(*arguments: Any) -> None:
        deliver(*arguments)
        stop.set()

    monkeypatch.setattr(Consumer, "_on_delivery", deliver_and_stop)
    server.put(b"task")
    work(at_server, print, stop=stop, burst=False)
    assert at_server.events() == []
    assert len(server.got("Basic.Nack")) == 1, "it is handed back, which RabbitMQ 4.3 does not count"
    assert server.got("Basic.Ack") == []
