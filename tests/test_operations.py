"""docs/operations.md: its users, its container, its unit of systemd and its addresses do what they are there for."""

import re
import shlex
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import installation
import pytest
import trustme
import yaml
from harness import PROJECT, Broker, Scripts, eventually, new_queue_name

from task_queue.settings import nodes_in

OPERATIONS = (PROJECT / "docs/operations.md").read_text()


def block(language: str) -> str:
    """Return the one code block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_users_of_the_documents_may_do_what_the_scripts_do(broker: Broker, tmp_path: Path) -> None:
    scripts, password, users = Scripts(broker, f"tasks-{new_queue_name()}", tmp_path), "se cret", []

    def become(user: str) -> None:
        scripts.environment["AMQP_URL"] = broker.url.replace("guest:guest", f"{user}:{quote(password)}")

    try:
        for line in re.findall("^rabbitmqctl ((?:add_user|set_permissions) .*)", OPERATIONS, re.MULTILINE):
            words = shlex.split(line.replace("tasks", scripts.queue))
            users += words[1:] if words[0] == "add_user" else []
            asked = installation.command("rabbitmqctl", *words)
            subprocess.run(asked, env=broker.node.environment(), input=f"{password}\n", text=True, check=True)
        worker, sender, taker = users
        become(worker)
        broker.set_policy(scripts.queue)
        scripts.emit("task")
        assert "is a dead letter now: task" in scripts.work("--run", "false").out
        scripts.emit("--retry-dead-letters")
        eventually(lambda: broker.counts(scripts.queue)[0] == 1, "it is back")
        elsewhere = scripts.emit("task", "--queue", new_queue_name(), status=1)
        assert f"User {worker} may not do this" in elsewhere.err
        become(sender)
        scripts.emit("another", "--passive")
        scripts.start("listening_worker.py", "--passive", "--burst").ends(1)
        become(taker)
        assert "Received another" in scripts.work("--passive").out
        scripts.emit("a third", "--passive", status=1)
        broker.drop(scripts.queue, scripts.dead_letters)
    finally:
        for user in users:
            broker.api("DELETE", f"users/{user}")


def test_the_compose_file_waits_for_rabbitmq_and_lets_workers_finish(broker: Broker) -> None:
    rabbitmq, worker = (yaml.safe_load(block("yaml"))["services"][name] for name in ("rabbitmq", "worker"))
    assert worker["depends_on"] == {"rabbitmq": {"condition": "service_healthy"}}
    assert (worker["deploy"]["replicas"], worker["stop_grace_period"], worker["init"]) == (2, "1h", True)
    (node,) = nodes_in(worker["environment"]["AMQP_URL"].replace("${PASSWORD}", "secret"))
    assert (node.host, node.connection_attempts, node.retry_delay) == ("rabbitmq", 30, 2)
    health = installation.command(*rabbitmq["healthcheck"]["test"].split())
    subprocess.run(health, env=broker.node.environment(), check=True)
    copied = re.findall("COPY (.*) .*", worker["build"]["dockerfile_inline"])
    assert copied == ["emitter_of_tasks.py listening_worker.py", "task_queue"]


def test_the_addresses_of_the_documents_are_those_of_a_cluster_and_one_with_a_certificate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    ours = authority.issue_cert("us")
    ours.private_key_pem.write_to_path("client.key")
    ours.cert_chain_pems[0].write_to_path("client.pem")
    urls = re.findall("^export AMQP_URL=['\"](.*)['\"]$", OPERATIONS, re.MULTILINE)
    cluster, certified = map(nodes_in, urls)
    assert all(node.ssl_options for node in cluster + certified)
    assert [(node.host, node.port, node.virtual_host) for node in cluster + certified] == [
        (f"{host}.example", 5671, "/") for host in ("one", "two", "three", "one")
    ]


def test_systemd_ends_a_worker_of_the_unit_after_its_task(scripts: Scripts) -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)", block("ini"), re.MULTILINE))
    assert (settings["KillMode"], settings["Restart"]) == ("mixed", "always")
    python, script, *arguments = settings["ExecStart"].replace("%H", "host").replace("%i", "1").split()
    assert (python, script) == (f"{settings['WorkingDirectory']}/.venv/bin/python", "listening_worker.py")
    worker = scripts.worker(*arguments, "--log-file", scripts.log)
    scripts.emit("one.")
    worker.shows("Received one.")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert {(record["event"], record["name"]) for record in scripts.events()} >= {("done", "host-1")}
