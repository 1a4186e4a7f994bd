"""Ranges of user ids: never shared, kept, given back."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gear import uids
from gear.errors import GearError, HostError, UsageError
from gear.model import Layout
from gear.spec import UID_RANGE_SIZE


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(state=tmp_path / "state")


def allocate(layout: Layout, name: str, *accounts: Path) -> int:
    return uids.allocate(layout, name, accounts=accounts)


def owners(layout: Layout) -> dict[int, str]:
    return {found.base: found.name for found in uids.ranges(layout)}


def test_ranges_are_disjoint_and_in_order(layout: Layout) -> None:
    bases = [allocate(layout, f"c{number}") for number in range(5)]
    assert bases == [uids.FIRST + number * UID_RANGE_SIZE for number in range(5)]
    assert owners(layout) == {base: f"c{number}" for number, base in enumerate(bases)}
    assert uids.directory(layout).stat().st_mode & 0o777 == 0o700


def test_name_keeps_its_range(layout: Layout) -> None:
    allocate(layout, "a")
    base = allocate(layout, "b")
    uids.release(layout, "a")
    assert allocate(layout, "b") == base


def test_released_range_is_the_next(layout: Layout) -> None:
    first = allocate(layout, "a")
    allocate(layout, "b")
    uids.release(layout, "a")
    assert allocate(layout, "c") == first
    uids.release(layout, "nobody")
    assert sorted(owners(layout).values()) == ["b", "c"]


def test_prefix_of_a_name_is_another_name(layout: Layout) -> None:
    allocate(layout, "web")
    second = allocate(layout, "web2")
    uids.release(layout, "web")
    assert owners(layout) == {second: "web2"}


def test_ranges_of_users_are_left_to_them(layout: Layout, tmp_path: Path) -> None:
    subuid, subgid = tmp_path / "subuid", tmp_path / "subgid"
    first = uids.FIRST
    # The last id of the first range, then the whole third; the second is free but for what subgid takes of it.
    subuid.write_text(
        f"a:{first + 65535}:1\n# no entry\nb:x:1\nc:1\n\nd:{first + 2 * 65536}:65536 \ne:{first}:0\n"
    )
    subgid.write_text(f"a:{first + 65536 - 10}:11\n")
    assert allocate(layout, "x", subuid, subgid, tmp_path / "missing") == first + 3 * 65536


def test_range_right_beside_is_free(layout: Layout, tmp_path: Path) -> None:
    subuid = tmp_path / "subuid"
    subuid.write_text(f"a:0:{uids.FIRST}\nb:{uids.FIRST + 65536}:65536\n")
    assert allocate(layout, "x", subuid) == uids.FIRST


@given(st.lists(st.tuples(st.integers(-20, 250), st.integers(0, 60)), max_size=12))
def test_what_is_free_is_what_nobody_has(taken: list[tuple[int, int]]) -> None:
    """Ranges of ten ids instead of 65536, from 0 to 199."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("FIRST", 0), ("LAST", 190), ("UID_RANGE_SIZE", 10)):
            patch.setattr(uids, name, value)
        busy = {number for start, count in taken for number in range(start, start + count)}
        expected = [base for base in range(0, 200, 10) if not busy & set(range(base, base + 10))]
        assert list(uids._free(taken)) == expected


def test_a_full_host_is_told_at_once(layout: Layout) -> None:
    """All 28664 are taken, and that is found without comparing each with each."""
    place = uids.directory(layout)
    place.mkdir(parents=True)
    for base in range(uids.FIRST, uids.LAST + 1, UID_RANGE_SIZE):
        (place / str(base)).symlink_to("other")
    with pytest.raises(HostError, match="No user id range is left for web"):
        allocate(layout, "web")


def test_when_all_are_taken(layout: Layout, tmp_path: Path) -> None:
    subuid = tmp_path / "subuid"
    subuid.write_text(f"a:{uids.FIRST}:{uids.LAST - uids.FIRST}\n")
    assert allocate(layout, "last", subuid) == uids.LAST
    with pytest.raises(HostError) as caught:
        allocate(layout, "more", subuid)
    assert (
        caught.value.message == "No user id range is left for more: all from 524288 to 1879048191 are taken."
    )
    assert caught.value.hint == "gear clean frees the ranges of containers that no longer exist."
    assert allocate(layout, "last", subuid) == uids.LAST


def test_two_at_once_never_get_the_same(layout: Layout) -> None:
    found: list[int] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        found.extend(allocate(layout, f"c{number}-{again}") for again in range(10))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 80
    assert sorted(found) == sorted(owners(layout))


def test_what_is_no_range_is_not_counted(layout: Layout) -> None:
    uids.directory(layout).mkdir(parents=True)
    (uids.directory(layout) / "README").write_text("x")
    assert owners(layout) == {}
    os.symlink("x", uids.directory(layout) / "٣")
    assert owners(layout) == {}
    (uids.directory(layout) / "524288").write_text("no link")
    with pytest.raises(GearError, match=r"^Can't read .*/uids: Invalid argument\.$"):
        owners(layout)


def test_nothing_is_taken_before_the_first(layout: Layout) -> None:
    assert owners(layout) == {}
    uids.release(layout, "a")
    assert not layout.state.exists()


def test_range_by_number_is_taken_beside_the_own_one_and_never_shared(layout: Layout) -> None:
    own = allocate(layout, "a")
    assert uids.take(layout, "a", 200000, 1000) == 200000
    assert uids.take(layout, "a", 200000, 1000) == 200000
    assert [(found.base, found.size) for found in uids.ranges(layout)] == [
        (200000, 1000),
        (own, UID_RANGE_SIZE),
    ]
    for base, size in ((200999, 1), (199000, 1001), (200000, 1000), (own + 65535, 2), (1000, own)):
        with pytest.raises(UsageError) as caught:
            uids.take(layout, "b", base, size)
        assert caught.value.message.startswith(f"b can't have the user ids {base} to {base + size - 1}: ")
        assert caught.value.message.endswith(" are those of a.")
    uids.take(layout, "b", 201000, 1)
    # Going back to the kind of range that everybody has gives the same one as before.
    assert allocate(layout, "a") == own
    uids.release(layout, "a")
    assert owners(layout) == {201000: "b"}


def test_next_range_is_not_one_that_was_taken_by_number(layout: Layout) -> None:
    uids.take(layout, "a", uids.FIRST + 10, 2)
    assert allocate(layout, "b") == uids.FIRST + UID_RANGE_SIZE
