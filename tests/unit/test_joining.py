"""Finding the payload that a command joins, when it is not what it was any more."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from gear import groups, joining
from gear.errors import GearError
from gear.helper import enter
from gear.helper.failure import Failure


def target(pid: int) -> joining.Target:
    """A container whose payload is said to be *pid*."""
    return joining.Target("web", pid, "/container.slice/ctr-web.service", {}, {})


def test_a_number_that_is_somebody_elses_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a payload that has ended may be a process of the host, in no namespace but the host's."""
    joined: list[Any] = []
    monkeypatch.setattr(enter, "_join", lambda *words: joined.append(words))
    other = target(os.getpid())
    with pytest.raises(Failure, match="web has ended meanwhile"):
        enter.enter(other.pid, {}, enter.Entry(confirm=lambda: joining.confirm(other)))
    assert joined == []
    monkeypatch.setattr(
        groups, "of_process", lambda pid: [("", "/container.slice/ctr-web.service/init.scope")]
    )
    enter.enter(other.pid, {}, enter.Entry(confirm=lambda: joining.confirm(other)))
    assert len(joined) == 1


def test_a_payload_that_is_gone_is_told_in_a_sentence() -> None:
    pid = 1 << 23  # more than any kernel gives out
    with pytest.raises(GearError, match="web has ended meanwhile"):
        joining.membership_of(target(pid))
    with pytest.raises(Failure):
        joining.confirm(target(pid))


@pytest.mark.spawns
def test_limits_are_those_of_prlimit() -> None:
    """Each limit that differs from this process's own, with the numbers that prlimit(2) has."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)); resource.setrlimit("
    )
    program += "resource.RLIMIT_CORE, (0, 0)); resource.setrlimit(resource.RLIMIT_CPU, (5000, resource.RLIM_INFINITY))"
    program += "; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = {item["type"]: (item["soft"], item["hard"]) for item in joining._limits(process.pid)}
        process.communicate()
    assert found.pop("RLIMIT_NOFILE") == (100, 200) and found.pop("RLIMIT_CPU") == (5000, (1 << 64) - 1)
    assert found.pop("RLIMIT_CORE", (0, 0)) == (0, 0) and not found
