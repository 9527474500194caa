"""Every command, flag, session and program in the README and in docs/ does what it says there."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import installation
import pika
import pytest
import trustme
from harness import PROJECT, Broker, Scripts, eventually, new_queue_name
from rabbitmq import free_port
from test_house import FLOORS

from task_queue.settings import nodes_in

FILES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
TESTS = PROJECT / "tests" / "README.md"
DOCUMENTS = {file.name: file.read_text() for file in FILES}
ALL = "\n".join(DOCUMENTS.values())
README, VERSIONS, OPERATIONS = (DOCUMENTS[name] for name in ("README.md", "versions.md", "operations.md"))
PLAIN_PIKA = PROJECT / "docs" / "plain_pika"
SCRIPTS = ("emitter_of_tasks.py", "listening_worker.py")
PROGRAMS = (
    *SCRIPTS,
    "tools/demo.py",
    "tools/rabbitmq.py",
    "tests/faults/run.py",
    "tests/benchmarks/run.py",
    "screenshots/take_screenshots.py",
)
FLAGS_OF_OTHERS = {"--init", "--hostname", "--apply-to"}  # docker's, docker's, rabbitmqctl's
NOT_RUN = {  # by the test that runs all commands, and why not
    r"git clone <.*> work-queue|cd work-queue|\. \.venv/bin/activate": "is where a reader begins, and this suite is",
    r"python3 -m venv \.venv|python -m pip install -r requirements\.txt": "tools/machine.py does the same",
    r"(py -m venv|\.venv\\Scripts\\python) .*": "is for Windows",
    r"(sudo|brew|docker|systemctl|journalctl) .*": "changes the machine",
    r"python3? tools/.*": "test_tools.py runs them",
    r"python3 (tests/faults|tests/benchmarks|screenshots)/.*": "these have tests of their own, too",
    r"python docs/plain_pika/.*": "test_the_idea_in_plain_pika_works",
    r"python my_worker\.py": "test_the_function_of_the_readme_is_a_worker",
    r".* \.\.\.": "stands for many, in the table for PowerShell",
    r"kill .*": "test_the_worker_that_the_readme_kills_is_anna",
    r"rabbitmqctl (add_user|set_permissions) .*": "test_the_user_of_the_documents_may_do_what_the_scripts_do",
    r"rabbitmqctl set_policy .*": "test_the_policies_of_the_versions_are_taken",
    r"export .*": "test_the_url_with_a_certificate... and test_the_addresses...",
}
SHELLS = ("sh", "powershell")


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced code blocks in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def prose(text: str) -> str:
    """Return a document without its code blocks."""
    return re.sub(r"^```\w+\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def sessions(text: str) -> list[list[tuple[str, list[str]]]]:
    """Return what is typed and shown in each block of a terminal: commands, with the lines that each prints."""
    found = []
    for block in blocks(text, "console"):
        _, *parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
        found.append([(lines[0], lines[1:]) for lines in map(str.splitlines, parts)])
    return found


def commands(text: str) -> list[str]:
    """Return each command of a document: in a block for the shell, typed in a session, or within a sentence."""
    lines = "".join(blocks(text, *SHELLS)).splitlines()
    lines += [command for session in sessions(text) for command, _ in session]
    inline = re.findall(r"`((?:python3?|sudo|docker|brew|kill|printf|seq|systemctl) [^`]+)`", prose(text))
    return list(dict.fromkeys([*lines, *(re.sub(r"\s+", " ", command.replace("\n> ", " ")) for command in inline)]))


def reason_not_run(command: str) -> str | None:
    """Return the entry of NOT_RUN that a command is; None if it is run like any other."""
    return next((pattern for pattern in NOT_RUN if re.fullmatch(pattern, command)), None)


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


@functools.cache
def flags_of(program: str) -> set[str]:
    return flags_in(subprocess.check_output([sys.executable, PROJECT / program, "--help"], text=True)) - {"--help"}


def python_block(document: str, phrase: str) -> str:
    """Return the program in a document that has this phrase."""
    (block,) = (block for block in blocks(DOCUMENTS[document], "python") if phrase in block)
    return block


# ---- What is named exists


def test_every_flag_is_documented_and_every_flag_there_exists() -> None:
    assert flags_in(ALL) == set().union(*map(flags_of, PROGRAMS)) | FLAGS_OF_OTHERS
    assert flags_in(README) >= set().union(*map(flags_of, SCRIPTS))
    for program in PROGRAMS:
        given = [re.split(rf"python3? {program}", command)[1] for command in commands(ALL) if f" {program}" in command]
        assert given, program
        assert flags_in(" ".join(each.partition("|")[0] for each in given)) <= flags_of(program), program


def test_what_is_not_run_is_there_and_is_a_short_list() -> None:
    """A command that nobody types any more has no reason not to be run."""
    assert {reason_not_run(command) for command in commands(ALL)} - {None} == NOT_RUN.keys()
    for command in commands(ALL):
        for name in re.findall(r"[\w/]+\.(?:py|txt)(?![\w.])", command.replace("\\", "/")):
            assert (PROJECT / name).exists() or name in ("done.txt", "my_worker.py"), command


def test_the_files_it_names_are_there() -> None:
    named = re.findall(r"`((?:docs|tests|tools|screenshots|task_queue)/[\w./]+)`", ALL)
    named += re.findall(r"`(\w+\.(?:py|txt))`", README)
    in_package = {file.name for file in (PROJECT / "task_queue").iterdir()}
    for name in named:
        assert (PROJECT / name).exists() or name in in_package | {"my_worker.py"}, name


def test_how_it_works_has_every_file_on_its_floor() -> None:
    told: dict[int, list[str]] = {}
    for floor, files in re.findall(r"^\| (\d) \| (.*?) \|", DOCUMENTS["how-it-works.md"], re.MULTILINE):
        told.setdefault(int(floor), []).extend(re.findall(r"`(\w+)\.py`", files))
    assert {floor: sorted(rooms) for floor, rooms in told.items()} == {
        floor: sorted(rooms) for floor, rooms in FLOORS.items() if floor
    }


def anchors_of(file: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", prose(file.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", [*FILES, TESTS], ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_link_leads_somewhere(file: Path) -> None:
    text = prose(file.read_text())
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    for link in links:
        name, _, anchor = link.partition("#")
        target = (file.parent / name).resolve() if name else file
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link
    defined = re.findall(r"^\[(\w+)\]: https://", text, re.MULTILINE)
    assert set(re.findall(r"\]\[(\w+)\]", text)) == set(defined)


def test_the_readme_shows_the_pictures() -> None:
    shown = re.findall(r"^!\[.+\]\((.+)\)$", ALL, re.MULTILINE)
    assert len(shown) == len(re.findall(r"(?<!\[)!\[", ALL)) > 6


def test_the_readme_leads_to_every_document() -> None:
    assert [file.name for file in FILES[1:] if f"](docs/{file.name})" not in README] == []


# ---- What can be read


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 250
    assert [line for line in lines if len(line) > 150 and not line.startswith("|")] == []


def test_nothing_is_told_twice() -> None:
    seen: dict[str, str] = {}
    for name, text in DOCUMENTS.items():
        plain = re.sub(r"\s+", " ", prose(text))
        for sentence in set(re.split(r"(?<=[.:!?]) ", plain)):
            if len(sentence.split()) >= 8:
                assert sentence not in seen, f"in {seen.get(sentence)} and in {name}: {sentence}"
                seen[sentence] = name


@pytest.mark.parametrize("file", [*FILES, TESTS], ids=lambda file: f"{file.parent.name}/{file.name}")
def test_no_comment_stands_behind_a_command(file: Path) -> None:
    """The zsh of macOS would hand it to the program."""
    for command in commands(file.read_text()):
        assert shlex.split(command, comments=True) == shlex.split(command), command


# ---- Commands and sessions


def stage(scripts: Scripts) -> dict[str, str]:
    """Put what the commands name into the test's folder, and return the environment in which they run there."""
    for name in (*SCRIPTS, "tools"):
        (scripts.folder / name).symlink_to(PROJECT / name)
    (scripts.folder / "tasks.csv").write_bytes(b"task\n" * 1500 + b"caf\xe9\n")
    return {**scripts.environment, "PATH": f"{Path(sys.executable).parent}:{scripts.environment['PATH']}"}


def run_command(scripts: Scripts, command: str, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command to its end; return its exit status, and what it prints in the order in which it does."""
    if "listening_worker.py" in command and "--burst" not in command and "--max-tasks" not in command:
        command += " --burst"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=scripts.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def typed_alone() -> list[str]:
    """Return the commands that are in no session."""
    in_sessions = {command for session in sessions(ALL) for command, _ in session}
    return [command for command in commands(ALL) if command not in in_sessions and not reason_not_run(command)]


@pytest.mark.parametrize("command", typed_alone())
def test_every_command_runs(scripts: Scripts, command: str) -> None:
    environment = stage(scripts)
    if "listening_worker.py" in command or "--retry-dead-letters" in command:
        scripts.emit("A task.")  # declares both queues
    status, said = run_command(scripts, command, environment)
    assert (status, re.findall(r"\[!\].*", said)) == (0, [])
    assert "[x]" in said or (command.endswith("--retry-dead-letters") and "No dead letters" in said)


def comparable(line: str, scripts: Scripts) -> str:
    """Return a line of a session without what differs from run to run, and from one RabbitMQ to the next."""
    line = re.sub(r"in \d+\.\d s \([\d,]+/s\)", "in some time", line)
    line = line.replace(scripts.queue, "tasks")
    if scripts.broker.version < (4, 3):
        line = re.sub("; again in about [0-9]+ s$", "", line)
    if line.startswith("{"):
        record = json.loads(line)
        return f"{record['event']}: {', '.join(record)}"
    return line


def runnable_sessions() -> list[list[tuple[str, list[str]]]]:
    """Return those in which no command waits for a person, or for its end."""
    return [
        session
        for session in sessions(ALL)
        if not any(reason_not_run(command) for command, _ in session)
        and session[0][0] not in ("python emitter_of_tasks.py", "python listening_worker.py --name anna")
    ]


@pytest.mark.parametrize("session", runnable_sessions(), ids=lambda session: session[0][0])
def test_a_session_shows_what_is_printed(scripts: Scripts, session: list[tuple[str, list[str]]]) -> None:
    environment = stage(scripts)
    if "First task." in str(session):
        scripts.emit("First task.")
    for command, lines in session:
        status, said = run_command(scripts, command, environment)
        assert status == (1 if "Go on from line" in said else 0), said
        printed: Iterator[str] = iter([comparable(line, scripts) for line in said.splitlines()])
        for line in lines:
            if line.strip() not in ("...", ""):
                assert comparable(line, scripts) in printed, f"{line}\n--- is not there, or not in this order:\n{said}"


def test_there_are_sessions_with_lines_to_compare() -> None:
    assert sum(len(lines) for session in runnable_sessions() for _, lines in session) >= 12


def test_the_three_terminals_show_what_is_printed(scripts: Scripts) -> None:
    shown = {session[0][0]: session[0][1] for session in sessions(README) if len(session) == 1}
    (waiting,) = shown["python listening_worker.py --name anna"]
    assert scripts.worker("--name", "anna").lines == [waiting.replace("queue tasks", f"queue {scripts.queue}")]
    emitter = scripts.at_terminal("emitter_of_tasks.py", BROWSER="true")
    for line in shown["python emitter_of_tasks.py"]:
        prompt, answer = re.fullmatch(r"((?:Would|Enter).*: )?(.*)", line).groups("")  # type: ignore[union-attr]
        if prompt:
            emitter.expect_exact(prompt)
            emitter.sendline(answer)
        else:
            emitter.expect_exact(answer.replace("queue tasks", f"queue {scripts.queue}"))
    emitter.expect_exact("Enter new task: ")


def test_the_private_rabbitmq_says_what_is_shown() -> None:
    """What test_tools.py sees it print."""
    ((command, lines),) = next(session for session in sessions(README) if "tools/rabbitmq.py" in session[0][0])
    text = (PROJECT / "tools" / "rabbitmq.py").read_text()
    assert command == "python tools/rabbitmq.py"
    assert len(lines) == 3
    for line in lines:
        code = line.replace("3.10.8", "{node.version}").replace("http://localhost:15672", "{node.admin_url}")
        assert f'"{code}"' in text, line


def test_the_worker_that_the_readme_kills_is_anna(scripts: Scripts) -> None:
    (command,) = (command for command in commands(README) if command.startswith("kill -9 $"))
    name = new_queue_name()  # other tests have an anna, too
    worker = scripts.worker("--name", name)
    subprocess.run(["sh"], input=command.replace("anna", name), text=True, check=True)
    worker.ends(-signal.SIGKILL)


def test_the_user_of_the_documents_may_do_what_the_scripts_do(broker: Broker, tmp_path: Path) -> None:
    add_user, allow = (
        shlex.split(command)[1:] for command in commands(OPERATIONS) if command.startswith("rabbitmqctl")
    )
    user, password = add_user[1], "se cret"
    add = installation.command("rabbitmqctl", *add_user)
    subprocess.run(add, env=broker.node.environment(), input=f"{password}\n", text=True, check=True)
    try:
        broker.node.ctl(*allow)
        scripts = Scripts(broker, f"tasks-{new_queue_name()}", tmp_path, "newest")
        scripts.environment["AMQP_URL"] = broker.url.replace("guest:guest", f"{user}:{quote(password)}")
        broker.set_policy(scripts.queue)
        scripts.emit("impossible")
        scripts.emit("possible")
        failing = "sh -c 'test {} = possible'"
        assert "is a dead letter now: impossible" in scripts.work("--run", failing).out
        scripts.emit("--retry-dead-letters")
        eventually(lambda: broker.counts(scripts.queue)[0] == 1, "it is back")
        assert "Done." in scripts.work().out
        elsewhere = scripts.emit("task", "--queue", new_queue_name(), status=1)
        assert f"User {user} may not do this" in elsewhere.err
        broker.drop(scripts.queue, scripts.dead_letters)
    finally:
        broker.api("DELETE", f"users/{user}")


def exports() -> list[str]:
    return [command for command in commands(OPERATIONS) if command.startswith("export")]


def test_the_url_with_a_certificate_of_ones_own_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, export = exports()
    monkeypatch.chdir(tmp_path)
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    ours = authority.issue_cert("us")
    ours.private_key_pem.write_to_path("client.key")
    ours.cert_chain_pems[0].write_to_path("client.pem")
    (node,) = nodes_in(shlex.split(export)[1].removeprefix("AMQP_URL="))
    assert (node.host, node.port) == ("one.example", 5671)
    assert node.ssl_options


def test_the_addresses_of_the_documents_are_those_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    export, _ = exports()
    name, _, value = shlex.split(export)[1].partition("=")
    monkeypatch.setenv(name, value)
    nodes = nodes_in(None)
    assert [(node.host, node.port, node.virtual_host) for node in nodes] == [
        ("one.example", 5671, "/"),
        ("two.example", 5671, "/"),
        ("three.example", 5671, "/"),
    ]
    assert all(node.ssl_options for node in nodes)


def test_systemd_ends_a_worker_of_the_unit_after_its_task(scripts: Scripts) -> None:
    (unit,) = blocks(OPERATIONS, "ini")
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["KillMode"] == "mixed"
    assert settings["Restart"] == "always"
    folder = settings["WorkingDirectory"]
    python, script, *arguments = settings["ExecStart"].replace("%H", "host").replace("%i", "1").split()
    assert python == f"{folder}/.venv/bin/python"
    worker = scripts.worker(*arguments, "--log-file", scripts.log)
    assert script == "listening_worker.py"
    scripts.emit("one.")
    worker.shows("Received one.")
    worker.send(signal.SIGTERM)
    worker.ends(0)
    assert [(record["event"], record["name"]) for record in scripts.events()] == [
        ("received", "host-1"),
        ("done", "host-1"),
    ]


# ---- Programs


def test_the_function_of_the_readme_is_a_worker(scripts: Scripts) -> None:
    scripts.emit(stdin=b"one\ntwo\n")
    lines = scripts.program(my_worker()).lines
    assert [line for line in lines if "working" in line] == ["working on 'one'", "working on 'two'"]


def my_worker() -> str:
    return python_block("README.md", "my-worker").replace("listen(perform", "listen(perform, burst=True")


def test_without_rabbitmq_it_says_why_and_ends(scripts: Scripts) -> None:
    at = f"localhost:{free_port()}"
    worker = scripts.start_program(my_worker(), env={"AMQP_URL": f"amqp://{at}"}).ends(1)
    assert worker.out == ""
    assert f"Nothing listens at {at}" in worker.err
    assert worker.err.count("\n") <= 2


def test_the_lines_for_a_killed_emitter_find_where_to_continue(scripts: Scripts) -> None:
    scripts.emit("--log-file", scripts.folder / "emitter.jsonl", stdin=b"\none\n\ntwo\n")
    find = python_block("guarantees.md", "next_of")
    assert scripts.program(find).lines == ["continue from line 5"]
    assert scripts.program(find.replace("emitter.jsonl", "/dev/null")).lines == ["continue from line 1"]


def test_the_function_of_the_readme_may_start_processes_as_on_windows(scripts: Scripts) -> None:
    """They run the program again: macOS and Windows start all processes like that."""
    program = python_block("README.md", 'name="my-worker"').replace("listen(perform", "listen(perform, burst=True")
    spawn = "import multiprocessing\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        "
    program = program.replace('print(f"working', spawn + 'print(pool.map(len, [task.text]), f"working')
    scripts.emit("three")
    assert "[5] working on 'three'" in scripts.program(program).lines


def test_the_deposits_are_made_once_each_though_workers_die(scripts: Scripts) -> None:
    program = scripts.folder / "bank.py"
    program.write_text(python_block("guarantees.md", "bank.db"))
    scripts.emit(stdin=b"1\n" * 400)
    ids = [message["properties"]["message_id"] for message in scripts.broker.messages(scripts.queue)]
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(scripts.broker.url))) as connection:
        channel = connection.channel()
        for message_id in ids[:50]:  # as an emitter does that has not heard of them
            properties = pika.BasicProperties(message_id=message_id)
            channel.basic_publish("", scripts.queue, b"1", properties)
    environment = {"PYTHONPATH": str(PROJECT)}
    second = scripts.start(str(program), env=environment)
    for _ in range(5):
        worker = scripts.start(str(program), env=environment)
        worker.shows("Waiting")
        worker.send(signal.SIGKILL)
        worker.ends(-signal.SIGKILL)
    worker = scripts.start(str(program), env=environment)
    for each in (worker, second):
        each.shows("Waiting")
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 0, "the queue is empty")
    for each in (worker, second):
        each.send(signal.SIGTERM)
        each.ends()
    assert "deposited before 1" in second.lines + worker.lines
    with contextlib.closing(sqlite3.connect(scripts.folder / "bank.db")) as bank:
        assert bank.execute("SELECT balance FROM account").fetchall() == [(400,)]


@pytest.fixture
def plain_tasks(broker: Broker) -> Iterator[str]:
    """The queue of the two files in plain pika."""
    yield "plain_tasks"
    broker.drop("plain_tasks")


def test_the_idea_in_plain_pika_works(scripts: Scripts, plain_tasks: str) -> None:
    send, work = (command for command in commands(README) if "plain_pika" in command)
    environment = {**stage(scripts), "PYTHONPATH": str(PROJECT / "task_queue" / "none")}  # it needs nothing of ours
    sent = subprocess.run(shlex.split(send), cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    assert (sent.stdout, sent.stderr) == (" [x] Sent A task...\n", "")
    assert scripts.broker.counts(plain_tasks) == (1, 0)
    worker = scripts.start_command(shlex.split(work), env=environment, cwd=PROJECT)
    worker.shows("Done.")
    assert worker.lines == [" [x] Received A task...", " [x] Done."]
    queue = f"queues/%2F/{plain_tasks}"
    eventually(lambda: scripts.broker.api("GET", queue).get("messages") == 0, "the task is acknowledged")


def test_the_table_names_its_lines_and_where_the_gap_is_filled() -> None:
    text = "\n".join(file.read_text() for file in sorted(PLAIN_PIKA.glob("*.py")))
    assert len([line for line in text.splitlines() if line.strip()]) <= 30
    rows = re.findall(r"^\| (.*) \| .* \| .* \| (`\w+\.py`.*) \|$", README, re.MULTILINE)
    assert len(rows) == 7
    for line, rooms in rows:
        words = re.findall(r"\w+", " ".join(re.findall(r"`(.*?)`", line)))
        assert words
        assert all(word in text for word in words), line
        assert all((PROJECT / "task_queue" / name).exists() for name in re.findall(r"`(.*?)`", rooms)), rooms


# ---- Figures


def test_every_documented_number_is_that_of_the_code() -> None:
    publisher = (PROJECT / "task_queue/publisher.py").read_text()
    assert "at most 1,000 tasks or 16 MiB unconfirmed" in OPERATIONS
    assert "WINDOW = 1000 " in publisher
    assert "WINDOW_BYTES = 16 * 1024 * 1024 " in publisher
    assert "tried again 20 times (the queue's [delivery limit][limit]): on RabbitMQ 4.3 after 1 s, 2 s" in OPERATIONS
    assert "after 21 failed tries" in re.sub(r"\s+", " ", README)
    assert "RETRY_STEP, LONGEST_RETRY = 1_000, 30_000 " in (PROJECT / "task_queue/queues.py").read_text()
    assert "LONGEST_TASK = 86_400_000 " in (PROJECT / "task_queue/queues.py").read_text()
    assert "DELIVERY_LIMIT = 20 " in (PROJECT / "task_queue/queues.py").read_text()
    assert "ACK_TIMEOUT_HOURS = 24.0\n" in (PROJECT / "listening_worker.py").read_text()


def test_the_uneven_tasks_of_the_picture_are_those_of_the_command() -> None:
    pictures = (PROJECT / "screenshots" / "take_screenshots.py").read_text()
    dots = list(map(int, re.search(r"^UNEVEN = \((.*?)\)", pictures, re.MULTILINE)[1].split(",")))  # type: ignore[index]
    told = f"have {', '.join(map(str, dots[:-1]))} and {dots[-1]} dots of 0.25 s"
    plain = re.sub(r"\s+", " ", README)
    assert told in plain
    assert pictures.count("0.25") == 2
    assert f"Two workers need {sum(dots) / 2 * 0.25:.1f} s for these {sum(dots)} dots at best" in plain
    assert f"anna gets {sum(dots[::2])} of them, which take {sum(dots[::2]) * 0.25:.1f} s" in plain


def are_in(results: str, figures: Iterable[str]) -> None:
    for figure in figures:
        assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?!\d)", results), figure


def test_the_figures_of_the_performance_are_those_of_the_results() -> None:
    benchmarks = PROJECT / "tests" / "benchmarks"
    older, newer = ((benchmarks / name).read_text() for name in ("results.md", "results-4.3.md"))
    text = DOCUMENTS["performance.md"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]

    ratios = [row for row in rows if len(row) == 5 and re.fullmatch(r"[\d.]+", row[4])]
    assert len(ratios) == 23
    for _, measured, _, ratio, ratio_of_newer in ratios:
        are_in(older, [measured.removesuffix("/s"), ratio])
        are_in(newer, [ratio_of_newer])
    makespans = [row for row in rows if len(row) == 6 and row[5].endswith(" MB")]
    assert len(makespans) == 6
    for row in makespans:
        are_in(newer, row[1:])
    costs = [row for row in rows if len(row) == 3 and row[1].endswith(" ms")]
    assert len(costs) == 6
    are_in(older, [row[1] for row in costs])
    are_in(newer, [row[2] for row in costs])
    every_in, queue_in, log_in, every_out, queue_out, log_out = (float(row[2].split()[0]) for row in costs)
    for cost in (every_in + every_out, queue_in + queue_out, log_in + log_out):
        assert f"1 / {cost:.4f} ms = {round(1000 / cost, -2):,.0f} tasks a second" in re.sub(r"\s+", " ", text)


def test_what_differs_between_versions_is_shown_by_the_tests_that_are_named() -> None:
    table = [line for line in VERSIONS.splitlines() if line.startswith("| **")]
    assert len(table) == 12
    tests = "".join(file.read_text() for file in (PROJECT / "tests").glob("**/*.py"))
    for row in table:
        where = row.split("|")[5]
        names = re.findall(r"(\w+)…", where)
        scenarios = re.findall(r"`(\w+)`", where)
        files = re.findall(r"`([\w/]+\.py)`", where)
        assert names or scenarios or files, row
        assert all(f"def test_{name}" in tests for name in names), row
        assert all(f"\ndef {name}(stage" in tests for name in scenarios), row
        assert all((PROJECT / "tests" / name.removeprefix("tests/")).exists() for name in files), row


def test_the_policies_of_the_versions_are_taken(scripts: Scripts) -> None:
    commands = re.findall("rabbitmqctl (set_policy .*})'", VERSIONS)
    assert len(commands) == 4
    for number, command in enumerate(commands):
        kind, *arguments = shlex.split(command + "'")
        names = ("long-tasks", "lesson", "times", "nodes")
        arguments = [f"policy-{number}" if each in names else each for each in arguments]
        if scripts.broker.version >= (4, 3) or (number == 0 and scripts.broker.version >= (3, 12)):
            scripts.broker.node.ctl(kind, *[each.replace("^tasks$", "^none$") for each in arguments])
            scripts.broker.node.ctl("clear_policy", f"policy-{number}")
