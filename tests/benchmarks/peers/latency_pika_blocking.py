"""How long N tasks took from their sender's clock to the start of the work: the worker of work_pika_blocking.py.

    python latency_pika_blocking.py URL QUEUE OUT_FILE N

A task's text is its sender's time.monotonic_ns(), so both must be on one machine. OUT_FILE gets a JSON list of
nanoseconds, in the order of arrival.
"""

import json
import sys
import time

import pika

url, queue, out_file, number = sys.argv[1:]
latencies = []


def callback(ch, method, properties, body):
    latencies.append(time.monotonic_ns() - int(body))
    ch.basic_ack(delivery_tag=method.delivery_tag)
    if len(latencies) == int(number):
        ch.stop_consuming()


connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue=queue, on_message_callback=callback)
channel.start_consuming()
connection.close()
with open(out_file, "w") as out:
    json.dump(latencies, out)
