"""Debian roots with other releases of RabbitMQ: from where they are made, and when they are taken for whole."""

import os
import shutil
import subprocess
from pathlib import Path

import debian_root
import machine
import pytest
from harness import Broker

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


@pytest.mark.parametrize(
    ("is_root", "programs", "words"),
    [
        (False, [], "runs out of a Debian root, and that needs root: run this with sudo."),
        (True, [], "a mount namespace, which an ordinary container has not (docker run --privileged gives it one)."),
        (True, ["unshare"], "which no mirror of this system's apt has: it knows none"),
    ],
)
def test_what_a_debian_root_lacks_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_root: bool, programs: list[str], words: str
) -> None:
    put_programs(monkeypatch, tmp_path, dict.fromkeys(programs, "true"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(machine, "is_root", lambda: is_root)
    with pytest.raises(machine.SetupError) as error:
        debian_root.ensure_root("4.3")
    assert str(error.value).startswith("RabbitMQ 4.3 ")
    assert str(error.value).endswith(words)


def put_programs(monkeypatch: pytest.MonkeyPatch, folder: Path, programs: dict[str, str]) -> None:
    """Put programs before those of the system, and roots where there are none."""
    (folder / "bin").mkdir()
    for name, text in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(debian_root, "FOLDER", folder / "roots")


NO_NAMESPACE = 'while case "$1" in --*) true;; *) false;; esac; do shift; done; exec "$@"'
MAKES = 'mkdir -p "$4/usr" && echo "$@" > "$4/arguments"'


@needs_root
def test_a_root_is_made_once_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_suite(tmp_path / "mirror", "forky", "Debian")
    apt_get = f"echo \"'file:{tmp_path}/mirror/dists/bookworm/InRelease' some_InRelease 0\""
    programs = {"apt-get": apt_get, "debootstrap": f"{MAKES}; echo 'E: it has no room' >&2; exit 1"}
    if not debian_root.may_mount():
        programs["unshare"] = NO_NAMESPACE
    put_programs(monkeypatch, tmp_path, programs)
    with pytest.raises(machine.SetupError, match="E: it has no room"):
        debian_root.ensure_root("4.3")
    assert list((tmp_path / "roots").iterdir()) == [], "it is not whole"

    (tmp_path / "bin" / "debootstrap").write_text(f"#!/bin/sh\n{MAKES}\n")
    root = debian_root.ensure_root("4.3")
    assert list((tmp_path / "roots").iterdir()) == [root]
    arguments = (root / "arguments").read_text().split()
    assert arguments[:3] == ["--variant=minbase", "--include=rabbitmq-server", "forky"]
    assert arguments[4] == f"file:{tmp_path}/mirror"
    (tmp_path / "bin" / "debootstrap").write_text("#!/bin/sh\nexit 1\n")
    assert debian_root.ensure_root("4.3") == root


@needs_root
@needs_mounts
def test_a_program_in_a_root_sees_the_roots_programs_and_no_other_one_does() -> None:
    mounts = ["cat", "/proc/self/mounts"]
    before = subprocess.check_output(mounts, text=True)
    within = subprocess.check_output(debian_root.inside(Path("/"), mounts), text=True)
    assert within.count(" /usr ") == before.count(" /usr ") + 1
    assert subprocess.check_output(mounts, text=True) == before
