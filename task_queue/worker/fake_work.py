"""The tutorial's fake work: sleeping a second for each dot in the task."""

from __future__ import annotations

import time

from task_queue.exceptions import SettingsError
from task_queue.terminal.console import say
from task_queue.worker.function_checks import Perform
from task_queue.worker.task import Task


def sleeping(seconds_per_dot: float) -> Perform:
    """Return a function that sleeps for each dot in a task. The dots are counted on the screen."""
    if not 0 <= seconds_per_dot < float("inf"):
        raise SettingsError("--seconds-per-dot must be a number, 0 or more.")

    def perform(task: Task) -> None:
        dots, began = task.body.count(b"."), time.monotonic()
        for dot in range(1, dots + 1):
            if (seconds := began + dot * seconds_per_dot - time.monotonic()) > 0:
                time.sleep(seconds)
            say(f"     . {dot} of {dots}")

    return perform
