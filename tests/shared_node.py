#!/usr/bin/env python3
"""One RabbitMQ for all processes of a run of the suite, which is started when the first of them needs it.

It is under a process of its own, which is run as this file. That ends with its standard input, which only the run
holds: so the node ends with the run even if pytest is killed.
"""

import pickle
import select
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent / "tools")]

from broker_view import CONFIG, Broker  # noqa: E402
from rabbitmq import Node  # noqa: E402
from waiting import eventually  # noqa: E402


def new_keeper(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that keeps the node; its communicate() returns when the node has ended."""
    with (folder / "keeper.log").open("wb") as log:
        command = [sys.executable, __file__, str(folder)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)


def shared_node(folder: Path) -> Node:
    """Return the node of the run, to be used and neither started nor stopped."""
    (folder / "wanted").touch()
    eventually((folder / "node").exists, "RabbitMQ is up, or could not be started", within=300)
    found = pickle.loads((folder / "node").read_bytes())  # noqa: S301
    if isinstance(found, Exception):
        raise found
    return found  # type: ignore[no-any-return]


def keep(folder: Path) -> None:
    """Start the node when it is wanted, tell of it, or why it is not there, and kill it when the run ends."""
    while not (folder / "wanted").exists():
        if select.select([sys.stdin], [], [], 0.05)[0]:
            return
    node = Node(folder / "rabbitmq", config=CONFIG)
    found = pickle.loads(pickle.dumps(node))  # noqa: S301  # without the processes that it has only here
    try:
        node.start()
        found.version = node.version
        Broker(node).shorten_waits()
    except Exception as error:
        found = error
    (folder / "new").write_bytes(pickle.dumps(found))
    (folder / "new").rename(folder / "node")
    sys.stdin.read()
    node.kill()


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
