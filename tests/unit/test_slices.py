"""Slices: their names, their files, and what a check of them finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from gear import files, slices, units
from gear.budget import Budget
from gear.errors import IntegrityError, UsageError
from gear.model import Layout

NAME = "container-web.slice"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(state=tmp_path / "state", units=tmp_path / "units")


def write(layout: Layout, content: bytes) -> None:
    layout.slices.mkdir(parents=True, exist_ok=True)
    (layout.slices / "container-web.json").write_bytes(content)


@pytest.mark.parametrize("text", ["container-web", NAME, "container-web-db", "container-a.b"])
def test_names(text: str) -> None:
    assert slices.checked_name(text) == text.removesuffix(".slice") + ".slice"


@pytest.mark.parametrize(
    "text", ["web", "container", "container-small", "container-", "-", "../x", "system-web"]
)
def test_names_that_no_slice_can_have(text: str) -> None:
    with pytest.raises(UsageError):
        slices.checked_name(text)


def test_unit_says_what_was_asked_for(layout: Layout) -> None:
    text = units.render_slice(NAME, Budget(memory_max=1 << 30, cpu_quota=2.0), layout).decode()
    assert text.endswith("TasksAccounting=yes\nMemoryMax=1073741824\nCPUQuota=200%\n")
    assert "[Slice]\nCPUAccounting=yes\n" in text


def test_check_mends_the_unit_and_tells_of_damage(layout: Layout) -> None:
    assert list(slices.check(layout)) == [] and slices.find(layout, NAME) is None
    document = {"version": 1, "name": NAME, "resources": {"memory_max": 1 << 30}}
    write(layout, files.dump_json(document))
    assert slices.find(layout, NAME) == Budget(memory_max=1 << 30)
    assert NAME in slices.names(layout)
    (finding,) = slices.check(layout)
    assert finding.path == layout.units / NAME and finding.mend is not None
    layout.units.mkdir()
    (layout.units / NAME).write_bytes(units.render_slice(NAME, Budget(memory_max=1 << 30), layout))
    assert list(slices.check(layout)) == []


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b'{"version": 2, "resources": {}}',
        b'{"version": 1}',
        b'{"version": 1, "resources": {"x": 1}}',
    ],
)
def test_damaged_file(layout: Layout, content: bytes) -> None:
    write(layout, content)
    with pytest.raises(IntegrityError):
        slices.find(layout, NAME)
    (finding,) = slices.check(layout)
    assert finding.mend is None and "gear slice create" in finding.hint
