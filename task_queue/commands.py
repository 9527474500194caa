"""Commands that we tell a person to type: they fit the RabbitMQ that is used here."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pika

from task_queue.system import WINDOWS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Of tools/rabbitmq.py. No pathlib: it would take a fiftieth of the time for one task to import it.
PRIVATE_NODE = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), ".rabbitmq")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
DOCKER = "docker run -d --name rabbitmq --hostname rabbitmq -p 5672:5672 -p 15672:15672 rabbitmq:4-management"


def rabbitmqctl(node: pika.connection.Parameters, *arguments: str) -> str:
    """Return `: COMMAND`, the rabbitmqctl command to type on RabbitMQ's machine.

    Args:
        node: that RabbitMQ.
        arguments: for rabbitmqctl, quoted for a shell.
    """
    what = " ".join(arguments)
    if panel_port_of_private(node) is not None:
        return f":  python tools/rabbitmq.py ctl {what}"
    if WINDOWS and node.host in LOCAL_HOSTS:
        return f":  docker exec rabbitmq rabbitmqctl {what}  (without Docker: in the admin panel, under Admin)"
    return f" on RabbitMQ's machine:  sudo rabbitmqctl {what}  (in Docker: docker exec rabbitmq rabbitmqctl {what})"


def start_rabbitmq() -> str:
    """Return the command that starts a RabbitMQ on this machine."""
    return f"{DOCKER}  (the next time: docker start rabbitmq)" if WINDOWS else "python3 tools/rabbitmq.py"


def set_variable(name: str, value: str) -> str:
    """Return the command that sets an environment variable for the programs that are started afterwards."""
    return f"$env:{name} = '{value}'" if WINDOWS else f"export {name}={value}"


def switch_panel_on() -> str:
    """Return how to switch the admin panel on."""
    if WINDOWS:
        return (
            "by taking the image rabbitmq:4-management  "
            "(without Docker: rabbitmq-plugins.bat enable rabbitmq_management)"
        )
    return (
        "on RabbitMQ's machine:  sudo rabbitmq-plugins enable rabbitmq_management  "
        "(in Docker: take the image rabbitmq:4-management)"
    )


def permissions(node: pika.connection.Parameters, user: str, queue: str) -> str:
    """Return the command that gives a user the permissions that the scripts need for a queue, and no more."""
    name = re.escape(queue)
    rights = [f"^{name}", rf"^({name}|amq\.default)", f"^{name}"]
    vhost = always_quoted(node.virtual_host)
    return rabbitmqctl(node, "set_permissions -p", vhost, quoted(user), *map(always_quoted, rights))


def policy(node: pika.connection.Parameters, queue: str, wanted: Mapping[str, Any]) -> str:
    """Return how to set a policy in place of arguments that a queue was not declared with.

    It is a command, but not on Windows: versions of PowerShell differ in how they pass on the double quotes of JSON.

    Args:
        node: where the queue is.
        queue: its name.
        wanted: the missing arguments.
    """
    settings = {name.removeprefix("x-"): value for name, value in wanted.items()}
    if WINDOWS:
        definition = ", ".join(f"{name} = {value}" for name, value in settings.items())
        return (
            f" in the admin panel, under Admin, Policies:  virtual host {node.virtual_host}, name times-{queue}, "
            f"pattern ^{re.escape(queue)}$, apply to queues, definition {definition}"
        )
    # JSON, but without importing json: an import needs a file descriptor, and an error message must not need one.
    definition = str(settings).replace("'", '"')
    parts = [f"times-{queue}", f"^{re.escape(queue)}$", definition]
    vhost = quoted(node.virtual_host)
    return rabbitmqctl(node, "set_policy -p", vhost, "--apply-to queues", *map(quoted, parts))


def panel_port_of_private(node: pika.connection.Parameters) -> int | None:
    """Return the port of the admin panel if this is the RabbitMQ that tools/rabbitmq.py runs, else None."""
    if WINDOWS or node.host not in LOCAL_HOSTS:
        return None
    try:
        with open(os.path.join(PRIVATE_NODE, "rabbitmq.conf")) as file:
            config = file.read()
        with open(os.path.join(PRIVATE_NODE, "lock"), "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # it runs
                panel = re.search(r"^management\.tcp\.port = (\d+)$", config, re.MULTILINE)
                is_it = re.search(rf"^listeners\.tcp\.\w+ = \S+:{node.port}$", config, re.MULTILINE)
                return int(panel[1]) if panel and is_it else None
    except OSError:  # there is none
        pass
    return None


def quoted(word: str) -> str:
    """Return a word in quotes for a shell, if it needs them."""
    if WINDOWS:  # PowerShell
        return word if re.fullmatch(r"[\w./:-]+", word) else "'" + word.replace("'", "''") + "'"
    return shlex.quote(word)


def always_quoted(word: str) -> str:
    """Return a word in quotes for a shell, even if it does not need them."""
    return quoted(word) if quoted(word) != word else f"'{word}'"
