"""Every command, flag and program in the README does what it says there."""

import contextlib
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import installation
import pika
import pytest
import trustme
from harness import PROJECT, Broker, Scripts, eventually, new_queue_name

from task_queue.settings import nodes_in

README = (PROJECT / "README.md").read_text()
VERSIONS = (PROJECT / "docs" / "versions.md").read_text()
PROGRAMS = (
    "emitter_of_tasks.py",
    "listening_worker.py",
    "tools/demo.py",
    "tools/rabbitmq.py",
    "tests/faults/run.py",
    "tests/benchmarks/run.py",
    "screenshots/take_screenshots.py",
)


def blocks(*languages: str) -> list[str]:
    """Return the fenced code blocks in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands() -> list[str]:
    """Return each command line of the README, without its comment."""
    lines = "".join(blocks("sh")).splitlines() + re.findall(r"^\$ (.*)", "".join(blocks("console")), re.MULTILINE)
    return list(dict.fromkeys(line.partition("  #")[0].strip() for line in lines))


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_every_flag_is_in_the_readme_and_every_flag_there_exists() -> None:
    helps = [subprocess.check_output([sys.executable, PROJECT / program, "--help"], text=True) for program in PROGRAMS]
    exist = set().union(*map(flags_in, helps)) - {"--help"}
    assert flags_in(README) == exist | {"--init"}  # which is docker's


def is_run_elsewhere(command: str) -> bool:
    """Tell whether it needs a test of its own: tools, benchmarks and the like, and what is for the terminal."""
    return "/" in command.split()[1] or command.startswith(("rabbitmqctl", "export"))


@pytest.mark.parametrize("command", [command for command in commands() if not is_run_elsewhere(command)])
def test_every_command_of_the_readme_runs(scripts: Scripts, command: str) -> None:
    if "listening_worker.py" in command and "--burst" not in command:
        command += " --burst"
    if command.startswith("cat"):
        command = f"echo '{{}}' > events.jsonl; {command}"
    for name in ("emitter_of_tasks.py", "listening_worker.py", "README.md"):
        (scripts.folder / name).symlink_to(PROJECT / name)
    (scripts.folder / "tools").symlink_to(PROJECT / "tools")
    (scripts.folder / "tasks.csv").write_text("one\ntwo\n")
    environment = {**scripts.environment, "PATH": f"{Path(sys.executable).parent}:{scripts.environment['PATH']}"}
    scripts.emit("README.")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=scripts.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "[x]" in done.stdout or command.endswith("--retry-dead-letters") or "cat" in command


def test_the_user_of_the_readme_may_do_what_the_scripts_do(broker: Broker, tmp_path: Path) -> None:
    add_user, allow = (shlex.split(command)[1:] for command in commands() if command.startswith("rabbitmqctl"))
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
        broker.node.ctl("delete_user", user)


def exports() -> list[str]:
    return [command for command in commands() if command.startswith("export")]


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


def test_the_lines_of_the_readme_find_where_to_go_on(scripts: Scripts) -> None:
    scripts.emit("--log-file", scripts.folder / "emitter.jsonl", stdin=b"\none\n\ntwo\n")
    find = blocks("python")[2]
    assert scripts.program(find).lines == ["go on from line 5"]
    assert scripts.program(find.replace("emitter.jsonl", "/dev/null")).lines == ["go on from line 1"]


def test_the_addresses_of_the_readme_are_those_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    export, _ = exports()
    name, _, value = shlex.split(export)[1].partition("=")
    monkeypatch.setenv(name, value)
    nodes = nodes_in(None)
    assert [(node.host, node.port, node.virtual_host) for node in nodes] == [
        ("one.example", 5671, "/"),
        ("two.example", 5671, "/"),
    ]
    assert all(node.ssl_options for node in nodes)


def test_systemd_ends_a_worker_of_the_unit_after_its_task(scripts: Scripts) -> None:
    (unit,) = blocks("ini")
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


def test_the_function_of_the_readme_is_a_worker(scripts: Scripts) -> None:
    scripts.emit(stdin=b"one\ntwo\n")
    lines = scripts.program(blocks("python")[0].replace("listen(perform", "listen(perform, burst=True")).lines
    assert [line for line in lines if "working" in line] == ["working on 'one'", "working on 'two'"]


def test_the_deposits_of_the_readme_are_made_once_each_though_workers_die(scripts: Scripts) -> None:
    program = scripts.folder / "bank.py"
    program.write_text(blocks("python")[1])
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


def test_the_files_it_names_are_there() -> None:
    named = re.findall(r"`((?:tests|tools|screenshots)/[\w./]+|[\w]+\.(?:py|txt))`", README)
    shown = re.findall(r"^!\[.+\]\((.+)\)$", README, re.MULTILINE)
    assert len(shown) == README.count("![") > 5
    for name in named + shown:
        assert (PROJECT / name).exists(), name


def test_every_documented_number_is_that_of_the_code() -> None:
    publisher = (PROJECT / "task_queue/publisher.py").read_text()
    assert "at most 1,000 tasks or 16 MiB unconfirmed" in README
    assert "WINDOW = 1000 " in publisher
    assert "WINDOW_BYTES = 16 * 1024 * 1024 " in publisher
    assert "tried again 20 times (the queue's [delivery limit][limit]): on RabbitMQ 4.3 after 1 s, 2 s" in README
    assert "RETRY_STEP, LONGEST_RETRY = 1_000, 30_000 " in (PROJECT / "task_queue/queues.py").read_text()
    assert "LONGEST_TASK = 86_400_000 " in (PROJECT / "task_queue/queues.py").read_text()
    assert "DELIVERY_LIMIT = 20 " in (PROJECT / "task_queue/queues.py").read_text()
    assert "ACK_TIMEOUT_HOURS = 24.0\n" in (PROJECT / "listening_worker.py").read_text()


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
    assert len(commands) == 3
    for number, command in enumerate(commands):
        kind, *arguments = shlex.split(command + "'")
        arguments = [f"policy-{number}" if each in ("long-tasks", "lesson", "nodes") else each for each in arguments]
        if scripts.broker.version >= (4, 3) or (number == 0 and scripts.broker.version >= (3, 12)):
            scripts.broker.node.ctl(kind, *[each.replace("^tasks$", "^none$") for each in arguments])
            scripts.broker.node.ctl("clear_policy", f"policy-{number}")
