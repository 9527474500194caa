"""Flags and environment variables of both scripts: where RabbitMQ is, the queue's name, the log file.

Messages about a wrong URL never show a password.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pika

from task_queue.exceptions import SettingsError
from task_queue.terminal.console import complain
from task_queue.terminal.text import printable

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
DEFAULT_QUEUE = "tasks"
LONGEST_HEARTBEAT = 65535  # seconds; AMQP stores it in 16 bits
LONGEST_NAME = 242  # bytes of a queue's name; RabbitMQ allows 255, and .dead-letters needs 13 of them
LEAST_FRAME_MAX = 8192  # bytes; with less, RabbitMQ 4.1 and later close the connection without an error
PATIENCE = 300.0  # seconds, for runs that end by themselves: words, a file, --burst. See ConnectionSettings


class ConnectionSettings(NamedTuple):
    """Where a script connects, and under which name.

    Attributes:
        nodes: where RabbitMQ is; the nodes of a cluster are tried in turn.
        queue: the work queue's name.
        name: the connection's and the worker's name, in the admin panel and in the log.
        patience: seconds to go on trying when RabbitMQ refuses us (password, rights), though it worked before. At the
            start a refusal ends the program at once. While RabbitMQ is away, we try for ever.
        is_passive: only check that the queue exists (a passive declaration).
        is_from_environment: AMQP_URL has said where RabbitMQ is.
    """

    nodes: list[pika.URLParameters]
    queue: str
    name: str
    patience: float
    is_passive: bool
    is_from_environment: bool = False


def new_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of both scripts. It has no defaults, so `--help` shows no password of AMQP_URL."""
    # A fixed width, because to find the terminal's, argparse imports shutil: a fiftieth of a short run.
    layout = partial(argparse.HelpFormatter, width=78)
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=layout)
    url_help = (
        "RabbitMQ's URL; several nodes of a cluster are tried in turn; amqps:// uses TLS "
        f"(default: the environment variable AMQP_URL, else {DEFAULT_URL})"
    )
    flag = parser.add_argument
    flag("--url", type=not_empty, metavar="URL[,URL...]", help=url_help.replace("%", "%%"))
    queue_help = f"the queue (default: the environment variable TASK_QUEUE, else {DEFAULT_QUEUE})"
    flag("--queue", type=not_empty, metavar="NAME", help=queue_help)
    passive_help = "use the queue as it is, and declare nothing: for a queue that others have declared"
    flag("--passive", action="store_true", help=passive_help)
    flag("--log-file", type=not_empty, metavar="FILE", help="append a line with a JSON object for each event")
    return parser


def not_empty(text: str) -> str:
    """Read a flag's value. An empty one is an error: often a shell variable is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    return text


def one_character(text: str) -> str:
    """Read the value of --separator."""
    text = "\t" if text == "\\t" else text
    if len(text) != 1 or text in '"\r\n':
        raise argparse.ArgumentTypeError("the separator is one character, and no quote")
    return text


def connection_settings(
    url: str | None, queue: str | None, name: str, patience: float, is_passive: bool = False
) -> ConnectionSettings:
    """Return the settings, and warn if passive. For None, take the environment variable, else the default.

    Raises:
        SettingsError: one of them makes no sense.
    """
    if not name or len(name.encode(errors="surrogateescape")) > 255 or re.search("[\ud800-\udfff]", name):
        raise SettingsError("--name is empty, too long, or not text in this terminal's encoding.")
    queue = os.environ.get("TASK_QUEUE") or DEFAULT_QUEUE if queue is None else queue
    is_short = len(queue.encode(errors="surrogateescape")) <= LONGEST_NAME
    if not queue.strip() or not is_short or queue.startswith("amq.") or not queue.isprintable():
        raise SettingsError("--queue or TASK_QUEUE: a queue's name is printable, short, and does not begin with amq.")
    if is_passive:
        complain(
            f" [*] Queue {queue} is used as it is. What becomes of failed tasks, and whether tasks outlast a restart "
            "of RabbitMQ, depends on how it was declared."
        )
    is_from_environment = url is None and bool(os.environ.get("AMQP_URL"))
    return ConnectionSettings(nodes_in(url), queue, name, patience, is_passive, is_from_environment)


def nodes_in(urls: str | None) -> list[pika.URLParameters]:
    """Return pika's parameters for each of the comma-separated URLs; None means those of the environment."""
    urls = (os.environ.get("AMQP_URL") or DEFAULT_URL if urls is None else urls).strip()
    authorities = os.environ.get("SSL_CERT_FILE")
    if "amqps://" in urls and authorities and not os.access(authorities, os.R_OK):
        raise SettingsError(f"SSL_CERT_FILE: {printable(authorities)} can't be read.")  # Python says nothing of it
    return [_node_at(url) for url in re.split(r"\s*,\s*(?=amqps?://)", urls)]


def _node_at(url: str) -> pika.URLParameters:
    words = (
        "is not a URL like amqp://user:password@host:5672/virtual-host (percent-encode special characters: / is %2F, "
        "@ is %40), or has an option after ? that pika does not take."
    )
    before, _, query = url.partition("?")
    # Print no password: leave out the key's, and whatever stands in front of the ?, too.
    named = re.findall(r"(?:ca_certs|cafile|certfile|keyfile)['\"]\s*:\s*['\"](.+?)['\"]", unquote(query))
    files = [file for file in named if file not in before]
    try:
        if any(_is_encrypted(file) for file in files) and "password" not in query:
            words = "has a key in its ssl_options that is encrypted, and no 'password' for it."
        # For a path like /a/b, pika would take a as the virtual host.
        elif re.match("amqps?://", url) and not re.fullmatch("/[^/]+/.*", urlsplit(url).path):
            node = pika.URLParameters(url)
            heartbeat: Any = node.heartbeat or 0
            if node.frame_max >= LEAST_FRAME_MAX and heartbeat <= LONGEST_HEARTBEAT:
                return node
            words = (
                f"has a heartbeat of more than {LONGEST_HEARTBEAT:,}, or a frame_max of less than {LEAST_FRAME_MAX:,}."
            )
    except Exception as error:  # of any kind, because pika evaluates parts of the query as Python
        if "ssl_options" in query and isinstance(error, (OSError, TypeError)):  # of a file, or OpenSSL's own
            unreadable = [f"{file} can't be read" for file in files if not os.access(file, os.R_OK)]
            words = f"has ssl_options that can't be used: {printable([*unreadable, str(error)][0])}"
    raise SettingsError(f"--url or AMQP_URL {words}")


def _is_encrypted(file: str) -> bool:
    """Tell whether a file has a key in it for which OpenSSL would ask at the terminal, again and again."""
    with contextlib.suppress(OSError, ValueError), open(file, "rb") as key:
        return b"ENCRYPTED" in key.read()
    return False


def address(node: pika.URLParameters) -> str:
    """Return HOST:PORT."""
    return f"[{node.host}]:{node.port}" if ":" in node.host else f"{node.host}:{node.port}"


def place(node: pika.URLParameters) -> str:
    """Return where a person looks for the queue, as ` at HOST:PORT/VHOST`; nothing for the usual place."""
    vhost = "" if node.virtual_host == "/" else f"/{node.virtual_host}"
    where = printable(f"{address(node)}{vhost}")
    return "" if where == "localhost:5672" else f" at {where}"


def default_name(role: str) -> str:
    """Return a name that hardly another process has: ROLE-HOST-PID."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}"
