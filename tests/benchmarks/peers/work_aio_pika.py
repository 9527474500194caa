"""aio-pika, prefetch 1: one task at a time out of the queue's iterator.

    python work_aio_pika.py URL QUEUE

Follows https://docs.aio-pika.com/rabbitmq-tutorial/2-work-queues.html
Not guaranteed: a task that does not await loses the connection when it is longer than two heartbeats.
"""

import asyncio
import sys

import aio_pika
import marks


async def work(url, queue_name):
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.get_queue(queue_name)
        async with queue.iterator() as tasks:
            async for message in tasks:
                async with message.process(requeue=True):
                    if marks.FILE:
                        await asyncio.sleep(marks.SECONDS)
                        marks.mark()


asyncio.run(work(*sys.argv[1:]))
