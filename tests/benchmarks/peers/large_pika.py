"""Large tasks in bare pika: sends a file's lines, each confirmed, or takes a number of tasks that are no work.

    python large_pika.py send URL QUEUE FILE
    python large_pika.py take URL QUEUE NUMBER

Follows https://www.rabbitmq.com/tutorials/tutorial-two-python and tutorial-seven; what it does not guarantee is what
publish_pika_blocking.py and work_pika_blocking.py do not.
"""

import sys

import pika

what, url, queue, argument = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
if what == "send":
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    with open(argument, "rb") as lines:
        for line in lines:
            channel.basic_publish("", queue, line.rstrip(b"\n"), properties, mandatory=True)
else:
    left = int(argument)

    def callback(ch, method, properties, body):
        global left
        ch.basic_ack(method.delivery_tag)
        left -= 1
        if left == 0:
            ch.stop_consuming()

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue, callback)
    channel.start_consuming()
connection.close()
