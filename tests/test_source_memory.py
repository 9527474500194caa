"""How much memory input takes, and what is said where there is too little."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness import Scripts
from in_process import said_by
from scripted_server import Server

from task_queue.encoder import Encoder
from task_queue.message import Message
from task_queue.sources import LONGEST_LINE


def peak_memory(scripts: Scripts, *command: object) -> int:
    """Run a script to its end, and return the largest resident memory that it had, in kB."""
    measure = (
        "import os, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    of_script = [sys.executable, "-c", measure, *scripts.command(*map(str, command))]
    return int(subprocess.check_output(of_script, env=scripts.environment))


def test_a_large_file_takes_no_more_memory_than_a_small_one(scripts: Scripts) -> None:
    peaks = []
    for number in (5_000, 30_000):
        file = scripts.folder / f"{number}.txt"
        file.write_text("a task of some forty bytes, as many are\n" * number)
        peaks.append(peak_memory(scripts, "emitter_of_tasks.py", "--file", file))
    assert peaks[1] < peaks[0] * 1.1


def test_a_large_task_is_in_memory_a_few_times_only(scripts: Scripts) -> None:
    file = scripts.folder / "large.txt"
    file.write_text(f"{'x' * 12_000_000}👍\n")  # for which each character takes four bytes in Python
    assert peak_memory(scripts, "emitter_of_tasks.py", "--file", file) < 130_000
    said_by(scripts, "emitter_of_tasks.py", "--file", file)  # the first must not be there when this one comes
    assert peak_memory(scripts, "listening_worker.py", "--burst") < 60_000


@pytest.mark.parametrize(
    ("file", "lines", "memory", "words"),
    [
        ("tasks.txt", [b"one\n", b"two\n", b"x" * 120_000_000], 400_000, "is too long for the memory here"),
        # Every line of the rest belongs to one cell.
        ("tasks.csv", [b"one\n", b'"two\n', *[b"x" * 1_000_000 + b"\n"] * 150], 1_200_000, "is not CSV: field la"),
        ("/dev/zero", [], 1_000_000, f"has more than {LONGEST_LINE:,} bytes"),
    ],
)
def test_what_the_memory_does_not_hold_is_named(
    at_server: Scripts, server: Server, file: str, lines: list[bytes], memory: int, words: str
) -> None:
    if lines:
        (at_server.folder / file).write_bytes(b"".join(lines))
    command = at_server.command("emitter_of_tasks.py", "--file", file)
    limited = ["bash", "-c", f'ulimit -v {memory}; exec "$@"', "-", *command]
    run = at_server.start_command(limited).ends(1, within=60)
    sent = len(server.got("Basic.Publish"))
    assert f"Line {sent + 1} of {file} {words}" in run.err
    assert sent == {"tasks.txt": 2, "tasks.csv": 1, "/dev/zero": 0}[file]
    assert f"Go on from line {sent + 1} of {file}" in run.err or not sent


def test_a_task_that_the_memory_can_not_hold_twice_is_the_line_to_go_on_from(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Encoder.frames

    def frames(self: Encoder, message: Message) -> list[bytes]:
        if message.body == b"three":
            raise MemoryError
        return real(self, message)

    monkeypatch.setattr(Encoder, "frames", frames)
    file = at_server.folder / "tasks.txt"
    file.write_text("one\ntwo\nthree\nfour\n")
    status, _, errors = said_by(at_server, "emitter_of_tasks.py", "--file", file)
    assert status == 1
    assert "This needs more memory than there is." in errors
    assert f"2 tasks confirmed. Go on from line 3 of {file}." in errors
