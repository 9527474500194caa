"""The few of an installed RabbitMQ's plugins and libraries that a private node needs, in a folder of their own.

RabbitMQ looks for each of its thousand modules in one folder after the other, of which there are sixty. That is a third
of the time in which it starts.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

WANTED = ("rabbit", "rabbitmq_prelaunch", "rabbitmq_management")


def link_needed_plugins(installed: Path, as_seen: Path, folder: Path) -> None:
    """Fill a folder with links to what is needed; have none where that can't be told, and RabbitMQ takes them all.

    Args:
        installed: the folder of the installed plugins.
        as_seen: where the node finds that.
        folder: of the links; made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    there = {each.name.partition("-")[0]: each for each in installed.glob("*-*") if (each / "ebin").is_dir()}
    if not there.keys() >= {*WANTED}:
        return
    folder.mkdir()
    needed = list(WANTED)
    for name in needed:  # which grows meanwhile
        needed += [other for other in needed_by(there[name]) if other in there and other not in needed]
        (folder / there[name].name).symlink_to(as_seen / there[name].name)


def needed_by(plugin: Path) -> set[str]:
    """Return the names of the applications, in the sense of Erlang, that have to run for this one."""
    text = (plugin / "ebin" / f"{plugin.name.partition('-')[0]}.app").read_text()
    found = re.search(r"\{\s*applications\s*,\s*\[(.*?)\]", text, re.DOTALL)
    return set(re.findall(r"\w+", found[1])) if found else set()
