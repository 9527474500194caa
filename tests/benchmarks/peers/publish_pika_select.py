"""pika's SelectConnection with publisher confirms, 1,000 at most unconfirmed.

    python publish_pika_select.py URL QUEUE TASKS_FILE

Follows https://pika.readthedocs.io/en/stable/examples/asynchronous_publisher_example.html
Not guaranteed: a lost connection, a nack and a return end it, and what was confirmed by then is not told.
"""

import sys
import uuid

import pika

WINDOW = 1000
REFILL_AT = 500


class Publisher:
    def __init__(self, url, queue, tasks):
        self.queue, self.tasks = queue, tasks
        self.unconfirmed = {}  # delivery tags, in the order of publishing
        self.last_tag = 0
        self.is_read = self.is_done = False
        self.properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent.value)
        self.connection = pika.SelectConnection(
            pika.URLParameters(url), self.on_open, on_open_error_callback=self.on_end, on_close_callback=self.on_end
        )

    def run(self):
        self.connection.ioloop.start()
        return self.is_done

    def on_open(self, connection):
        connection.channel(on_open_callback=self.on_channel_open)

    def on_channel_open(self, channel):
        self.channel = channel
        channel.add_on_close_callback(self.give_up)
        channel.add_on_return_callback(self.give_up)
        channel.confirm_delivery(self.on_confirm, callback=lambda _: self.fill())

    def fill(self):
        while len(self.unconfirmed) < WINDOW and not self.is_read:
            body = next(self.tasks, None)
            if body is None:
                self.is_read = True
                break
            self.properties.message_id = str(uuid.uuid4())  # pika encodes the properties before it returns
            self.channel.basic_publish("", self.queue, body, self.properties, mandatory=True)
            self.last_tag += 1
            self.unconfirmed[self.last_tag] = None
        if self.is_read and not self.unconfirmed:
            self.is_done = True
            self.connection.close()

    def on_confirm(self, frame):
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self.give_up(frame)
        elif not frame.method.multiple:
            del self.unconfirmed[frame.method.delivery_tag]
        else:
            while self.unconfirmed and (oldest := next(iter(self.unconfirmed))) <= frame.method.delivery_tag:
                del self.unconfirmed[oldest]
        if len(self.unconfirmed) <= REFILL_AT and self.connection.is_open:
            self.fill()

    def give_up(self, *why):
        if self.connection.is_open and not self.is_done:
            print(*why, file=sys.stderr)
            self.connection.close()

    def on_end(self, _connection, why):
        if not self.is_done:
            print(why, file=sys.stderr)
        self.connection.ioloop.stop()


if __name__ == "__main__":
    with open(sys.argv[3], "rb") as lines:
        sys.exit(not Publisher(*sys.argv[1:3], (line.rstrip(b"\n") for line in lines)).run())
