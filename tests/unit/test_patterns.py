"""Regular expressions that are compiled late: that each of them can be, and that they are as others."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

import pytest

import gear
from gear.patterns import pattern

# For type checkers it is a function.
KIND: Any = pattern


def every() -> dict[str, Any]:
    """All that stand at the top of a module."""
    found = {}
    for item in pkgutil.walk_packages(gear.__path__, "gear."):
        if not item.name.startswith("gear.helper.") and not item.name.endswith("__main__"):
            module = importlib.import_module(item.name)
            for name, value in vars(module).items():
                if isinstance(value, KIND):
                    found[f"{item.name}.{name}"] = value
    return found


def test_all_can_be_compiled() -> None:
    found = every()
    assert len(found) > 60
    for value in found.values():
        re.compile(value.pattern, value._flags)


def test_what_it_does_when_it_is_used() -> None:
    late = pattern(r"([a-z]+)=(\d+)", re.ASCII | re.IGNORECASE)
    assert late.pattern == r"([a-z]+)=(\d+)" and "fullmatch" not in vars(late)
    found = late.fullmatch("Ab=12")
    assert found is not None and found.groups() == ("Ab", "12")
    assert "fullmatch" in vars(late)  # looked up once
    assert late.groups == 2 and late.match("a=\u0661") is None
    assert late.sub("x", "a=1 b=2") == "x x" and late.findall("a=1 b=2") == [("a", "1"), ("b", "2")]
    assert [item[0] for item in late.finditer("a=1 b=2")] == ["a=1", "b=2"]
    assert pattern(rb"b").search(b"abc") is not None
    assert not hasattr(late, "more")
    with pytest.raises(re.error):
        pattern("(").search("")
