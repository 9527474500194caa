"""The way of the course starter: a connection for every task, and no publisher confirms.

    python publish_pika_starter.py URL QUEUE TASKS_FILE

It is new_task.py of https://www.rabbitmq.com/tutorials/tutorial-two-python in a loop, without the queue_declare and
with persistent tasks.
Not guaranteed: anything. Exit status 0 says that the tasks were written to a socket.
"""

import sys
import uuid

import pika


def send(url, queue, task):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent, message_id=str(uuid.uuid4()))
    channel.basic_publish(exchange="", routing_key=queue, body=task, properties=properties)
    connection.close()


url, queue, tasks = sys.argv[1:]
with open(tasks, "rb") as lines:
    for line in lines:
        send(url, queue, line.rstrip(b"\n"))
