"""Removing trees that containers wrote to: directories however deep, subvolumes of btrfs, made read-only or not.

A container's root may make both below its own directories, and could keep itself from being deleted otherwise.
Nothing may write to the tree meanwhile.
"""

from __future__ import annotations

import os
from pathlib import Path

from gear import files, subvolumes
from gear.tree import DIRECTORY

# How deep it goes before what is below is moved up; a descriptor is open for each level.
DEPTH = 100


def remove_tree(path: Path) -> None:
    """Remove *path* and all below it, if it is there; it is renamed first, durably, so that half a tree is never taken
    for whole, and what is gone does not come back after a power cut.  Raises GearError, and what is left has a partial
    name."""
    with files.explained(f"remove {path}"):
        try:
            parent = os.open(path.parent, DIRECTORY)
        except FileNotFoundError:
            return
        try:
            name = os.fsencode(path.name)
            if not path.name.startswith(files.PARTIAL):
                doomed = os.fsencode(files.partial_name(path).name)
                try:
                    os.rename(name, doomed, src_dir_fd=parent, dst_dir_fd=parent)
                except FileNotFoundError:
                    return
                os.fsync(parent)
                name = doomed
            _Removal(parent).run(name)
        finally:
            os.close(parent)


class _Removal:
    """One run of remove_tree(), for a tree in the open directory *parent*, where only gear makes entries."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._has_subvolumes = subvolumes.file_system_of(parent) is not None
        self._waiting: list[bytes] = []

    def run(self, name: bytes) -> None:
        """Remove the directory *name*, and the subvolumes that are found in it."""
        self._waiting.append(name)
        while self._waiting:
            self._remove(self._waiting.pop())

    def _remove(self, name: bytes) -> None:
        top = os.open(name, DIRECTORY, dir_fd=self._parent)
        try:
            if self._is_subvolume(top):
                if subvolumes.destroy(self._parent, name):
                    return
                subvolumes.set_read_only(top, False)
            # As long as something was moved up.
            while self._empty(top, top, 1):
                continue
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=self._parent)

    def _is_subvolume(self, directory: int) -> bool:
        return self._has_subvolumes and subvolumes.is_top(directory)

    def _empty(self, directory: int, top: int, depth: int) -> bool:
        """Remove what is in *directory*; tells whether part of it was too deep, and is in *top* now."""
        moved = False
        with os.scandir(directory) as entries:
            found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in found:
            if not is_directory:
                os.unlink(name, dir_fd=directory)
                continue
            if depth == DEPTH:
                os.rename(name, os.urandom(16).hex(), src_dir_fd=directory, dst_dir_fd=top)
                moved = True
                continue
            below = os.open(name, DIRECTORY, dir_fd=directory)
            try:
                if self._is_subvolume(below):
                    self._take_out(directory, name, below)
                    continue
                moved |= self._empty(below, top, depth + 1)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=directory)
        return moved

    def _take_out(self, directory: int, name: bytes, subvolume: int) -> None:
        """Put a subvolume beside the tree, to be removed later: what is in it can't be moved to others."""
        subvolumes.set_read_only(subvolume, False)  # or it could not be moved
        doomed = os.fsencode(f"{files.PARTIAL}{os.urandom(8).hex()}")
        os.rename(name, doomed, src_dir_fd=directory, dst_dir_fd=self._parent)
        self._waiting.append(doomed)
