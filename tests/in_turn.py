"""Which tests run one after the other, in one process, while all others go to whichever process is free."""

import json
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

IN_TURN = {  # by a fixture that they use
    "mortal_node",  # one for all, because to start a RabbitMQ takes long
    "copy",  # of the demo, which should leave no queue behind
}


def folder_of(config: pytest.Config) -> Path:
    """Return the folder that all processes of this run of the suite have in common."""
    own: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return own.parent if hasattr(config, "workerinput") else own


def tell(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have the process that hands out the tests know: it collects none itself, and waits until all have told."""
    fixtures = {item.nodeid: IN_TURN & {*getattr(item, "fixturenames", ())} for item in items}
    groups = {test: found.pop() for test, found in fixtures.items() if found}
    (folder_of(config) / "in_turn").write_text(json.dumps(groups))


class Scheduler(LoadScopeScheduling):
    """Hands out the tests. By itself `--dist loadgroup` of pytest-xdist 3.8 finds no groups under pytest 9.2."""

    def schedule(self) -> None:
        self._in_turn = json.loads((folder_of(self.config) / "in_turn").read_text())
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return str(self._in_turn.get(nodeid, nodeid))
