"""The pictures, and the admin panel that they show."""

import pytest
from harness import Scripts, eventually
from take_screenshots import NO_PREFETCH_WORKER, PICTURES, SCENES

LARGEST = {".png": 300_000, ".svg": 300_000, ".gif": 3_000_000}  # bytes
FIRST_BYTES = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".gif": b"GIF89a"}


@pytest.mark.parametrize("name", SCENES)
def test_each_picture_is_there_and_not_too_large_for_a_page(name: str) -> None:
    picture = PICTURES / name
    content = picture.read_bytes()
    assert content.startswith(FIRST_BYTES[picture.suffix])
    assert 10_000 < len(content) < LARGEST[picture.suffix]


def test_every_picture_in_the_folder_is_one_that_the_command_takes() -> None:
    assert {file.name for file in PICTURES.iterdir() if file.suffix in LARGEST} == set(SCENES)


def test_the_panel_that_y_opens_knows_the_queues_and_the_workers(scripts: Scripts) -> None:
    """What the pictures of the panel show, asked for at the address that the browser gets."""
    opened = scripts.folder / "opened"
    browser = scripts.folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    for name in ("anna", "ben"):
        scripts.worker("--name", name, "--seconds-per-dot", "100")
    panel = f"{scripts.broker.node.admin_url}/#/queues"
    emitter = scripts.at_terminal("emitter_of_tasks.py", "--admin-url", panel, BROWSER=str(browser))
    emitter.expect("y or n: ")
    emitter.sendline("y")
    for task in ("First task.", "Second task..", "Third task..."):
        emitter.expect("Enter new task: ")
        emitter.sendline(task)
        emitter.expect_exact(f" [x] Sent {task}")

    address = eventually(lambda: opened.exists() and opened.read_text().strip(), "a browser is opened")
    assert address == panel
    api = scripts.broker.api  # which is at the same address, and what the page asks

    def known() -> tuple[list[str], list[str], int]:
        queues = [queue for queue in api("GET", "queues") if queue["name"].startswith(scripts.queue)]
        consumers = [each["consumer_tag"] for each in api("GET", "consumers") if each["queue"]["name"] == scripts.queue]
        waiting = sum(queue.get("messages_ready", 0) for queue in queues)
        return sorted(queue["name"] for queue in queues), sorted(consumers), waiting

    expected = [scripts.queue, scripts.dead_letters], ["anna", "ben"], 1
    eventually(lambda: known() == expected, "the panel knows both queues, the workers, and the task that waits")


def test_the_worker_without_a_prefetch_limit_logs_as_ours_does(scripts: Scripts) -> None:
    """The one that the timeline sets beside ours."""
    scripts.emit("task.")
    arguments = [scripts.broker.url, scripts.queue, scripts.log, "anna", 0.01]
    peer = scripts.start(NO_PREFETCH_WORKER, *arguments)
    eventually(lambda: scripts.events("done"), "it does the task")
    scripts.emit("task.")
    scripts.start("listening_worker.py", "--name", "anna", "--log-file", scripts.log)
    eventually(lambda: len(scripts.events("done")) == 2, "one of them does the other task")
    assert {tuple(record) for record in scripts.events()} == {
        ("time", "event", "name", "message_id", "task", "redelivered", "delivery_count"),
        ("time", "event", "name", "message_id", "task", "seconds"),
    }
    assert peer.err == ""
