r"""dramatiq: the task, whose work is in marks.py, for its worker; run as a script it sends one.

    python dramatiq_app.py URL QUEUE [TASKS_FILE, which is left aside]
    BENCH_URL=URL BENCH_QUEUE=QUEUE dramatiq_queue_prefetch=1 \
        dramatiq dramatiq_app --path PEERS --processes 1 --threads 1 --skip-logging

Follows https://dramatiq.io/reference.html#dramatiq.brokers.rabbitmq.RabbitmqBroker
Not guaranteed: before RabbitMQ 4 nothing limits the deliveries of a task that kills its worker.
"""

import os
import sys

import dramatiq
import marks
from dramatiq.brokers.rabbitmq import RabbitmqBroker

if __name__ == "__main__":
    os.environ["BENCH_URL"], os.environ["BENCH_QUEUE"] = sys.argv[1:3]


class QuorumBroker(RabbitmqBroker):
    def _build_queue_arguments(self, queue_name):
        # dramatiq has no setting for it. The queue of its dead letters stays a classic one.
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


broker = QuorumBroker(url=os.environ["BENCH_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def work(text):
    marks.work()


if __name__ == "__main__":
    work.send("A task of about forty bytes, like others")
    broker.close()
