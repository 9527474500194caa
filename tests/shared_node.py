#!/usr/bin/env python3
"""One RabbitMQ for all processes of a run of the suite, which the first of them that needs it has started.

It is under a process of its own, which is run as this file. That waits for a lock that the run holds: the system takes
the lock from whoever ends, however that is, and so the node ends with the run even if pytest is killed.
"""

from __future__ import annotations

import fcntl
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent / "tools")]

from harness import CONFIG, Broker  # noqa: E402
from rabbitmq import Node, NodeError  # noqa: E402

KEEPERS: list[subprocess.Popen[bytes]] = []  # referred to, because Python complains of a process that nobody waits for


def locked(file: Path) -> BinaryIO:
    """Wait until nobody else has locked a file, and return it locked, until it is closed."""
    lock = file.open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


class SuiteRun:
    """A run of the suite, by the process that begins and ends it.

    Args:
        folder: of the node's data, and of what the processes agree by.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._goes_on = locked(folder / "run")
        # Opened now: when pytest's session is over, the end of another run beside it may remove the folder.
        self._keeper = (folder / "keeper").open("ab")

    def end(self) -> None:
        """End the node, if there is one, and return when it has ended."""
        self._goes_on.close()
        with self._keeper as keeper:
            fcntl.flock(keeper, fcntl.LOCK_EX)


def shared_node(folder: Path) -> Node:
    """Return the node of the run, to be used and neither started nor stopped; start it if nobody has."""
    with locked(folder / "first"):
        if not (folder / "node").exists():
            with (folder / "keeper.log").open("wb") as log:
                command = [sys.executable, __file__, str(folder)]
                keeper = subprocess.Popen(
                    command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            KEEPERS.append(keeper)
            while not (folder / "node").exists():
                if keeper.poll() is not None:
                    raise NodeError((folder / "keeper.log").read_text())
                time.sleep(0.05)
    return pickle.loads((folder / "node").read_bytes())  # type: ignore[no-any-return]  # noqa: S301


def keep(folder: Path) -> None:
    """Start the node, tell of it, and kill it when the run ends."""
    with locked(folder / "keeper"):
        node = Node(folder / "rabbitmq", config=CONFIG)
        twin: Node = pickle.loads(pickle.dumps(node))  # noqa: S301  # without the processes that it has only here
        try:
            node.start()
            twin.version = node.version
            Broker(node).shorten_waits()
            (folder / "node.new").write_bytes(pickle.dumps(twin))
            (folder / "node.new").rename(folder / "node")
            locked(folder / "run").close()
        finally:
            node.kill()


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
