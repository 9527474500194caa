"""What listening_worker.py promises: one task at a time, acknowledged when it is done, handed back when it is not."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pika
import pytest
from harness import PROJECT, Scripts, eventually, fill, waits_for_output

STOPPED = " [*] Stopped."


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, and is not just a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- Who gets which task


def test_equal_tasks_are_taken_in_turn(scripts: Scripts) -> None:
    one, two = (scripts.worker("--name", name, "--seconds-per-dot", "0.5", "--log-file", scripts.log) for name in "ab")
    for number in range(1, 6):
        scripts.emit(f"{number}.")
    eventually(lambda: len(scripts.events("done")) == 5, "all are done")
    got = {name: [e["task"] for e in scripts.events("received") if e["name"] == name] for name in "ab"}
    assert sorted(got.values()) == [["1.", "3.", "5."], ["2.", "4."]]
    for worker in (one, two):
        worker.send(signal.SIGTERM)
        worker.ends()


def test_nobody_waits_while_a_task_is_ready(scripts: Scripts) -> None:
    for name in ("a", "b"):
        scripts.worker("--name", name, "--seconds-per-dot", "0.1", "--log-file", scripts.log)
    lengths = [40, 1, 1, 2, 1, 9, 1, 3, 1, 1]
    scripts.emit(stdin="\n".join("." * dots for dots in lengths).encode())
    eventually(lambda: len(scripts.events("done")) == len(lengths), "all are done")
    shares = {name: [len(e["task"]) for e in scripts.events("received") if e["name"] == name] for name in "ab"}
    assert sorted(shares.values(), key=len) == [[40], lengths[1:]]  # by turns it would have been 44 and 16 dots


def test_a_worker_holds_one_task(scripts: Scripts) -> None:
    scripts.worker("--seconds-per-dot", "30")
    scripts.emit(stdin=b"one.\ntwo.\nthree.\n")
    eventually(lambda: scripts.broker.bodies(scripts.queue) == ["two.", "three."], "the others wait in the queue")


def consumers(scripts: Scripts) -> list[dict[str, Any]]:
    """Return what the admin panel knows of those who listen to the queue."""
    return [each for each in scripts.broker.api("GET", "consumers") if each["queue"]["name"] == scripts.queue]


@pytest.mark.parametrize("is_given", [True, False])
def test_a_worker_is_known_by_its_name(scripts: Scripts, is_given: bool) -> None:
    given = ["--name", f"anna of {scripts.queue}"] if is_given else []  # a name that no other test's worker has
    worker = scripts.worker(*given, "--log-file", scripts.log)
    name = given[-1] if given else f"worker-{socket.gethostname()}-{worker.process.pid}"

    def connections() -> list[str]:
        return [c.get("client_properties", {}).get("connection_name") for c in scripts.broker.api("GET", "connections")]

    eventually(lambda: [c["consumer_tag"] for c in consumers(scripts)] == [name], "the panel shows the consumer's name")
    eventually(lambda: name in connections(), "the panel shows the connection's name")
    scripts.broker.publish(scripts.queue, b"task")
    worker.shows("Done.")
    assert [event["name"] for event in scripts.events()] == [name, name]


@pytest.mark.parametrize(
    ("flags", "arguments", "milliseconds"),
    [([], "", 86_400_000), (["--ack-timeout", "0.5"], ", ack_timeout=0.5", 1_800_000)],
)
def test_rabbitmq_is_told_how_long_a_task_may_take(
    scripts: Scripts, flags: list[str], arguments: str, milliseconds: int
) -> None:
    program = scripts.folder / "work.py"
    program.write_text(f"from listening_worker import listen\nlisten(print{arguments})\n")
    scripts.start("listening_worker.py", *flags)
    scripts.start(str(program), env={"PYTHONPATH": str(PROJECT)})
    eventually(lambda: len(consumers(scripts)) == 2, "the panel shows both")
    assert [each["arguments"] for each in consumers(scripts)] == [{"x-consumer-timeout": milliseconds}] * 2


# ---- Ends


def test_ctrl_c_hands_the_task_back_at_once(scripts: Scripts) -> None:
    first = scripts.worker("--name", "first", "--log-file", scripts.log)
    scripts.emit("task.........")
    first.shows("1 of 9")
    second = scripts.worker("--name", "second", "--seconds-per-dot", "0.01")
    first.send(signal.SIGINT)
    second.shows(" [x] Received task......... (redelivered)", within=4)
    second.shows("Done.")
    first.ends()
    assert first.lines[-2:] == [" [*] Not finished, so it goes back to the queue: task.........", STOPPED]
    assert first.err == ""
    (requeued,) = scripts.events("requeued")
    assert requeued["task"] == "task........."
    assert 1 <= requeued["seconds"] < 9


def test_ctrl_c_of_an_idle_worker_is_its_end(scripts: Scripts) -> None:
    worker = scripts.worker()
    worker.send(signal.SIGINT)
    worker.ends(within=2)
    assert worker.err == ""


def test_sigterm_lets_the_task_finish_and_takes_no_other(scripts: Scripts) -> None:
    scripts.emit(stdin=b"first..\nsecond..\n")
    worker = scripts.worker("--seconds-per-dot", "0.5", "--log-file", scripts.log)
    worker.shows("1 of 2")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert worker.lines[1:] == [" [x] Received first..", "     . 1 of 2", "     . 2 of 2", " [x] Done.", STOPPED]
    assert [event["event"] for event in scripts.events()] == ["received", "done"]
    (message,) = scripts.broker.messages(scripts.queue)
    assert message["body"] == b"second.."
    assert not message["redelivered"]


def test_a_second_sigterm_is_like_ctrl_c(scripts: Scripts) -> None:
    scripts.emit("task.........")
    worker = scripts.worker()
    worker.shows("1 of 9")
    worker.send(signal.SIGTERM)
    worker.shows("2 of 9")
    worker.send(signal.SIGTERM)
    worker.ends(within=4)
    assert "goes back to the queue" in worker.out
    assert scripts.broker.bodies(scripts.queue) == ["task........."]


def test_sigterm_ends_an_idle_worker_at_once(scripts: Scripts) -> None:
    worker = scripts.worker()
    worker.send(signal.SIGTERM)
    worker.ends(within=2)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_signals_one_after_the_other_stop_it_once_and_in_good_order(scripts: Scripts, first: signal.Signals) -> None:
    scripts.emit(stdin=b"task .\n" * 1000)
    for _ in range(5):
        worker = scripts.worker("--seconds-per-dot", 0.003, "--log-file", scripts.log)
        worker.shows("Done.", times=3)
        for number in (first, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            worker.send(number)
        worker.ends(0)
        assert worker.lines[-1] == STOPPED
    done = [event["message_id"] for event in scripts.events("done")]
    assert len(done) == len(set(done))
    assert len(scripts.events("received")) == len(done) + len(scripts.events("requeued"))
    assert scripts.broker.counts(scripts.queue)[0] == 1000 - len(done)


def test_a_hangup_that_comes_twice_is_one(scripts: Scripts) -> None:
    """The system and the shell send one each when a terminal is closed."""
    worker = scripts.worker()
    worker.send(signal.SIGHUP)
    worker.send(signal.SIGHUP)
    worker.ends()


def test_burst_waits_for_a_queue_whose_leader_does_not_answer(scripts: Scripts) -> None:
    scripts.emit(stdin=b"one..........\ntwo\n")
    worker = scripts.start("listening_worker.py", "--burst", "--seconds-per-dot", 0.3)
    worker.shows("Received one")
    scripts.broker.freeze(scripts.queue)
    scripts.broker.thaw(scripts.queue, 2.5)
    assert "Received two" in worker.ends().out


def test_burst_ends_with_the_queue(scripts: Scripts) -> None:
    assert len(scripts.work().lines) == 2
    scripts.emit(stdin=b"\n".join(b"%d" % number for number in range(200)))
    workers = [scripts.start("listening_worker.py", "--burst") for _ in range(3)]
    assert sum(worker.ends().out.count("Done.") for worker in workers) == 200


def test_max_tasks_ends_after_so_many_and_disturbs_no_other(scripts: Scripts) -> None:
    scripts.emit(stdin=b"one\ntwo\nthree\n")
    assert scripts.work("--max-tasks", 2).out.count("Done.") == 2
    (message,) = scripts.broker.messages(scripts.queue)
    assert message["body"] == b"three"
    assert not message["redelivered"]


# ---- Any task at all


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe\x00", b"\x1b[2J\x1b]0;title\x07", b"\xc2\x9b31m", b"%d {} $(id)", b"-"]
)
def test_a_body_from_another_client_is_done_and_shown_without_control_characters(scripts: Scripts, body: bytes) -> None:
    scripts.work()
    amqp_publish(scripts, body)
    worker = scripts.work("--log-file", scripts.log)
    assert worker.out.replace("\n", "").isprintable()
    assert worker.out.count("Done.") == 1
    (received,) = scripts.events("received")
    assert received["message_id"] is None
    assert received["delivery_count"] == 0


def amqp_publish(scripts: Scripts, body: bytes) -> None:
    """Send with Debian's amqp-publish, which sets no property and knows nothing of this project."""
    url = scripts.broker.url.replace("/%2F", "")
    subprocess.run(["amqp-publish", "--url", url, "-r", scripts.queue], input=body, check=True)


def test_a_long_task_is_cut_on_the_terminal_only(scripts: Scripts) -> None:
    scripts.emit(stdin=b"x" * 100_000)
    worker = scripts.work("--log-file", scripts.log)
    assert f" [x] Received {'x' * 500} ... (100,000 characters)" in worker.lines
    assert scripts.events("done")[0]["task"] == "x" * 100_000


def test_of_a_very_long_task_only_the_beginning_is_decoded_for_the_terminal(scripts: Scripts) -> None:
    sent = scripts.emit("--verbose", stdin="日".encode() * 100_000).lines[0]
    scripts.broker.publish(scripts.queue, b"\xff" * 200_000)
    assert sent == f" [x] Sent {'日' * 500} ... (300,000 bytes)"
    received = scripts.work().lines
    assert received[1] == f" [x] Received {'日' * 500} ... (300,000 bytes)"  # with no half of a character at the cut
    assert received[3] == " [x] Received " + r"\xff" * 125 + " ... (200,000 bytes)"


def test_a_terminal_that_knows_only_ascii_gets_escapes(scripts: Scripts) -> None:
    run = scripts.emit("Größe", env={"PYTHONIOENCODING": "ascii"})
    assert run.lines == [r" [x] Sent Gr\xf6\xdfe"]


# ---- Commands


def test_the_command_gets_the_text_as_one_argument_and_the_body_on_standard_input(scripts: Scripts) -> None:
    task = """it's "two  spaces"; $(touch no) `x` *"""
    scripts.emit(task)
    out = scripts.work("--run", """sh -c 'printf "%s|" "$@"; cat; echo' sh {} '{}={}' "and 'more'" """).lines
    assert f"{task}|{task}={task}|and 'more'|{task}" in out
    assert not (scripts.folder / "no").exists()


def test_a_command_without_braces_reads_its_standard_input(scripts: Scripts) -> None:
    scripts.emit("one two")
    assert "2" in [line.strip() for line in scripts.work("--run", "wc -w").lines]


def test_a_command_may_leave_its_standard_input_unread(scripts: Scripts) -> None:
    scripts.emit(stdin=b"x" * 1_000_000)
    assert scripts.work("--run", "true").out.count("Done.") == 1


def test_bytes_that_are_no_text_reach_the_command_as_they_are(scripts: Scripts) -> None:
    scripts.work()
    scripts.broker.publish(scripts.queue, b"\xff\xe4")
    scripts.work("--run", f"sh -c 'printf %s \"$1\" > {scripts.folder}/argument; cat > {scripts.folder}/input' sh {{}}")
    assert (scripts.folder / "argument").read_bytes() == b"\xff\xe4"
    assert (scripts.folder / "input").read_bytes() == b"\xff\xe4"


def test_a_task_behind_two_dashes_is_no_option(scripts: Scripts) -> None:
    scripts.emit("--", "--version")
    assert "1" in scripts.work("--run", "grep -c -- {}").lines


def test_a_command_that_is_not_there_is_said_before_a_task_is_taken(scripts: Scripts) -> None:
    scripts.emit("task")
    worker = scripts.start("listening_worker.py", "--run", "no-such-command {}").ends(2)
    assert worker.err == " [!] --run: there is no command no-such-command here that may be executed.\n"
    assert scripts.broker.bodies(scripts.queue) == ["task"]


@pytest.mark.parametrize(
    ("command", "why"),
    [("sh -c 'exit 3'", "sh ended with exit status 3"), ("sh -c 'kill -9 $$'", "sh was killed by SIGKILL")],
)
def test_a_failed_command_is_a_failed_task(scripts: Scripts, command: str, why: str) -> None:
    scripts.emit("task")
    worker = scripts.start("listening_worker.py", "--max-tasks", 1, "--run", command, "--log-file", scripts.log).ends()
    assert f" [!] Failed (try 1 of 21): {why}" in worker.out
    assert scripts.events("failed")[0]["error"] == why
    eventually(lambda: scripts.broker.bodies(scripts.queue) == ["task"], "it is tried again")


@pytest.mark.parametrize("stubborn", ["", 'trap "" TERM; '])
def test_ctrl_c_ends_the_command_with_its_children(scripts: Scripts, stubborn: str) -> None:
    scripts.emit("task")
    worker = scripts.worker(
        "--run", f"sh -c '{stubborn}sleep 1000 & echo child $!; echo self $$; wait; wait; sleep 1000'"
    )
    worker.shows("self ")
    pids = [int(pid) for pid in re.findall(r"(?:child|self) (\d+)", worker.out)]
    assert len(pids) == 2
    worker.send(signal.SIGINT)
    if stubborn:
        worker.send(signal.SIGINT)  # a second one does not wait for the command
    worker.ends(within=7)
    eventually(lambda: not any(map(is_alive, pids)), "both are gone")
    assert scripts.broker.bodies(scripts.queue) == ["task"]


def busy_command(when_asked_to_end: str) -> str:
    """Return a command that is busy for half a minute, and does this at SIGTERM."""
    # Without seq, which the signal would end as well, and with it the loop.
    loop = "n=0; while [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done"
    return f"sh -c 'trap \"{when_asked_to_end}\" TERM; echo pid $$; {loop}'"


def test_a_command_that_is_ended_may_tidy_up(scripts: Scripts) -> None:
    scripts.emit("task")
    worker = scripts.worker("--run", busy_command("sleep 1; echo tidy; exit"))
    worker.shows("pid ")
    worker.send(signal.SIGINT)
    assert "tidy" in worker.ends().lines
    assert scripts.broker.bodies(scripts.queue) == ["task"]


@pytest.mark.parametrize("is_asked_again", [False, True])
def test_a_command_that_does_not_end_is_killed_after_five_seconds_or_a_second_ctrl_c(
    scripts: Scripts, is_asked_again: bool
) -> None:
    scripts.emit("task")
    worker = scripts.worker("--run", busy_command("echo no"))
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
    assert scripts.broker.bodies(scripts.queue) == ["task"]


def test_ctrl_c_at_a_terminal_reaches_the_command_through_the_worker(scripts: Scripts) -> None:
    scripts.emit("task")
    ended = scripts.folder / "ended"
    terminal = scripts.at_terminal(
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


def test_a_worker_says_which_try_was_the_last(scripts: Scripts) -> None:
    scripts.emit("bad")
    worker = scripts.work("--run", "false")
    tries = [[" [x] Received bad", f" [!] Failed (try {number} of 21): false"] for number in range(1, 22)]
    ends = [
        " [*] Waiting",
        *itertools.chain(*tries),
        " [!] It failed too often, and is a dead letter now",
        " [*] Stopped.",
    ]
    assert len(worker.lines) == len(ends)
    assert all(line.startswith(beginning) for line, beginning in zip(worker.lines, ends))
    assert worker.err == ""


@pytest.mark.parametrize("limit", [20, 2])
def test_a_worker_that_made_a_dead_letter_holds_one_task_at_a_time_still(scripts: Scripts, limit: int) -> None:
    scripts.broker.set_policy(scripts.queue, **{"delivery-limit": limit})
    scripts.emit("bad")
    worker = scripts.worker("--run", "sh -c 'test $1 != bad || exit 1; sleep 1000' sh {}")
    eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0], "it is a dead letter")
    scripts.emit(stdin=b"one\ntwo\n")
    worker.shows("Received one")
    assert "Received two" in scripts.start("listening_worker.py", "--max-tasks", 1, "--seconds-per-dot", 0).ends().out
    worker.send(signal.SIGINT)
    worker.ends()
    assert worker.err == ""
    assert scripts.broker.bodies(scripts.queue) == ["one"]


def test_ctrl_c_while_a_command_starts_ends_it_too(scripts: Scripts) -> None:
    scripts.emit("task")
    scripts.start_program(
        "import os, pathlib, signal, subprocess\n"
        "from listening_worker import listen, run, running\n"
        "execute = subprocess.Popen._execute_child\n"
        "def execute_and_interrupt(self, *arguments):\n"
        "    execute(self, *arguments)\n"
        "    pathlib.Path('pid').write_text(str(self.pid))\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "subprocess.Popen._execute_child = execute_and_interrupt\n"
        "run(lambda: listen(running('sleep 1000')))\n"
    ).ends(130)
    pid = int((scripts.folder / "pid").read_text())
    eventually(lambda: not is_alive(pid), "it is gone")
    assert scripts.broker.bodies(scripts.queue) == ["task"]


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
    scripts.emit(stdin=b"good\nbad\nugly\n")
    run = scripts.program(program)
    for number in (1, 2):
        assert f" [!] Failed (try {number} of 21): ValueError: no good (work.py, line 5)" in run.out
    assert " [!] Failed (try 1 of 21): SystemExit: 3 (work.py, line 7)" in run.out
    assert "bytes bad True 2 True" in run.lines
    assert run.out.count("Done.") == 3
    assert {event["name"] for event in scripts.events()} == {"mine"}


@pytest.mark.parametrize("end", ["", "raise SystemExit", "1 / 0"])
def test_a_process_that_a_task_forks_does_not_answer_for_it(scripts: Scripts, end: str) -> None:
    program = (
        "import os, time\n"
        "from listening_worker import listen\n"
        "def perform(task):\n"
        "    if os.fork() == 0:\n"
        f"        {end or 'return'}\n"
        "    time.sleep(0.5)\n"
        "if __name__ == '__main__':\n"
        "    listen(perform, burst=True)\n"
    )
    scripts.emit(stdin=b"one\ntwo\n")
    run = scripts.start_program(program)
    assert run.process.wait(20) == 0
    assert run.lines[1:] == [" [x] Received one", " [x] Done.", " [x] Received two", " [x] Done.", " [*] Stopped."]
    assert run.err.count("ZeroDivisionError") == (2 if end == "1 / 0" else 0)


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
    scripts.emit("Größe")
    run = scripts.program(program, PYTHONIOENCODING="ascii")
    assert " [!] Failed (try 1 of 21): CancelledError:  (work.py, line 8)" in run.out
    assert " [!] Failed (try 2 of 21): Mute: and why can't be said (work.py, line 10)" in run.out
    assert run.lines.count("[1, 2]") == 1
    assert r" [x] Received Gr\xf6\xdfe" in run.lines
    assert run.lines[-1] == "the end"


# ---- The log


def test_the_log_of_a_worker(scripts: Scripts) -> None:
    scripts.emit("task")
    scripts.work("--log-file", scripts.log, "--name", "anna")
    received, done = scripts.events()
    message_id = received.pop("message_id")
    assert message_id
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", received.pop("time"))
    assert received == {"event": "received", "name": "anna", "task": "task", "redelivered": False, "delivery_count": 0}
    assert (done["event"], done["name"], done["message_id"]) == ("done", "anna", message_id)
    assert 0 <= done["seconds"] < 1


def test_a_message_id_that_is_no_text_is_logged_all_the_same(scripts: Scripts) -> None:
    scripts.work()
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(scripts.broker.url))) as connection:
        strange = pika.BasicProperties(message_id=b"\xff\x00")  # type: ignore[arg-type]
        connection.channel().basic_publish("", scripts.queue, b"task", strange)
    scripts.work("--log-file", scripts.log)
    assert scripts.events("done")[0]["message_id"] == "\\xff\x00"


# ---- What it costs


def test_an_idle_worker_costs_nothing_measurable(scripts: Scripts) -> None:
    worker = scripts.worker()
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


def test_ctrl_c_counts_that_comes_before_the_work_has_begun(scripts: Scripts) -> None:
    """While a pipe that takes no more holds up the line that tells of the task."""
    reader, writer = os.pipe()
    worker = scripts.start("listening_worker.py", "--log-file", scripts.log, stdout=writer)
    eventually(lambda: scripts.broker.counts(scripts.queue)[1] == 1, "the worker subscribes")
    assert b"Waiting" in os.read(reader, 1000)
    fill(writer)
    os.close(writer)
    scripts.emit("long" + "." * 60)
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 0, "the worker has the task")
    eventually(lambda: waits_for_output(worker.process.pid), "it can't tell so")
    worker.send(signal.SIGINT)
    with os.fdopen(reader, "rb") as pipe:
        pipe.read()
    worker.ends(0)
    assert [record["event"] for record in scripts.events()] == ["received", "requeued"]


CUTS = """
import os
from listening_worker import listen
from relay import Relay

relay = Relay(int(os.environ["BEHIND_RELAY"]))
listen(lambda task: task.redelivered or relay.cut(), url=relay.url, max_tasks=2, log_file="events.jsonl")
"""


def test_an_acknowledgement_that_can_not_have_arrived_is_not_told_as_done(scripts: Scripts) -> None:
    scripts.emit("task")
    path = f"{PROJECT}:{PROJECT / 'tests'}"
    run = scripts.program(CUTS, PYTHONPATH=path, BEHIND_RELAY=str(scripts.broker.node.amqp_port))
    assert [record["event"] for record in scripts.events()] == ["received", "ack-lost", "received", "done"]
    assert "RabbitMQ will hand this task out again" in run.err
