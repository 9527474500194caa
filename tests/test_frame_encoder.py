"""What RabbitMQ gets for a task: the frames that pika would make, and what is in them."""

import time
import uuid

import pika
import pytest
from harness import Scripts
from in_process import said_by

from task_queue.emitter.frame_encoder import Encoder
from task_queue.emitter.message import new_message, properties


@pytest.mark.parametrize("frame_max", [4096, 131_072])
def test_the_frames_of_a_message_are_those_that_pika_makes(frame_max: int) -> None:
    largest = frame_max - 8
    encoder = Encoder("größe", 7, frame_max)
    for size in (0, 1, largest - 1, largest, largest + 1, 2 * largest, 300_000):
        message = new_message(b"x" * size)
        parts = [message.body[start : start + largest] for start in range(0, size, largest)]
        frames = [
            pika.frame.Method(7, pika.spec.Basic.Publish(routing_key="größe", mandatory=True)),
            pika.frame.Header(7, size, properties(message.message_id, message.timestamp)),
            *(pika.frame.Body(7, part) for part in parts),
        ]
        assert b"".join(encoder.frames(message)) == b"".join(frame.marshal() for frame in frames)


def test_tasks_are_persistent_and_have_ids_whichever_way_they_come_in(scripts: Scripts) -> None:
    """And are whole. (What is typed is in test_prompt.py.)"""
    before, file = int(time.time()), scripts.folder / "tasks"
    file.write_text(large := "x" * 50_000)
    said_by(scripts, "emitter_of_tasks.py", "of", "words: Größe")
    said_by(scripts, "emitter_of_tasks.py", "--file", file, "--url", f"{scripts.broker.url}?frame_max=8192")
    scripts.emit(stdin=b"of,a pipe\nof,a pipe\n")
    messages = scripts.broker.messages(scripts.queue)
    assert [message["body"].decode() for message in messages] == ["of words: Größe", large, "of,a pipe", "of,a pipe"]
    assert len({message["properties"]["message_id"] for message in messages}) == 4
    for found in (message["properties"] for message in messages):
        assert str(uuid.UUID(found["message_id"], version=4)) == found.pop("message_id")
        assert before <= found.pop("timestamp") <= time.time()
        assert found.pop("headers", {}).keys() <= {"x-delivery-count"}  # which this look at it has put there
        assert found == {"delivery_mode": 2, "content_type": "text/plain", "content_encoding": "utf-8"}
