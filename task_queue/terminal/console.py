"""Printing lines for the person at the terminal: at once, or in a background thread for callers that must not block.

pika's callbacks and the keeper thread (rabbitmq/shared_loop.py) must not block, because heartbeats depend on them.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from task_queue.exceptions import Failure
from task_queue.signal_free_thread import SignalFreeThread
from task_queue.terminal import blocked_output

MOST_WAITING = 100  # lines for a blocked terminal; more are dropped


class _Shown:
    printer: SignalFreeThread | None = None  # the background thread, which is started when there is something to print
    above_prompt: Callable[[str, TextIO], None] | None = None  # see set_prompt_printer()
    has_complained = False  # said that standard output can't be written


def say(text: str, end: str = "\n") -> None:
    """Print a line at once. If that fails (`| head -1`, a full disk), go on without it: tasks are more important."""
    _print(text + end, sys.stdout)


def complain(text: str) -> None:
    """Print a line on standard error at once."""
    _print(f"{text}\n", sys.stderr)


def complain_of(failure: Failure) -> None:
    """Print why the program can't go on, unless that was printed before."""
    if not failure.is_told:
        complain(f" [!] {failure}")


def set_prompt_printer(prints: Callable[[str, TextIO], None] | None) -> None:
    """Set the function that prints lines of other threads above the prompt; None if there is no prompt."""
    _Shown.above_prompt = prints


def print_now(text: str, stream: TextIO) -> None:
    """Print text, also while the person is asked something."""
    try:
        blocked_output.write(text, stream)
    except OSError as error:
        if stream is sys.stdout and not _Shown.has_complained:  # a full disk may have room again
            _Shown.has_complained = True
            complain(f" [!] Standard output can't be written: {error.strerror}. The tasks go on.")


def _print(text: str, stream: TextIO | None) -> None:
    if stream is None:  # the shell has closed it: >&-
        return
    above_prompt = _Shown.above_prompt  # read once: the main thread may take it away
    if above_prompt and threading.current_thread() is not threading.main_thread():
        above_prompt(text, stream)
    else:
        print_now(text, stream)


def complain_in_background(text: str) -> None:
    """Have the background thread print a line on standard error."""
    do_in_background(lambda: complain(text))


def do_in_background(action: Callable[[], object]) -> None:
    """Put a function into the background thread's queue, unless it waits there already."""
    with contextlib.suppress(queue.Full, RuntimeError):  # no thread can be started now: the next call tries again
        if action not in _actions.queue:
            _actions.put_nowait(action)
        with _starting:
            if not (_Shown.printer and _Shown.printer.is_alive()):  # a forked process has none
                _Shown.printer = SignalFreeThread(_do_actions, "printer")
                _Shown.printer.start()


def finish_background() -> None:
    """Wait until the background thread has printed everything, at most half a second."""
    with _actions.all_tasks_done:
        _actions.all_tasks_done.wait_for(lambda: not _actions.unfinished_tasks, blocked_output.END_WITHIN)


def _do_actions() -> None:
    while True:
        action = _actions.get()
        with contextlib.suppress(Exception):  # a task may have replaced standard error by an odd object
            action()
        _actions.task_done()


_starting = threading.Lock()  # else two threads could start one each
_actions: queue.Queue[Callable[[], object]] = queue.Queue(MOST_WAITING)
