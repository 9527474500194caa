"""pika's BlockingConnection without publisher confirms, on one connection.

    python publish_pika_unconfirmed.py URL QUEUE TASKS_FILE

Follows https://www.rabbitmq.com/tutorials/tutorial-two-python
Not guaranteed: anything. Exit status 0 says that the tasks were written to a socket; RabbitMQ may have dropped some,
and now and then does drop the last ones, and nobody is told.
"""

import sys
import uuid

import pika

url, queue, tasks = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
with open(tasks, "rb") as lines:
    for line in lines:
        properties.message_id = str(uuid.uuid4())
        channel.basic_publish("", queue, line.rstrip(b"\n"), properties)
connection.close()
