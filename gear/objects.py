"""Named things of gear's own on disk, each a directory that appears whole and goes as a whole.

What is in them is the business of gear/credentials.py, gear/configs.py and gear/envsets.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from gear import files
from gear.errors import NotFoundError, UsageError
from gear.model import NAME, Layout
from gear.supplies import KINDS, object_path

# The most that PID 1 gives a unit as well (systemd-creds(1)).
LIMIT = 1 << 20


def names(layout: Layout, kind: str) -> list[str]:
    """The names of all of one kind, sorted."""
    with files.explained(f"read {layout.state / kind}"):
        try:
            entries = os.listdir(layout.state / kind)
        except FileNotFoundError:
            return []
    return sorted(entry for entry in entries if NAME.fullmatch(entry) and exists(layout, kind, entry))


def exists(layout: Layout, kind: str, name: str) -> bool:
    """Whether there is a *name*."""
    return object_path(layout, kind, name).is_file()


def require(layout: Layout, kind: str, name: str) -> None:
    """Raise NotFoundError unless there is a *name*."""
    if not exists(layout, kind, name):
        what, _, command = KINDS[kind]
        raise NotFoundError(f"There is no {what} {name}.", hint=f"{command} {name} ... makes one.")


def write(layout: Layout, kind: str, name: str, content: Mapping[str, bytes]) -> None:
    """Make *name* with the files of *content*, or replace those: each is then what it was or what it is to be, the one
    that makes it what it is last.  The caller holds gear's lock."""
    target = layout.state / kind / name
    files.make_directory(target.parent, 0o700)
    last = KINDS[kind][1]
    ordered = sorted(content.items(), key=lambda item: item[0] == last)
    with files.explained(f"write {target}"):
        if exists(layout, kind, name):
            for file, data in ordered:
                files.write_atomic(target / file, data, 0o600)
            return
        files.remove_tree(target)  # what somebody has made there by hand is none
        partial = files.partial_name(target)
        try:
            os.mkdir(partial, 0o700)
            for file, data in ordered:
                files.write_atomic(partial / file, data, 0o600)
            os.rename(partial, target)
        except BaseException:
            if partial.exists():
                files.remove_tree(partial)
            raise
        files.sync_directory(target.parent)


def remove(layout: Layout, kind: str, name: str) -> None:
    """Remove *name*; raises NotFoundError.  The caller holds gear's lock."""
    require(layout, kind, name)
    files.remove_tree(layout.state / kind / name)
    files.sync_directory(layout.state / kind)


def read(layout: Layout, kind: str, name: str) -> bytes:
    """The file that makes *name* what it is; raises NotFoundError."""
    require(layout, kind, name)
    return files.read_bytes(object_path(layout, kind, name), 2 * LIMIT) or b""


def require_size(data: bytes, what: str) -> bytes:
    """*data* if it may be an object; raises UsageError."""
    if len(data) > LIMIT:
        raise UsageError(f"{what} is larger than {LIMIT} bytes.")
    return data


def read_given(name: str) -> bytes:
    """What is in the file *name* of the caller's, or comes in by standard input for `-`; raises UsageError."""
    if name == "-":
        return require_size(sys.stdin.buffer.read(LIMIT + 1), "What comes in")
    with files.explained(f"read {name}"), open(name, "rb") as file:
        return require_size(file.read(LIMIT + 1), name)
