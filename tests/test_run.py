"""How a program starts and ends: standard streams, garbage, second runs, and Ctrl+C before it has begun."""

from __future__ import annotations


import pytest
from harness import Scripts, start_own
from scripted_server import Server

SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_collects_garbage_once_it_has_begun(at_server: Scripts, server: Server, script: str) -> None:
    at_its_end = "import atexit, gc\natexit.register(lambda: print('collects:', gc.isenabled()))\n"
    (at_server.folder / "sitecustomize.py").write_text(at_its_end)
    argument = "--burst" if script == "listening_worker.py" else "task"
    run = at_server.start(script, argument, env={"PYTHONPATH": str(at_server.folder)}).ends()
    assert run.lines[-1] == "collects: True"


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_the_options_are_read_is_no_traceback(at_server: Scripts, script: str) -> None:
    (at_server.folder / "sitecustomize.py").write_text(
        "import argparse, os, signal\n"
        "argparse.ArgumentParser.parse_known_args = lambda *_: os.kill(os.getpid(), signal.SIGINT) or 1 / 0\n"
    )
    run = at_server.start(script, env={"PYTHONPATH": str(at_server.folder)}).ends(130)
    assert run.err == ""


RUN_THERE = {
    "spawn": "child = context.Process(target=print); child.start(); child.join(); print(child.exitcode)",
    "forkserver": "with ProcessPoolExecutor(1, mp_context=context) as pool: pool.submit(abs, -5).result()",
}


@pytest.mark.parametrize("method", RUN_THERE)
def test_a_program_that_a_task_runs_again_by_mistake_takes_no_tasks(
    at_server: Scripts, server: Server, method: str
) -> None:
    """Without `if __name__ == "__main__":` each process that multiprocessing starts would be a worker."""
    server.put(b"one", b"two")
    program = f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        context = multiprocessing.get_context("{method}")
        def work(task):
            {RUN_THERE[method]}
        listen(work, max_tasks=1)
    """
    run = start_own(at_server, program)
    run.process.wait(20)
    assert 'Put listen() under  if __name__ == "__main__":' in run.err
    assert len(server.sessions) == 1
    assert list(server.tasks) in ([(b"two", False)], [(b"one", True), (b"two", False)])


def test_a_worker_may_run_in_a_process_of_its_own(at_server: Scripts, server: Server) -> None:
    server.put(b"one", b"two", b"three")
    program = """
        import multiprocessing
        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                context = multiprocessing.get_context(method)
                child = context.Process(target=listen, args=[print], kwargs={"max_tasks": 1})
                child.start()
                child.join()
                print("exit code", child.exitcode)
    """
    assert start_own(at_server, program).ends().lines.count("exit code 0") == 3
    assert len(server.got("Basic.Ack")) == 3


def test_what_is_run_at_once_and_not_given_to_run_is_said(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    run = start_own(at_server, "run(listen(print, max_tasks=1))")
    run.process.wait(20)
    assert run.err.endswith("TypeError: run() needs a function, as in  run(lambda: listen(perform))\n")
    assert run.process.returncode == 1
