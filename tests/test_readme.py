"""Every command, flag, session, program and picture in the README and in docs/ does what it says there, or shows it."""

import contextlib
import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PROJECT, Scripts, eventually, new_queue_name
from take_screenshots import PICTURES, SCENES, UNEVEN

FILES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
TESTS = PROJECT / "tests" / "README.md"
DOCUMENTS = {file.name: file.read_text() for file in FILES}
ALL = "\n".join(DOCUMENTS.values())
PLAIN = re.sub(r"\s+", " ", ALL)
README, VERSIONS = DOCUMENTS["README.md"], DOCUMENTS["versions.md"]
SCRIPTS = ("emitter_of_tasks.py", "listening_worker.py")
TOOLS = ("tools/demo.py", "tools/rabbitmq.py", "tests/faults/run.py", "tests/benchmarks/run.py")
PROGRAMS = (*SCRIPTS, *TOOLS, "screenshots/take_screenshots.py")
ROOMS = [*(PROJECT / name for name in SCRIPTS), *(PROJECT / "task_queue").rglob("*.py")]
FLAGS_OF_OTHERS = {"--init", "--hostname", "--apply-to"}  # docker's, docker's, rabbitmqctl's
NOT_RUN = (  # by the test that runs all commands
    r"git clone <.*> work-queue|cd work-queue|\. \.venv/bin/activate",  # where a reader begins, and this suite is
    r"python3 -m venv \.venv|python -m pip install -r requirements\.txt",  # tools/machine.py does the same
    r"(py -m venv|\.venv\\Scripts\\python) .*|.* \.\.\.",  # for Windows, and its shells
    r"(sudo|brew|docker|systemctl|journalctl) .*",  # changes the machine
    r"python3? tools/.*|python3 (tests/faults|tests/benchmarks|screenshots)/.*",  # these have tests of their own
    r"python docs/plain_pika/.*|python my_worker\.py|pgrep .*|rabbitmqctl .*|export .*",  # likewise
)
FIRST_BYTES = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".gif": b"GIF89a"}
LARGEST = {".png": 300_000, ".svg": 300_000, ".gif": 3_000_000}  # bytes
Session = list[tuple[str, list[str]]]


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced code blocks in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def prose(text: str) -> str:
    """Return a document without its code blocks."""
    return re.sub(r"^```\w+\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def sessions(text: str) -> list[Session]:
    """Return what is typed and shown in each block of a terminal: commands, with the lines that each prints."""
    found = []
    for block in blocks(text, "console"):
        _, *parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
        found.append([(lines[0], lines[1:]) for lines in map(str.splitlines, parts)])
    return found


def commands(text: str) -> list[str]:
    """Return each command of a document: in a block for the shell, typed in a session, or within a sentence."""
    lines = "".join(blocks(text, "sh", "powershell")).splitlines()
    lines += [command for session in sessions(text) for command, _ in session]
    inline = re.findall(r"`((?:python3?|sudo|docker|brew|pgrep|printf|seq|systemctl) [^`]+)`", prose(text))
    return list(dict.fromkeys([*lines, *(re.sub(r"\s+", " ", command.replace("\n> ", " ")) for command in inline)]))


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def python_block(document: str, phrase: str) -> str:
    """Return the program in a document that has this phrase."""
    (block,) = (block for block in blocks(DOCUMENTS[document], "python") if phrase in block)
    return block.replace("listen(perform, name", "listen(perform, burst=True, name")


# ---- What is named exists, and can be read


def test_every_flag_is_documented_and_every_flag_there_exists() -> None:
    helps = {each: subprocess.check_output([sys.executable, PROJECT / each, "--help"], text=True) for each in PROGRAMS}
    flags = {program: flags_in(text) - {"--help"} for program, text in helps.items()}
    assert flags_in(ALL) == set().union(*flags.values()) | FLAGS_OF_OTHERS
    assert flags_in(README) >= set().union(*(flags[script] for script in SCRIPTS))
    for program in PROGRAMS:
        given = [re.split(rf"python3? {program}", command)[1] for command in commands(ALL) if f" {program}" in command]
        assert given, program
        assert flags_in(" ".join(each.partition("|")[0] for each in given)) <= flags[program], program


def test_the_files_it_names_are_there() -> None:
    named = re.findall(r"`((?:docs|tests|tools|screenshots|task_queue)/[\w./]+|[\w/]+\.py)`", ALL)
    for command in commands(ALL):
        named += re.findall(r"[\w/]+\.(?:py|txt)(?![\w.])", command.replace("\\", "/"))
    rooms = {name for room in ROOMS for name in (room.name, f"{room.parent.name}/{room.name}")}
    missing = {name for name in named if not any((PROJECT / folder / name).exists() for folder in ("", "tests"))}
    assert missing - rooms == {"my_worker.py", "done.txt"}
    packages = {room.parent.name for room in ROOMS} - {PROJECT.name}
    assert [package for package in packages if f"{package}/" not in DOCUMENTS["how-it-works.md"]] == []


def anchors_of(file: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", prose(file.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", [*FILES, TESTS], ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_link_leads_somewhere(file: Path) -> None:
    text = prose(file.read_text())
    for link in re.findall(r"\]\(((?!https://)[^)]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (file.parent / name).resolve() if name else file
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link
    defined = re.findall(r"^\[(\w+)\]: https://", text, re.MULTILINE)
    assert set(re.findall(r"\]\[(\w+)\]", text)) == set(defined)


def test_the_readme_leads_to_every_document_and_picture() -> None:
    assert [file.name for file in FILES[1:] if f"](docs/{file.name})" not in README] == []
    assert [name for name in SCENES if not re.search(rf"^!\[.+\]\(screenshots/{name}\)$", README, re.MULTILINE)] == []


def test_each_picture_is_there_and_not_too_large_for_a_page() -> None:
    pictures = [file for file in PICTURES.iterdir() if file.suffix in LARGEST]
    assert {picture.name for picture in pictures} == set(SCENES)
    for picture in pictures:
        content = picture.read_bytes()
        assert content.startswith(FIRST_BYTES[picture.suffix])
        assert 10_000 < len(content) < LARGEST[picture.suffix]


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 250
    assert [line for line in lines if len(line) > 150 and not line.startswith("|")] == []


def test_no_comment_stands_behind_a_command() -> None:
    """The zsh of macOS would hand it to the program."""
    for command in commands(ALL + TESTS.read_text()):
        assert shlex.split(command, comments=True) == shlex.split(command), command


# ---- Commands and sessions


def stage(scripts: Scripts) -> dict[str, str]:
    """Put what the commands name into the test's folder, and return the environment in which they run there."""
    for name in (*SCRIPTS, "tools"):
        (scripts.folder / name).symlink_to(PROJECT / name)
    (scripts.folder / "tasks.csv").write_bytes(b"task\n" * 1500 + b"caf\xe9\n")
    return {**scripts.environment, "PATH": f"{Path(sys.executable).parent}:{scripts.environment['PATH']}"}


def comparable(line: str, scripts: Scripts) -> str:
    """Return a line of a session without what differs from run to run, and from one RabbitMQ to the next."""
    line = re.sub(r"in \d+\.\d s \([\d,]+/s\)", "in some time", line).replace(scripts.queue, "tasks")
    line = line.replace(f" at localhost:{scripts.broker.node.amqp_port}", "")  # the usual port is not told
    line = re.sub("; again in about [0-9]+ s$", "", line)  # from RabbitMQ 4.3 on
    if line.startswith("{"):
        record = json.loads(line)
        return f"{record['event']}: {', '.join(record)}"
    return line


def runnable() -> list[Session]:
    """Return the sessions in which no command waits for a person, or for its end; then each command that is in none."""
    waiting = ("python emitter_of_tasks.py", "python listening_worker.py --name anna")
    found = [session for session in sessions(ALL) if session[0][0] not in waiting]
    assert sum(len(lines) for session in found for _, lines in session) >= 12
    in_sessions = {command for session in sessions(ALL) for command, _ in session}
    found += [[(command, [])] for command in commands(ALL) if command not in in_sessions]
    return [session for session in found if not any(re.fullmatch("|".join(NOT_RUN), command) for command, _ in session)]


@pytest.mark.parametrize("session", runnable(), ids=lambda session: session[0][0])
def test_every_command_runs_and_shows_what_is_printed(scripts: Scripts, session: Session) -> None:
    environment = stage(scripts)
    if "listening_worker.py" in session[0][0] or "--retry-dead-letters" in session[0][0]:
        scripts.emit("First task.")  # declares both queues
    for command, lines in session:
        if "listening_worker.py" in command and "--burst" not in command:
            command += " --burst"
        said = scripts.start_command(["bash", "-c", f"exec 2>&1; {command}"], environment)
        status = said.process.wait(60)
        assert status == (1 if "Go on with:  --from-line" in said.out else 0), said.out
        assert lines or re.search(r"\[x\]|No dead letters", said.out), said.out
        assert lines or "[!]" not in said.out, said.out
        printed = iter([comparable(line, scripts) for line in said.lines])
        for line in lines:
            if line.strip() not in ("...", ""):
                assert comparable(line, scripts) in printed, f"{line} -- is not, or not there, in:\n{said.out}"


def test_the_three_terminals_show_what_is_printed(scripts: Scripts) -> None:
    shown = {session[0][0]: session[0][1] for session in sessions(README) if len(session) == 1}
    (waiting,) = shown["python listening_worker.py --name anna"]
    anna = new_queue_name()  # other tests have an anna, too
    worker = scripts.worker("--name", anna)
    here = f"queue {scripts.queue} at localhost:{scripts.broker.node.amqp_port}"
    assert worker.lines == [waiting.replace("queue tasks", here)]
    emitter = scripts.at_terminal("emitter_of_tasks.py", BROWSER="true")
    for line in shown["python emitter_of_tasks.py"]:
        prompt, answer = re.fullmatch(r"((?:Would|Enter).*: )?(.*)", line).groups("")  # type: ignore[union-attr]
        emitter.expect_exact(prompt or answer.replace("queue tasks", here))
        if prompt:
            emitter.sendline(answer)
    emitter.expect_exact("Enter new task: ")
    (kill,) = (command for command in commands(README) if command.startswith("pgrep"))
    for _ in range(2):  # the second time there is nobody to kill, and nothing to say
        said = subprocess.run(["sh"], input=kill.replace("anna", anna), text=True, check=True, capture_output=True)
        assert (said.stdout, said.stderr) == ("", "")
        worker.ends(-signal.SIGKILL)


def test_the_queues_are_shown_emptied_and_deleted(scripts: Scripts) -> None:
    scripts.emit("task")
    ctl = scripts.broker.node.ctl
    eventually(lambda: f"{scripts.queue}\t1\n" in ctl("list_queues"), "RabbitMQ has counted the task")
    found = re.findall(r"ctl ((?:list|purge|delete)_\w+(?: [a-z_]+)*)", ALL)
    told = {re.sub("worker$", "guest", re.sub("(plain_)?tasks", scripts.queue, command)) for command in found}
    for command in sorted(told, reverse=True):  # purge, list, delete
        ctl(*command.split())
        assert scripts.broker.counts(scripts.queue) == (0, 0)
    assert f"{scripts.queue}\t" not in ctl("list_queues")


# ---- Programs


def test_the_function_of_the_readme_may_start_processes_as_on_windows(scripts: Scripts) -> None:
    """They run the program again: macOS and Windows start all processes like that."""
    spawn = "import multiprocessing\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        "
    spawn += 'print(pool.map(len, [task.text]), f"working'
    program = python_block("README.md", "my-worker").replace('print(f"working', spawn)
    scripts.emit(stdin=b"one\nthree\n")
    lines = scripts.start_program(program).ends().lines
    assert [line for line in lines if "working" in line] == ["[3] working on 'one'", "[5] working on 'three'"]
    refused = scripts.start_program(program, {"AMQP_URL": "amqp://localhost:1"}).ends(1).err
    assert "Nothing listens at localhost:1" in refused


def test_the_lines_for_a_killed_emitter_find_where_to_continue(scripts: Scripts) -> None:
    scripts.emit("--log-file", scripts.folder / "emitter.jsonl", stdin=b"\none\n\ntwo\n")
    find = python_block("guarantees.md", "next_of")
    assert scripts.start_program(find).ends().lines == ["continue from line 5"]
    assert scripts.start_program(find.replace("emitter.jsonl", "/dev/null")).ends().lines == ["continue from line 1"]


def test_the_deposits_are_made_once_each_though_workers_die(scripts: Scripts) -> None:
    bank = python_block("guarantees.md", "bank.db")
    scripts.emit(stdin=b"1\n" * 400)
    ids = [message["properties"]["message_id"] for message in scripts.broker.messages(scripts.queue)]
    for message_id in ids[:50]:  # as an emitter does that has not heard of them
        scripts.broker.publish(scripts.queue, b"1", message_id=message_id)
    workers = []
    for number in range(7):
        workers.append(scripts.start_program(bank))
        workers[-1].shows("Waiting")
        if number < 5:
            workers[-1].send(signal.SIGKILL)
            workers[-1].ends(-signal.SIGKILL)
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 0, "the queue is empty")
    for worker in workers[5:]:
        worker.send(signal.SIGTERM)
        worker.ends()
    assert any("deposited before 1" in worker.lines for worker in workers)
    with contextlib.closing(sqlite3.connect(scripts.folder / "bank.db")) as account:
        assert account.execute("SELECT balance FROM account").fetchall() == [(400,)]


def test_the_table_names_its_lines_and_where_the_gap_is_filled() -> None:
    text = "\n".join(file.read_text() for file in sorted((PROJECT / "docs/plain_pika").glob("*.py")))
    assert len([line for line in text.splitlines() if line.strip()]) <= 30
    assert "task_queue" not in text
    rows = re.findall(r"^\| (.*) \| .* \| .* \| (`[\w/]+\.py`.*) \|$", README, re.MULTILINE)
    assert len(rows) == 7
    for line, _ in rows:  # the rooms are looked for above, with all files
        words = re.findall(r"\w+", " ".join(re.findall(r"`(.*?)`", line)))
        assert words
        assert all(word in text for word in words), line


# ---- Figures


def test_every_documented_number_is_that_of_the_code() -> None:
    code = "".join(room.read_text() for room in ROOMS)
    for told, *constants in (
        ("at most 1,000 tasks or 16 MiB unconfirmed", "WINDOW = 1000 ", "WINDOW_BYTES = 16 * 1024 * 1024 "),
        ("tried again 20 times (the queue's [delivery limit][limit])", "DELIVERY_LIMIT = 20 "),
        ("after 21 failed tries", "DELIVERY_LIMIT = 20 "),
        ("on RabbitMQ 4.3 after 1 s, 2 s", "RETRY_STEP, LONGEST_RETRY = 1_000, 30_000 "),
        ("the queue, which is declared with 24 hours", "LONGEST_TASK = 86_400_000 "),
        ("(default 24, from 0.001 to 1,000)", "ACK_TIMEOUT_HOURS = 24.0\n"),
    ):
        assert told in PLAIN
        assert [constant for constant in constants if constant not in code] == [], told


def test_the_figures_of_the_performance_are_those_of_the_results() -> None:
    older, newer = ((PROJECT / "tests/benchmarks" / name).read_text() for name in ("results.md", "results-4.3.md"))
    lines = re.findall(r"^\| *(.*?) *\|$", DOCUMENTS["performance.md"], re.MULTILINE)
    rows = [re.split(r" *\| *", line) for line in lines if re.search(r"\| *\d+(\.\d+)?( ms| MB)?$", line)]
    ratios, spans, costs = ([row for row in rows if len(row) == cells] for cells in (5, 6, 3))
    assert (len(ratios), len(spans), len(costs)) == (24, 6, 6)
    of_older = [each for row in ratios for each in (row[1].removesuffix("/s"), row[3])] + [row[1] for row in costs]
    of_newer = [row[-1] for row in ratios + costs] + [each for row in spans for each in row[1:]]
    for results, figures in ((older, of_older), (newer, of_newer)):
        assert [each for each in figures if not re.search(rf"(?<![\d.,]){re.escape(each)}(?!\d)", results)] == []
    into, out = (float(row[2].split()[0]) for row in costs[:3]), (float(row[2].split()[0]) for row in costs[3:])
    for cost in map(sum, zip(into, out)):
        assert f"1 / {cost:.4f} ms = {round(1000 / cost, -2):,.0f} tasks a second" in PLAIN


def test_the_uneven_tasks_of_the_picture_are_those_of_the_readme() -> None:
    in_turn = sum(UNEVEN[::2])
    told = f"with {', '.join(map(str, UNEVEN[:-1]))} and {UNEVEN[-1]} dots of 0.25 s then take {in_turn / 4:.1f} s"
    told += f" in place of {sum(UNEVEN) / 8:.1f} s, because one of two workers gets {in_turn} of the {sum(UNEVEN)} dots"
    assert told in " ".join(README.split())


def test_what_differs_between_versions_is_shown_by_the_tests_that_are_named() -> None:
    table = [line for line in VERSIONS.splitlines() if line.startswith("| **")]
    assert len(table) == 12
    files = [*(PROJECT / "tests").rglob("*.py")]
    there = "".join(f"{file}\n{file.read_text()}\n" for file in files)
    for row in table:
        where = row.split("|")[5]
        patterns = [f"^def test_{name}" for name in re.findall(r"(\w+)…", where)]
        patterns += [rf"^def {name}\(stage" for name in re.findall(r"`(\w+)`", where)]
        patterns += [f"/{name}$" for name in re.findall(r"`([\w/]+\.py)`", where)]
        assert patterns, row
        assert [pattern for pattern in patterns if not re.search(pattern, there, re.MULTILINE)] == []


def test_the_policies_of_the_versions_are_taken(scripts: Scripts) -> None:
    policies = re.findall("rabbitmqctl (set_policy .*}')", VERSIONS)
    assert len(policies) == 4
    for number, policy in enumerate(policies):
        if scripts.broker.version >= (4, 3) or (number == 0 and scripts.broker.version >= (3, 12)):
            name = f"policy-{number}"
            policy = re.sub(r"(?<=queues )[\w-]+", name, policy).replace("^tasks$", "^none$")
            scripts.broker.node.ctl(*shlex.split(policy))
            scripts.broker.node.ctl("clear_policy", name)
