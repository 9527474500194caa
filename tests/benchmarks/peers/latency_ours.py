"""How long N tasks took from their sender's clock to the start of the work: listening_worker.py's listen().

    python latency_ours.py URL QUEUE OUT_FILE N

A task's text is its sender's time.monotonic_ns(), so both must be on one machine. OUT_FILE gets a JSON list of
nanoseconds, in the order of arrival.
"""

import json
import sys
import time

from listening_worker import listen

url, queue, out_file, number = sys.argv[1:]
latencies = []


def perform(task):
    latencies.append(time.monotonic_ns() - int(task.body))


listen(perform, url=url, queue=queue, max_tasks=int(number))
with open(out_file, "w") as out:
    json.dump(latencies, out)
