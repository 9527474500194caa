import os
import sys

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare("plain_tasks", durable=True)
task = " ".join(sys.argv[1:])
persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
channel.basic_publish("", "plain_tasks", task.encode(), persistent)
print(f" [x] Sent {task}")
connection.close()
