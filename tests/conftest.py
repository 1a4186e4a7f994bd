"""What holds for every test: a clean environment, and skips that can be outlawed.

With GEAR_TESTS_MUST_RUN=1, as continuous integration has it, a skipped test counts as failed.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

MUST_RUN = os.environ.get("GEAR_TESTS_MUST_RUN") == "1"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that moves gear's directories, whoever runs the tests; GEAR_TEST* is for the tests themselves."""
    for name in list(os.environ):
        if name.startswith("GEAR_") and not name.startswith("GEAR_TEST"):
            monkeypatch.delenv(name)


def _outlaw(report: Any) -> None:
    """Turn the report of a skip into that of a failure; an expected failure is no skip."""
    if MUST_RUN and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"GEAR_TESTS_MUST_RUN is 1, so this must not be skipped: {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    outcome = yield
    _outlaw(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, None]:
    outcome = yield
    _outlaw(outcome.get_result())
