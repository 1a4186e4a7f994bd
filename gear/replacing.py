"""Replacing the files of one container together: all of them or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gear import files, hostsfile, provision


def replace(changed: Mapping[Path, tuple[bytes | None, bytes]]) -> None:
    """Replace files together: all new ones are written and durable before the first is renamed into place, and a
    failure half-way puts the old ones back.  Hosts and configs are changed in place: containers that run have them
    mounted."""
    staged: dict[Path, Path] = {}
    replaced: list[tuple[Path, bytes | None, int]] = []
    try:
        for path, (found, content) in changed.items():
            if _in_place(path) and found is not None:
                continue
            staged[path] = files.partial_name(path)
            files.write_atomic(staged[path], content, mode_of(path))
        for path, (found, content) in changed.items():
            with files.explained(f"replace {path}"):
                mode = 0 if found is None else path.stat().st_mode & 0o7777
                if path in staged:
                    os.rename(staged[path], path)
                else:
                    _change(path, content)
            staged.pop(path, None)
            replaced.append((path, found, mode))
        for directory in {above for path in changed for above in (path.parent, path.parent.parent)}:
            files.sync_directory(directory)
    except BaseException:
        for path, found, mode in reversed(replaced):
            if found is None:
                files.remove_file(path)
            elif _in_place(path):
                _change(path, found)
            else:
                files.write_atomic(path, found, mode)
        raise
    finally:
        for partial in staged.values():
            files.remove_file(partial)


def _in_place(path: Path) -> bool:
    return path.name == hostsfile.NAME or provision.is_config(path)


def _change(path: Path, content: bytes) -> None:
    if path.name == hostsfile.NAME:
        hostsfile.change(path, content.splitlines())
    else:
        files.overwrite(path, content)


def mode_of(path: Path) -> int:
    """The mode of a rendered file: units are read by anybody; a bundle may hold secrets in its environment."""
    public = path.suffix in (".service", ".socket", ".bpf") or path.name in (hostsfile.NAME, "hostname")
    return 0o644 if public else 0o600
