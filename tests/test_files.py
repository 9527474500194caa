"""Files and pipes as people have them: in other encodings, compressed, cut off, endless; and resuming by the log."""

from __future__ import annotations

import gzip
import io
import json
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import emitter_of_tasks
import listening_worker
import pytest
from harness import Run, Scripts, eventually, limit_files, line_to_go_on_from
from pika import spec
from scripted_server import Server, nothing

from task_queue import InputError, SettingsError
from task_queue.message import Message
from task_queue.sources import LONGEST_LINE, Source


def read(file: Path, content: bytes | None = None) -> tuple[list[Message], str]:
    """Return the tasks in a file, and what is said of where they can't be read any further."""
    if content is not None:
        file.write_bytes(content)
    tasks = []
    try:
        for task in Source(str(file), None).tasks():
            tasks.append(task)
    except InputError as error:
        return tasks, str(error)
    return tasks, ""


def texts(tasks: list[Message]) -> list[str]:
    return [task.body.decode() for task in tasks]


# ---- What is no text

ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as _archive:
    _archive.writestr("sheet.xml", "<task/>")

FORMS = {  # content, and what is said of it
    "utf-16": ("Größe\n".encode("utf-16"), "Line 1 of {} has NUL characters"),
    "utf-16 without any ASCII letter": ("日本".encode("utf-16"), "Line 1 of {} is not UTF-8"),
    "utf-16be": ("task\n".encode("utf-16be"), "Line 1 of {} has NUL characters"),
    "utf-16le behind a blank line": ("\ntask\n".encode("utf-16le"), "Line 2 of {} has NUL characters"),
    "utf-32": ("Größe\n".encode("utf-32"), "Line 1 of {} has NUL characters"),
    "gzip": (gzip.compress(b"task\n"), "{} is a zip or gzip file"),
    "zip": (ZIP.getvalue(), "{} is a zip or gzip file"),
    "windows-1252": ("100 €\n".encode("cp1252"), "Line 1 of {} is not UTF-8"),
    "latin1": (b"task\n\x81\xe4\n", "Line 2 of {} is not UTF-8"),
}


@pytest.mark.parametrize("name", ["my tasks.txt", "my tasks.csv"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_text_is_named_with_a_command_that_makes_it_so(tmp_path: Path, form: str, name: str) -> None:
    content, words = FORMS[form]
    tasks, why = read(tmp_path / name, content)
    assert words.format(tmp_path / name) in why
    assert 'a spreadsheet as "CSV UTF-8"' in why
    assert f"iconv -f {'utf-16' if 'NUL' in words else 'windows-1252'} -t utf-8" in why
    assert texts(tasks) == ["task"] * (form == "latin1")


def test_carriage_returns_as_the_ends_of_rows_are_named(tmp_path: Path) -> None:
    """As Excel still writes them if asked to."""
    for rows in (b"one\rtwo\r", b'"one"\r"two"\r'):
        assert read(tmp_path / "tasks.csv", rows)[1].endswith("is not CSV: new-line character seen in unquoted field.")


def test_the_lines_before_a_bad_one_are_sent_and_the_bad_one_is_named(at_server: Scripts, server: Server) -> None:
    run = at_server.emit(stdin=b"one\n\ntwo\nGr\xf6\xdfe\nthree\n", status=1)
    assert "Line 4 of standard input is not UTF-8." in run.err
    assert "2 tasks confirmed. Go on from line 4 of standard input." in run.err
    assert sent_in(server) == ["one", "two"]


@pytest.mark.parametrize("bad", [b"\xff", b"\0"])
def test_every_line_is_checked(tmp_path: Path, bad: bytes) -> None:
    good = [f"{number:01000}" for number in range(300)]  # more than is read at once
    tasks, why = read(tmp_path / "tasks.txt", "\n".join(good).encode() + b"\n" + bad + b"\nbehind\n")
    assert "Line 301 of" in why
    assert texts(tasks) == good


# ---- Lines and rows


def test_the_lines_of_a_file_are_tasks(tmp_path: Path) -> None:
    """Files that were joined have byte order marks in the middle: `cat` has kept them."""
    content = "\ufeffa,b.\n\n ü \t\r\n\u3000\xa0\n\ufefftwo\nth\ufeffree".encode()
    tasks, _ = read(tmp_path / "tasks.txt", content)
    assert texts(tasks) == ["a,b.", " ü \t", "two", "th\ufeffree"]
    assert [task.line for task in tasks] == [1, 3, 5, 6]


def test_the_rows_of_a_csv_file_are_tasks(tmp_path: Path) -> None:
    content = '\ufeffname,dots\r\n"Smith, J.",..\r\n\r\n"two\nlines",.\n"say ""hi""",\n'.encode()
    tasks, _ = read(tmp_path / "tasks.CSV", content)
    assert texts(tasks) == ["name dots", "Smith, J. ..", "two\nlines .", 'say "hi" ']


def test_the_lines_of_a_csv_file_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    content = b'one,.\n"two\n\nlines",.\n\nthree,.\r\n"four\r\n",.\r\n,\nfive,.\n"d\ne\xff",3\n'
    tasks, why = read(tmp_path / "tasks.csv", content)
    assert [(task.body.decode(), task.line, task.next_line) for task in tasks] == [
        ("one .", 1, 2),
        ("two\n\nlines .", 2, 5),
        ("three .", 6, 7),
        ("four\r\n .", 7, 9),
        ("five .", 10, 11),
    ]
    assert "Line 12 of" in why


def test_an_unclosed_quote_is_named_and_does_not_swallow_the_file(tmp_path: Path) -> None:
    tasks, why = read(tmp_path / "tasks.csv", b'one,.\n"two,.\nthree,.\n')
    assert f"Line 2 of {tmp_path / 'tasks.csv'} is not CSV: unexpected end of data." in why
    assert texts(tasks) == ["one ."]


@pytest.mark.parametrize("name", ["tasks.txt", "tasks.csv"])
def test_tasks_are_whole_wherever_what_is_read_at_once_ends(tmp_path: Path, name: str) -> None:
    ends = [b"\n", b"\r\n", b"\n\n", b"\n \t\n"]
    sizes = [base + more for base in (1, 20, 300, 8180, 2**16 - 20, 2**17 - 10) for more in range(20)]
    tasks = [f"{number}: " + "€" * (size // 3) + "x" * (size % 3) for number, size in enumerate(sizes)]
    content = b"".join(task.encode() + ends[number % len(ends)] for number, task in enumerate(tasks)).rstrip()
    assert texts(read(tmp_path / name, content)[0]) == tasks


def test_no_task_waits_for_a_later_one_nor_is_more_in_memory_than_one(tmp_path: Path) -> None:
    """Rows with large cells of many short lines once filled the memory before the first of them was sent."""
    row = b'"' + b"line\n" * 10_000 + b'"\n'
    (tmp_path / "tasks.csv").write_bytes(3 * row)
    source = Source(str(tmp_path / "tasks.csv"), None)
    for number, _ in enumerate(source.tasks(), 1):
        assert source.bytes_read == number * len(row)


def test_a_cell_may_be_larger_than_the_csv_module_takes_by_itself(tmp_path: Path) -> None:
    large = "x" * 200_000  # its own limit is 128 KiB
    assert texts(read(tmp_path / "tasks.csv", f'"{large}",.\nsmall,.\n'.encode())[0]) == [f"{large} .", "small ."]


# ---- Odd files


def test_a_file_that_is_also_the_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record would be one more task."""
    monkeypatch.chdir(tmp_path)
    Path("self.txt").write_text("one\n")
    monkeypatch.setattr(sys, "argv", ["emitter_of_tasks.py", "--file", "self.txt", "--log-file", "./self.txt"])
    with pytest.raises(SettingsError, match="--log-file is the file with the tasks"):
        emitter_of_tasks.main()


def test_a_file_whose_size_is_a_guess_is_whole() -> None:
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not file.exists():
        pytest.skip("there is no such file on this system")
    assert len(read(file)[0]) == 1


@pytest.mark.parametrize(
    ("lines", "memory", "words"),
    [
        ([b"one\n", b"two\n", b"x" * 120_000_000], 400_000, "Line 3 of tasks.csv is too long for the memory here"),
        # Every line of the rest belongs to one cell.
        (
            [b"one\n", b'"two\n', *[b"x" * 1_000_000 + b"\n"] * 150],
            1_200_000,
            "Line 2 of tasks.csv is not CSV: field la",
        ),
    ],
)
def test_what_the_memory_does_not_hold_is_named(
    at_server: Scripts, server: Server, lines: list[bytes], memory: int, words: str
) -> None:
    (at_server.folder / "tasks.csv").write_bytes(b"".join(lines))
    run = limited(at_server, memory, "tasks.csv")
    assert words in run.err
    assert f"Go on from {words[:6].lower()} of tasks.csv" in run.err


def test_an_endless_line_is_refused_in_bounded_memory(at_server: Scripts, server: Server) -> None:
    assert f"Line 1 of /dev/zero has more than {LONGEST_LINE:,} bytes" in limited(at_server, 1_000_000, "/dev/zero").err
    assert server.got("Basic.Publish") == []


def limited(scripts: Scripts, memory: int, file: str) -> Run:
    """Have an emitter that may take so many kB of memory fail to read a file."""
    command = scripts.command("emitter_of_tasks.py", "--file", file)
    return scripts.start_command(["bash", "-c", f'ulimit -v {memory}; exec "$@"', "-", *command]).ends(1, within=60)


NO_MEMORY = """
from pika.connection import Connection
real = Connection._output_marshaled_frames

def fails(self, frames):
    if any(b"three" in frame for frame in frames):
        raise MemoryError
    real(self, frames)

Connection._output_marshaled_frames = fails
"""


def test_a_task_that_the_memory_can_not_hold_twice_is_the_line_to_go_on_from(
    at_server: Scripts, server: Server
) -> None:
    (at_server.folder / "sitecustomize.py").write_text(NO_MEMORY)
    run = at_server.emit(
        "--verbose", stdin=b"one\ntwo\nthree\nfour\n", status=1, env={"PYTHONPATH": str(at_server.folder)}
    )
    assert "This needs more memory than there is." in run.err
    assert "2 tasks confirmed. Go on from line 3 of standard input." in run.err


# ---- Values that are empty

EMPTY = {
    emitter_of_tasks: [
        ["--file", ""],
        ["--file", " "],
        ["--url", "", "task"],
        ["--queue=", "task"],
        ["--log-file", "", "task"],
        ["--admin-url", ""],
        [""],
        ["--", ""],
    ],
    listening_worker: [
        [flag, ""]
        for flag in (
            *("--url", "--queue", "--log-file", "--name", "--run", "--seconds-per-dot", "--max-tasks", "--ack-timeout"),
        )
    ],
}


@pytest.mark.parametrize("script", EMPTY, ids=lambda script: script.__name__)
def test_an_empty_value_is_an_error_and_never_the_default(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes from a variable that is not set."""
    for arguments in EMPTY[script]:
        monkeypatch.setattr(sys, "argv", ["script", *arguments])
        with pytest.raises(SystemExit) as ended:
            script.settings()
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, ""), arguments
        assert said.err.splitlines()[-1].count("error: ") == 1


# ---- Files that change while they are read


def test_a_file_that_grows_is_read_to_its_end_and_never_more_than_whole(at_server: Scripts, server: Server) -> None:
    file = at_server.folder / "tasks.txt"
    file.write_bytes(b"task\n" * 1000)  # as many as may be unconfirmed
    server.on("Basic.Publish", nothing)
    terminal = at_server.at_terminal("emitter_of_tasks.py", "--no-admin", "--file", "tasks.txt")
    server.gets("Basic.Publish", times=1000)
    with file.open("ab") as more:
        more.write(b"task\n" * 500)
    server.session(0).send(spec.Basic.Ack(500, multiple=True))
    server.gets("Basic.Publish", times=1500)
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 0.3, "it is time for another line of progress")
    server.session(0).send(spec.Basic.Ack(1400, multiple=True))
    terminal.expect(r" 1,400 sent, [\d,]+/s, 100% of tasks.txt read, 0 s left")
    server.session(0).send(spec.Basic.Ack(1500, multiple=True))
    terminal.expect(r"Sent 1,500 tasks")


def test_a_redirected_file_may_have_been_read_in_part(at_server: Scripts, server: Server) -> None:
    (at_server.folder / "tasks.txt").write_bytes(b"title\n" + b"task\n" * 50)
    command = at_server.command("emitter_of_tasks.py")
    shell = '{ read title; exec "$@"; } < tasks.txt'
    at_server.start_command(["bash", "-c", shell, "-", *command]).ends()
    assert len(server.got("Basic.Publish")) == 50


# ---- Resuming by the log


CONTENT = b'\n\none.\n"two\n\nlines",.\n\n\nthree\n"four\r\n"\n\n  \nfive,.\n,\n"six"\n\n'
TASKS = ["one.", "two\n\nlines .", "three", "four\r\n", "five .", "six"]
ORDERS = {"in order": [1, 2, 3, 4, 5, 6], "backwards": [6, 5, 4, 3, 2, 1], "mixed": [2, 1, 4, 6, 3, 5]}


def sent_in(server: Server) -> list[str]:
    return [got.body.decode() for got in server.got("Basic.Publish")]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_whatever_a_killed_emitter_has_logged_the_rest_can_be_sent(
    at_server: Scripts, server: Server, order: list[int]
) -> None:
    """Killed at every record, and with every record missing: nothing is lost, and no task is torn."""
    (at_server.folder / "tasks.csv").write_bytes(CONTENT)
    server.on("Basic.Publish", nothing)
    emitter = at_server.emitter("--file", "tasks.csv", "--log-file", at_server.log)
    server.gets("Basic.Publish", times=6)
    for count, tag in enumerate(order, 1):
        server.session(0).send(spec.Basic.Ack(tag))
        eventually(lambda count=count: len(at_server.events("confirmed")) == count, "it is logged")  # type: ignore[misc]
    emitter.ends()
    records = at_server.events("confirmed")
    logs = [records[:count] for count in range(7)]  # as they are when it is killed there
    logs += [records[:missing] + records[missing + 1 :] for missing in range(6)]  # a full disk had no room for one
    lines = CONTENT.splitlines(keepends=True)
    for log in logs:
        here = line_to_go_on_from(log)
        rest, _ = read(at_server.folder / "rest.csv", b"".join(lines[here - 1 :]))
        assert set(texts(rest)) <= set(TASKS), "no task is torn"
        assert {str(record["task"]) for record in log} | set(texts(rest)) == set(TASKS), "and none is lost"
    assert line_to_go_on_from(records) > 14, "all of it was sent"


# ---- A disk that is full for a moment


def test_a_log_goes_on_when_the_disk_has_room_again(at_server: Scripts, server: Server) -> None:
    worker = at_server.start("listening_worker.py", "--log-file", at_server.log)
    server.put(b"one")
    eventually(lambda: at_server.events("done"), "the first is logged")
    limit_files(worker.process.pid, at_server.log.stat().st_size + 10)
    server.put(b"two", b"three")
    server.gets("Basic.Ack", times=3)
    limit_files(worker.process.pid, resource.RLIM_INFINITY)
    server.put(b"four")
    eventually(
        lambda: b"four" in at_server.log.read_bytes() and at_server.log.read_bytes().count(b"done") >= 2, "logged"
    )
    worker.process.terminate()
    worker.ends()
    whole = []
    for line in at_server.log.read_bytes().splitlines():
        try:
            whole.append(json.loads(line))
        except ValueError:
            assert len(line) == 10, "only what the full disk has cut off is torn"
    assert [(record["event"], record["task"]) for record in whole if record["task"] in ("one", "four")] == [
        ("received", "one"),
        ("done", "one"),
        ("received", "four"),
        ("done", "four"),
    ]
    assert worker.err.count("The log file can't be written") == 1


@pytest.mark.parametrize("script", ["listening_worker.py", "emitter_of_tasks.py"])
def test_output_goes_on_when_the_disk_has_room_again(at_server: Scripts, server: Server, script: str) -> None:
    with (at_server.folder / "output").open("wb") as file:
        if script == "emitter_of_tasks.py":
            run = at_server.start(script, "--verbose", stdin=subprocess.PIPE, stdout=file, bufsize=0)
        else:
            run = at_server.start(script, stdout=file)

    def task(name: bytes) -> None:
        if run.process.stdin:
            run.process.stdin.write(name + b"\n")
        else:
            server.put(name)

    def output() -> str:
        return (at_server.folder / "output").read_text()

    task(b"one" * 100)  # so that what is complained of has room where standard error is limited, too
    eventually(lambda: "one" in output(), "the first is shown")
    eventually(lambda: len(server.got("Basic.Ack") + server.got("Basic.Publish")) == 1, "it is done")
    eventually(lambda: script != "listening_worker.py" or "Done" in output(), "it is told")
    limit_files(run.process.pid, len(output()))
    task(b"two")
    run.shows("Standard output can't be written: File too large. The tasks go on.")
    limit_files(run.process.pid, resource.RLIM_INFINITY)
    eventually(lambda: len(server.got("Basic.Ack") + server.got("Basic.Publish")) == 2, "it is done")
    task(b"three")
    eventually(lambda: "three" in output(), "the third is shown")
    assert "two" not in output()
    if run.process.stdin:
        run.process.stdin.close()
    else:
        run.process.terminate()
    run.ends()
    assert run.err.count("can't be written") == 1
