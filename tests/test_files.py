"""Files and pipes as people have them: in other encodings, compressed, cut off, endless; and resuming by the log."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import subprocess
import zipfile
from collections.abc import Callable

import pytest
from harness import Scripts, eventually, limit_files, line_to_go_on_from
from task_queue.lines import BLOCK
from scripted_server import Got, Server, Session, nothing
from pika import spec

UMLAUT = "Größe\n"
ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as _archive:
    _archive.writestr("sheet.xml", "<task/>")

FORMS = {  # content, and what is said of it
    "utf-16le": (b"\xff\xfe" + UMLAUT.encode("utf-16le"), ["UTF-16", "iconv -f utf-16 -t utf-8"]),
    "utf-16be": (b"\xfe\xff" + UMLAUT.encode("utf-16be"), ["UTF-16", "iconv -f utf-16 -t utf-8"]),
    "utf-32": (UMLAUT.encode("utf-32"), ["UTF-32", "iconv -f utf-32 -t utf-8"]),
    "utf-16le without a mark": (UMLAUT.encode("utf-16le"), ["iconv -f utf-16le -t utf-8"]),
    "utf-16be without a mark": ("task\n".encode("utf-16be"), ["NUL", "UTF-16", "iconv -f utf-16be -t utf-8"]),
    "ascii in utf-16le": ("task\n".encode("utf-16le"), ["NUL", "UTF-16", "iconv -f utf-16le -t utf-8"]),
    "gzip": (gzip.compress(b"task\n"), ["gzip", "gzip -dc"]),
    "bzip2": (b"BZh91AY&SY\x9f\x0b", ["bzip2 -dc"]),
    "xz": (b"\xfd7zXZ\0\0\x04", ["xz -dc"]),
    "zip": (ZIP.getvalue(), ["zip", 'as "CSV UTF-8"']),
    "pdf": (b"%PDF-1.4\nan apple\n", ["PDF", "save it as text"]),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["spreadsheet", 'as "CSV UTF-8"']),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04", ["7z", "Unpack it"]),
    "utf-16le behind a blank line": ("\ntask\n".encode("utf-16le"), ["Line 2", "iconv -f utf-16le -t utf-8"]),
    "windows-1252": ("100 €\n".encode("cp1252"), ["Line 1 of", "iconv -f windows-1252 -t utf-8"]),
    "latin1": (b"\x81\xe4\n", ["Line 1 of", "iconv -f latin1 -t utf-8"]),
    "old mac": (b"one\rtwo\rthree\r", ["carriage returns", r"tr '\r' '\n'"]),
    "old mac in quotes": (b'"one"\r"two"\r', ["carriage returns", r"tr '\r' '\n'"]),
}


PLACES = [(form, "-") for form in FORMS]
PLACES += [(form, "my tasks.txt") for form in ("utf-16le", "ascii in utf-16le", "gzip", "windows-1252", "old mac")]
PLACES += [(form, "my tasks.csv") for form in ("utf-16be", "zip", "latin1", "old mac", "old mac in quotes")]


@pytest.mark.parametrize(("form", "name"), PLACES)
def test_what_is_not_text_is_named_with_the_command_that_makes_it_so(
    at_server: Scripts, server: Server, form: str, name: str
) -> None:
    content, words = FORMS[form]
    (at_server.folder / name).write_bytes(content)
    run = at_server.emit("--file", name, status=1, stdin=content if name == "-" else b"")
    for word in words:
        assert word in run.err
    assert "latin1" not in run.err or "latin1" in str(words)
    if name == "-":
        assert "standard input" in run.err
        assert "Convert it" not in run.err or "... | " in run.err
        assert "Convert it" not in run.err or run.err.splitlines()[0].endswith("| python3 emitter_of_tasks.py")
    else:
        assert "Convert it" not in run.err or "'my tasks." in run.err, "a name with a blank is quoted in the command"
    assert server.got("Basic.Publish") == []


COMMANDS = [(form, "it's.txt") for form in ("utf-16le", "ascii in utf-16le", "gzip", "windows-1252", "old mac")]
COMMANDS += [("utf-16le", "it's.csv"), ("old mac", "it's.csv")]


@pytest.mark.parametrize(("form", "name"), COMMANDS)
def test_the_command_that_is_named_works(at_server: Scripts, server: Server, form: str, name: str) -> None:
    (at_server.folder / name).write_bytes(FORMS[form][0])
    run = at_server.emit("--file", name, status=1)
    command = run.err.split("Convert it:  ")[1].splitlines()[0]
    convert = command.replace("| python3 emitter_of_tasks.py", "> utf8.txt")
    subprocess.run(["bash", "-c", convert], cwd=at_server.folder, check=True)
    if name.endswith(".csv"):
        assert command.endswith("-utf8.csv'" if "'" in name else "-utf8.csv")
    at_server.emit("--file", f"{name[:-4]}-utf8.csv" if name.endswith(".csv") else "utf8.txt")
    assert server.got("Basic.Publish")[0].body.decode() in ("Größe", "task", "100 €", "one")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rows.csv.gz", "gzip -dc rows.csv.gz > rows-utf8.csv"),
        ("lines.txt.gz", "gzip -dc lines.txt.gz | python3"),
        ("-odd.txt.gz", "gzip -dc ./-odd.txt.gz | python3"),
        ("utf8.csv", "gzip -dc utf8.csv > utf8-utf8.csv"),
    ],
)
def test_the_command_keeps_rows_and_never_writes_into_the_file_that_it_reads(
    at_server: Scripts, name: str, words: str
) -> None:
    (at_server.folder / name).write_bytes(gzip.compress(b"a,b\n"))
    assert words in at_server.emit(f"--file={name}", status=1).err


def test_a_file_that_is_also_the_log_is_refused(at_server: Scripts, server: Server) -> None:
    """Each record would be one more task."""
    (at_server.folder / "self.txt").write_text("one\n")
    run = at_server.emit("--file", "self.txt", "--log-file", "./self.txt", status=2)
    assert "--log-file is the file with the tasks" in run.err
    assert server.got("Basic.Publish") == []


OF_SYS = "/sys/kernel/mm/transparent_hugepage/enabled"  # of 4,096 bytes, says the system


@pytest.mark.skipif(not os.path.exists(OF_SYS), reason="there is no /sys here")
def test_a_file_whose_size_is_a_guess_is_whole(at_server: Scripts, server: Server) -> None:
    at_server.emit("--file", OF_SYS)
    assert len(server.got("Basic.Publish")) == 1


def test_a_line_that_the_memory_does_not_hold_is_named(at_server: Scripts, server: Server) -> None:
    with (at_server.folder / "tasks.txt").open("wb") as file:
        file.write(b"one\ntwo\n" + b"x" * 120_000_000 + b"\n")
    command = at_server.command("emitter_of_tasks.py", "--file", "tasks.txt")
    run = at_server.start_command(["bash", "-c", 'ulimit -v 300000; exec "$@"', "-", *command]).ends(1)
    assert "Line 3 of tasks.txt is too long for the memory here" in run.err
    assert "Go on from line 3 of tasks.txt" in run.err


def test_the_lines_before_a_bad_one_are_sent_and_the_bad_one_is_named(at_server: Scripts, server: Server) -> None:
    (at_server.folder / "tasks.txt").write_bytes(b"one\n\ntwo\n\xe4\nthree\n")
    run = at_server.emit("--file", "tasks.txt", status=1)
    assert "Line 4 of tasks.txt is not UTF-8" in run.err
    assert "tasks.txt | tail -n +4 | python3 emitter_of_tasks.py" in run.err, "nothing is sent again"
    assert "Go on from line 4 of tasks.txt" in run.err
    assert [got.body for got in server.got("Basic.Publish")] == [b"one", b"two"]


def test_files_that_were_joined_have_marks_in_the_middle(at_server: Scripts, server: Server) -> None:
    """Each of them began with a byte order mark, and `cat` has kept it."""
    at_server.emit(stdin=b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\nth\xef\xbb\xbfree\n")
    assert [got.body.decode() for got in server.got("Basic.Publish")] == ["one", "two", "th\ufeffree"]


def test_an_endless_line_is_refused_in_bounded_memory(at_server: Scripts, server: Server) -> None:
    shell = 'ulimit -v 1000000; exec "$@"'
    command = at_server.command("emitter_of_tasks.py", "--file", "/dev/zero")
    run = at_server.start_command(["bash", "-c", shell, "-", *command]).ends(1, within=60)
    assert "Line 1 of /dev/zero has more than 134,217,728 bytes" in run.err
    assert server.got("Basic.Publish") == []


def test_a_quote_that_is_never_closed_is_refused_in_bounded_memory(at_server: Scripts) -> None:
    """Every line of the rest belongs to one cell then."""
    with (at_server.folder / "tasks.csv").open("wb") as file:
        file.write(b'one\n"two\n')
        for _ in range(300):
            file.write(b"x" * 1_000_000 + b"\n")
    shell = 'ulimit -v 1200000; exec "$@"'
    command = at_server.command("emitter_of_tasks.py", "--file", "tasks.csv")
    run = at_server.start_command(["bash", "-c", shell, "-", *command]).ends(1, within=60)
    assert "Line 2 of tasks.csv is not CSV: field larger than" in run.err
    assert "Go on from line 2 of tasks.csv" in run.err


# ---- Values that are empty

EMPTY = [
    ("emitter_of_tasks.py", ["--file", ""]),
    ("emitter_of_tasks.py", ["--url", "", "task"]),
    ("emitter_of_tasks.py", ["--queue=", "task"]),
    ("emitter_of_tasks.py", ["--log-file", "", "task"]),
    ("emitter_of_tasks.py", ["--admin-url", ""]),
    ("emitter_of_tasks.py", ["--file", " "]),
    ("emitter_of_tasks.py", [""]),
    ("emitter_of_tasks.py", ["--", ""]),
    ("listening_worker.py", ["--url", ""]),
    ("listening_worker.py", ["--queue", ""]),
    ("listening_worker.py", ["--log-file", ""]),
    ("listening_worker.py", ["--name", ""]),
    ("listening_worker.py", ["--run", ""]),
    ("listening_worker.py", ["--seconds-per-dot", ""]),
    ("listening_worker.py", ["--max-tasks", ""]),
    ("listening_worker.py", ["--ack-timeout", ""]),
]


@pytest.mark.parametrize(("script", "arguments"), EMPTY)
def test_an_empty_value_is_an_error_and_never_the_default(
    at_server: Scripts, server: Server, script: str, arguments: list[str]
) -> None:
    """It comes from a variable that is not set."""
    run = at_server.start(script, *arguments).ends(2)
    assert run.err.splitlines()[-1].count("error: ") == 1
    assert run.out == ""
    assert server.sessions == []


# ---- Files that change while they are read


def test_a_file_that_shrinks_is_an_error_with_its_line(at_server: Scripts, server: Server) -> None:
    file = at_server.folder / "tasks.txt"
    # Long tasks, because Python 3.14 reads 128 KiB at once, and the scripted server is slow with very many.
    file.write_bytes(b"".join(b"task %0200d\n" % number for number in range(10_000)))
    server.on("Basic.Publish", nothing)
    emitter = at_server.emitter("--file", "tasks.txt")
    server.gets("Basic.Publish", times=901)  # then the window may be full
    os.truncate(file, 1000)
    server.on("Basic.Publish", confirm_up_to)
    server.session(0).send(spec.Basic.Ack(len(server.got("Basic.Publish")), multiple=True))
    emitter.ends(1)
    sent = len(server.got("Basic.Publish"))
    assert f"tasks.txt was cut off while it was read: it ends behind line {sent}" in emitter.err
    assert f"Go on from line {sent + 1} of tasks.txt" in emitter.err


def confirm_up_to(session: Session, got: Got) -> None:
    session.send(spec.Basic.Ack(len(session.got("Basic.Publish")), multiple=True))


def test_a_file_that_grows_is_read_to_its_end_and_never_more_than_whole(at_server: Scripts, server: Server) -> None:
    file = at_server.folder / "tasks.txt"
    file.write_bytes(b"task\n" * 2000)
    server.on("Basic.Publish", nothing)
    terminal = at_server.at_terminal("emitter_of_tasks.py", "--no-admin", "--file", "tasks.txt")
    server.gets("Basic.Publish", times=901)
    with file.open("ab") as more:
        more.write(b"task\n" * 3_000)
    server.on("Basic.Publish", confirm_up_to)
    server.session(0).send(spec.Basic.Ack(len(server.got("Basic.Publish")), multiple=True))
    terminal.expect(r"Sent 5,000 tasks", timeout=60)
    shown = str(terminal.before)
    assert "100% of tasks.txt read, 0 s left" in shown
    assert not [percent for percent in shown.split("% of")[:-1] if int(percent.split()[-1]) > 100]
    assert "-" not in shown.replace("tasks.txt", "")


@pytest.mark.parametrize("name", ["tasks.txt", "tasks.csv", "-"])
def test_tasks_are_whole_wherever_a_block_ends(scripts: Scripts, name: str) -> None:
    ends = [b"\n", b"\r\n", b"\n\n", b"\n \t\n"]
    sizes = [base + more for base in (1, 20, 300, BLOCK - 20, BLOCK, 2 * BLOCK) for more in range(12)]
    tasks = [f"{number}: " + "€" * (size // 3) + "x" * (size % 3) for number, size in enumerate(sizes)]
    content = b"".join(task.encode() + ends[number % len(ends)] for number, task in enumerate(tasks)).rstrip()
    (scripts.folder / "tasks.csv").write_bytes(content)
    (scripts.folder / "tasks.txt").write_bytes(content)
    run = scripts.emit("--file", name, stdin=content if name == "-" else b"")
    assert f"Sent {len(tasks)} tasks" in run.out
    assert scripts.broker.take(scripts.queue, len(tasks)) == tasks


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"\xff", "Line 101 of tasks.txt is not UTF-8"),
        (b"\0", "Line 101 of tasks.txt has NUL characters"),
        (b"one\rtwo", "Line 101 of tasks.txt has carriage returns"),
        (b"\xef\xbb\xbfmarked", ""),
    ],
)
def test_every_block_is_checked(scripts: Scripts, bad: bytes, words: str) -> None:
    good = [f"{number:01000}" for number in range(100)]  # more than one block
    (scripts.folder / "tasks.txt").write_bytes("\n".join(good).encode() + b"\n" + bad + b"\nbehind\n")
    emitter = scripts.emit("--file", "tasks.txt", status=1 if words else 0)
    assert words in emitter.err
    sent = good if words else [*good, "marked", "behind"]
    assert scripts.broker.counts(scripts.queue)[0] == len(sent)
    assert scripts.broker.take(scripts.queue, len(sent)) == sent


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
    at_server: Scripts, new_server: Callable[[], Server], server: Server, order: list[int]
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
    sent_from: dict[int, set[str]] = {}
    for log in logs:
        here = line_to_go_on_from(log)
        if here not in sent_from:
            rest = at_server.folder / f"rest{here}.csv"
            rest.write_bytes(b"".join(lines[here - 1 :]))
            other = new_server()
            at_server.emitter("--file", rest.name, "--url", other.url).ends()
            sent_from[here] = set(sent_in(other))
        assert sent_from[here] <= set(TASKS), "no task is torn"
        assert {str(record["task"]) for record in log} | sent_from[here] == set(TASKS), "and none is lost"
    assert line_to_go_on_from(records) > 14, "all of it was sent"


def test_typed_tasks_have_no_lines(at_server: Scripts, server: Server) -> None:
    at_server.emit("one", "--log-file", at_server.log)
    (record,) = at_server.events()
    assert [record[name] for name in ("line", "after", "next_line")] == [None, None, None]


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
