"""gear against bare services and podman, as contrib/bench --check measures it: ratios, each with its bound."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchlib import check, running
from gearhost import RELEASE


@pytest.fixture(scope="module")
def run() -> Iterator[running.Run]:
    with running.started(RELEASE, vm=False, tools=check.TOOLS, rounds=check.ROUNDS, say=print) as made:
        yield made


@pytest.mark.parametrize("measure", check.MEASURES)
def test_no_ratio_is_worse_than_its_bound(run: running.Run, measure: str) -> None:
    verdicts = check.judged(run, measure)
    print(*verdicts, sep="\n")
    assert all(verdict.met for verdict in verdicts), (verdicts, run.results.missing)
