"""RabbitMQ's programs and plugins, of this machine or of a Debian root; installed first if they are missing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import debian_root
import machine

# The wrapper in /usr/sbin works only for root or the rabbitmq user; the script inside it works for any user.
SERVER_SCRIPTS = (
    "usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server",  # Debian, Ubuntu, Fedora
    "usr/lib/rabbitmq/sbin/rabbitmq-server",
    "opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",  # macOS
    "usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    "opt/rabbitmq/sbin/rabbitmq-server",
)
ON_WINDOWS = """On Windows, start RabbitMQ with Docker (the next time: docker start rabbitmq). It is up in ten seconds:

    docker run -d --name rabbitmq --hostname rabbitmq -p 5672:5672 -p 15672:15672 rabbitmq:4-management

Or, if RabbitMQ is installed, in a PowerShell of an administrator:  Start-Service RabbitMQ
Then type this command again."""


def find_server(root: Path) -> Path | None:
    """Return the rabbitmq-server script that works for any user, by its path inside a root; or None."""
    found = [script for pattern in SERVER_SCRIPTS for script in sorted(root.glob(pattern), reverse=True)]
    return Path("/", found[0].relative_to(root)) if found else None


def ensure_server() -> Path:
    """Return the rabbitmq-server script. If it is missing, install it, or make its root, first."""
    if machine.WINDOWS:
        raise machine.SetupError(ON_WINDOWS)
    root = debian_root.chosen_root()
    if root == Path("/") and find_server(root) is None:
        machine.install("rabbitmq-server")
    if script := find_server(root):
        return script
    raise machine.SetupError("rabbitmq-server is installed, but not where this program looks for it.")


def command(program: str, *arguments: str) -> list[str]:
    """Return the command for a program of RabbitMQ that is in the same folder as its server."""
    return in_its_root([str(ensure_server().with_name(program)), *arguments])


def link_needed_plugins(folder: Path) -> None:
    """Fill a folder with links to the plugins and libraries that a private node needs.

    RabbitMQ searches up to sixty folders for each of its thousand modules, which is a third of the time it takes to
    start. If the needed ones are not known, make no folder: RabbitMQ then uses all.
    """
    shutil.rmtree(folder, ignore_errors=True)
    in_root = ensure_server().parent.with_name("plugins")
    installed = debian_root.chosen_root() / in_root.relative_to("/")
    there = {each.name.partition("-")[0]: each for each in installed.glob("*-*") if (each / "ebin").is_dir()}
    needed = ["rabbit", "rabbitmq_prelaunch", "rabbitmq_management"]
    if not there.keys() >= {*needed}:
        return
    folder.mkdir()
    for name in needed:  # the list grows meanwhile
        text = (there[name] / "ebin" / f"{name}.app").read_text()
        applications = re.findall(r"\{\s*applications\s*,\s*\[(.*?)\]", text, re.DOTALL)
        needed += [each for each in re.findall(r"\w+", "".join(applications)) if each in there and each not in needed]
        (folder / there[name].name).symlink_to(in_root / there[name].name)


def epmd_command(*arguments: str) -> list[str]:
    """Return the command for Erlang's port mapper, which is not on the PATH of every system."""
    beside_erlang = [] if shutil.which("epmd") else sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))
    program = "epmd" if debian_root.chosen() or not beside_erlang else str(beside_erlang[-1])
    return in_its_root([program, *arguments])


def in_its_root(command: list[str]) -> list[str]:
    """Return a command as it runs in the chosen Debian root, or unchanged if none is chosen."""
    root = debian_root.chosen_root()
    return command if root == Path("/") else debian_root.inside(root, command)
