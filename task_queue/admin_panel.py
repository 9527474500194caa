"""RabbitMQ's admin panel: asks whether to open it, finds its address, and opens it in the browser."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import socket
from urllib.parse import urlsplit

import pika

from task_queue.aside import call_aside
from task_queue.commands import panel_port_of_private, switch_panel_on
from task_queue.prompt import Prompt
from task_queue.system import WINDOWS
from task_queue.terminal import complain, say
from task_queue.text import printable

USUAL_PORT = 15672
GUEST = pika.PlainCredentials("guest", "guest")  # the user of every new RabbitMQ
ANSWERS_WITHIN = 2.0  # seconds


def offer_panel(answer: bool | None, url: str | None, node: pika.URLParameters) -> None:
    """Open the panel in the browser, if the person wants it.

    Args:
        answer: whether to open it; None to ask.
        url: the panel's address; None for the usual one.
        node: the panel's RabbitMQ.

    Raises:
        EOFError: the input ended without an answer.
    """
    if wants_panel() if answer is None else answer:
        open_panel(url or panel_address(node), node)


def wants_panel() -> bool:
    """Ask the person at the terminal, until the answer is yes or no."""
    prompt = Prompt("Would you like to monitor RabbitMQ queues? y or n: ", has_history=False)
    while True:
        with contextlib.suppress(UnicodeError):
            answer = prompt.ask().strip().lower()
            if answer in ("y", "yes", "n", "no"):
                return answer.startswith("y")
        say(" [*] That is no answer: please type y or n.")


def open_panel(url: str, node: pika.URLParameters) -> None:
    """Say where the panel is and how to log in, and open it."""
    import webbrowser  # only here: it takes long to load

    login = " (user guest, password guest)" if node.credentials == GUEST else ""
    shown = re.sub("//[^/@]*@", "//", url)  # without a password
    say(f" [*] RabbitMQ's admin panel: {printable(shown)}{login}")
    if not answers(url):
        complain(f" [!] Nothing answers there. Switch it on, {switch_panel_on()}")
    if not webbrowser.open(url):
        say(" [*] No browser was found here: open that address in yours.")


def panel_address(node: pika.URLParameters) -> str:
    """Return the address of the queues' page on RabbitMQ's machine."""
    host = f"[{node.host}]" if ":" in node.host else node.host
    return f"http://{host}:{panel_port_of_private(node) or USUAL_PORT}/#/queues"


def answers(url: str) -> bool:
    """Tell whether anything listens at an address."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # In another thread, because a DNS lookup that hangs can't be interrupted.
        within = ANSWERS_WITHIN * (3 if WINDOWS else 1)  # there, an address that refuses takes two seconds to do so
        call_aside(lambda: socket.create_connection((parts.hostname, port), ANSWERS_WITHIN).close(), within)
    except (OSError, ValueError, RuntimeError, concurrent.futures.TimeoutError):
        return False
    return True
