"""How a script, or a program of your own, starts and ends: with a message and an exit status."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from task_queue import outbox, terminal
from task_queue.failures import Failure
from task_queue.forked import install
from task_queue.inherited import as_from_a_shell, open_standard_streams
from task_queue.signals import ENDING_SIGNALS, Signals


JUST_ENDED = 0.5  # seconds


class _Run:
    is_over = False


def run(main: Callable[[], int | None]) -> None:
    """Run a program, and exit with the status that it returns; a Failure or Ctrl+C never shows a traceback.

    Args:
        main: the program. If it returns None, the exit status is 0, as for sys.exit().
    """
    _Run.is_over = False
    gc.freeze()  # skip imported objects in every collection, also at exit
    gc.enable()
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            install(number, _on_signal)
    open_standard_streams()
    try:
        with as_from_a_shell():
            status = main()
    except KeyboardInterrupt:
        terminal.say("")
        status = 130
    except Failure as failure:
        terminal.tell(failure)
        status = failure.exit_code
    outbox.flush()
    _Run.is_over = True
    atexit.register(_ignore_signals)
    terminal.let_go()
    sys.exit(status)


def _ignore_signals() -> None:
    # Called after the end of all threads. Python would put the default in place of our handler.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _waits_for_threads() -> bool:
    return any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate())


def _on_signal(number: int, _frame: object) -> None:
    # In force before and after the script's own Signals. Then the exit status is settled, and must not change any more.
    if time.monotonic() - Signals.ended_at < JUST_ENDED or (_Run.is_over and not _waits_for_threads()):
        return
    if number == signal.SIGINT and not _Run.is_over:
        terminal.give_up_soon()
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
