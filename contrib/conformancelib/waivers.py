"""Tests that are known not to pass, each with its reason: read, and held against what has happened.

A line of the file is `TEST WHERE OUTCOME REASON`.  TEST may be a pattern; WHERE is `any`, or facts of the machine
joined by `+`; OUTCOME is `fails` or `skips`.  A waived test that passes is an error, so that the list can't rot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

FACTS = ("v1", "v2", "systemd", "no-systemd", "few-cpus", "any")
OUTCOMES = {"fails": "failed", "skips": "skipped"}


@dataclass(frozen=True)
class Waiver:
    test: str
    where: frozenset[str]
    outcome: str
    reason: str


def parse(text: str) -> list[Waiver]:
    """The waivers of a file; raises ValueError with the line that is none."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(None, 3)
        facts = frozenset(words[1].split("+")) if len(words) == 4 else frozenset()
        if not facts or not facts <= set(FACTS) or words[2] not in OUTCOMES:
            raise ValueError(f"line {number} is not TEST WHERE fails|skips REASON: {line!r}")
        found.append(Waiver(words[0], facts - {"any"}, OUTCOMES[words[2]], words[3]))
    return found


def facts(root: Path = Path("/"), cpus: int = len(os.sched_getaffinity(0))) -> frozenset[str]:
    """What of this machine decides which tests can pass."""
    version = "v2" if (root / "sys/fs/cgroup/cgroup.controllers").exists() else "v1"
    found = {version, "systemd" if os.path.isdir(root / "run/systemd/system") else "no-systemd"}
    return frozenset(found | ({"few-cpus"} if cpus < 4 else set()))


def judge(results: dict[str, str], waivers: list[Waiver], here: frozenset[str]) -> list[str]:
    """What is wrong with *results* (test to passed, failed, skipped): a sentence for each, none when all is well."""
    wrong = []
    ours = [waiver for waiver in waivers if waiver.where <= here]
    for test, outcome in results.items():
        waived = {waiver.outcome for waiver in ours if fnmatchcase(test, waiver.test)}
        if outcome == "passed" and waived:
            wrong.append(f"{test} passes and is waived: remove the waiver")
        elif outcome != "passed" and outcome not in waived:
            wrong.append(f"{test} {outcome}")
    return wrong


def unknown(results: dict[str, str], waivers: list[Waiver]) -> list[str]:
    """Waivers of tests that the suite does not have; only a whole run can tell."""
    return [waiver.test for waiver in waivers if not any(fnmatchcase(test, waiver.test) for test in results)]
