"""pika's BlockingConnection for one task: declares what the emitter declares, and waits for the confirm.

    python publish_one_pika.py URL QUEUE TASK

Follows https://pika.readthedocs.io/en/stable/examples/blocking_delivery_confirmations.html
Not guaranteed: an error is a traceback, and the task is not sent then.
"""

import sys
import uuid

import pika

url, queue, task = sys.argv[1:]
both = {
    "x-queue-type": "quorum",
    "x-dead-letter-exchange": "",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
tasks = {
    "x-delivery-limit": 20,
    "x-dead-letter-routing-key": f"{queue}.dead-letters",
    "x-consumer-timeout": 86400000,
    "x-delayed-retry-type": "failed",
    "x-delayed-retry-min": 1000,
    "x-delayed-retry-max": 30000,
}
letters = {"x-delivery-limit": 1000000000, "x-dead-letter-routing-key": queue}
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare(queue, durable=True, arguments={**both, **tasks})
channel.queue_declare(f"{queue}.dead-letters", durable=True, arguments={**both, **letters})
properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent, message_id=str(uuid.uuid4()))
channel.basic_publish("", queue, task.encode(), properties, mandatory=True)
connection.close()
