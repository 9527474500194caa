"""Celery's apply_async with publisher confirms, which waits for each before it sends the next.

    python publish_celery.py URL QUEUE TASKS_FILE

Follows https://docs.celeryq.dev/en/stable/userguide/calling.html
The queue is declared by Celery, so it must not be there with other arguments, and the messages are Celery's own.
Not guaranteed: what was confirmed when it ends early is not told. Celery tries again after a lost connection.
"""

import os
import sys

os.environ["BENCH_URL"], os.environ["BENCH_QUEUE"], tasks = sys.argv[1:]

from celery_app import work  # noqa: E402 - its settings are read at once

with open(tasks, encoding="utf-8") as lines:
    for line in lines:
        work.apply_async((line.rstrip("\n"),))
