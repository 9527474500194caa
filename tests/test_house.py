"""How the code is laid out: packages whose imports run down, rooms that stay small, and who may reach where."""

import ast
import graphlib
import re
from pathlib import Path

import pytest
from harness import PROJECT

SCRIPTS = ("emitter_of_tasks", "listening_worker")
# From the top down. What stands in one row does not import each other, but for the files of one package.
FLOORS = [
    set(SCRIPTS),
    {"emitter", "worker"},
    {"rabbitmq"},
    {"process"},
    {"settings", "event_log"},
    {"terminal"},
    {"signal_free_thread"},
    {"exceptions", "windows"},
]
PACKAGE = PROJECT / "task_queue"
# By their names inside the package: `emitter.publisher`; a script by its own.
FILES = {name: PROJECT / f"{name}.py" for name in SCRIPTS} | {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file
    for file in PACKAGE.rglob("*.py")
    if file.name != "__init__.py"
}
PACKAGES = [file.parent.name for file in PACKAGE.glob("*/__init__.py")]


def tree(room: str) -> ast.Module:
    return ast.parse(FILES[room].read_text())


def imported_by(room: str) -> set[str]:
    """Return the rooms that a file imports anywhere: inside functions and for type checkers, too."""
    names: set[str] = set()
    for node in ast.walk(tree(room)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return {name.removeprefix("task_queue.") for name in names} & FILES.keys()


def floor_of(room: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if room.partition(".")[0] in names)


def code_lines(function: ast.FunctionDef) -> int:
    """Return how many lines of code there are below the signature and the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body and body[-1].end_lineno else 0


def test_imports_run_down_and_emitter_and_worker_know_nothing_of_each_other() -> None:
    arrows = [(room, other) for room in FILES for other in imported_by(room)]
    is_at_home = {(room, other): room.partition(".")[0] == other.partition(".")[0] for room, other in arrows}
    assert len(arrows) > 100
    assert [arrow for arrow in arrows if floor_of(arrow[0]) >= floor_of(arrow[1]) and not is_at_home[arrow]] == []


def test_no_imports_make_a_circle() -> None:
    graphlib.TopologicalSorter({room: imported_by(room) for room in FILES}).prepare()


def test_each_package_says_what_lives_in_it_and_nothing_else() -> None:
    assert sorted(PACKAGES) == ["emitter", "process", "rabbitmq", "terminal", "worker"]
    for name in PACKAGES:
        (docstring,) = ast.parse((PACKAGE / name / "__init__.py").read_text()).body
        assert isinstance(docstring, ast.Expr)


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_a_room_is_small_and_says_what_it_owns(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) <= 200
    assert lines[lines[0].startswith("#!")].startswith('"""')


def test_a_room_has_a_test_file_or_is_said_to_be_tested_elsewhere() -> None:
    files = {file.stem for file in (PROJECT / "tests").glob("test_*.py")}
    rooms = {name for room in FILES if f"test_{(name := room.rpartition('.')[2])}" not in files}
    assert rooms == {*re.findall(r"`(\w+)\.py`\s(?:is\stested\s)?in\s`", (PROJECT / "tests" / "README.md").read_text())}


def test_a_test_file_is_not_too_long_to_read() -> None:
    assert [file.name for file in (PROJECT / "tests").glob("*.py") if len(file.read_text().splitlines()) > 400] == []


def test_a_function_does_one_thing() -> None:
    functions = [(room, node) for room in FILES for node in ast.walk(tree(room)) if isinstance(node, ast.FunctionDef)]
    assert [(room, node.name) for room, node in functions if code_lines(node) > 30] == []


def test_an_object_has_few_attributes() -> None:
    for room in FILES:
        for node in ast.walk(tree(room)):
            if isinstance(node, ast.ClassDef):
                stored = [each for each in ast.walk(node) if isinstance(getattr(each, "ctx", None), ast.Store)]
                own = {name for each in stored if re.fullmatch(r"self\.\w+", name := ast.unparse(each))}
                assert len(own) <= 12, (room, node.name, sorted(own))


def test_only_their_owners_install_signal_handlers_start_threads_and_end_processes() -> None:
    calls = {
        (room, ast.unparse(node.func)) for room in FILES for node in ast.walk(tree(room)) if isinstance(node, ast.Call)
    }

    def callers(*names: str) -> set[str]:
        return {room for room, function in calls if function.rpartition(".")[2] in names}

    assert {room for room, function in calls if function == "signal.signal"} == {
        *SCRIPTS,  # Ctrl+C during their imports
        "process.run",
        "process.signal_handlers",
    }
    assert callers("set_wakeup_fd") == {"process.signal_handlers"}
    assert callers("_exit") == {"process.run"}
    assert callers("Thread", "ThreadPoolExecutor") == set()  # but SignalFreeThread, which gets no signals


def test_only_one_room_reaches_into_pika_and_none_into_python() -> None:
    for room, file in FILES.items():
        text = file.read_text()
        assert not re.search(r"\bimport (ctypes|_signal)|\bfrom (ctypes|_signal) ", text)
        private = re.findall(r"\b(?:connection|channel|_pika|super\(\))\.(_[a-z]\w+)", text)
        assert not private or room == "rabbitmq.pika_internals", (room, private)
