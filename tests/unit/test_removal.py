"""Removing trees that strangers made, on any file system; subvolumes are in tests/host/test_storage.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gear import removal
from gear.errors import GearError


def deepen(path: Path, levels: int) -> None:
    """Make directories below *path*, each in the one before, with a file and a link in each."""
    directory = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.symlink("/", "link", dir_fd=directory)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o000, dir_fd=directory))
        os.mkdir("d" * 200, dir_fd=directory)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)


@pytest.mark.parametrize("levels", [0, 1, removal.DEPTH - 1, removal.DEPTH, removal.DEPTH + 1, 2500])
def test_any_tree_goes(tmp_path: Path, levels: int) -> None:
    """Deeper than Python recurses, than files may be open, and than a path may be long."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "other").mkdir()
    deepen(tmp_path / "tree", levels)
    removal.remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == ["other"]


def test_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    removal.remove_tree(tmp_path / "tree")
    removal.remove_tree(tmp_path / "nowhere" / "tree")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "link").symlink_to("mine")
    with pytest.raises(GearError, match="Can't remove"):
        removal.remove_tree(tmp_path / "link")
    assert (tmp_path / "mine" / "file").exists()


def test_what_could_not_be_removed_has_a_partial_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("gear.removal.os.unlink", refuse)
    with pytest.raises(GearError, match="Operation not permitted"):
        removal.remove_tree(tmp_path / "tree")
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".partial-tree-")
    removal.remove_tree(left)
    assert os.listdir(tmp_path) == []
