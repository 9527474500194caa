"""How a script, or a program of your own, starts and ends: with a message and an exit status."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable

from task_queue import outbox, terminal
from task_queue.failures import Failure
from task_queue.forked import install
from task_queue.inherited import as_from_a_shell, open_standard_streams
from task_queue.signals import ENDING_SIGNALS, Signals


def run(main: Callable[[], int | None]) -> None:
    """Run a program, and exit with the status that it returns; a Failure or Ctrl+C never shows a traceback.

    Args:
        main: the program. If it returns None, the exit status is 0, as for sys.exit().
    """
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
    Signals.has_ended = True
    for number in ENDING_SIGNALS:  # Python's shutdown would replace our handler by the default
        signal.signal(number, signal.SIG_IGN)
    terminal.let_go()
    sys.exit(status)


def _on_signal(number: int, _frame: object) -> None:
    # In force before and after the script's own Signals. After them the exit status must not change.
    if Signals.has_ended:
        return
    if number == signal.SIGINT:
        terminal.give_up_soon()
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
