"""YAML that people write: one door to PyYAML, strict.

Not for output.  PyYAML reads YAML 1.1, where `22:22` is 1342, `no` is false, `0755` is 493, and the last of two
equal keys counts.  Here scalars are those of YAML 1.2's core schema, and equal keys, aliases and tags are errors.
"""

from __future__ import annotations

import re
from typing import Any

from gear.errors import UsageError

LIMIT = 1 << 20
_DEPTH = 50


def parse(data: bytes, what: str) -> Any:
    """The one document in *data*; *what* names it in errors.  Raises UsageError."""
    import yaml  # here: 16 ms that most verbs need not pay

    if len(data) > LIMIT:
        raise UsageError(f"{what} is larger than the {LIMIT} bytes that such a file may have.")
    try:
        _check(yaml, data, what)
        return yaml.load(data, Loader=_loader(yaml))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{what}{place}: {problem}.") from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{what} is not valid YAML: {error}.") from error


def _check(yaml: Any, data: bytes, what: str) -> None:
    """Refuse what grows when it is read, or makes objects."""
    depth = 0
    for event in yaml.parse(data, Loader=yaml.CSafeLoader):
        if (
            isinstance(event, yaml.AliasEvent)
            or getattr(event, "anchor", None)
            or getattr(event, "tag", None)
        ):
            line = event.start_mark.line + 1
            raise UsageError(f"{what}, line {line}: anchors, aliases and tags are not allowed.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH:
                raise UsageError(f"{what} is nested more than {_DEPTH} deep.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


_made: list[Any] = []


def _loader(yaml: Any) -> Any:
    """CSafeLoader with YAML 1.2's scalars and no equal keys."""
    if _made:
        return _made[0]

    class Loader(yaml.CSafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str, Any] = {}

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str):
                    raise yaml.constructor.ConstructorError(
                        None, None, "a key is not a text", key_node.start_mark
                    )
                if key in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} occurs twice", key_node.start_mark
                    )
                keys.add(key)
            result: dict[Any, Any] = super().construct_mapping(node, deep=deep)
            return result

    for tag, pattern, first in (
        ("bool", r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
        ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
        ("int", r"[-+]?[0-9]{1,18}", "-+0123456789"),
    ):
        regexp = re.compile(rf"^(?:{pattern})$")
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", regexp, list(first))
    Loader.add_constructor(
        "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node), 10)
    )
    _made.append(Loader)
    return Loader
