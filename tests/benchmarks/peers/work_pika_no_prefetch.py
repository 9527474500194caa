"""pika's BlockingConnection without basic_qos: RabbitMQ deals the tasks out in turn, whoever is busy.

    python work_pika_no_prefetch.py URL QUEUE LOG_FILE NAME SECONDS_PER_DOT

It is worker.py of https://www.rabbitmq.com/tutorials/tutorial-two-python before its part "Fair dispatch". The log
is that of listening_worker.py.
Not guaranteed: a fair share of the work. A worker that dies gives back every task that it was dealt.
"""

import sys
import time
from pathlib import Path

import pika

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from task_queue.event_log import EventLog

url, queue, log_file, name, seconds_per_dot = sys.argv[1:]
log = EventLog(log_file, name)
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()


def callback(ch, method, properties, body):
    received = time.monotonic()
    count = (properties.headers or {}).get("x-delivery-count", 0)
    task = properties.message_id, body
    log.note("received", *task, redelivered=method.redelivered, delivery_count=count)
    log.write()
    connection.sleep(body.count(b".") * float(seconds_per_dot))
    ch.basic_ack(delivery_tag=method.delivery_tag)
    log.note("done", *task, seconds=round(time.monotonic() - received, 6))
    log.write()


channel.basic_consume(queue=queue, on_message_callback=callback)
channel.start_consuming()
