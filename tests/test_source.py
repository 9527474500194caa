"""Files and pipes as people have them: in other encodings, compressed, cut off, slow; and resuming by the log."""

import fcntl
import gzip
import os
import pkgutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from harness import Scripts, eventually, feed, line_to_go_on_from
from in_process import said_by
from pika import spec
from scripted_server import Got, Server, Session, bodies

from task_queue import InputError
from task_queue.emitter import source
from task_queue.emitter.message import Message

EMITTER, WORKER = "emitter_of_tasks.py", "listening_worker.py"


def read(file: Path, content: bytes) -> tuple[list[Message], str]:
    """Return the tasks in a file, and what is said of its end."""
    file.write_bytes(content)
    tasks = []
    try:
        for task in source.Source(str(file), None).tasks():
            tasks.append(task)
    except InputError as error:
        return tasks, str(error)
    return tasks, ""


def texts(tasks: list[Message]) -> list[str]:
    return [task.body.decode() for task in tasks]


FORMS = {  # content, and what is said of it
    "utf-16": ("Größe\n".encode("utf-16"), "Line 1 of {} has NUL characters"),
    "utf-16le behind a blank line": ("\ntask\n".encode("utf-16le"), "Line 2 of {} has NUL characters"),
    "gzip": (gzip.compress(b"task\n"), "{} is a zip or gzip file"),
    "zip": (b"PK\x03\x04\x14\x00task\n", "{} is a zip or gzip file"),
    "windows-1252": (b"task\n\x80\xe4\n", "Line 2 of {} is not UTF-8"),
}


@pytest.mark.parametrize("name", ["my tasks.txt", "my tasks.csv"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_text_is_named_with_a_command_that_makes_it_so(tmp_path: Path, form: str, name: str) -> None:
    content, words = FORMS[form]
    tasks, why = read(tmp_path / name, content)
    assert words.format(tmp_path / name) in why
    assert 'a spreadsheet as "CSV UTF-8"' in why
    assert f"iconv -f {'utf-16' if 'NUL' in words else 'windows-1252'} -t utf-8" in why
    assert texts(tasks) == ["task"] * (form == "windows-1252")


ROWS = [
    (b"bolt;3,50\nnut;0,20\n", ["bolt 3,50", "nut 0,20"], "semicolons"),
    ('"Größe; prüfen"\t..\nzwei;\t\n'.encode(), ["Größe; prüfen ..", "zwei; "], "tabs"),
    (b'"a;b\nc;d";1\n2;3\n', ["a;b\nc;d 1", "2 3"], "semicolons"),
    (b'"a;b","c\td"\ne;f,g\n', ["a;b c\td", "e;f g"], ""),
    (b"sep=;\r\na,b;c\r\n", ["a,b c"], "semicolons"),
    (b"sep=|\na;b|c\n", ["a;b c"], "|"),
    (b"task\nwith;semicolon,comma\n", ["task", "with;semicolon comma"], ""),
    (b'12" screws,3\nwashers,4\n', ['12" screws 3', "washers 4"], ""),  # no cell in quotes begins there
    (b"", [], ""),
    (b"\n \nbolt;3,50\n", ["bolt 3,50"], "semicolons"),
    (b'"never ends' + b"\nx;y" * 200_000, [], "semicolons"),
]


@pytest.mark.parametrize(("content", "tasks", "told"), ROWS)
def test_the_first_row_says_what_separates_the_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, tasks: list[str], told: str
) -> None:
    file = tmp_path / "tasks.csv"
    assert texts(read(file, content)[0]) == tasks
    assert capsys.readouterr().err == (f" [*] In {file}, {told} separate the cells of a row.\n" if told else "")


def test_the_separator_may_be_given(at_server: Scripts, server: Server) -> None:
    (at_server.folder / "tasks.csv").write_text("a;b|c\n")
    given = [EMITTER, "--file", at_server.folder / "tasks.csv", "--separator"]
    assert said_by(at_server, *given, "|")[0] == 0
    assert bodies(server) == ["a;b c"]
    for wrong in ("", "||", '"'):
        status, _, err = said_by(at_server, *given, wrong)
        assert (status, "--separator" in err) == (2, True)


@pytest.mark.parametrize(
    ("line", "status", "tasks", "words"),
    [
        (2, 0, ["two\n2", "three"], ""),
        (3, 2, [], "--from-line: line 3 is in the row of line 2."),
        (5, 0, ["three"], ""),
        (6, 1, [], "has no line 6, only 5."),
        (0, 2, [], "--from-line: lines are counted from 1"),
    ],
)
def test_an_emitter_begins_with_a_line(
    at_server: Scripts, server: Server, line: int, status: int, tasks: list[str], words: str
) -> None:
    file = at_server.folder / "tasks.csv"
    file.write_text('header\n"two\n2"\n\nthree\n')
    arguments = ["--file", file, "--from-line", line, "--log-file", at_server.log]
    ended, _, err = said_by(at_server, EMITTER, *arguments)
    assert (ended, bodies(server)) == (status, tasks)
    assert words in err
    assert [record["after"] for record in at_server.events()] == [line, 4][: len(tasks)]


def test_a_named_pipe_without_a_writer_is_told_of_and_ctrl_c_works(at_server: Scripts, server: Server) -> None:
    os.mkfifo(at_server.folder / "pipe")
    emitter = at_server.emitter("--file", "pipe")
    emitter.shows("pipe is a named pipe: waiting for a program that writes to it")
    emitter.send(signal.SIGINT)
    emitter.ends(130)


def test_a_pipe_that_brings_nothing_says_how_to_give_tasks(at_server: Scripts, server: Server) -> None:
    emitter = at_server.emit(stdin=b"")
    assert emitter.out.startswith(" [x] Sent 0 tasks")
    assert "Give one as words, or a file with --file" in emitter.err


LINES = "\ufeffa,b.\n\n ü \t\r\n\u3000\xa0\n\ufefftwo\nth\ufeffree"  # with marks in the middle, as `cat` keeps them
CELLS = '\ufeffname,dots\r\n"Smith, J.",..\r\n\r\n"two\nlines",.\n"say ""hi""",\n'
LARGE = "x" * 200_000  # more than the csv module takes in a cell by itself
ENDS = "Line 1 of {} is not CSV: new-line character seen in unquoted field."  # which Excel still writes if asked to
FILES: dict[str, tuple[bytes, list[tuple[str, int, int]], str]] = {  # tasks with their line and the next one; the end
    "lines.txt": (LINES.encode(), [("a,b.", 1, 2), (" ü \t", 3, 4), ("two", 5, 6), ("th\ufeffree", 6, 7)], ""),
    "cells.CSV": (
        CELLS.encode(),
        [("name dots", 1, 2), ("Smith, J. ..", 2, 3), ("two\nlines .", 4, 6), ('say "hi" ', 6, 7)],
        "",
    ),
    "rows of several lines.csv": (
        b'one,.\n"two\n\nlines",.\n\nthree,.\r\n"four\r\n",.\r\n,\nfive,.\n"d\ne\xff",3\n',
        [("one .", 1, 2), ("two\n\nlines .", 2, 5), ("three .", 6, 7), ("four\r\n .", 7, 9), ("five .", 10, 11)],
        "Line 12 of {} is not UTF-8",
    ),
    "quote.csv": (b'one\n"two\nthree\n', [("one", 1, 2)], "Line 2 of {} is not CSV: unexpected end of data."),
    "carriage returns.csv": (b"one\rtwo\r", [], ENDS),
    "large line.txt": (b"x" * 250_001, [], "Line 1 of {} has more than 250,000 bytes"),
    "large cell.csv": (f'"{LARGE}",.\nsmall,.\n'.encode(), [(f"{LARGE} .", 1, 2), ("small .", 2, 3)], ""),
}


@pytest.mark.parametrize("name", FILES)
def test_lines_and_rows_are_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(source, "LONGEST_LINE", 250_000)
    content, expected, why = FILES[name]
    tasks, said = read(tmp_path / name, content)
    assert [(task.body.decode(), task.line, task.next_line) for task in tasks] == expected
    assert said.startswith(why.format(tmp_path / name))
    assert bool(said) == bool(why)


def test_tasks_of_a_slow_pipe_are_sent_as_they_come(at_server: Scripts, server: Server) -> None:
    emitter = at_server.emitter("--verbose", "--file", "-", stdin=subprocess.PIPE)
    for piece, word in (("one\n", "one"), ("two\n\nth", "two"), ("ree\nfour\n\n", "four"), ("five\n  ", "five")):
        feed(emitter, piece.encode(), is_last=word == "five")
        emitter.shows(f" [x] Sent {word}\n", within=5)
    *sent, total = emitter.ends().lines
    assert sent == [f" [x] Sent {word}" for word in ("one", "two", "three", "four", "five")]
    assert total.startswith(" [x] Sent 5 tasks in ")


def test_standard_input_that_does_not_block_is_waited_for(at_server: Scripts, server: Server) -> None:
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    emitter = at_server.emitter(stdin=reads)
    for piece in (b"ta", b"sk\n", b"an", b"other\n"):
        os.write(writes, piece)
        eventually(lambda: fcntl.ioctl(reads, termios.FIONREAD, bytes(4)) == bytes(4), "it is read")
    os.close(writes)
    emitter.ends()
    os.close(reads)
    assert bodies(server) == ["task", "another"]


def test_a_file_that_is_also_the_log_is_refused(at_server: Scripts) -> None:
    log, name = at_server.log, f"{at_server.folder}/./events.jsonl"
    status, _, errors = said_by(at_server, EMITTER, "--log-file", log, "--file", name)
    assert (status, "--log-file is the file with the tasks" in errors) == (2, True)


OF_BOTH = ["--url", "--queue", "--log-file"]
FLAGS = [
    *((EMITTER, flag) for flag in (*OF_BOTH, "--file", "--admin-url", "--")),
    *((WORKER, flag) for flag in (*OF_BOTH, "--name", "--run", "--seconds-per-dot", "--max-tasks", "--ack-timeout")),
]


@pytest.mark.parametrize("value", ["", " "])  # of a variable that is not set
@pytest.mark.parametrize(("script", "flag"), FLAGS)
def test_an_empty_value_is_an_error_and_never_the_default(
    at_server: Scripts, script: str, flag: str, value: str
) -> None:
    status, out, errors = said_by(at_server, script, flag, value)
    assert (status, out) == (2, "")
    assert errors.splitlines()[-1].count("error: ") == 1


CONTENT = b'\n\none.\n"two\n\nlines",.\n\n\nthree\n"four\r\n"\n\n  \nfive,.\n,\n"six"\n\n'
TASKS = ["one.", "two\n\nlines .", "three", "four\r\n", "five .", "six"]


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [2, 1, 4, 6, 3, 5]])
def test_whatever_a_killed_emitter_has_logged_the_rest_can_be_sent(
    at_server: Scripts, server: Server, order: list[int]
) -> None:
    """Killed at every record, and with every record missing: nothing is lost, and no task is torn."""

    def confirm(session: Session, _got: Got) -> None:
        if len(session.got("Basic.Publish")) == len(TASKS):
            for tag in order:
                session.send(spec.Basic.Ack(tag))

    (at_server.folder / "tasks.csv").write_bytes(CONTENT)
    server.on("Basic.Publish", confirm)
    said_by(at_server, EMITTER, "--file", at_server.folder / "tasks.csv", "--log-file", at_server.log)
    records = at_server.events("confirmed")
    assert [record["task"] for record in records] == [TASKS[tag - 1] for tag in order]
    logs = [records[:count] for count in range(7)]  # as they are when it is killed there
    logs += [records[:missing] + records[missing + 1 :] for missing in range(6)]  # a full disk had no room for one
    lines = CONTENT.splitlines(keepends=True)
    for log in logs:
        here = line_to_go_on_from(log)
        rest, _ = read(at_server.folder / "rest.csv", b"".join(lines[here - 1 :]))
        assert set(texts(rest)) <= set(TASKS), "no task is torn"
        assert {str(record["task"]) for record in log} | set(texts(rest)) == set(TASKS), "and none is lost"
    assert line_to_go_on_from(records) > 14, "all of it was sent"


def peak_memory(scripts: Scripts, *command: object) -> int:  # in kB
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
        file = scripts.folder / f"{number}.csv"
        file.write_text("a task of some forty bytes, as many are\n" * number)
        peaks.append(peak_memory(scripts, EMITTER, "--file", file))
    assert peaks[1] < peaks[0] * 1.1


def test_a_large_task_is_in_memory_a_few_times_only(scripts: Scripts) -> None:
    file = scripts.folder / "large.txt"
    file.write_text(f"{'x' * 12_000_000}👍\n")  # for which each character takes four bytes in Python
    assert peak_memory(scripts, EMITTER, "--file", file) < 115_000
    said_by(scripts, EMITTER, "--file", file)  # the first must not be there when this one comes
    assert peak_memory(scripts, WORKER, "--burst") < 60_000


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("task_queue.emitter.source.new_message", "Line 2 of {} is too long for the memory here."),
        ("task_queue.emitter.frame_encoder.Encoder.frames", "This needs more memory than there is."),
    ],
)
def test_a_task_that_the_memory_can_not_hold_is_the_line_to_go_on_from(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch, where: str, words: str
) -> None:
    real, file = pkgutil.resolve_name(where), at_server.folder / "tasks.txt"

    def has_memory_for_one(*arguments: object) -> object:
        if "two" in str(arguments):
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(where, has_memory_for_one)
    file.write_text("one\ntwo\nthree\n")
    status, _, errors = said_by(at_server, EMITTER, "--file", file)
    assert status == 1
    assert words.format(file) in errors
    assert "1 task confirmed. Go on with:  --from-line 2" in errors
    assert bodies(server) == ["one"]
