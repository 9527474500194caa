"""RabbitMQ's programs: those of this machine, which are installed first if missing, or those of a Debian root."""

from __future__ import annotations

import shutil
from pathlib import Path

import debian_root
import machine

# The wrapper in /usr/sbin works only for root or the rabbitmq user; the script inside it works for any user.
SERVER_SCRIPTS = (
    "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server",  # Debian, Ubuntu, Fedora
    "/usr/lib/rabbitmq/sbin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",  # macOS
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
)
ON_WINDOWS = """On Windows, start RabbitMQ with Docker (the next time: docker start rabbitmq). It is up in ten seconds:

    docker run -d --name rabbitmq --hostname rabbitmq -p 5672:5672 -p 15672:15672 rabbitmq:4-management

Or, if RabbitMQ is installed, in a PowerShell of an administrator:  Start-Service RabbitMQ
Then type this command again."""


def find_server(root: Path = Path("/")) -> Path | None:
    """Return the rabbitmq-server script that works for any user, by its path inside a root; or None."""
    for pattern in SERVER_SCRIPTS:
        for script in sorted(root.glob(pattern[1:]), reverse=True):
            return "/" / script.relative_to(root)
    return None


def ensure_server() -> Path:
    """Return the rabbitmq-server script. If it is missing, install it, or make its root, first.

    Raises:
        machine.SetupError: it is missing and can't be installed without asking; the text has the command.
    """
    if machine.WINDOWS:
        raise machine.SetupError(ON_WINDOWS)
    if release := debian_root.chosen():
        script = find_server(debian_root.ensure_root(release))
    else:
        script = find_server()
        if script is None:
            machine.install("rabbitmq-server")
            script = find_server()
    if script is None:
        raise machine.SetupError("rabbitmq-server is installed, but not where this program looks for it.")
    return script


def command(program: str, *arguments: str) -> list[str]:
    """Return the command for a program of RabbitMQ that is in the same folder as its server."""
    return in_its_root([str(ensure_server().with_name(program)), *arguments])


def plugins() -> tuple[Path, Path]:
    """Return the folder of the plugins: its path here, and its path inside the node's root."""
    folder = ensure_server().parent.with_name("plugins")
    release = debian_root.chosen()
    root = debian_root.ensure_root(release) if release else Path("/")
    return root / folder.relative_to("/"), folder


def in_its_root(command: list[str]) -> list[str]:
    """Return a command as it runs in the chosen Debian root, or unchanged if none is chosen."""
    release = debian_root.chosen()
    return debian_root.inside(debian_root.ensure_root(release), command) if release else command


def epmd_command(*arguments: str) -> list[str]:
    """Return the command for Erlang's port mapper."""
    return in_its_root([epmd_program(), *arguments])


def epmd_program() -> str:
    """Return the port mapper's program, which is not on the PATH of every system."""
    if debian_root.chosen():
        return "epmd"  # on the PATH in Debian
    found = shutil.which("epmd")
    if found is None:
        candidates = sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))
        found = str(candidates[-1]) if candidates else "epmd"
    return found
