"""RabbitMQ's admin panel: the question whether to open it, its address, and the browser."""

from __future__ import annotations

import concurrent.futures
import socket
import sys
from urllib.parse import urlsplit

from task_queue.aside import call_aside
from task_queue.terminal import complain, is_terminal, printable, say

ANSWERS_WITHIN = 2.0  # seconds


def panel_address(host: str) -> str:
    """Return the address of the queues' page on RabbitMQ's machine."""
    return f"http://[{host}]:15672/#/queues" if ":" in host else f"http://{host}:15672/#/queues"


def offer_admin_panel(answer: bool | None, url: str) -> None:
    """Open the panel, if the person wants it. Without an answer, ask at a terminal.

    Args:
        answer: given in advance; None to ask.
        url: the panel's address.
    """
    if answer is None and is_terminal(sys.stdin) and is_terminal(sys.stdout):
        answer = ask()
    if answer:
        import webbrowser  # only here: it takes long to load

        say(f" [*] RabbitMQ's admin panel: {printable(url)}")
        if not answers(url):
            complain(" [!] Nothing answers there. Switch it on:  rabbitmq-plugins enable rabbitmq_management")
        if not webbrowser.open(url):
            say(" [*] No browser was found here: open that address in yours.")


def ask() -> bool:
    """Ask until the answer is yes or no; end of input and an empty line are no."""
    typed = "?"
    while typed not in ("y", "yes", "n", "no", ""):
        try:
            say("Would you like to monitor RabbitMQ queues? y or n ", end="")
            typed = input().strip().lower()
        except (EOFError, OSError, RuntimeError, UnicodeError):
            typed = ""
    return typed.startswith("y")


def answers(url: str) -> bool:
    """Tell whether anything listens at an address."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # Aside, because nothing interrupts a look-up of the host's name that hangs.
        call_aside(lambda: socket.create_connection((parts.hostname, port), ANSWERS_WITHIN).close(), ANSWERS_WITHIN)
    except (OSError, ValueError, RuntimeError, concurrent.futures.TimeoutError):
        return False
    return True
