"""A worker whose tasks write into a book when they are done: a record that no script of the project has a hand in.

Usage: worker_with_book.py BOOK [flag of listening_worker.py ...], with the length of a task in SECONDS.

The task `deadly ...` kills its worker, `hopeless ...` fails; every other one succeeds.
"""

import json
import os
import signal
import sys
import time

import listening_worker
from listening_worker import Task
from task_queue.process.run import run

SECONDS = float(os.environ.get("SECONDS", "0"))
BOOK = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def perform(task: Task) -> None:
    if task.text.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.text.startswith("hopeless"):
        raise ValueError("as it always does")
    if SECONDS:
        time.sleep(SECONDS)
    entry = {"task": task.text, "message_id": task.message_id, "body": task.body.hex()}
    os.write(BOOK, json.dumps(entry).encode() + b"\n")


listening_worker.sleeping = lambda _: perform
run(listening_worker.main)
