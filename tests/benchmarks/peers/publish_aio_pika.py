"""aio-pika with publisher confirms, 1,000 tasks gathered at a time.

    python publish_aio_pika.py URL QUEUE TASKS_FILE

Follows the batches of https://docs.aio-pika.com/rabbitmq-tutorial/7-publisher-confirms.html
Not guaranteed: a lost connection, a nack and a return end it, and what was confirmed by then is not told.
"""

import asyncio
import sys
import uuid
from itertools import islice

import aio_pika

BATCH = 1000


async def publish(url, queue, tasks):
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = channel.default_exchange

        def send(task):
            message = aio_pika.Message(
                task, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, message_id=str(uuid.uuid4())
            )
            return exchange.publish(message, routing_key=queue, mandatory=True)

        while batch := list(islice(tasks, BATCH)):
            await asyncio.gather(*map(send, batch))


if __name__ == "__main__":
    with open(sys.argv[3], "rb") as lines:
        asyncio.run(publish(*sys.argv[1:3], (line.rstrip(b"\n") for line in lines)))
