"""The tasks that this worker has given back, and what is to be expected of them."""

from __future__ import annotations

import itertools
import time

from task_queue.task import Task

LATE = 2.0  # seconds that a task may come later than it should


class GivenBack:
    """Remembers tasks by their ids and texts."""

    def __init__(self) -> None:
        # When they come again, on the monotonic clock. Two may look the same: clients need not set an id.
        self._expected: dict[tuple[str | None, int], list[float]] = {}
        self._took_too_long: set[tuple[str | None, int]] = set()

    def expect(self, task: Task, seconds: float) -> None:
        """Note that a task waits for its next try; 0 if it does not wait."""
        if seconds:
            self._expected.setdefault(_key(task), []).append(time.monotonic() + seconds + LATE)

    def is_back(self, task: Task) -> None:
        """Note that a task is here again."""
        if self._expected:  # hardly ever, and a key takes long to make of a large task
            times = self._expected.get(_key(task), [])
            if times:
                times.remove(min(times))

    def seconds_to_wait(self) -> float:
        """Return how long it takes at most until all are back, if nobody else takes them."""
        return max(0.0, max(itertools.chain(*self._expected.values()), default=0.0) - time.monotonic())

    def took_too_long(self, task: Task) -> None:
        """Note that RabbitMQ has taken a task back after the ack timeout."""
        self._took_too_long.add(_key(task))

    def has_taken_too_long(self, task: Task) -> bool:
        """Tell whether that has happened to this task here."""
        return bool(self._took_too_long) and _key(task) in self._took_too_long


def _key(task: Task) -> tuple[str | None, int]:
    return task.message_id, hash(task.body)
