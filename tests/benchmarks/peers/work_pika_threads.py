"""pika's BlockingConnection with a thread for each task, so that long tasks keep the connection.

    python work_pika_threads.py URL QUEUE

Follows https://github.com/pika/pika/blob/main/examples/basic_consumer_threaded.py
Not guaranteed: the last acknowledgement at its end. A lost connection ends it.
"""

import functools
import sys
import threading

import pika


def do_work(connection, channel, delivery_tag, body):
    connection.add_callback_threadsafe(functools.partial(acknowledge, channel, delivery_tag))


def acknowledge(channel, delivery_tag):
    if channel.is_open:
        channel.basic_ack(delivery_tag)


def on_message(channel, method, properties, body, connection):
    threading.Thread(target=do_work, args=(connection, channel, method.delivery_tag, body)).start()


url, queue = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue, functools.partial(on_message, connection=connection))
channel.start_consuming()
