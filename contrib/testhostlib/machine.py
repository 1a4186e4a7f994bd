"""A virtual machine; not there yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import ToolError
from .guest import Guest, News, Watched
from .places import Places


def ssh(
    places: Places,
    name: str,
    port: int | None,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    tty: bool,
) -> tuple[list[str], dict[str, str]]:
    raise ToolError("virtual machines are not there yet")


class Machine(Guest):
    def prepare(self) -> None:
        raise AssertionError

    def start(self) -> None:
        raise AssertionError

    def watched(self) -> list[Watched]:
        raise AssertionError

    def heard(self, source: Watched) -> News | None:
        raise AssertionError

    def ended(self, status: int) -> bool:
        raise AssertionError

    def cut_power(self) -> None:
        raise AssertionError
