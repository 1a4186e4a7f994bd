"""Storage drivers, as far as they go without another file system than the one that tests run on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import rendering

from gear import storage
from gear.errors import GearError
from gear.model import Layout
from gear.spec import STORAGE_DRIVERS


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
    with pytest.raises(GearError, match="No such file"):
        storage.driver("overlay").snapshot(tmp_path / "missing", tmp_path / "new")
    assert os.listdir(tmp_path) == []


def test_a_copy_has_the_whole_image(tmp_path: Path) -> None:
    layout, wanted = Layout(tmp_path / "state"), rendering.make_spec(storage="vfs")
    low, high = tmp_path / "low", tmp_path / "high"
    for layer, text in ((low, "low"), (high, "high")):
        layer.mkdir()
        (layer / "both").write_text(text)
    (low / "file").write_text("x")
    target = layout.containers / "web" / "layer-abababababab-vfs"
    target.parent.mkdir(parents=True)
    driver = storage.driver("vfs")
    driver.require(layout)
    driver.make(layout, wanted, [low, high])
    assert sorted(os.listdir(target / "root")) == ["both", "file"]
    assert (target / "root" / "both").read_text() == "high"
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    # What is there is the container's, and stays.
    (target / "root" / "file").unlink()
    driver.make(layout, wanted, [low, high])
    assert os.listdir(target / "root") == ["both"]
    driver.snapshot(target, target.with_name("copy"))
    assert (target.with_name("copy") / "root" / "both").read_text() == "high"
    with pytest.raises(ValueError, match="the same in every container"):
        driver.snapshot(target, target.with_name("another"), shift=65536)
    assert sorted(os.listdir(target.parent)) == ["copy", target.name]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    layout, wanted = Layout(tmp_path), rendering.make_spec(storage="vfs")
    (layout.containers / "web").mkdir(parents=True)
    with pytest.raises(GearError, match="No such file"):
        storage.driver("vfs").make(layout, wanted, [tmp_path / "missing"])
    assert os.listdir(layout.containers / "web") == []


def test_every_driver_can_be_asked_for() -> None:
    assert [storage.driver(name).name for name in STORAGE_DRIVERS] == list(STORAGE_DRIVERS)
