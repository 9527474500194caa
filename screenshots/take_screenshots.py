#!/usr/bin/env python3
"""Takes the pictures of this project: of the real programs, at work in real windows, against a real RabbitMQ.

    python3 screenshots/take_screenshots.py                      all of them (about two minutes)
    python3 screenshots/take_screenshots.py redelivery.png       one or some
    python3 screenshots/take_screenshots.py --rabbitmq 4.3       with the panel of that release

Sets up what is missing first, by the names that Debian has for it. Shows nothing on this screen, and leaves no process
behind.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PICTURES = Path(__file__).resolve().parent
sys.path[:0] = [str(PICTURES.parent / "tools"), str(PICTURES)]

import debian_root
import installation
import machine
from broker import QUEUES, check_ports, emit, has_consumers, private_rabbitmq, renew_queues
from desktop import (
    GAP,
    Browser,
    Desktop,
    Terminal,
    eventually,
    height_of,
    running,
    temporary_folder,
    width_of,
)
from private_node import Node

PACKAGES = {  # of Debian, by a program in each
    "Xvfb": "xvfb",
    "openbox": "openbox",
    "xsetroot": "x11-xserver-utils",
    "xdotool": "xdotool",
    "xterm": "xterm",
    "script": "bsdutils",
    "chromium": "chromium",
    "ffmpeg": "ffmpeg",
    "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf": "fonts-dejavu-core",
    "/usr/share/fonts/truetype/liberation2/LiberationSans-Regular.ttf": "fonts-liberation2",
}
REQUIREMENTS = ("requirements.txt", "screenshots/requirements.txt")
WORKERS = ("anna", "ben")
WORKER_COLUMNS = 59  # of the longest line that a worker prints here
EMITTER_COLUMNS = 56
ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth")
TYPED = [f"{ordinal} task{'.' * dots}" for dots, ordinal in enumerate(ORDINALS, 1)]
WATCHED = TYPED[:5]
SETTLED = 12  # seconds, until RabbitMQ has counted the tasks, and the panel has asked for that
WIDE_COLUMNS = 121  # of a terminal as wide as the browser
UNEVEN = (6, 1, 5, 1, 4, 2, 6, 1, 5, 1)  # dots of one task after the other
NO_PREFETCH_WORKER = "tests/benchmarks/peers/work_pika_no_prefetch.py"


# ---- What a picture is taken of


def three_terminals(node: Node, file: Path) -> None:
    """One emitter and two workers, each in a terminal of its own, in the middle of work."""
    rows = 13
    emitter_rows = 2 * rows + 3  # as high as two terminals with their gap
    left, right = GAP, 2 * GAP + width_of(EMITTER_COLUMNS)
    below = 2 * GAP + height_of(rows)
    with desktop(right + width_of(WORKER_COLUMNS) + GAP, height_of(emitter_rows) + 2 * GAP) as screen:
        anna = working(screen.terminal("worker anna", WORKER_COLUMNS, rows, right, GAP), "anna")
        working(screen.terminal("worker ben", WORKER_COLUMNS, rows, right, below), "ben")
        emitter = screen.terminal("emitter", EMITTER_COLUMNS, emitter_rows, left, GAP)
        emitter.types("python emitter_of_tasks.py")
        emitter.shows("y or n: ")
        emitter.types("n")
        type_tasks(emitter, TYPED)
        anna.shows("1 of 5")
        screen.photograph(file)


def redelivery(node: Node, file: Path) -> None:
    """Ctrl+C in the middle of a task, and the other worker who gets it."""
    rows = 10
    with desktop(2 * width_of(WORKER_COLUMNS) + 3 * GAP, height_of(rows) + 2 * GAP) as screen:
        anna = working(screen.terminal("worker anna", WORKER_COLUMNS, rows, GAP, GAP), "anna")
        place = 2 * GAP + width_of(WORKER_COLUMNS)
        ben = working(screen.terminal("worker ben", WORKER_COLUMNS, rows, place, GAP), "ben")
        emit("A task....")
        anna.shows("2 of 4")
        anna.presses("ctrl+c")
        anna.shows("Stopped.")
        ben.shows("3 of 4")
        screen.photograph(file)


def admin_panel(node: Node, file: Path) -> None:
    """The queues' page of RabbitMQ's admin panel, opened by a y at the emitter's prompt."""
    rows, width, page = 2 * len(WATCHED) + 4, width_of(WIDE_COLUMNS), 806
    with desktop(width + 2 * GAP, page + height_of(rows) + 3 * GAP) as screen:
        browser = screen.browser(GAP, GAP, width, page, scale=1.4)
        open_panel(screen, browser, screen.terminal("emitter", WIDE_COLUMNS, rows, GAP, page + 2 * GAP))
        time.sleep(SETTLED)
        screen.photograph(file)


def admin_queue(node: Node, file: Path) -> None:
    """The page of the queue, with the workers by their names."""
    width, page = width_of(WIDE_COLUMNS), 730
    with desktop(width + 2 * GAP, page + 2 * GAP) as screen:
        browser = screen.browser(GAP, GAP, width, page, scale=1.4)
        emitter = screen.terminal("emitter", EMITTER_COLUMNS, 20, GAP, GAP)
        open_panel(screen, browser, emitter)
        emitter.hide()
        browser.evaluate("location.hash = '#/queues/%2F/tasks'")
        browser.shows("Consumers (2)")
        for section in ("Overview", "Consumers"):  # close the one, open the other
            headings = "[...document.querySelectorAll('h2')]"
            browser.evaluate(f"{headings}.find(heading => heading.innerText.startsWith('{section}')).click()")
        browser.shows(WORKERS[1])
        time.sleep(SETTLED)
        screen.photograph(file)


def timeline(node: Node, file: Path) -> None:
    """Who did what when: the same tasks with prefetch 1, and dealt out in turn."""
    import drawing

    by_prefetch_1 = ["listening_worker.py", "--name={name}", "--log-file={log}", "--seconds-per-dot=0.25"]
    by_turns = [NO_PREFETCH_WORKER, node.url, QUEUES[0], "{log}", "{name}", "0.25"]
    drawing.draw(
        {
            "Prefetch 1: whoever is free gets the next task.": records_of(node, by_prefetch_1),
            "No prefetch limit: tasks are dealt out in turn.": records_of(node, by_turns),
        },
        file,
    )


def demo(node: Node, file: Path) -> None:
    """The demo, from the typed command to who did what."""
    columns, rows = 86, 26
    with desktop(width_of(columns) + 2 * GAP, height_of(rows) + 2 * GAP) as screen:
        terminal = screen.terminal("demo", columns, rows, GAP, GAP)
        # Before the film begins: some see no more of it than its first frame.
        terminal.types("python3 tools/demo.py", enter=False)
        terminal.shows("tools/demo.py")
        with screen.filmed(file, frame_rate=8, last_frame_for=8):
            time.sleep(1)
            terminal.presses("Return")
            terminal.shows("Nothing is left in the queue.")
            time.sleep(1)


SCENES: dict[str, Callable[[Node, Path], None]] = {
    "three_terminals.png": three_terminals,
    "admin_panel.png": admin_panel,
    "admin_queue.png": admin_queue,
    "redelivery.png": redelivery,
    "timeline.svg": timeline,
    "demo.gif": demo,
}


# ---- What happens in the scenes


@contextlib.contextmanager
def desktop(width: int, height: int) -> Iterator[Desktop]:
    """Give a desktop for one picture."""
    with temporary_folder() as folder, Desktop(folder, width, height) as it:
        yield it


def open_panel(screen: Desktop, browser: Browser, emitter: Terminal) -> None:
    """Have two workers at work, more tasks waiting, and the admin panel opened from the emitter, logged in."""
    for name in WORKERS:
        screen.start("python", "listening_worker.py", "--name", name, "--seconds-per-dot", "100")
    emitter.types("python emitter_of_tasks.py")
    emitter.shows("y or n: ")
    emitter.types("y")
    browser.shows("Username:")
    for field in ("username", "password"):
        browser.evaluate(f"document.querySelector('[name={field}]').value = 'guest'")
    browser.evaluate("document.querySelector('[type=submit]').click()")
    browser.shows("All queues")
    type_tasks(emitter, WATCHED)


def working(terminal: Terminal, name: str) -> Terminal:
    """Start a worker in a terminal, and return it when the worker waits for tasks."""
    terminal.types(f"python listening_worker.py --name {name}")
    terminal.shows("Waiting for tasks")
    return terminal


def type_tasks(emitter: Terminal, tasks: Sequence[str]) -> None:
    """Answer the emitter's prompt with one task after the other."""
    for number, task in enumerate(tasks, 1):
        emitter.shows("Enter new task: ", times=number)
        emitter.types(task, keys_per_second=100)
    emitter.shows("Enter new task: ", times=len(tasks) + 1)


def records_of(node: Node, worker: list[str]) -> list[dict[str, Any]]:
    """Return what two workers logged of the uneven tasks."""
    renew_queues(node)
    with temporary_folder() as folder, contextlib.ExitStack() as workers:
        log = folder / "events.jsonl"
        for number, name in enumerate(WORKERS, 1):
            words = [sys.executable, *(word.format(name=name, log=log) for word in worker)]
            workers.enter_context(running(words, cwd=machine.PROJECT, env=machine.clean_environment()))
            eventually(functools.partial(has_consumers, node, number), f"{name} waits for tasks")
        emit(tasks="".join(f"task {number}{'.' * dots}\n" for number, dots in enumerate(UNEVEN, 1)))
        eventually(lambda: log.exists() and log.read_text().count('"done"') == len(UNEVEN), "all tasks are done")
        return [json.loads(line) for line in log.read_text().splitlines()]


# ---- The command


def set_up() -> None:
    """Install what the pictures need, and go on in the virtual environment.

    Raises:
        machine.SetupError: something can't be installed without a question.
    """
    installation.ensure_server()
    missing = [
        package for program, package in PACKAGES.items() if not (shutil.which(program) or Path(program).exists())
    ]
    if missing:
        machine.install(*missing)
    machine.run_in_venv(*REQUIREMENTS)


def take(names: list[str]) -> None:
    """Take these pictures."""
    with private_rabbitmq() as node:
        for name in names:
            machine.say(f"Taking {name} ...")
            renew_queues(node)
            SCENES[name](node, PICTURES / name)


def main() -> int:
    """Take the pictures that the command line names, and return the exit status."""
    parser = argparse.ArgumentParser(description="Take the pictures of this project.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or some of: {', '.join(SCENES)}")
    debian_root.add_option(parser)
    options = parser.parse_args()
    debian_root.choose(options.rabbitmq)
    names = options.names or list(SCENES)
    if unknown := set(names) - set(SCENES):
        parser.error(f"there is no picture {', '.join(sorted(unknown))}")
    check_ports()
    set_up()
    take(names)
    return 0


if __name__ == "__main__":
    machine.run_main(main)
