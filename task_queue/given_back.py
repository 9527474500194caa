"""The tasks that this worker has handed back, and when to expect them again."""

from __future__ import annotations

import itertools
import time

from task_queue.task import Task

LATE = 2.0  # seconds by which a task may come late


class GivenBack:
    """Remembers tasks by their ids and texts."""

    def __init__(self) -> None:
        # When they should be back, on the monotonic clock. Two may have the same key: clients need not set an id.
        self._expected: dict[tuple[str | None, int], list[float]] = {}

    def expect(self, task: Task, seconds: float) -> None:
        """Note that a task waits `seconds` for its next try; 0 if it does not wait."""
        if seconds:
            self._expected.setdefault(_key(task), []).append(time.monotonic() + seconds + LATE)

    def is_back(self, task: Task) -> None:
        """Note that a task is here again."""
        if self._expected:  # checked first, because making the key of a large task is slow
            times = self._expected.get(_key(task), [])
            if times:
                times.remove(min(times))

    def seconds_to_wait(self) -> float:
        """Return how long it takes at most until all are back, unless another worker takes them."""
        return max(0.0, max(itertools.chain(*self._expected.values()), default=0.0) - time.monotonic())


def _key(task: Task) -> tuple[str | None, int]:
    return task.message_id, hash(task.body)
