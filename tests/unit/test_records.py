"""Data classes of gear's own, beside the standard library's."""

from __future__ import annotations

import ast
import copy
import dataclasses
from typing import Any

import pytest
from project import TOP, tree_of

from gear import records


def make(decorator: Any, field: Any, *, frozen: bool) -> Any:
    """The same class by either decorator."""

    @decorator(frozen=frozen)
    class Point:
        x: int
        y: int = 2
        names: dict[str, int] = field(default_factory=dict)
        secret: str = field(default="s", repr=False)

        @property
        def sum(self) -> int:
            return self.x + self.y

    return Point


def both(*, frozen: bool = True) -> tuple[Any, Any]:
    return (
        make(records.dataclass, records.field, frozen=frozen),
        make(dataclasses.dataclass, dataclasses.field, frozen=frozen),
    )


@pytest.mark.parametrize(
    "given, named",
    [((1,), {}), ((), {"x": 1}), ((1, 3, {"a": 1}, "t"), {}), ((1,), {"secret": "t"}), ((), {"y": 1, "x": 0})],
)  # fmt: skip
def test_same_as_the_standard_librarys(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = (kind(*given, **named) for kind in both())
    assert vars(ours) == vars(theirs) and ours.sum == theirs.sum and repr(ours) == repr(theirs)
    assert ours == type(ours)(*given, **named) == copy.deepcopy(ours) and ours != theirs
    assert (ours == type(ours)(9)) is (theirs == type(theirs)(9)) is False
    for replace in (records.replace, dataclasses.replace):
        assert vars(replace(ours, y=7)) == vars(dataclasses.replace(theirs, y=7))
    assert [field.name for field in records.fields(ours)] == [
        item.name for item in dataclasses.fields(theirs)
    ]


@pytest.mark.parametrize(
    "given, named",
    [((), {}), ((1,), {"x": 1}), ((1, 2, {}, "s", 5), {}), ((1,), {"z": 1}), ((), {"y": 1})],
)  # fmt: skip
def test_wrong_arguments(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    for kind in both():
        with pytest.raises(TypeError):
            kind(*given, **named)


def test_defaults_are_made_anew() -> None:
    kind, _ = both()
    assert kind(1).names is not kind(1).names
    assert kind.y == 2 and not hasattr(kind, "names")


def test_frozen_and_not() -> None:
    for kind in both():
        point = kind(1, names=())
        with pytest.raises(AttributeError):
            point.x = 2
        with pytest.raises(AttributeError):
            del point.x
        assert len({point, kind(1, names=()), kind(names=(), x=1), kind(2, names=())}) == 2
        match point:
            case kind(x, y):
                assert (x, y) == (1, 2)
    for kind in both(frozen=False):
        point = kind(1)
        point.x = 2
        assert point == kind(2)
        with pytest.raises(TypeError):
            hash(point)


def test_own_methods_stay() -> None:
    @records.dataclass
    class Named:
        name: str

        def __repr__(self) -> str:
            return self.name

        def __eq__(self, other: object) -> bool:
            return True

    assert repr(Named("a")) == "a" and Named("a") == Named("b")


def test_nobody_uses_what_there_is_not() -> None:
    seen = 0
    for path in (TOP / "gear").glob("*.py"):
        tree = tree_of(path)
        imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        if not any(
            node.module == "gear.records" or "records" in [a.name for a in node.names] for node in imported
        ):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(
                "dataclass" in ast.dump(each) for each in node.decorator_list
            ):
                seen += 1
                text = ast.dump(node)
                assert not node.bases, f"{path.name}: {node.name} inherits, which gear.records does not know"
                assert "__post_init__" not in text and "ClassVar" not in text and "InitVar" not in text, (
                    node.name
                )
    assert seen > 100
