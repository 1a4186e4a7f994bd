"""Mappings of configuration files, read member by member and by type.

Not the files themselves (gear/registries.py, gear/policy.py), and not what a member means.
"""

from __future__ import annotations

from typing import Any

from gear.errors import UsageError


class Section:
    """A mapping of a file, whose members are asked for by type; what nobody asked for is an error."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, dict):
            raise UsageError(f"{what} is not a mapping.")
        self.value: dict[str, Any] = value
        self.what = what
        self._asked: set[str] = set()

    def get(self, name: str, kind: type, default: Any, problem: str) -> Any:
        self._asked.add(name)
        value = self.value.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(name, problem)
        return value

    def wrong(self, name: str, problem: str) -> UsageError:
        return UsageError(f"{self.what}: {name} {problem}.")

    def text(self, name: str) -> str:
        text: str = self.get(name, str, "", "is not a text")
        return text

    def flag(self, name: str) -> bool:
        return bool(self.get(name, bool, False, "is neither true nor false"))

    def path(self, name: str) -> str:
        text = self.text(name)
        if text and not text.startswith("/"):
            raise self.wrong(name, "is not an absolute path")
        return text

    def number(self, name: str, default: float, least: float, most: float) -> float:
        self._asked.add(name)
        value = default if self.value.get(name) is None else self.value[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.wrong(name, f"is not a number from {least:g} to {most:g}")
        return float(value)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.get(name, list, [], "is not a list")
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "is not a list of texts")
        return tuple(values)

    def below(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = self.get(name, dict, {}, "is not a mapping")
        return result

    def finish(self) -> None:
        for name in self.value:
            if name not in self._asked:
                raise UsageError(
                    f"{self.what} has an unknown member {name!r}.",
                    hint=f"Known are {', '.join(sorted(self._asked))}.",
                )
