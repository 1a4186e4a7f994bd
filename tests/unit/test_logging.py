"""What becomes of output: the member `logging` of spec.json, its options, and the limits of log namespaces."""

from __future__ import annotations

from typing import Any

import pytest

from gear import journaling
from gear.errors import UsageError
from gear.journaling import Logging, NamespaceLimits, Rate


@pytest.mark.parametrize(
    "wanted",
    [
        Logging(),
        Logging("none"),
        Logging(namespace="shop"),
        Logging(rate=Rate(0, 0), level="debug"),
        Logging(namespace="a.b-c_d", rate=Rate(10, 0.25), level="emerg"),
    ],
)
def test_what_is_written_is_read_back(wanted: Logging) -> None:
    assert Logging.read(wanted.to_mapping()) == wanted


def test_nothing_asked_for_is_nothing_written() -> None:
    assert Logging().to_mapping() == {}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"drivers": "none"},
        {"driver": "syslog"},
        {"driver": 1},
        {"driver": "none", "namespace": "a"},
        {"namespace": "a/b"},
        {"namespace": "*"},
        {"namespace": "+a"},
        {"namespace": "-a"},
        {"namespace": ""},
        {"namespace": "a" * 64},
        {"namespace": "a\n"},
        {"rate": {"burst": 1}},
        {"rate": {"burst": 1, "interval": 0}},
        {"rate": {"burst": True, "interval": 1}},
        {"rate": {"burst": -1, "interval": 1}},
        {"rate": {"burst": 1, "interval": 1e300}},
        {"rate": {"burst": 1, "interval": float("nan")}},
        {"rate": {"burst": 1, "interval": 1, "x": 1}},
        {"level": "loud"},
    ],
)
def test_what_can_not_be_is_refused(document: Any) -> None:
    with pytest.raises((UsageError, TypeError, ValueError, KeyError)):
        Logging.read(document)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1000/30s", Rate(1000, 30)), ("1/500ms", Rate(1, 0.5)), ("5/2min", Rate(5, 120)), ("off", Rate(0, 0))],
)
def test_rates(text: str, rate: Rate) -> None:
    assert journaling.parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "0/1s", "1/0", "1", "1/s", "-1/1s", "1/1y", "1 /1s", "٣/1s", "1/99999999d"]
)
def test_no_rates(text: str) -> None:
    with pytest.raises(UsageError):
        journaling.parse_rate(text)


@pytest.mark.parametrize(
    "limits",
    [
        NamespaceLimits(),
        NamespaceLimits(100 << 20, 8 << 20, 86400.0, Rate(1000, 30)),
        NamespaceLimits(rate=Rate(0, 0)),
    ],
)
def test_limits_are_read_back(limits: NamespaceLimits) -> None:
    assert NamespaceLimits.read(limits.settings()) == limits


def test_what_somebody_else_has_written_is_no_traceback() -> None:
    assert NamespaceLimits.read(b"\xff\nSystemMaxUse=1G\nMaxRetentionSec=1month\n=x\n") == NamespaceLimits()
