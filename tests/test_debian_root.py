"""Debian roots with other releases of RabbitMQ: from where they are made, and when they are taken for whole."""

import contextlib
import os
import shutil
import subprocess
import urllib.error
from pathlib import Path

import debian_root
import machine
import pytest
from harness import Broker
from rabbitmq import Node, NodeError
from relay import Relay

needs_root = pytest.mark.skipif(not machine.is_root(), reason="a Debian root is root's")
needs_mounts = pytest.mark.skipif(
    not debian_root.may_mount(), reason="no mount namespace here, as in an ordinary container"
)
needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this system has no apt")
ONE_LINE = "deb {0}/other stable main\ndeb-src {0}/debian bookworm main\ndeb [arch=amd64] {0}/debian bookworm main\n"
DEB822 = (
    "Types: deb\nURIs: {0}/other\nSuites: stable\nComponents: main\n\n"
    "Types: deb deb-src\nURIs: {0}/debian/\nSuites: bookworm bookworm-updates\nComponents: main contrib\n"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for roots where there are none."""
    monkeypatch.setattr(debian_root, "FOLDER", tmp_path / "roots")
    return tmp_path / "roots"


def let_apt_know(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, sources: str) -> None:
    """Have apt take packages only from there."""
    parts = folder / "parts"
    parts.mkdir(parents=True)
    (parts / name).write_text(sources)
    (folder / "apt.conf").write_text(f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{parts}";\n')
    monkeypatch.setenv("APT_CONFIG", str(folder / "apt.conf"))


def put_suite(mirror: Path, suite: str, origin: str) -> None:
    (mirror / "dists" / suite).mkdir(parents=True)
    (mirror / "dists" / suite / "InRelease").write_text(f"Hash: SHA256\n\nOrigin: {origin}\nSuite: testing\n")


@needs_apt
@pytest.mark.parametrize(("name", "sources"), [("old.list", ONE_LINE), ("new.sources", DEB822)])
def test_a_mirror_is_one_that_apt_uses_and_that_has_debians_suite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, sources: str
) -> None:
    let_apt_know(monkeypatch, tmp_path, name, sources.format(f"file:{tmp_path}"))
    other, debian = (f"file:{tmp_path}/{mirror}" for mirror in ("other", "debian"))
    assert sorted(debian_root.mirrors()) == sorted([other, debian])
    put_suite(tmp_path / "other", "forky", "Somebody else")
    put_suite(tmp_path / "debian", "forky", "Debian")
    assert debian_root.mirror_with("forky", "4.3") == debian


@needs_apt
def test_mirrors_without_the_suite_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broker: Broker) -> None:
    """One answers that there is no such thing, one does not answer, and the third is for apt alone."""
    mirrors = [broker.node.admin_url, "http://localhost:1/debian", "cdrom:[disc]/debian"]
    let_apt_know(monkeypatch, tmp_path, "all.list", "".join(f"deb {each} bookworm main\n" for each in mirrors[:2]))
    with pytest.raises(machine.SetupError) as error:
        debian_root.mirror_with("forky", "4.3")
    expected = "RabbitMQ 4.3 is taken from Debian's forky, which no mirror of this system's apt has: "
    assert str(error.value) == expected + ", ".join(mirrors[:2])
    assert not debian_root.has_suite(mirrors[2], "forky")


def test_only_root_makes_a_debian_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "is_root", lambda: False)
    with pytest.raises(machine.SetupError, match=r"^RabbitMQ 4\.3 runs .* needs root: run this with sudo\.$"):
        debian_root.ensure_root("4.3")


NO_NAMESPACE = 'while case "$1" in --*) true;; *) false;; esac; do shift; done; exec "$@"'


def put_programs(monkeypatch: pytest.MonkeyPatch, folder: Path, debootstrap: str) -> None:
    """Put an apt-get that knows a mirror with forky, and a debootstrap, before those of the system.

    Where there are no mount namespaces, an unshare that makes none goes there, too.
    """
    put_suite(folder / "mirror", "forky", "Debian")
    uri = f"file:{folder}/mirror/dists/bookworm/InRelease"
    programs = {"apt-get": f"echo \"'{uri}' some_InRelease 0\"", "debootstrap": debootstrap}
    if not debian_root.may_mount():
        programs["unshare"] = NO_NAMESPACE
    (folder / "bin").mkdir()
    for name, text in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


MAKES = 'mkdir -p "$4/usr/lib/rabbitmq/lib/rabbitmq_server-{}" && echo "$@" > "$4/arguments"'


@needs_root
def test_a_root_is_made_once_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    put_programs(monkeypatch, tmp_path, f"{MAKES.format('4.3.9')}; echo 'E: it has no room' >&2; exit 1")
    with pytest.raises(machine.SetupError, match="E: it has no room"):
        debian_root.ensure_root("4.3")
    assert not (folder / "root-4.3").exists(), "it is not whole"
    (folder / "root-4.3.part" / "left").touch()

    debootstrap = tmp_path / "bin" / "debootstrap"
    debootstrap.write_text(debootstrap.read_text().replace("exit 1", "exit 0"))
    root = debian_root.ensure_root("4.3")
    assert root == folder / "root-4.3"
    arguments = (root / "arguments").read_text().split()
    assert arguments[:4] == ["--variant=minbase", "--include=rabbitmq-server", "forky", f"{root}.part"]
    assert arguments[4] == f"file:{tmp_path}/mirror"
    assert not (root / "left").exists(), "it was begun again"
    debootstrap.write_text("#!/bin/sh\nexit 1\n")
    assert debian_root.ensure_root("4.3") == root


@needs_root
def test_two_runs_do_not_make_a_root_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    put_programs(monkeypatch, tmp_path, MAKES.format("4.3.9"))
    folder.mkdir()
    lock = machine.locked(folder / "root-4.3.lock", "")
    assert lock is not None
    with lock, pytest.raises(machine.CommandError, match=r"^Another run is making .*root-4\.3: wait until"):
        debian_root.ensure_root("4.3")
    assert debian_root.ensure_root("4.3").is_dir()


@needs_root
def test_a_suite_that_has_moved_on_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    put_programs(monkeypatch, tmp_path, MAKES.format("4.30.1"))
    with pytest.raises(machine.SetupError, match=r"^Debian's forky has RabbitMQ 4\.30\.1 by now, and no 4\.3\.$"):
        debian_root.ensure_root("4.3")
    assert not (folder / "root-4.3").exists()


def test_a_node_of_another_release_than_was_asked_for_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, broker: Broker
) -> None:
    """With the RabbitMQ that the suite runs on, in the place of another release."""
    version = broker.node.version
    other = next(release for release in debian_root.SUITES if not debian_root.is_of(version, release))
    script = folder / f"root-{other}" / "usr/lib/rabbitmq/lib/rabbitmq_server/sbin/rabbitmq-server"
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setenv(debian_root.CHOSEN, other)
    monkeypatch.setattr(debian_root, "ensure_root", lambda version: folder / f"root-{version}")
    monkeypatch.setattr(debian_root, "inside", lambda *_: ["sleep", "600"])
    node = Node(tmp_path / "node")
    ports = {broker.node.amqp_port: node.amqp_port, broker.node.management_port: node.management_port}
    with contextlib.ExitStack() as relays:
        for there, here in ports.items():
            relays.enter_context(contextlib.closing(Relay(there, at=here)))
        with pytest.raises(NodeError, match=rf"^RabbitMQ {version} answered, and {other} was asked for\.$"):
            node.start()
    assert node.has_ended()


@needs_root
@needs_mounts
def test_a_program_in_a_root_sees_the_roots_programs_and_no_other_one_does() -> None:
    mounts = ["cat", "/proc/self/mounts"]
    before = subprocess.check_output(mounts, text=True)
    within = subprocess.check_output(debian_root.inside(Path("/"), mounts), text=True)
    assert within.count(" /usr ") == before.count(" /usr ") + 1
    assert subprocess.check_output(mounts, text=True) == before


def test_what_the_panel_refuses_is_closed(broker: Broker) -> None:
    """Python 3.13.5 and newer warn of an HTTPError that nobody closes."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        broker.api("GET", "queues/%2F/none")
    assert refused.value.code == 404
    assert refused.value.closed
