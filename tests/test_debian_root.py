"""Debian roots with other releases of RabbitMQ: how they are made, and when they are taken for whole."""

import os
from pathlib import Path

import debian_root
import installation
import machine
import pytest
from harness import Broker, write_program
from private_node import Node, NodeError

needs_root = pytest.mark.skipif(not machine.is_root(), reason="a Debian root is root's")
NO_NAMESPACE = 'while case "$1" in --*) true;; *) false;; esac; do shift; done; exec "$@"'
MAKES = 'mkdir -p "$4/usr" && echo "$@" > "$4/arguments"'


@needs_root
def test_a_root_is_made_once_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = {
        "apt-get": "printf 'Somebody http://else/\\nDebian-Security http://security/\\nDebian http://debian/\\n'",
        "debootstrap": f"{MAKES}; echo 'E: it has no room' >&2; exit 1",
    }
    if not debian_root.may_mount():
        programs["unshare"] = NO_NAMESPACE
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        write_program(tmp_path / "bin" / name, text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(debian_root, "FOLDER", tmp_path / "roots")
    with pytest.raises(machine.SetupError, match="E: it has no room"):
        debian_root.ensure_root("4.3")
    assert list((tmp_path / "roots").iterdir()) == [], "it is not whole"

    write_program(tmp_path / "bin" / "debootstrap", MAKES)
    root = debian_root.ensure_root("4.3")
    assert list((tmp_path / "roots").iterdir()) == [root]
    *options, _, mirror = (root / "arguments").read_text().split()[:5]
    assert options == ["--variant=minbase", "--include=rabbitmq-server", "forky"]
    assert mirror == "http://debian/"
    write_program(tmp_path / "bin" / "debootstrap", "exit 1")
    assert debian_root.ensure_root("4.3") == root


def test_a_node_of_another_release_than_was_asked_for_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broker: Broker
) -> None:
    """With the RabbitMQ that the suite runs on, in the place of another release."""
    version = broker.node.version
    other = next(release for release in debian_root.SUITES if not version.startswith(f"{release}."))
    monkeypatch.setenv(debian_root.CHOSEN, other)
    monkeypatch.setattr(debian_root, "ensure_root", lambda _: tmp_path)
    monkeypatch.setattr(installation, "find_server", lambda _: Path("/usr/sbin/rabbitmq-server"))
    monkeypatch.setattr(debian_root, "inside", lambda *_: ["sleep", "600"])
    node = Node(tmp_path / "node", broker.node.amqp_port, broker.node.management_port)
    with pytest.raises(NodeError, match=rf"^RabbitMQ {version} answered, and {other} was asked for\.$"):
        node.start()
    assert node.has_ended()
