"""The classic: pika's BlockingConnection, which calls back for each task. The other workers are compared with it.

    python work_pika_blocking.py URL QUEUE

It is worker.py of https://www.rabbitmq.com/tutorials/tutorial-two-python without output, and without work.
Not guaranteed: a task longer than two heartbeats loses the connection, so that its acknowledgement is lost and the
task done again. A lost connection ends it.
"""

import sys

import pika

url, queue = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()


def callback(ch, method, properties, body):
    ch.basic_ack(delivery_tag=method.delivery_tag)


channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue=queue, on_message_callback=callback)
channel.start_consuming()
