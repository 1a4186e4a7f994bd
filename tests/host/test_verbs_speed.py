"""What verbs cost that do little but ask PID 1: what they import, and their processor time beside an interpreter's.

Nearly all that such a verb takes is imports, and one in the wrong place brings dozens of modules.
"""

from __future__ import annotations

import json

from gearhost import GearHost

# What none of them needs; the first ones are what pystemd's package and what it imports would bring.
NEEDLESS = set(
    "lxml pprint dataclasses inspect asyncio ctypes hashlib http random shutil socket ssl subprocess tempfile "
    "threading yaml gear.composing gear.bundle gear.units gear.seccomp gear.store gear.oci gear.install "
    "gear.images".split()
)
# What those can do without that read no specification, or only an outline of each.
SPECIFICATION = {f"gear.{name}" for name in ("spec", "isolation", "health", "supplies", "budget")}

# Prints the best processor time of some commands, by turns: an interpreter with what every verb imports is the first.
MEASURE = b"""
import json, os, subprocess, sys
best = {}
commands = [[sys.executable, "-c", "import argparse, json, pathlib, typing"], ["gear", "ps"],
            ["gear", "status", "vsp-web"], ["gear", "kill", "-s", "CONT", "vsp-web"]]
for _ in range(12):
    for command in commands:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, command
        taken = usage.ru_utime + usage.ru_stime
        best[command[1]] = min(best.get(command[1], 1e9), taken)
print(json.dumps(best))
"""
# Others share the machine: one series of these within the bound shows that it can be met.
SERIES = 3
# Some 1.2 for kill, 1.5 for ps, and 1.9 for status, of which systemctl is a part.
BOUND = 2.6


def imported(host: GearHost, *words: str) -> set[str]:
    """All modules of one run of gear, and the packages that they are in."""
    done = host.run("python3", "-X", "importtime", "/usr/local/bin/gear", *words)
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip() for line in lines}
    return names | {name.partition(".")[0] for name in names}


def test_verbs_that_ask_pid_1_take_little_more_than_an_interpreter(host: GearHost) -> None:
    host.gear("install", "hello", "vsp-web", "--net", "none", "--start")
    for words in (
        ("ps",),
        ("status", "vsp-web"),
        ("status", "--output", "json", "vsp-web"),
        ("logs", "vsp-web"),
        ("kill", "--signal", "CONT", "vsp-web"),
        ("stop", "vsp-web"),
        ("start", "vsp-web"),
    ):
        found = imported(host, *words)
        assert "gear.cli" in found
        assert not found & NEEDLESS, words
        assert words[0] not in ("ps", "kill", "stop") or not found & SPECIFICATION, words
    for _ in range(SERIES):
        times = json.loads(host.run("python3", "-", input=MEASURE).stdout)
        floor = times.pop("-c")
        ratios = {verb: round(taken / floor, 2) for verb, taken in times.items()}
        print(f"processor time, times that of an interpreter: {ratios}")
        if max(ratios.values()) <= BOUND:
            break
    assert max(ratios.values()) <= BOUND, ratios
