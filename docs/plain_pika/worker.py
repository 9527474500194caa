import os
import time

import pika


def perform(channel, method, properties, body):
    print(f" [x] Received {body.decode()}", flush=True)
    time.sleep(body.count(b"."))
    print(" [x] Done.", flush=True)
    channel.basic_ack(method.delivery_tag)


url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.queue_declare("plain_tasks", durable=True)
channel.basic_qos(prefetch_count=1)
channel.basic_consume("plain_tasks", perform)
channel.start_consuming()
