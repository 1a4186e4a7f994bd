"""What holds for every unit test: it starts no process by accident, and it finds the same examples each time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import Hostile, serving
from hypothesis import settings

from gear import notices, transport

settings.register_profile("gear", derandomize=True, database=None, deadline=None, max_examples=100)
settings.load_profile("gear")

# Audit events (sys.addaudithook), which no way of importing a function gets around.
_SPAWNING = frozenset(
    ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system")
)


class SpawnedError(BaseException):
    """A unit test was about to start a process; no `except Exception` of the product hides it."""


class _Guard:
    """An audit hook can't be removed again, so this one is switched."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.armed and event in _SPAWNING:
            raise SpawnedError(f"{event} {arguments!r}: mark the test `spawns` if it is meant to")


_guard = _Guard()
sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def _no_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    _guard.armed = request.node.get_closest_marker("spawns") is None
    yield
    _guard.armed = False


@pytest.fixture(autouse=True)
def _no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests do is no event of this machine."""
    monkeypatch.setattr(notices, "SOCKET", "/nonexistent/socket")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Attempts follow each other at once, and no credentials of this machine are read."""
    monkeypatch.setattr(transport, "BACKOFF_S", 0.001)
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))


@pytest.fixture
def registry() -> Iterator[Hostile]:
    with serving(Hostile()) as made:
        yield made
