"""RabbitMQ's admin panel: asks whether to open it, finds its address, and opens it in the browser."""

from __future__ import annotations

import contextlib
import re
import socket
from urllib.parse import urlsplit

import pika

from task_queue.terminal.console import complain, say
from task_queue.terminal.prompt import Prompt
from task_queue.terminal.text import printable
from task_queue.windows import WINDOWS

GUEST = pika.PlainCredentials("guest", "guest")  # the default user of a new RabbitMQ
PANEL_ANSWERS_WITHIN = 6.0 if WINDOWS else 2.0  # seconds; Windows needs two to report a refused connection


def offer_panel(answer: bool | None, url: str | None, node: pika.URLParameters) -> None:
    """Say where the panel is and how to log in, and open it in the browser, if the person wants it.

    Args:
        answer: whether to open it; None to ask.
        url: the panel's address; None for the default.
        node: the RabbitMQ whose panel it is.

    Raises:
        EOFError: the input ended without an answer.
    """
    if not (wants_panel() if answer is None else answer):
        return
    import webbrowser  # only here: it takes long to load

    host = f"[{node.host}]" if ":" in node.host else node.host
    url = url or f"http://{host}:15672/#/queues"
    login = " (user guest, password guest)" if node.credentials == GUEST else ""
    shown = re.sub("//[^/]*@", "//", url)  # without a password
    say(f" [*] RabbitMQ's admin panel: {printable(shown)}{login}")
    if not answers(url):
        complain(
            " [!] Nothing answers there. Switch it on, on RabbitMQ's machine:  rabbitmq-plugins enable "
            "rabbitmq_management  (in Docker: take the image rabbitmq:4-management)"
        )
    if not webbrowser.open(url):
        say(" [*] No browser was found here: open that address in yours.")


def wants_panel() -> bool:
    """Ask the person at the terminal, until the answer is yes or no."""
    prompt = Prompt("Would you like to monitor RabbitMQ queues? y or n: ", has_history=False)
    while True:
        with contextlib.suppress(UnicodeError):
            answer = prompt.ask().strip().lower()
            if answer in ("y", "yes", "n", "no"):
                return answer.startswith("y")
        say(" [*] That is no answer: please type y or n.")


def answers(url: str) -> bool:
    """Tell whether anything listens at an address."""
    with contextlib.suppress(OSError, ValueError):
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), PANEL_ANSWERS_WITHIN).close()
        return True
    return False
