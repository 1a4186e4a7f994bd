"""Storage drivers, as far as they go without another file system than the one that tests run on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gear import storage
from gear.errors import UsageError


def test_an_unknown_driver_is_an_error() -> None:
    with pytest.raises(UsageError, match="no storage driver 'zfs'"):
        storage.driver("zfs")


def test_overlay_copies_what_was_written_and_no_scratch_space(tmp_path: Path) -> None:
    source = tmp_path / "layer-0"
    (source / "work" / "work").mkdir(parents=True)
    (source / "upper").mkdir()
    (source / "upper" / "file").write_text("x")
    driver = storage.driver("overlay")
    driver.snapshot(source, tmp_path / "layer-1")
    assert (tmp_path / "layer-1" / "upper" / "file").read_text() == "x"
    assert os.listdir(tmp_path / "layer-1" / "work") == []
    driver.remove(source)
    assert os.listdir(tmp_path) == ["layer-1"]


def test_a_snapshot_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="No such file"):
        storage.driver("overlay").snapshot(tmp_path / "missing", tmp_path / "new")
    assert os.listdir(tmp_path) == []
