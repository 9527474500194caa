"""pika's BlockingConnection with publisher confirms, which waits for each before it sends the next.

    python publish_pika_blocking.py URL QUEUE TASKS_FILE

Follows https://pika.readthedocs.io/en/stable/examples/blocking_delivery_confirmations.html
Not guaranteed: a lost connection, a nack and a return end it, and what was confirmed by then is not told.
"""

import sys
import uuid

import pika

url, queue, tasks = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare(queue, passive=True)  # as in tutorial two; with whatever arguments it has
properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
with open(tasks, "rb") as lines:
    for line in lines:
        properties.message_id = str(uuid.uuid4())
        # Raises when the task is nacked or returned.
        channel.basic_publish("", queue, line.rstrip(b"\n"), properties, mandatory=True)
connection.close()
