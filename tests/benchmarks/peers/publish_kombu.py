"""kombu with publisher confirms, which waits for each before it sends the next.

    python publish_kombu.py URL QUEUE TASKS_FILE

Follows "Publisher confirms" of https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.pyamqp.html
Not guaranteed: a lost connection, a nack and a return end it, and what was confirmed by then is not told.
"""

import sys
import uuid

from kombu import Connection, Producer

url, queue, tasks = sys.argv[1:]
with Connection(url, transport_options={"confirm_publish": True}) as connection, open(tasks, "rb") as lines:
    producer = Producer(connection)
    for line in lines:
        producer.publish(
            line.rstrip(b"\n"),
            routing_key=queue,
            delivery_mode="persistent",
            mandatory=True,
            content_type="text/plain",
            content_encoding="utf-8",
            message_id=str(uuid.uuid4()),
        )
