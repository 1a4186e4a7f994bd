"""Who may work in the store at the same time, and what a removal leaves alone."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from archives import digest

from gear import garbage, leases, store
from gear.errors import GearError
from gear.model import Layout

pytestmark = pytest.mark.spawns


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(state=tmp_path / "state")
    store.prepare(layout)
    return layout


def add(layout: Layout, data: bytes) -> str:
    return store.add_blob(layout, io.BytesIO(data)).digest


@contextmanager
def another(layout: Layout, *pins: str, whole: bool = False) -> Iterator[int]:
    """A process that holds a lease until the end of the block."""
    reading, writing = os.pipe()
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        try:
            with leases.whole(layout) if whole else leases.pinning(layout):
                leases.pin(layout, *pins)
                os.write(done, b"x")
                os.read(reading, 1)
        finally:
            os._exit(0)
    os.close(reading)
    os.read(ready, 1)
    try:
        yield child
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(done)


def test_what_is_pinned_stays_and_the_rest_goes(layout: Layout) -> None:
    kept, gone = add(layout, b"kept"), add(layout, b"gone")
    with another(layout, kept, digest(b"not here yet")) as child:
        (worker,) = leases.pinners(layout)
        assert worker.pid == child and set(worker.needs or ()) == {kept, digest(b"not here yet")}
        assert [path.name for path, _ in garbage.collect(layout, ()) or ()] == [gone[7:]]
        assert store.blob_path(layout, kept).exists()
    assert len(garbage.collect(layout, ()) or ()) == 1
    assert leases.workers(layout) == [] and list(leases.directory(layout).iterdir()) == []


def test_a_whole_lease_keeps_everything_and_is_told(layout: Layout) -> None:
    add(layout, b"kept")
    with another(layout, whole=True) as child:
        assert garbage.collect(layout, (), wait=0.1) is None
        assert f"(process {child})" in leases.who_works(layout) and "needs it" in leases.who_works(layout)
    assert len(garbage.collect(layout, (), wait=0.1) or ()) == 1
    assert leases.who_works(layout) == "another command was at work in the image store"


def test_a_removal_waits_for_a_short_lease(layout: Layout) -> None:
    add(layout, b"gone")
    child = os.fork()
    if child == 0:
        try:
            with leases.whole(layout):
                os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    assert garbage.collect(layout, ()) is None
    os.kill(child, signal.SIGCONT)
    assert len(garbage.collect(layout, (), wait=60.0) or ()) == 1
    os.waitpid(child, 0)


def test_a_lease_ends_with_its_holder(layout: Layout) -> None:
    kept = add(layout, b"kept")
    child = os.fork()
    if child == 0:
        try:
            with leases.pinning(layout):
                leases.pin(layout, kept)
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    (path,) = leases.directory(layout).iterdir()
    assert path.name.startswith(f"{child}-") and path.read_text() == f"{kept}\n"
    assert leases.pinners(layout) == [] and leases.abandoned(layout) == [path]
    assert len(garbage.collect(layout, ()) or ()) == 1
    assert not path.exists()


def test_work_in_progress_stays_while_somebody_works(layout: Layout) -> None:
    partial = layout.images / "blobs/sha256/.partial-x"
    partial.write_bytes(b"x")
    with another(layout):
        assert garbage.sweep(layout) is None
        assert garbage.collect(layout, ()) == []
        assert partial.exists()
    assert garbage.sweep(layout) == [partial]


def test_pinning_may_be_nested(layout: Layout) -> None:
    first, second = add(layout, b"1"), add(layout, b"2")
    leases.pin(layout, first)  # without a lease nothing is done
    with leases.pinning(layout):
        leases.pin(layout, first)
        with leases.pinning(layout):
            leases.pin(layout, second, first)
        assert leases.pinned(layout) == {first, second}
    assert leases.pinned(layout) == set()


def test_what_another_needs_is_not_exchanged(layout: Layout) -> None:
    kept = add(layout, b"kept")
    path = store.blob_path(layout, kept)
    with another(layout, kept), leases.pinning(layout):
        leases.pin(layout, kept)
        with pytest.raises(GearError, match=f"{kept[7:]} stays, because"):
            leases.require_unneeded(layout, kept, path)
    with leases.pinning(layout):
        leases.pin(layout, kept)
        leases.require_unneeded(layout, kept, path)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/usr/bin/python3", "/usr/local/bin/gear", "image", "pull", "secret/x"], "gear image pull"),
        (["python3.13", "-B", "/opt/gear", "run", "-e", "PASSWORD=x"], "gear run"),
        (["gear", "fsck"], "gear fsck"),
        ([], "a command"),
    ],
)
def test_who_works_is_told_without_arguments(
    arguments: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "".join(f"{word}\0" for word in arguments).encode()
    monkeypatch.setattr(Path, "read_bytes", lambda path: words)
    assert leases._command(1) == shown
