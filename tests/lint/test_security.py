"""The table of SECURITY.md against the tests: what it names is there, and each attack that is tested is named.

Not a check that a test shows what the table says.
"""

from __future__ import annotations

import ast
import re

from project import TOP, tree_of

TEXT = (TOP / "SECURITY.md").read_text("utf-8")


def functions(pattern: str) -> set[str]:
    """The names of the tests in the files that *pattern* finds."""
    return {
        node.name
        for path in (TOP / "tests").glob(pattern)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def named() -> list[str]:
    """The tests that SECURITY.md names."""
    return re.findall(r"`(test_[a-z0-9_]+)`", TEXT)


def test_every_named_test_exists() -> None:
    assert sorted(set(named()) - functions("*/test_*.py")) == []


def test_every_attack_is_named_once() -> None:
    attacks = functions("host/test_attack_*.py") | functions("unit/test_fuzz.py")
    assert sorted(attacks - set(named())) == []
    assert sorted(name for name in attacks if named().count(name) > 1) == []


def test_every_class_has_a_defence_and_a_test() -> None:
    section = TEXT.partition("## What is tested")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 25
    for name, defence, tests in rows[2:]:
        assert defence.strip() and "`test_" in tests, name
