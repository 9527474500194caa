"""A worker that fails at everything slows down: most likely it is set up wrongly, and the tasks are fine."""

from __future__ import annotations

from task_queue.terminal.console import complain_in_background
from task_queue.worker.task import Task

MOST_IN_A_ROW = 5  # different tasks that fail, without one in between that is done, until the worker slows down
FIRST_BREAK, LONGEST_BREAK = 1.0, 30.0  # seconds before the next task then; each is twice as long as the one before


class SlowDown:
    """Counts the tasks that fail in a row.

    Args:
        is_on: whether the worker may wait; one that ends by itself does not.

    Attributes:
        seconds: how long to wait before the next task.
    """

    def __init__(self, is_on: bool) -> None:
        self.seconds = 0.0
        self._is_on = is_on
        self._failed: set[str | bytes] = set()  # by their ids, else by their bodies

    def failed(self, task: Task) -> None:
        """Count a task. When there are too many, say so once, and make the break before the next one longer."""
        if self._is_on and len(self._failed) < MOST_IN_A_ROW:
            self._failed.add(task.message_id or task.body)
        if len(self._failed) < MOST_IN_A_ROW:
            return
        if not self.seconds:
            complain_in_background(
                f" [!] {MOST_IN_A_ROW} different tasks in a row have failed here: is this worker set up wrongly? "
                "From now on it waits before each task, until one is done."
            )
        self.seconds = min(max(2 * self.seconds, FIRST_BREAK), LONGEST_BREAK)

    def done(self) -> None:
        """Note that a task is done."""
        self._failed.clear()
        self.seconds = 0.0
