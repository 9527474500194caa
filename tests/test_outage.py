"""Connections that do not last, and errors that trying again should not mend: paced, told once, given up in time."""

import subprocess
import threading
import time

import pytest
from harness import Scripts
from in_process import said_by, work
from scripted_server import Got, Server, Session, refuse

from task_queue import QueueError
from task_queue.rabbitmq import outage
from task_queue.settings import PATIENCE

EMITTER, WORKER = "emitter_of_tasks.py", "listening_worker.py"
REFUSED = "refused user guest with this password"


@pytest.mark.parametrize(("script", "success"), [(EMITTER, " [x] Sent task"), (WORKER, " [x] Done."), (WORKER, "")])
def test_connections_that_do_not_last_are_made_ever_more_slowly_and_told_of_in_few_lines(
    at_server: Scripts, server: Server, script: str, success: str
) -> None:
    """Until one is of use: a task is confirmed or settled, or it lives for five seconds."""

    def hang_up_soon(session: Session, got: Got) -> None:
        session.answer(got)
        threading.Timer(0.1, session.hang_up).start()

    for connection in range(4):
        server.on("Channel.Open", hang_up_soon, connection)
    run = at_server.start(script, *["--verbose"] * (script == EMITTER), stdin=subprocess.PIPE)
    with run.process.stdin as pipe:
        assert server.session(4).began - server.session(0).began > 2.2  # pauses of 0.2 seconds would make it 1.4
        assert run.err.count(" [!] ") == 2
        if success:
            server.put(b"task")
            pipe.write(b"task\n")
            pipe.flush()
        run.shows(success or "Connected again.", times=1 if success else 2)
        cut_off = time.monotonic()
        server.session(4).hang_up()
        assert server.session(5).began - cut_off < 2.3  # the next pause would have been 2.4 or more
        run.shows("Connected again.", times=2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of this process, by which each pause goes by at once."""
    now = [1000.0]
    monkeypatch.setattr(outage.time, "monotonic", lambda: now[0])
    return now


def test_pauses_grow_to_five_seconds_and_after_two_minutes_to_thirty(clock: list[float]) -> None:
    """With jitter, a quarter at most."""
    lost = outage.Outage(PATIENCE, nodes=1)

    def pauses_for(seconds: float) -> list[float]:
        pauses, end = [], clock[0] + seconds
        while clock[0] < end:
            pauses.append(lost.pause())
            clock[0] += pauses[-1]
        return pauses

    first = pauses_for(119)
    assert 0.15 <= first[0] <= 0.25
    assert all(3.75 <= pause <= 6.25 for pause in first[5:])
    assert len({*first[5:]}) > 1, "there is jitter"
    clock[0] += 10
    later = pauses_for(600)
    assert all(22.5 <= pause <= 37.5 for pause in later[3:])
    assert later[0] < 15, "they grow"
    lost.success()
    assert lost.pause() <= 0.25


def test_a_final_error_is_counted_from_the_last_time_that_it_worked(clock: list[float]) -> None:
    """And not from an earlier outage, which is over: a task was done."""
    lost = outage.Outage(PATIENCE, nodes=1)
    lost.success()
    for seconds, words in ((299, None), (299, None), (301, "gone")):
        assert lost.why_give_up("gone", is_final=True) is None
        lost.pause()
        clock[0] += seconds
        assert lost.why_give_up("gone", is_final=True) == words
        lost.success()


def test_what_is_not_final_is_tried_again_though_the_other_node_refuses_for_good() -> None:
    lost = outage.Outage(PATIENCE, nodes=2)
    lost.had_connection = True
    for _ in range(3):
        assert lost.why_give_up("refused", is_final=True) is None
        assert lost.why_give_up("nothing listens", is_final=False) is None


def lose_for_good(server: Server, until: int = 6) -> None:
    """Hang up, and refuse the next connections with an error that trying again should not mend."""
    for connection in range(1, until):
        server.on("Connection.StartOk", refuse, connection)
    server.session(0).hang_up()


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second in place of the five minutes of programs that end by themselves."""
    for script in ("listening_worker", "emitter_of_tasks"):
        monkeypatch.setattr(f"{script}.PATIENCE", 0.5)


def test_a_final_error_is_told_once_and_tried_again_by_a_worker_that_had_a_subscription(
    at_server: Scripts, server: Server
) -> None:
    def perform(task: object) -> None:
        if server.sessions[1:]:
            stop.set()
        else:
            lose_for_good(server, until=4)

    stop = threading.Event()
    server.put(b"task")
    lines = work(at_server, perform, burst=False, stop=stop)
    assert "\n".join(lines).count(REFUSED) == 1
    assert " [x] Done." in lines
    assert server.session(3).began - server.session(1).began > 0.5


@pytest.mark.parametrize("ends_by_itself", [{"burst": True}, {"burst": False, "max_tasks": 2}])
def test_a_worker_that_would_end_by_itself_gives_up_after_five_minutes(
    at_server: Scripts, server: Server, ends_by_itself: dict[str, object]
) -> None:
    server.put(b"task")
    with pytest.raises(QueueError, match=REFUSED):
        work(at_server, lambda _: lose_for_good(server), **ends_by_itself)
    assert server.sessions[-1].began - server.session(1).began > 0.25, "it tries for some time"


def test_an_emitter_of_a_pipe_gives_up_after_five_minutes_and_says_what_is_left(
    at_server: Scripts, server: Server
) -> None:
    def confirm_one(session: Session, got: Got) -> None:
        lose_for_good(server) if got.body == b"two" and not session.number else session.answer(got)

    server.on("Basic.Publish", confirm_one)
    (at_server.folder / "tasks.txt").write_text("one\ntwo\n")
    status, _, err = said_by(at_server, EMITTER, "--file", at_server.folder / "tasks.txt")
    assert status == 1
    assert REFUSED in err
    assert "1 task confirmed. Go on with:  --from-line 2" in err.replace(f"{at_server.folder}/", "")
    assert server.sessions[-1].began - server.session(1).began > 0.25, "it tries for some time"
