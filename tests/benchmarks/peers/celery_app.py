r"""Celery's side: the task, whose work is in marks.py, for publish_celery.py and for Celery's worker.

    BENCH_URL=URL BENCH_QUEUE=QUEUE celery --workdir PEERS -A celery_app worker --pool solo --concurrency 1 \
        --loglevel WARNING --without-gossip --without-mingle --without-heartbeat

or with --pool prefork. Without --concurrency the prefetch is the number of processors, even for one solo worker.

Follows https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html#using-quorum-queues and
https://docs.celeryq.dev/en/stable/userguide/optimizing.html#reserve-one-task-at-a-time
Not guaranteed: a task that raises is acknowledged all the same; before RabbitMQ 4 nothing limits the deliveries of one
that kills its worker.
"""

import os

import marks
from celery import Celery

app = Celery("celery_app", broker=os.environ["BENCH_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_default_queue=os.environ["BENCH_QUEUE"],
    task_default_queue_type="quorum",
    worker_detect_quorum_queues=True,
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,  # or a task whose process dies is acknowledged
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def work(text):
    marks.work()
