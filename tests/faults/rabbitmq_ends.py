"""RabbitMQ ends, takes nothing, is cut off, or its administrator does something."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import trustme
from cluster import Cluster
from harness import Broker, TlsNode, eventually, servers_own_timeout
from rabbitmq import Node
from stage import HEARTBEAT, RECOVERY, SOON, Stage, at_work, scenario, scenario_of_the_node, seconds_until, write_lines

from task_queue.emitter.unconfirmed_window import WINDOW

RUSH = 4 * WINDOW  # tasks that an emitter is still busy with when it is seen to have begun


def broker_goes(stage: Stage, go: Callable[[Node], None]) -> None:
    """Have RabbitMQ end and start again while emitters and workers are busy, and one waits at its prompt."""
    stage.book_worker("--burst").ends()
    time.sleep(2)  # RabbitMQ forgets a queue that is younger, see docs/versions.md
    times = stage.load(5, 1)
    prompt = stage.at_terminal("emitter_of_tasks.py", "--no-admin", "--log-file", stage.log)
    prompt.expect("Enter new task: ")
    with at_work(stage, 3) as crew:
        for count in range(1, times + 1):
            with stage.fed(stage.load(500, 60)) as slow:
                fast = stage.emitter("--file", stage.tasks_file(RUSH), "--log-file", stage.log)
                eventually(lambda: stage.confirmed(fast), "it sends as fast as it can")  # noqa: B023
                go(stage.broker.node)
                stage.faults += 1
                before = stage.confirmed(slow)
                stage.pause(1)
                stage.broker.node.start()
                eventually(lambda: stage.confirmed(slow) > before, "emitting goes on", RECOVERY)  # noqa: B023
                prompt.sendline(*stage.new_tasks(1))
                prompt.expect(r" \[x\] Sent task", timeout=RECOVERY)
            for emitter in (slow, fast):
                emitter.ends(within=RECOVERY)
            assert "Reconnecting" in slow.err
            for worker in crew.workers:
                worker.shows("Connected again.", times=count, within=RECOVERY)
        stage.wait_for_done()
    stage.drain()


@scenario_of_the_node
def broker_killed(stage: Stage) -> None:
    """RabbitMQ is killed and started again, while emitting and while working."""
    broker_goes(stage, Node.kill)


@scenario_of_the_node
def broker_restarted(stage: Stage) -> None:
    """RabbitMQ is stopped in good order and started again."""
    broker_goes(stage, Node.stop)


@scenario
def cluster_node_killed(stage: Stage) -> None:
    """In a cluster of three, the leader's node is killed, and the emitter's, each time with a worker and its task."""
    cluster = Cluster(stage)
    urls = [node.url for node in cluster.nodes]
    # The queue is led where it is declared first, and the scripts begin at other nodes.
    stage.book_worker("--burst", url=urls[0]).ends()
    stage.broker, stage.environment["AMQP_URL"] = Broker(cluster.nodes[2]), ",".join([*urls[1:], urls[0]])
    if stage.broker.version >= (4, 3):  # which waits for a minute whether the node comes back
        stage.broker.set_policy(stage.queue, **{"consumer-disconnected-timeout": 3000})
    victims = (cluster.leader, cluster.node_of_emitter)[: stage.load(2, 1)]
    for number, find_victim in enumerate(victims, 1):
        with stage.fed(stage.load(300, 150)) as emitter:
            victim = find_victim(stage.queue)
            busy = stage.book_worker(seconds=2 * RECOVERY, url=victim.url)
            busy.shows("Received")
            with at_work(stage, 2, url=",".join([urls[2], *urls[:2]])):
                stage.pause(1)
                victim.kill()
                stage.faults += 1
                confirmed, done = stage.confirmed(), stage.done()
                emitted = seconds_until(lambda: stage.confirmed() > confirmed + 50, "emitting goes on")  # noqa: B023
                worked = seconds_until(lambda: stage.done() > done + 50, "working goes on")  # noqa: B023
                assert max(emitted, worked) < SOON
                (in_hand,) = re.findall(r"Received (task \d+)", busy.out)
                eventually(lambda: f'"{in_hand}"' in stage.book_file.read_text(), "another gets its task", RECOVERY)  # noqa: B023
                busy.send(signal.SIGKILL)
                busy.ends(-signal.SIGKILL)
        emitter.ends(within=RECOVERY)
        if number < len(victims):
            victim.start()
            cluster.wait_until_whole(stage.queue)
    stage.drain()


# ---- RabbitMQ takes nothing for now, or never


@scenario_of_the_node
def alarms(stage: Stage) -> None:
    """RabbitMQ runs out of memory, then of disk, while emitting."""
    memory = "vm_memory_monitor:set_vm_memory_high_watermark({})."
    disk = 'rabbit_disk_monitor:set_disk_free_limit("{}").'
    with at_work(stage, 1):
        emitter = stage.emitter("--log-file", stage.log, stdin=subprocess.PIPE)
        pipe = emitter.process.stdin
        assert pipe is not None
        for limit, much, usual, reason in (
            (memory, "0.0000001", "0.4", "low on memory"),
            (disk, "900000GB", "50MB", "low on disk"),
        ):
            before = stage.confirmed()
            write_lines(pipe, stage.new_tasks(stage.load(5000, 300)))
            eventually(lambda: stage.confirmed() > before, "it sends")  # noqa: B023
            stage.broker.eval(limit.format(much))
            stage.faults += 1
            try:
                # In a thread, because the emitter reads no more when enough is unconfirmed.
                writer = threading.Thread(target=write_lines, args=(pipe, stage.new_tasks(stage.load(5000, 300))))
                writer.start()
                emitter.shows(f"RabbitMQ takes no tasks for now: {reason}. Waiting ...")
                late = stage.emitter("--log-file", stage.log, *stage.new_tasks(1))
                late.shows(f"takes no tasks for now: {reason}")
                assert "Sent" not in late.out
            finally:
                stage.broker.eval(limit.format(usual))
            late.ends()
            writer.join(RECOVERY)
        emitter.shows("RabbitMQ takes tasks again.", times=2)
        pipe.close()
        emitter.ends(within=RECOVERY)
        stage.wait_for_done()
    stage.drain()
    assert stage.account.twice == 0


@scenario
def sizes(stage: Stage) -> None:
    """Tasks of no byte, of one, of a MiB, and one over RabbitMQ's limit in the middle of a file."""
    limit = 16 * 1024 * 1024
    before, after = stage.new_tasks(stage.load(3000, 300)), stage.new_tasks(stage.load(3000, 300))
    large = ["x", "y" * 1024 * 1024, "z" * limit]
    stage.tasks += large
    file = stage.folder / "sizes.txt"
    file.write_text("\n".join([*before, *large, "w" * (limit + 1), *after]))
    emitter = stage.emit("--file", file, "--log-file", stage.log, status=1)
    stage.faults += 1
    line = len(before) + 4
    assert re.findall(
        r"Line (\d+) of .* is not sent: it has ([\d,]+) bytes, and RabbitMQ takes ([\d,]+)", emitter.err
    ) == [(str(line), "16,777,217", "16,777,216")]
    assert f"Sent {len(stage.tasks):,} tasks" in emitter.out
    assert [record["line"] for record in stage.events("refused")] == [line]
    stage.broker.publish(stage.queue, b"")
    stage.tasks.append("")
    stage.drain(all_are_sent=False)
    assert {entry["task"] for entry in stage.book()} == set(stage.tasks)


# ---- The network


@scenario
def network(stage: Stage) -> None:
    """Connections are cut, cut in the middle of a frame, frozen, and slowed, on both sides of the queue."""
    cuts = stage.load(50, 5)
    to_emitter, to_workers = stage.relay(), stage.relay()
    heartbeat = f"?heartbeat={HEARTBEAT}"
    with at_work(stage, 2, seconds=0.002, url=to_workers.url + heartbeat):
        kinds = ["cut", "cut in frame", "slow", "one byte at a time", "frozen"] * stage.load(2, 1)
        kinds += stage.random.choices(kinds[:4], k=cuts - len(kinds))  # a long freeze is enough of its kind
        stage.random.shuffle(kinds)
        with stage.fed(stage.load(200, 100), "--url", to_emitter.url + heartbeat) as emitter:
            for number, kind in enumerate(kinds):
                relay = (to_emitter, to_workers)[number % 2]
                stage.pause(0.8)
                stage.faults += 1
                if kind == "cut":
                    relay.cut()
                elif kind == "cut in frame":
                    relay.cut_in_frame()
                elif kind == "frozen":
                    relay.freeze()
                    time.sleep(2.5 * HEARTBEAT)
                    relay.thaw()
                else:
                    relay.delay = stage.random.uniform(0.01, 0.2) if kind == "slow" else 0.0
                    relay.piece = 65536 if kind == "slow" else 1
                    stage.pause(0.8)
                relay.delay, relay.piece = 0.0, 65536
        emitter.ends(within=2 * RECOVERY)
        stage.wait_for_done()
    stage.drain()


@scenario_of_the_node
def tls(stage: Stage) -> None:
    """TLS with the right certificate, with three wrong ones, and mistaken for no TLS."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(stage.folder / "authority.pem"))
    stage.environment["SSL_CERT_FILE"] = str(stage.folder / "authority.pem")
    node = stage.broker.node
    assert isinstance(node, TlsNode)
    port = node.tls_port

    def show(certificate: trustme.LeafCert) -> None:
        node.show(certificate)
        stage.broker.eval("ssl:clear_pem_cache().")

    show(authority.issue_cert("localhost"))
    stage.environment["AMQP_URL"] = f"amqps://guest:guest@localhost:{port}/%2F"
    stage.send(stage.load(1000, 10))
    stage.book_worker("--burst").ends()

    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    for certificate, is_wrong, words in (
        (stranger.issue_cert("localhost"), "not accepted: ", "unable to get local issuer certificate"),
        (
            authority.issue_cert("elsewhere.invalid"),
            "for another name: ",
            "Hostname mismatch, certificate is not valid for 'localhost'",
        ),
        (authority.issue_cert("localhost", not_after=yesterday), "not accepted: ", "certificate has expired"),
    ):
        show(certificate)
        for script in (["emitter_of_tasks.py", "task"], ["listening_worker.py"]):
            run = stage.start(*script).ends(1)
            assert f"The certificate of localhost:{port} is {is_wrong}" in run.err
            assert words in run.err
        stage.faults += 1

    plain = stage.emitter("task", env={"AMQP_URL": f"amqp://localhost:{port}"}).ends(1)
    assert "Is it a TLS port, which needs amqps://" in plain.err
    stage.faults += 1
    stage.settle()


# ---- What an administrator does


@scenario
def queue_deleted(stage: Stage) -> None:
    """The queue is purged, and deleted, under emitter and workers, which carry on."""
    with at_work(stage, 2, seconds=0.01) as crew:
        with stage.fed(stage.load(250, 100)) as emitter:
            eventually(lambda: stage.done() > 10, "they are at work")
            for path in ("/contents", "") * stage.load(5, 1):
                stage.pause(0.5)
                stage.broker.api("DELETE", f"queues/%2F/{stage.queue}{path}")
                stage.faults += 1
                before = stage.done()
                eventually(lambda: stage.done() > before + 10, "tasks are done again", RECOVERY)  # noqa: B023
                after_the_last = datetime.now(timezone.utc).isoformat()
        emitter.ends(within=RECOVERY)
        # The second where a new channel's first task meets the deletion; the channel crashes then, in RabbitMQ 3.10 at
        # least. Source: https://github.com/rabbitmq/rabbitmq-server/issues/3627
        reasons = "is gone; it will be declared again", "closed the connection (INTERNAL_ERROR)"
        assert "Reconnecting" not in emitter.err or any(reason in emitter.err for reason in reasons)
        eventually(lambda: stage.broker.counts(stage.queue)[0] == 0, "the queue is empty", RECOVERY)
    for worker in crew.workers:
        # The second where the worker had not subscribed yet.
        assert "its queue was deleted, or" in worker.err or "There is no queue" in worker.err
    done = {entry["task"] for entry in stage.book()}
    before_it = {record["task"] for record in stage.events("confirmed") if record["time"] < after_the_last}
    stage.settle(thrown_away=before_it - done)


@scenario_of_the_node
def vhost_closed(stage: Stage) -> None:
    """The virtual host is closed and opened again; a user's permission is taken away; the virtual host is deleted."""
    ctl, broker = stage.broker.node.ctl, Broker(stage.broker.node)
    broker.url = stage.broker.url.replace("guest:guest", "user:secret").replace("%2F", "place")

    def allow() -> None:
        broker.api("PUT", "permissions/place/user", {"configure": ".*", "write": ".*", "read": ".*"})

    broker.api("PUT", "vhosts/place")
    broker.api("PUT", "users/user", {"password": "secret", "tags": ""})
    allow()
    stage.broker, stage.environment["AMQP_URL"] = broker, broker.url
    with contextlib.ExitStack() as ends:
        ends.callback(broker.api, "DELETE", "users/user")
        place = ends.enter_context(contextlib.ExitStack())
        place.callback(broker.api, "DELETE", "vhosts/place")
        worker = stage.book_worker(seconds=0.005)
        with stage.fed(20) as emitter:
            eventually(lambda: stage.done() > 10, "they are at work")

            stage.broker.eval('rabbit_vhost_sup_sup:stop_and_delete_vhost(<<"place">>).')
            for run in (worker, emitter):
                run.shows("vhost 'place' is down")
            stage.broker.eval('rabbit_vhost_sup_sup:start_vhost(<<"place">>).')
            for run in (worker, emitter):
                run.shows("Connected again.", within=RECOVERY)

            broker.api("DELETE", "permissions/place/user")
            ctl("close_all_connections", "--vhost", "place", "test")
            for run in (worker, emitter):
                run.shows("docs/operations.md has the rights that it needs")
            done = stage.done()
            allow()
            eventually(lambda: stage.done() > done, "they are at work again", RECOVERY)
            for run in (worker, emitter):
                assert run.err.count("does not let user user into") == 1
                assert "secret" not in run.err
            emitter.send(signal.SIGINT)
            emitter.ends(130)
            assert re.search(r"[\d,]+ tasks confirmed. Go on with:  --from-line \d+", emitter.err)
        worker.send(signal.SIGTERM)
        worker.ends()
        stage.drain(all_are_sent=False)

        worker = stage.book_worker()
        prompt = stage.at_terminal("emitter_of_tasks.py", "--no-admin")
        prompt.expect("Enter new task: ")
        eventually(lambda: broker.counts(stage.queue)[1] == 1, "the worker has subscribed")
        place.close()
        worker.shows("has no virtual host place.\nIn a URL, / is written /%2F.")
        worker.send(signal.SIGTERM)
        worker.ends()
        prompt.expect("has no virtual host place.")
        prompt.sendline("too late")
        prompt.expect("Not confirmed: too late")
        prompt.wait()
        assert prompt.exitstatus == 1
        stage.faults += 3


@contextlib.contextmanager
def short_ack_timeout(stage: Stage) -> Iterator[list[str]]:
    """Have RabbitMQ take tasks back soon, in the way that counts in its version, and give the flags for a worker."""
    if stage.broker.version >= (4, 3):
        yield ["--ack-timeout", "0.001"]
        return
    has_policy = stage.broker.version >= (3, 12)
    if has_policy:
        stage.broker.set_policy(stage.queue, **{"consumer-timeout": 500})
    with servers_own_timeout(stage.broker, 1_800_000 if has_policy else 500):
        yield []
    if has_policy:
        stage.broker.api("DELETE", f"policies/%2F/{stage.queue}")


@scenario_of_the_node
def ack_timeout(stage: Stage) -> None:
    """A task takes longer than RabbitMQ waits for its acknowledgement."""
    stage.send(1)
    with short_ack_timeout(stage) as flags:
        worker = stage.book_worker(*flags, seconds=5 if flags else 3)
        worker.shows("longer than --ack-timeout" if flags else "RabbitMQ waits no longer for an acknowledgement")
        stage.faults += 1
    worker.shows("Done, but its acknowledgement is lost: RabbitMQ will hand this task out again.")
    if flags:
        worker.send(signal.SIGKILL)
        worker = stage.book_worker()
    # Its channel had those settings still; the one that it has now, no longer.
    worker.shows(" [x] Done.")
    stage.send(stage.load(5, 1))
    stage.wait_for_done()
    worker.send(signal.SIGTERM)
    worker.ends()
    stage.settle()
    assert stage.account.twice >= 1  # more often where the settings take longer to change than the task
