"""Debian roots: other releases of RabbitMQ than the installed one, each in a small Debian under .rabbitmq/.

debootstrap makes such a root once, from the mirror that this system's apt uses. Programs in it see the root's /usr
instead of this machine's. Other files, ports and processes are this machine's, as for the installed RabbitMQ.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import machine

SUITES = {"4.0": "trixie", "4.3": "forky"}  # RabbitMQ's release, and the release of Debian that has it
CHOSEN = "TEST_RABBITMQ"  # in the environment, so that pytest's processes, and those that they start, use the same
FOLDER = machine.PROJECT / ".rabbitmq"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the flag that chooses the release of RabbitMQ."""
    parser.add_argument(
        "--rabbitmq", choices=list(SUITES), help="run on this release, from a Debian root, instead of the installed one"
    )


def choose(version: str | None) -> None:
    """From now on, start nodes of this release, in this process and in those that it starts."""
    if version is not None:
        os.environ[CHOSEN] = version


def chosen() -> str | None:
    """Return the release that nodes should have; None is the installed one, whatever it is."""
    version = os.environ.get(CHOSEN)
    if version and version not in SUITES:
        raise machine.SetupError(f"{CHOSEN} is one of {', '.join(SUITES)}, and not {version}.")
    return version or None


def chosen_root() -> Path:
    """Return the root of the chosen release, made first if it is missing; or this machine's, if none is chosen."""
    release = chosen()
    return ensure_root(release) if release else Path("/")


def ensure_root(version: str) -> Path:
    """Return the root with this release, made first if it is missing; SetupError says what is missing for that."""
    what = f"RabbitMQ {version} runs out of a Debian root, and that needs"
    if not machine.is_root():
        raise machine.SetupError(f"{what} root: run this with sudo.")
    if not may_mount():
        raise machine.SetupError(
            f"{what} a mount namespace, which an ordinary container has not (docker run --privileged gives it one)."
        )
    root = FOLDER / f"root-{version}"
    if not root.is_dir():
        make(root, version)
    return root


def may_mount() -> bool:
    """Tell whether this process may have mounts of its own, as root has, but not in an ordinary container."""
    return machine.succeeds(["unshare", "--mount", "true"])


def inside(root: Path, command: list[str]) -> list[str]:
    """Return a command whose process becomes another one with the programs of a root, which no other process sees."""
    exchange = 'mount --rbind "$0/usr" /usr && export PATH=/usr/sbin:/usr/bin && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", exchange, str(root), *command]


def make(root: Path, version: str) -> None:
    """Make a root in a temporary folder, and move it to its place when it is whole, if no other run has been faster."""
    suite = SUITES[version]
    mirror = debian_mirror()
    if shutil.which("debootstrap") is None:
        machine.install("debootstrap")
    machine.say(f"Making a small Debian with RabbitMQ {version} in {root} (a few minutes, once) ...")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        part = Path(folder) / root.name
        # In its own namespaces, so that no process and no mount is left behind when this process ends.
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        # A debootstrap that is older than the suite does not know its name, but can make it in the same way as sid.
        scripts = Path("/usr/share/debootstrap/scripts")
        script = [] if (scripts / suite).exists() else [str(scripts / "sid")]
        options = ["--variant=minbase", "--include=rabbitmq-server", suite, str(part), mirror, *script]
        machine.run([*alone, "debootstrap", *options])
        shutil.rmtree(part / "var/cache/apt", ignore_errors=True)  # the packages; they are unpacked now
        if not root.is_dir():
            part.rename(root)


def debian_mirror() -> str:
    """Return the mirror of Debian that this system's apt uses."""
    if shutil.which("apt-get"):
        machine.run(["apt-get", "update", "-qq"])
        question = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)"]
        answer = subprocess.run(question, capture_output=True, text=True, errors="replace").stdout
        if found := re.search(r"^Debian (\S+)$", answer, re.MULTILINE):  # and not Debian-Security, or somebody else's
            return found[1]
    raise machine.SetupError("RabbitMQ 4 is taken from Debian, and there is no apt here that knows a mirror of Debian.")
