"""Several directories and files of a container replaced together, so that a crash leaves all of them old or all new.

What is to come is staged first, under partial names.  Then the journal `switch.json` appears in the container's
directory, and with it everything is decided: whoever finds it goes on with it (`finish`), each step of which may be
done twice.  While it is there the container does not start (gear/helper/start.py).  Its last step is to remove the
journal; the directories that were replaced have partial names by then.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gear import containers, files, members, removal
from gear.errors import GearError, IntegrityError
from gear.model import NAME, Layout
from gear.records import dataclass


@dataclass(frozen=True)
class Exchange:
    """The directory *staged* takes the place of *target*, which becomes *old*; both are partial names beside it."""

    staged: Path
    target: Path
    old: Path


@dataclass(frozen=True)
class Switch:
    """What changes together: directories, and files by their path with content and mode."""

    what: str
    exchanges: Sequence[Exchange]
    files: Mapping[Path, tuple[bytes, int]]


def staged(target: Path) -> Exchange:
    """An exchange of *target* with names that nobody has."""
    return Exchange(files.partial_name(target), target, files.partial_name(target))


def discard(path: Path) -> None:
    """Remove what was staged, or was replaced, if it is there."""
    if os.path.lexists(path):
        removal.remove_tree(path)


def interrupted(layout: Layout) -> list[str]:
    """The containers whose switch nobody has finished yet; the caller holds the lock."""
    try:
        names = sorted(os.listdir(layout.containers))
    except FileNotFoundError:
        return []
    return [name for name in names if NAME.fullmatch(name) and containers.switch_path(layout, name).exists()]


def begin(layout: Layout, name: str, switch: Switch) -> None:
    """Decide for *switch*, whose directories are all staged, and durable.  The caller holds the lock."""
    document = {
        "version": 1,
        "what": switch.what,
        "exchanges": [
            {"staged": str(exchange.staged), "target": str(exchange.target), "old": str(exchange.old)}
            for exchange in switch.exchanges
        ],
        "files": [
            {"path": str(path), "content": base64.b64encode(content).decode("ascii"), "mode": mode}
            for path, (content, mode) in switch.files.items()
        ],
    }
    files.write_atomic(containers.switch_path(layout, name), files.dump_json(document), 0o600)


def read(layout: Layout, name: str) -> Switch | None:
    """The switch that was begun and not finished; raises IntegrityError when its journal is damaged."""
    path = containers.switch_path(layout, name)
    if not path.exists():
        return None
    try:
        document = files.read_json(path, limit=64 << 20)
        top = members.mapping(document)
        if top["version"] != 1:
            raise ValueError(f"its version is {top['version']!r}")
        exchanges = [_exchange(members.mapping(item)) for item in members.array(top["exchanges"])]
        contents = {}
        for item in map(members.mapping, members.array(top["files"])):
            data = base64.b64decode(members.text(item["content"]), validate=True)
            contents[Path(members.text(item["path"]))] = data, int(item["mode"])
        return Switch(members.text(top["what"]), exchanges, contents)
    except (KeyError, TypeError, ValueError, GearError) as error:
        raise IntegrityError(
            f"{path} is damaged: {str(error).rstrip('.')}.",
            hint=f"Remove it and restore the snapshot once more: gear snapshot {name} --restore LABEL",
        ) from error


def _exchange(item: Mapping[str, Any]) -> Exchange:
    return Exchange(*(Path(members.text(item[member])) for member in ("staged", "target", "old")))


def finish(layout: Layout, name: str) -> bool:
    """Do what is left of a switch of *name*; tells whether there was one.  The caller holds the lock."""
    switch = read(layout, name)
    if switch is None:
        return False
    with files.explained(f"replace what {name} consists of"):
        for exchange in switch.exchanges:
            if os.path.lexists(exchange.staged):
                if os.path.lexists(exchange.target):
                    os.rename(exchange.target, exchange.old)
                os.rename(exchange.staged, exchange.target)
            files.sync_directory(exchange.target.parent)
        for path, (content, mode) in switch.files.items():
            if files.read_bytes(path) != content:
                files.write_atomic(path, content, mode)
        files.remove_file(containers.switch_path(layout, name))
        files.sync_directory(containers.switch_path(layout, name).parent)
    for exchange in switch.exchanges:
        discard(exchange.old)
    return True
