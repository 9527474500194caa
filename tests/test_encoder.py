"""A message's frames: those that pika would make, for any size and any largest frame."""

from __future__ import annotations

import pika
import pytest
from harness import Scripts
from in_process import said_by

from task_queue.encoder import Encoder
from task_queue.message import new_message, properties


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


def test_a_task_of_any_size_arrives_whole(scripts: Scripts) -> None:
    """Around the largest piece of a body that is in one frame, which is 8 bytes less than a frame."""
    tasks = ["x" * size for size in (1, 8183, 8184, 8185, 16_367, 16_368, 16_369, 50_000)]
    file = scripts.folder / "tasks.txt"
    file.write_text("\n".join(tasks))
    assert (
        said_by(scripts, "emitter_of_tasks.py", "--file", file, "--url", f"{scripts.broker.url}?frame_max=8192")[0] == 0
    )
    assert scripts.broker.bodies(scripts.queue) == tasks
