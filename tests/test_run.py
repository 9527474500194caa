"""How a program starts and ends: standard streams, garbage, second runs, and Ctrl+C before it has begun."""

import re

import pytest
from harness import Scripts, start_own
from scripted_server import Server

from listening_worker import run


@pytest.mark.parametrize("script", ["emitter_of_tasks.py", "listening_worker.py"])
def test_a_script_collects_garbage_once_it_has_begun(at_server: Scripts, server: Server, script: str) -> None:
    at_its_end = "import atexit, gc\natexit.register(lambda: print('collects:', gc.isenabled()))\n"
    (at_server.folder / "sitecustomize.py").write_text(at_its_end)
    argument = "--burst" if script == "listening_worker.py" else "task"
    run = at_server.start(script, argument, env={"PYTHONPATH": str(at_server.folder)}).ends()
    assert run.lines[-1] == "collects: True"


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_program_that_multiprocessing_runs_again_by_mistake_takes_no_tasks(
    at_server: Scripts, server: Server, is_guarded: bool
) -> None:
    """Without `if __name__ == "__main__":` each process that it starts would be a worker; with it, one may be."""
    server.put(b"one", b"two")
    program = f"""
        import multiprocessing
        def work(task):
            child = multiprocessing.get_context("spawn").Process(target=listen, args=[print], kwargs={{"max_tasks": 1}})
            child.start()
            child.join()
        if {is_guarded} <= (__name__ == "__main__"):
            listen(work, max_tasks=1)
    """
    run = start_own(at_server, program)
    run.process.wait(20)
    assert ('Put listen() under  if __name__ == "__main__":' in run.err) != is_guarded
    assert len(server.sessions) == 1 + is_guarded
    assert list(server.tasks) == [(b"two", False)] * (not is_guarded)


def test_what_is_run_at_once_and_not_given_to_run_is_said() -> None:
    with pytest.raises(TypeError, match=re.escape("run() needs a function:  run(lambda: listen(perform))")):
        run(None)  # type: ignore[arg-type]
