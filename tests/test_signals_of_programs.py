"""Signals in a program of one's own: the worker's for the time of a call, and the program's again afterwards."""

from __future__ import annotations

import os
import signal
import time

import pytest
from harness import Run, Scripts, eventually, start_own
from scripted_server import Server

LEAVES = """
NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD
stopped = threading.Event()
stopped.set()

def handlers():
    return [signal.getsignal(number) for number in NUMBERS]

def state():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    threads = [thread.name for thread in threading.enumerate() if thread.name != "outbox"]
    return *handlers(), wakeup, signal.pthread_sigmask(signal.SIG_BLOCK, []), len(os.listdir("/proc/self/fd")), threads

def in_another_thread():
    before, found = handlers(), []
    thread = threading.Thread(target=listen, args=[lambda _: found.append(handlers())], kwargs=dict(max_tasks=1))
    thread.start()
    thread.join()
    assert found == [before]

def raises(number):
    listen(lambda _: os.kill(os.getpid(), number))

if {has_own_handlers}:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes)
    for number in NUMBERS[:3]:
        signal.signal(number, lambda *_: print("mine"))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

ways = [
    ("an event", lambda: listen(print, stop=stopped)),
    ("refused", lambda: listen(print, url="amqp://localhost:1")),
    ("a thread", in_another_thread),
    ("SIGTERM", lambda: raises(signal.SIGTERM)),
    ("SIGHUP", lambda: raises(signal.SIGHUP)),
    ("Ctrl+C", lambda: raises(signal.SIGINT)),
    ("burst", lambda: listen(print, burst=True)),
    ("run", lambda: run(lambda: listen(print, burst=True))),
]
ways[0][1]()  # what is made once is there
for name, way in ways:
    before, raised = state(), "nothing"
    try:
        way()
    except BaseException as end:
        raised = type(end).__name__
    print(name, "raises", raised, "and changes", [(one, other) for one, other in zip(before, state()) if one != other])
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("has_own_handlers", [True, False])
def test_listen_leaves_the_signals_as_they_were(at_server: Scripts, server: Server, has_own_handlers: bool) -> None:
    """Nor does it leave a thread or a descriptor behind, or touch any handler from another thread."""
    server.put(b"one", b"two", b"three")
    run = start_own(at_server, LEAVES.format(has_own_handlers=has_own_handlers))
    assert run.process.wait(20) == (0 if has_own_handlers else -signal.SIGTERM)
    assert [line for line in run.lines if "changes" in line] == [
        "an event raises nothing and changes []",
        "refused raises QueueError and changes []",
        "a thread raises nothing and changes []",
        "SIGTERM raises SystemExit and changes []",
        "SIGHUP raises KeyboardInterrupt and changes []",
        "Ctrl+C raises KeyboardInterrupt and changes []",
        "burst raises nothing and changes []",
        "run raises SystemExit and changes []",
    ]
    assert run.lines.count("mine") == has_own_handlers


# ---- A program that calls listen() again and again


def again_and_again(scripts: Scripts, way: str, pause: float) -> Run:
    program = f"""
        def perform(task):
            print("in a call", flush=True)
            time.sleep(0.3)

        def main():
            while True:
                listen(perform, burst=True)
                print("between two calls", flush=True)
                time.sleep({pause})

        {way}
    """
    return start_own(scripts, program)


@pytest.mark.parametrize("way", ["run(main)", "main()"])
@pytest.mark.parametrize(
    ("number", "place", "status"),
    [  # with Python's own traceback and status for Ctrl+C; in run() that is 130
        (signal.SIGINT, "in a call", -signal.SIGINT),
        (signal.SIGTERM, "in a call", 0),
        (signal.SIGINT, "between two calls", -signal.SIGINT),
        (signal.SIGTERM, "between two calls", -signal.SIGTERM),
    ],
)
def test_the_first_signal_ends_the_program(
    at_server: Scripts, server: Server, number: signal.Signals, place: str, status: int, way: str
) -> None:
    if place == "in a call":
        server.put(b"task")
    run = again_and_again(at_server, way, pause=60)
    run.shows(place)
    run.send(number)
    assert run.process.wait(10) == (130 if (way, number) == ("run(main)", signal.SIGINT) else status)
    if place == "in a call":
        assert ("Done" if number == signal.SIGTERM else "Not finished") in run.out
        assert "between" not in run.out


@pytest.mark.parametrize("after", [0.03, 0.11, 0.17, 0.23, 0.31])
def test_the_first_signal_ends_the_program_whenever_it_comes(at_server: Scripts, server: Server, after: float) -> None:
    run = again_and_again(at_server, "run(main)", pause=0.2)
    run.shows("between two calls")
    time.sleep(after)
    run.send(signal.SIGINT)
    assert run.process.wait(10) == 130
    assert "Traceback" not in run.err


# ---- A program that goes on after its worker

GOES_ON = {
    "a thread": """
        threading.Thread(target=lambda: [print("goes on", flush=True), time.sleep(60)]).start()
        run(lambda: listen(print, burst=True))
    """,
    "run again": """
        with contextlib.suppress(SystemExit):
            run(lambda: listen(print, burst=True))
        print("goes on", flush=True)
        run(lambda: listen(print))
    """,
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("what", GOES_ON)
def test_a_program_that_goes_on_after_its_worker_hears_signals(
    at_server: Scripts, server: Server, what: str, number: signal.Signals
) -> None:
    run = start_own(at_server, GOES_ON[what])
    run.shows("goes on")
    run.shows("Stopped." if what == "a thread" else "To exit press CTRL+C")
    eventually(lambda: run.process.poll() is not None or run.send(number), "it ends")
    if what == "run again":
        assert run.process.returncode == (0 if number == signal.SIGTERM else 130)
    elif number == signal.SIGTERM:
        assert run.process.returncode == -signal.SIGTERM


# ---- Two workers in one program

TWO_WORKERS = """
from pathlib import Path

threading.Thread(target=listen, args=[lambda _: None], kwargs=dict(max_tasks=300)).start()
stop = threading.Event()
other = threading.Thread(target=listen, args=[print], kwargs=dict(stop=stop, queue="test-other"))
other.start()
time.sleep(0.3)
stop.set()
other.join()
Path("ended").touch()
"""


def test_a_worker_that_is_stopped_makes_no_other_one_lose_its_lines(scripts: Scripts) -> None:
    """Their output is a pipe that is read late, so lines have to wait."""
    reader, writer = os.pipe()
    scripts.emit(stdin=(b"x" * 400 + b"\n") * 300)
    run = start_own(scripts, TWO_WORKERS, stdout=writer)
    os.close(writer)
    eventually((scripts.folder / "ended").exists, "the one has ended")
    time.sleep(1)  # longer than a line of it would have waited
    with open(reader, "rb") as pipe:
        assert pipe.read().count(b" [x] Done.") == 300
    run.ends()
