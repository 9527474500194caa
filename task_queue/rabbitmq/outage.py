"""An outage of RabbitMQ: the pauses between attempts to connect, when to give up, and what to print meanwhile."""

from __future__ import annotations

import os
import time

from task_queue.terminal.console import complain_in_background

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two attempts; each is twice as long as the one before
LONG_OUTAGE, LONG_OUTAGE_PAUSE = 120.0, 30.0  # seconds: after 120 s without RabbitMQ, pauses may grow to 30 s
LASTS_AFTER = 5.0  # seconds; a connection that lives so long ends the outage
NEVER = float("inf")


class Outage:
    """Keeps track of an outage. It ends when a task is confirmed or settled, or when a connection has lasted.

    A new connection alone does not end it, so pauses go on growing if a server accepts us and drops us again.

    Args:
        patience: see ConnectionSettings.
        nodes: how many nodes there are.

    Attributes:
        had_connection: RabbitMQ has accepted us at least once.
        had_success: a task was confirmed, or RabbitMQ accepted a subscription. Before that, a final error ends the
            program at once.
    """

    def __init__(self, patience: float, nodes: int) -> None:
        self.had_connection = self.had_success = False
        self._patience, self._nodes = patience, nodes
        self._reset()

    def _reset(self) -> None:
        self._began = self._final_since = NEVER
        self._pause = FIRST_PAUSE
        self._refusals: list[str] = []  # the errors in a row that may make us give up
        self._told: set[str] = set()  # reasons that were printed since the last return
        self._is_told_of_return = False

    def why_give_up(self, why: str, is_final: bool) -> str | None:
        """Note an error. Return None to try again; to give up, what each node has said.

        the error   before the first connection     before the first success     after it
        may pass    each node is tried once         we try for ever              we try for ever
        is final    each node is tried once         until all nodes said so      until the patience is over
        """
        if not is_final and self.had_connection:
            self._refusals.clear()
            self._final_since = NEVER
            return None
        self._refusals.append(why)
        self._final_since = min(self._final_since, time.monotonic())
        is_patient = self.had_success and time.monotonic() - self._final_since < self._patience
        if is_patient or len(self._refusals) < self._nodes:
            return None
        return "\n".join(dict.fromkeys(self._refusals[-self._nodes :]))

    def pause(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        self._began = min(self._began, time.monotonic())
        is_long = time.monotonic() - self._began > LONG_OUTAGE
        pause = min(self._pause, LONG_OUTAGE_PAUSE if is_long else LONGEST_PAUSE)
        self._pause = 2 * pause
        # With jitter, so that a hundred workers do not all reconnect at the same moment.
        return pause * (0.75 + os.urandom(1)[0] / 512)

    def subscribed(self, _frame: object) -> None:
        """Note that RabbitMQ has accepted a subscription."""
        self.had_success = True

    def success(self) -> None:
        """Note that a task was confirmed or settled."""
        self.had_success = True
        if self._began != NEVER:
            self.end()

    def end(self) -> None:
        """Note that the outage is over."""
        if self._told:
            complain_in_background(" [*] Connected again.")
        self._reset()

    def tell_of_loss(self, why: str) -> None:
        """Say why the connection is lost, once for each reason. An empty reason is not said."""
        if why and why not in self._told:
            self._told.add(why)
            complain_in_background(f" [!] {why}\n [*] Reconnecting ...")

    def connected(self) -> None:
        """Note a connection. After a loss, say so once; if that connection is lost soon, not again until one lasts."""
        if not self.had_connection:
            self.had_connection = True
            self._refusals.clear()
        if self._told and not self._is_told_of_return:
            self._is_told_of_return = True
            self._told.clear()
            complain_in_background(" [*] Connected again.")
