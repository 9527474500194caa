"""How a program starts and ends: with an exit status, one clear message, and no traceback."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Union

from task_queue.exceptions import Failure
from task_queue.process.signal_handlers import ENDING_SIGNALS
from task_queue.terminal.blocked_output import prepare_for_exit
from task_queue.terminal.console import complain, complain_of, finish_background, say

Status = Union[int, str, None]  # what sys.exit() takes


def run(main: Callable[[], Status]) -> None:
    """Run a program, and exit with the status that it returns; a Failure or Ctrl+C never shows a traceback.

    Args:
        main: the program. If it returns None, the exit status is 0, as for sys.exit().

    Raises:
        TypeError: it can't be called.
    """
    if not callable(main):
        raise TypeError("run() needs a function:  run(lambda: listen(perform))")
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # set by the scripts during their imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not gc.isenabled():  # also done by the scripts. After freeze() no collection looks at what was imported
        gc.freeze()
        gc.enable()
    open_standard_streams()
    status: Status = 130
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl+C: drop what is not printed yet
        try:
            status = main()
        except KeyboardInterrupt:
            say("")
        except SystemExit as end:
            status = end.code
        except Failure as failure:
            status = failure.exit_code
            complain_of(failure)
        finish_background()
    atexit.register(_keep_status)
    sys.exit(status)


def _keep_status() -> None:
    # Called at exit, when all but daemon threads have ended. From here on the exit status must not change.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    prepare_for_exit()


def open_standard_streams() -> None:
    """Make sure that a task can print any character, and that there is a standard error."""
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # input() fails if it is None
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Else a task that prints 日本 into a file on Windows fails.
        sys.stdout.reconfigure(errors="backslashreplace")


def refuse_second_run() -> None:
    """Raise RuntimeError in a process of multiprocessing that runs this program again.

    Processes start like that on macOS, on Windows, and everywhere from Python 3.14 on. Source:
    https://docs.python.org/3/library/multiprocessing.html#the-spawn-and-forkserver-start-methods
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "A process that a task has started runs this program again, and would be a second worker. "
            'Put listen() under  if __name__ == "__main__":'
        )


def end_forked_process() -> None:
    """End a process that a task has forked, and whose work has returned, as Python would.

    It must not go on: it would settle the task, and close the worker's connection. Nor is it ended by sys.exit(), which
    would run the worker's `finally` blocks.
    """
    kind, error, trace = sys.exc_info()
    code = error.code if isinstance(error, SystemExit) else int(error is not None)
    with contextlib.suppress(Exception):
        if kind is not None and error is not None and not isinstance(error, SystemExit):
            sys.excepthook(kind, error, trace)
        elif isinstance(code, str):
            complain(code)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
