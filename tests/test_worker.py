"""What a worker promises: one task at a time, acknowledged when it is done, handed back when it is not."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, Scripts, eventually, fill, leader_of, waits_for_output
from in_process import put, work, working
from relay import Relay
from scripted_server import Server

from listening_worker import running
from task_queue import SettingsError

STOPPED = " [*] Stopped."


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, and is not just a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def tasks_of(scripts: Scripts, event: str) -> dict[str, list[str]]:
    """Return the tasks with this event in the log, by the name of the worker."""
    names = {record["name"] for record in scripts.events()}
    return {name: [record["task"] for record in scripts.events(event) if record["name"] == name] for name in names}


# ---- Who gets which task


def test_equal_tasks_are_taken_in_turn_and_a_worker_holds_one(scripts: Scripts) -> None:
    gates = {f"{number}": threading.Event() for number in range(1, 6)}

    def perform(task: Any) -> None:
        assert gates[task.text].wait(DEADLINE)

    with working(scripts, perform, name="a"), working(scripts, perform, name="b"):
        eventually(lambda: scripts.broker.counts(scripts.queue)[1] == 2, "both listen")
        put(scripts, *(name.encode() for name in gates))
        for number, gate in enumerate(gates.values(), 1):
            begun = min(number + 1, 5)
            eventually(lambda: len(scripts.events("received")) == begun, "each has a task")  # noqa: B023
            assert scripts.broker.counts(scripts.queue)[0] == 5 - begun
            gate.set()
            eventually(lambda: len(scripts.events("done")) == number, "one is done")  # noqa: B023
    assert sorted(tasks_of(scripts, "done").values()) == [["1", "3", "5"], ["2", "4"]]


def test_nobody_waits_while_a_task_is_ready(scripts: Scripts) -> None:
    short = [f"{number}" for number in range(9)]
    all_others = threading.Event()

    def perform(task: Any) -> None:
        assert task.text != "long" or all_others.wait(DEADLINE)

    with working(scripts, perform, name="a"), working(scripts, perform, name="b"):
        eventually(lambda: scripts.broker.counts(scripts.queue)[1] == 2, "both listen")
        put(scripts, b"long", *(task.encode() for task in short))
        eventually(lambda: len(scripts.events("done")) == len(short), "all others are done")
        all_others.set()
    assert sorted(tasks_of(scripts, "done").values()) == [short, ["long"]]  # by turns it would have been five each


def test_a_worker_is_known_by_its_name_and_says_how_long_a_task_may_take(scripts: Scripts) -> None:
    anna = f"anna of {scripts.queue}"  # a name that no other test's worker has
    scripts.worker("--name", anna, "--ack-timeout", "0.5", "--log-file", scripts.log)
    by_default = scripts.worker("--log-file", scripts.log)
    own = f"worker-{socket.gethostname()}-{by_default.process.pid}"
    bert = f"bert of {scripts.queue}"
    milliseconds = {anna: 1_800_000, own: 86_400_000, bert: 900_000}

    def consumers() -> dict[str, Any]:
        every = scripts.broker.api("GET", "consumers")
        return {each["consumer_tag"]: each["arguments"] for each in every if each["queue"]["name"] == scripts.queue}

    def connections() -> set[str]:
        every = scripts.broker.api("GET", "connections")
        return {each.get("client_properties", {}).get("connection_name") for each in every}

    with working(scripts, lambda _: None, name=bert, ack_timeout=0.25):
        expected = {name: {"x-consumer-timeout": each} for name, each in milliseconds.items()}
        eventually(lambda: consumers() == expected, "the panel shows the consumers' names")
        eventually(lambda: connections() >= {*expected}, "the panel shows the connections' names")
        put(scripts, b"one", b"two", b"three")  # one for each
        eventually(lambda: len(scripts.events("done")) == 3, "all are done")
    assert {record["name"] for record in scripts.events()} == {*expected}


# ---- Ends


def test_ctrl_c_hands_the_task_back_at_once(scripts: Scripts) -> None:
    put(scripts, b"task.........")
    first = scripts.worker("--name", "first", "--log-file", scripts.log)
    first.shows("1 of 9")
    first.send(signal.SIGINT)
    second = work(scripts, lambda _: None, name="second", burst=False, max_tasks=1)
    assert " [x] Received task......... (redelivered)" in second
    first.ends()
    assert first.lines[-2:] == [" [*] Not finished, so it goes back to the queue: task.........", STOPPED]
    assert first.err == ""
    (requeued,) = scripts.events("requeued")
    assert requeued["task"] == "task........."
    assert 1 <= requeued["seconds"] < 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_idle_worker_at_once(at_server: Scripts, server: Server, number: signal.Signals) -> None:
    worker = at_server.worker()
    server.gets("Basic.Consume")
    worker.send(number)
    worker.ends(within=4)  # pika's loop looks up every five seconds by itself
    assert worker.lines[-1] == STOPPED
    assert worker.err == ""


def test_sigterm_lets_the_task_finish_and_takes_no_other(at_server: Scripts, server: Server) -> None:
    server.put(b"first..", b"second..")
    worker = at_server.start("listening_worker.py", "--seconds-per-dot", "0.5", "--log-file", at_server.log)
    worker.shows("1 of 2")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert worker.lines[1:] == [" [x] Received first..", "     . 1 of 2", "     . 2 of 2", " [x] Done.", STOPPED]
    assert [event["event"] for event in at_server.events()] == ["received", "done"]
    assert list(server.tasks) == [(b"second..", False)]


def test_a_second_sigterm_is_like_ctrl_c(at_server: Scripts, server: Server) -> None:
    server.put(b"task.........")
    worker = at_server.start("listening_worker.py")
    worker.shows("1 of 9")
    worker.send(signal.SIGTERM)
    worker.shows("2 of 9")
    worker.send(signal.SIGTERM)
    worker.ends(within=4)
    assert "goes back to the queue" in worker.out
    assert list(server.tasks) == [(b"task.........", True)]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_signals_one_after_the_other_stop_it_once_and_in_good_order(
    at_server: Scripts, server: Server, first: signal.Signals
) -> None:
    server.put(*(b"%d ." % number for number in range(1000)))
    for _ in range(3):
        worker = at_server.start("listening_worker.py", "--seconds-per-dot", 0.003, "--log-file", at_server.log)
        worker.shows("Done.", times=3)
        for number in (first, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            worker.send(number)
        worker.ends(0)
        assert worker.lines[-1] == STOPPED
    done = [event["task"] for event in at_server.events("done")]
    assert len(done) == len(set(done))
    assert len(at_server.events("received")) == len(done) + len(at_server.events("requeued"))
    assert {body.decode() for body, _ in server.tasks} == {f"{number} ." for number in range(1000)} - {*done}


def test_a_hangup_that_comes_twice_is_one(scripts: Scripts) -> None:
    """The system and the shell send one each when a terminal is closed."""
    worker = scripts.worker()
    worker.send(signal.SIGHUP)
    worker.send(signal.SIGHUP)
    worker.ends()


def test_burst_waits_for_a_queue_whose_leader_does_not_answer(scripts: Scripts) -> None:
    leader = leader_of(scripts.queue)
    freeze = f"sys:suspend({leader}), spawn(fun() -> timer:sleep(2500), sys:resume({leader}) end)."
    put(scripts, b"one", b"two")
    lines = work(scripts, lambda task: task.text == "one" and scripts.broker.node.ctl("eval", freeze))
    assert " [x] Received two" in lines


def test_burst_ends_with_the_queue(scripts: Scripts) -> None:
    assert len(work(scripts, print)) == 2
    put(scripts, *(b"%d" % number for number in range(200)))
    perform: Callable[[Any], object] = lambda _: None  # noqa: E731
    with contextlib.ExitStack() as stack:
        for worker in [stack.enter_context(working(scripts, perform, burst=True)) for _ in range(3)]:
            worker.join(DEADLINE)
            assert not worker.is_alive()
    assert sorted(int(record["task"]) for record in scripts.events("done")) == [*range(200)]


def test_max_tasks_ends_after_so_many_and_disturbs_no_other(scripts: Scripts) -> None:
    put(scripts, b"one", b"two", b"three")
    assert work(scripts, lambda _: None, burst=False, max_tasks=2).count(" [x] Done.") == 2
    (message,) = scripts.broker.messages(scripts.queue)
    assert message["body"] == b"three"
    assert not message["redelivered"]


@pytest.mark.parametrize("how", ["fails", "only begins"])
def test_a_worker_that_ends_with_a_failed_task_takes_no_other_one(scripts: Scripts, how: str) -> None:
    """Not even for the moment before it is gone."""

    async def nothing() -> None:
        pass

    def perform(_: object) -> object:
        if how == "fails":
            raise ValueError
        return nothing()

    put(scripts, b"bad", b"other")
    with pytest.raises(TypeError) if how == "only begins" else contextlib.nullcontext():
        work(scripts, perform, burst=False, max_tasks=1)
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 2, "both are in the queue")
    by_body = {message["body"]: message["redelivered"] for message in scripts.broker.messages(scripts.queue)}
    assert by_body == {b"bad": True, b"other": False}


# ---- Any task at all

BODIES = [b"", b"\xff\xfe\x00", b"\x1b[2J\x1b]0;title\x07", b"\xc2\x9b31m", b"%d {} $(id)", b"-"]


def test_a_body_from_another_client_is_done_and_shown_without_control_characters(scripts: Scripts) -> None:
    """Debian's amqp-publish sets no property and knows nothing of this project."""
    put(scripts)
    for body in BODIES:
        url = scripts.broker.url.replace("/%2F", "")
        subprocess.run(["amqp-publish", "--url", url, "-r", scripts.queue], input=body, check=True)
    done: list[bytes] = []
    lines = work(scripts, lambda task: done.append(task.body))
    assert done == BODIES
    assert "".join(lines).isprintable()
    assert lines.count(" [x] Done.") == len(BODIES)
    received = scripts.events("received")
    assert {(record["message_id"], record["delivery_count"]) for record in received} == {(None, 0)}


def test_a_long_task_is_cut_on_the_terminal_only(at_server: Scripts, server: Server) -> None:
    """Of a very long one only the beginning is decoded, and no half of a character is shown."""
    server.put(b"x" * 100_000, "日".encode() * 100_000, b"\xff" * 200_000)
    shown = [line for line in work(at_server, lambda _: None) if "Received" in line]
    assert shown == [
        f" [x] Received {'x' * 500} ... (100,000 characters)",
        f" [x] Received {'日' * 500} ... (300,000 bytes)",
        " [x] Received " + r"\xff" * 125 + " ... (200,000 bytes)",
    ]
    assert at_server.events("done")[0]["task"] == "x" * 100_000


def test_a_terminal_that_knows_only_ascii_gets_escapes(at_server: Scripts) -> None:
    stdin = "Größe\n".encode() + "日".encode() * 100_000
    run = at_server.emit("--verbose", stdin=stdin, env={"PYTHONIOENCODING": "ascii"})
    assert run.lines[:2] == [r" [x] Sent Gr\xf6\xdfe", " [x] Sent " + r"\u65e5" * 500 + " ... (300,000 bytes)"]


def test_a_large_task_is_in_memory_once_beside_what_pika_makes_of_it(at_server: Scripts, server: Server) -> None:
    """Nor is the first there any more when the next one comes."""
    worker = at_server.start("listening_worker.py")
    size = 12_000_000

    def peak() -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    server.put(b"small")
    worker.shows("Done.")
    before = peak()
    server.put(b"x" * size, b"y" * size)
    worker.shows("Done.", times=3)
    assert peak() - before < 2.2 * size


# ---- Commands


def test_the_command_gets_the_text_as_one_argument_and_the_body_on_standard_input(
    at_server: Scripts, server: Server
) -> None:
    out = at_server.folder / "out"
    task = f"""it's "two  spaces"; $(touch {at_server.folder}/no) `x` *"""
    server.put(task.encode())
    command = f"""sh -c 'printf "%s|" "$@" > {out}; cat >> {out}' sh {{}} '{{}}={{}}' "and 'more'" """
    work(at_server, running(command))
    assert out.read_text() == f"{task}|{task}={task}|and 'more'|{task}"
    assert not (at_server.folder / "no").exists()


SUCCEED = {
    "without braces": ("sh -c 'test $(wc -w) = 2'", b"one two"),
    "standard input unread": ("true", b"x" * 1_000_000),
    "no option": ("grep -cx -- {}", b"--version"),
    "no text": (
        r"""sh -c 'test "$1" = $(printf "\377\344") && test "$(cat)" = $(printf "\377\344")' sh {}""",
        b"\xff\xe4",
    ),
    "no comment": ("""sh -c 'test "$*" = "-fill #ff0000 out"' sh -fill #ff0000 out""", b"task"),
}


@pytest.mark.parametrize(("command", "body"), SUCCEED.values(), ids=SUCCEED)
def test_a_command_succeeds(at_server: Scripts, server: Server, command: str, body: bytes) -> None:
    server.put(body)
    assert " [x] Done." in work(at_server, running(command), burst=False, max_tasks=1)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("no-such-command {}", "--run: there is no command no-such-command here that may be executed."),
        (os.devnull, "--run: there is no command /dev/null here that may be executed."),
        ("", "--run: there is no command  here that may be executed."),
        ("sh -c 'x", "--run 'sh -c 'x' is not a command: No closing quotation."),
    ],
)
def test_what_is_no_command_is_said_before_a_task_is_taken(command: str, why: str) -> None:
    with pytest.raises(SettingsError) as refused:
        running(command)
    assert str(refused.value) == why


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("sh -c 'exit 3'", "sh ended with exit status 3"),
        ("sh -c 'kill -9 $$'", "sh was killed by SIGKILL"),
        ("sh -c 'kill -40 $$'", "sh was killed by signal 40"),
    ],
)
def test_a_failed_command_is_a_failed_task(at_server: Scripts, server: Server, command: str, why: str) -> None:
    server.put(b"task")
    lines = work(at_server, running(command), burst=False, max_tasks=1)
    assert lines[2].startswith(f" [!] Failed (try 1 of 21): {why}")
    assert at_server.events("failed")[0]["error"] == why
    assert list(server.tasks) == [(b"task", True)]


def test_ctrl_c_ends_the_command_with_its_children(at_server: Scripts, server: Server) -> None:
    """Also one that ignores SIGTERM, when its parent has ended."""
    server.put(b"task")
    stubborn = '(trap "" TERM; echo ready; exec sleep 1000)'
    worker = at_server.start(
        "listening_worker.py", "--run", f"sh -c 'sleep 1000 & echo pid $!; {stubborn} & echo pid $!; echo pid $$; wait'"
    )
    worker.shows("pid ", times=3)
    worker.shows("ready")
    pids = [int(pid) for pid in re.findall(r"pid (\d+)\n", worker.out)]
    try:
        worker.send(signal.SIGINT)
        worker.ends()
        eventually(lambda: not any(map(is_alive, pids)), "all are gone")
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert list(server.tasks) == [(b"task", True)]


def busy_command(when_asked_to_end: str) -> str:
    """Return a command that is busy for half a minute, and does this at SIGTERM."""
    # Without seq, which the signal would end as well, and with it the loop.
    loop = "n=0; while [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done"
    return f"sh -c 'trap \"{when_asked_to_end}\" TERM; echo pid $$; {loop}'"


def test_a_command_that_is_ended_may_tidy_up(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    worker = at_server.start("listening_worker.py", "--run", busy_command("sleep 1; echo tidy; exit"))
    worker.shows("pid ")
    worker.send(signal.SIGINT)
    assert "tidy" in worker.ends().lines
    assert list(server.tasks) == [(b"task", True)]


@pytest.mark.parametrize("is_asked_again", [False, True])
def test_a_command_that_does_not_end_is_killed_after_five_seconds_or_a_second_ctrl_c(
    at_server: Scripts, server: Server, is_asked_again: bool
) -> None:
    server.put(b"task")
    worker = at_server.start("listening_worker.py", "--run", busy_command("echo no"))
    worker.shows("pid ")
    asked = time.monotonic()
    worker.send(signal.SIGINT)
    worker.shows("no\n")

    def has_ended() -> bool:  # a second one within a fifth of a second would be taken for the first
        worker.send(signal.SIGINT)
        return worker.process.poll() is not None

    if is_asked_again:
        eventually(has_ended, "it ends")
    worker.ends()
    assert (time.monotonic() - asked < 5) == is_asked_again
    (pid,) = re.findall(r"pid (\d+)", worker.out)
    assert not is_alive(int(pid))
    assert list(server.tasks) == [(b"task", True)]


def test_ctrl_c_at_a_terminal_reaches_the_command_through_the_worker(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    ended = at_server.folder / "ended"
    terminal = at_server.at_terminal(
        "listening_worker.py",
        "--run",
        f'sh -c \'trap "echo TERM >> {ended}; exit" TERM; '
        f'trap "echo INT >> {ended}" INT; echo ready; while :; do sleep 0.1; done\'',
    )
    terminal.expect("ready")
    terminal.sendintr()
    terminal.expect("Not finished, so it goes back to the queue: task")
    terminal.expect("Stopped")
    assert ended.read_text() == "TERM\n"


def test_ctrl_c_while_a_command_starts_ends_it_too(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    at_server.program(
        "import contextlib, os, pathlib, signal, subprocess\n"
        "from listening_worker import listen, running\n"
        "execute = subprocess.Popen._execute_child\n"
        "def execute_and_interrupt(self, *arguments):\n"
        "    execute(self, *arguments)\n"
        "    pathlib.Path('pid').write_text(str(self.pid))\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "subprocess.Popen._execute_child = execute_and_interrupt\n"
        "with contextlib.suppress(KeyboardInterrupt):\n"
        "    listen(running('sleep 1000'))\n"
    )
    pid = int((at_server.folder / "pid").read_text())
    eventually(lambda: not is_alive(pid), "it is gone")
    assert list(server.tasks) == [(b"task", True)]


# ---- Tries


def test_a_worker_says_which_try_was_the_last(scripts: Scripts) -> None:
    put(scripts, b"bad")
    lines = work(scripts, running("false"), burst=False, max_tasks=21)
    tries = [[" [x] Received bad", f" [!] Failed (try {number} of 21): false"] for number in range(1, 22)]
    ends = [
        " [*] Waiting",
        *itertools.chain(*tries),
        " [!] It failed too often, and is a dead letter now",
        " [*] Stopped.",
    ]
    assert len(lines) == len(ends)
    assert all(line.startswith(beginning) for line, beginning in zip(lines, ends))


@pytest.mark.parametrize("limit", [20, 2])
def test_a_worker_that_made_a_dead_letter_holds_one_task_at_a_time_still(scripts: Scripts, limit: int) -> None:
    scripts.broker.set_policy(scripts.queue, **{"delivery-limit": limit})
    put(scripts, b"bad")
    goes_on = threading.Event()

    def perform(task: Any) -> None:
        assert task.text != "bad"
        assert goes_on.wait(DEADLINE)

    with working(scripts, perform, name="a"):
        eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0], "it is a dead letter")
        put(scripts, b"one", b"two")
        eventually(lambda: tasks_of(scripts, "received")["a"][-1] == "one", "it has the first")
        assert " [x] Received two" in work(scripts, lambda _: None, name="b", burst=False, max_tasks=1)
        goes_on.set()
    assert tasks_of(scripts, "done") == {"a": ["one"], "b": ["two"]}


# ---- Python


def test_ten_lines_of_python_are_a_worker(scripts: Scripts) -> None:
    program = (
        "from listening_worker import listen\n"
        "def perform(task):\n"
        "    print(type(task.body).__name__, task.text, task.redelivered, task.delivery_count, bool(task.message_id))\n"
        "    if task.text == 'bad' and task.delivery_count < 2:\n"
        "        raise ValueError('no good')\n"
        "    if task.text == 'ugly' and not task.redelivered:\n"
        "        raise SystemExit(3)\n"
        "listen(perform, burst=True, name='mine', log_file='events.jsonl', max_tasks=9)\n"
    )
    put(scripts, b"good", b"bad", b"ugly")
    run = scripts.program(program)
    for number in (1, 2):
        assert f" [!] Failed (try {number} of 21): ValueError: no good (work.py, line 5)" in run.out
    assert " [!] Failed (try 1 of 21): SystemExit: 3 (work.py, line 7)" in run.out
    assert "bytes bad True 2 True" in run.lines
    assert run.out.count("Done.") == 3
    assert {event["name"] for event in scripts.events()} == {"mine"}


def test_a_task_may_start_processes_and_raise_anything(scripts: Scripts) -> None:
    program = (
        "import asyncio, multiprocessing\n"
        "from listening_worker import listen\n"
        "class Mute(Exception):\n"
        "    def __str__(self):\n"
        "        raise ValueError\n"
        "def perform(task):\n"
        "    if not task.redelivered:\n"
        "        raise asyncio.CancelledError\n"
        "    if task.delivery_count == 1:\n"
        "        raise Mute\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        print(pool.map(abs, [-1, -2]))\n"
        "if __name__ == '__main__':\n"
        "    listen(perform, burst=True)\n"
        "    listen(perform, burst=True)\n"
        "    print('the end')\n"
    )
    put(scripts, "Größe".encode())
    run = scripts.program(program, PYTHONIOENCODING="ascii")
    assert " [!] Failed (try 1 of 21): CancelledError:  (work.py, line 8)" in run.out
    assert " [!] Failed (try 2 of 21): Mute: and why can't be said (work.py, line 10)" in run.out
    assert run.lines.count("[1, 2]") == 1
    assert r" [x] Received Gr\xf6\xdfe" in run.lines
    assert run.lines[-1] == "the end"


# ---- The log


def test_the_log_of_a_worker(scripts: Scripts) -> None:
    put(scripts, b"task")
    work(scripts, lambda _: None, name="anna")
    received, done = scripts.events()
    message_id = received.pop("message_id")
    assert message_id
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", received.pop("time"))
    assert received == {"event": "received", "name": "anna", "task": "task", "redelivered": False, "delivery_count": 0}
    assert (done["event"], done["name"], done["message_id"]) == ("done", "anna", message_id)
    assert 0 <= done["seconds"] < 1


def test_a_message_id_that_is_no_text_is_logged_all_the_same(at_server: Scripts, server: Server) -> None:
    with working(at_server, lambda _: None):
        server.gets("Basic.Consume")
        server.session(0).deliver(b"task", message_id=b"\xff\x00")
        server.gets("Basic.Ack")
    assert at_server.events("done")[0]["message_id"] == "\\xff\x00"


# ---- What it costs


def test_an_idle_worker_costs_nothing_measurable(at_server: Scripts, server: Server) -> None:
    worker = at_server.start("listening_worker.py")
    server.gets("Basic.Consume")
    stat = Path(f"/proc/{worker.process.pid}/stat")

    def ticks() -> int:
        fields = stat.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def rests() -> bool:
        nonlocal before, since
        if ticks() != before:
            before, since = ticks(), time.monotonic()
        return time.monotonic() > since + 0.5

    before, since = ticks(), time.monotonic()
    eventually(rests, "it has started")
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 5, "five seconds go by")
    assert ticks() - before <= 1  # of a hundredth of a second


@pytest.mark.parametrize(("script", "argument"), [("listening_worker.py", "--burst"), ("emitter_of_tasks.py", "task")])
def test_a_script_collects_garbage_once_it_has_begun(at_server: Scripts, script: str, argument: str) -> None:
    at_its_end = "import atexit, gc\natexit.register(lambda: print('collects:', gc.isenabled()))\n"
    (at_server.folder / "sitecustomize.py").write_text(at_its_end)
    run = at_server.start(script, argument, env={"PYTHONPATH": str(at_server.folder)}).ends()
    assert run.lines[-1] == "collects: True"


def test_ctrl_c_counts_that_comes_before_the_work_has_begun(at_server: Scripts, server: Server) -> None:
    """While a pipe that takes no more holds up the line that tells of the task."""
    reader, writer = os.pipe()
    worker = at_server.start("listening_worker.py", "--log-file", at_server.log, stdout=writer)
    server.gets("Basic.Consume")
    assert b"Waiting" in os.read(reader, 1000)
    fill(writer)
    os.close(writer)
    server.put(b"long" + b"." * 60)
    eventually(lambda: waits_for_output(worker.process.pid), "it can't tell of the task")
    worker.send(signal.SIGINT)
    with os.fdopen(reader, "rb") as pipe:
        pipe.read()
    worker.ends(0)
    assert [record["event"] for record in at_server.events()] == ["received", "requeued"]


def test_an_acknowledgement_that_can_not_have_arrived_is_not_told_as_done(scripts: Scripts, relay: Relay) -> None:
    put(scripts, b"task")
    lines = work(scripts, lambda task: task.redelivered or relay.cut(), url=relay.url, burst=False, max_tasks=2)
    assert [record["event"] for record in scripts.events()] == ["received", "ack-lost", "received", "done"]
    assert any("RabbitMQ will hand this task out again" in line for line in lines)
