"""Links the few plugins and libraries of RabbitMQ that a private node needs into their own folder.

RabbitMQ searches up to sixty folders for each of its thousand modules. That is a third of the time it takes to start.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

WANTED = ("rabbit", "rabbitmq_prelaunch", "rabbitmq_management")


def link_needed_plugins(installed: Path, as_seen: Path, folder: Path) -> None:
    """Fill a folder with links to the needed plugins. If they are not known, make no folder: RabbitMQ then uses all.

    Args:
        installed: the folder of the installed plugins.
        as_seen: the node's path to that folder.
        folder: for the links; removed first if it exists.
    """
    shutil.rmtree(folder, ignore_errors=True)
    there = {each.name.partition("-")[0]: each for each in installed.glob("*-*") if (each / "ebin").is_dir()}
    if not there.keys() >= {*WANTED}:
        return
    folder.mkdir()
    needed = list(WANTED)
    for name in needed:  # the list grows meanwhile
        needed += [other for other in needed_by(there[name]) if other in there and other not in needed]
        (folder / there[name].name).symlink_to(as_seen / there[name].name)


def needed_by(plugin: Path) -> set[str]:
    """Return the names of the Erlang applications that have to run for this one."""
    text = (plugin / "ebin" / f"{plugin.name.partition('-')[0]}.app").read_text()
    found = re.search(r"\{\s*applications\s*,\s*\[(.*?)\]", text, re.DOTALL)
    return set(re.findall(r"\w+", found[1])) if found else set()
