"""gear against bare services and podman, as contrib/bench --check measures it: ratios, each with its bound."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchlib import check, running
from benchlib.bounds import BOUNDS, Bound
from gearhost import RELEASE


@pytest.fixture(scope="module")
def checked() -> Iterator[check.Checked]:
    with running.started(RELEASE, vm=False, tools=check.TOOLS, rounds=check.ROUNDS, say=print) as run:
        yield check.Checked(run)


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.what)
def test_gear_is_within_its_bound(checked: check.Checked, bound: Bound) -> None:
    verdict = checked.verdict(bound)
    print(verdict)
    assert verdict.met, f"{verdict}; not measured: {checked.missing}"
