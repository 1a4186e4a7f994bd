"""Replacing the files of one container together: all of them or none; what a power cut left out is found, and done."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gear import files, hostsfile, provision


def replace(changed: Mapping[Path, tuple[bytes | None, bytes]]) -> None:
    """Replace files together: all new ones are written and durable before the first is renamed into place, and a
    failure half-way puts the old ones back.  The first decides: when power is cut after that, the others are found
    by staged() and put in place by finish().  Hosts and configs are changed in place: containers that run have them
    mounted."""
    staged: dict[Path, Path] = {}
    replaced: list[tuple[Path, bytes | None, int]] = []
    in_place = [path for path, (found, _) in changed.items() if _is_shared(path) and found is not None]
    try:
        for path, (_, content) in changed.items():
            staged[path] = files.partial_name(path)
            with files.explained(f"write {path}"):
                files.write_new(staged[path], content, mode_of(path))
        for directory in {path.parent for path in changed}:
            with files.explained(f"write in {directory}"):
                files.sync_directory(directory)
        for path in (*(path for path in changed if path not in in_place), *in_place):
            found, content = changed[path]
            if path in in_place[:1]:
                # What is written to them might be on the disk sooner than the renames.
                _sync(changed)
            with files.explained(f"replace {path}"):
                mode = 0 if found is None else path.stat().st_mode & 0o7777
                _put(staged[path], path, content, in_place=path in in_place)
            staged.pop(path)
            replaced.append((path, found, mode))
        _sync(changed)
    except BaseException:
        for path, found, mode in reversed(replaced):
            if found is None:
                files.remove_file(path)
            elif _is_shared(path):
                _change(path, found)
            else:
                files.write_atomic(path, found, mode)
        raise
    finally:
        for partial in staged.values():
            files.remove_file(partial)


def staged(changed: Mapping[Path, tuple[bytes | None, bytes]]) -> dict[Path, Path]:
    """What an interrupted replace() has made ready for files of *changed*: where it is, by where it belongs."""
    found = {}
    for path, (_, content) in changed.items():
        for partial in path.parent.glob(f"{files.PARTIAL}{path.name}-*"):
            if files.read_bytes(partial) == content:
                found[path] = partial
    return found


def finish(changed: Mapping[Path, tuple[bytes | None, bytes]]) -> None:
    """Put in place what staged() finds."""
    for path, partial in staged(changed).items():
        before, content = changed[path]
        with files.explained(f"replace {path}"):
            _put(partial, path, content, in_place=before is not None and _is_shared(path))
    _sync(changed)


def _put(partial: Path, path: Path, content: bytes, *, in_place: bool) -> None:
    if in_place:
        _change(path, content)
        os.unlink(partial)
    else:
        os.rename(partial, path)


def _change(path: Path, content: bytes) -> None:
    if path.name == hostsfile.NAME:
        hostsfile.change(path, content.splitlines())
    else:
        files.overwrite(path, content)


def _is_shared(path: Path) -> bool:
    """Whether containers that run have this very file, so that it is never replaced by another."""
    return path.name == hostsfile.NAME or provision.is_config(path)


def _sync(paths: Iterable[Path]) -> None:
    for directory in {above for path in paths for above in (path.parent, path.parent.parent)}:
        files.sync_directory(directory)


def mode_of(path: Path) -> int:
    """The mode of a rendered file: units are read by anybody; a bundle may hold secrets in its environment."""
    public = path.suffix in (".service", ".socket", ".bpf") or path.name in (hostsfile.NAME, "hostname")
    return 0o644 if public else 0o600
