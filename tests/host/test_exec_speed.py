"""Getting inside a running container, against podman in the same minute on the same host; no absolute time counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gearhost import RELEASE, GearHost, demo_image, start_host
from testhostlib import build_image
from timing import SERIES

# 0.22 to 0.31 on a quiet machine, and up to 0.45 on one whose processors others use.
BOUND = 0.5
ROUNDS = 15

# Rounds alternate, so that whatever else the machine does meets both alike.
MEASURE = """
import json, statistics, subprocess, sys, time
rounds, commands = int(sys.argv[1]), json.loads(sys.argv[2])
times = [[] for command in commands]
for round in range(rounds + 2):
    for number, command in enumerate(commands):
        before = time.perf_counter()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if round >= 2:  # the first ones fill caches
            times[number].append(time.perf_counter() - before)
print(json.dumps([statistics.median(taken) for taken in times]))
"""


@pytest.fixture
def both(tmp_path: Path) -> Iterator[GearHost]:
    """A host with podman besides; the other tests' one stays free of it."""
    machine = start_host(extra="podman")
    try:
        machine.host.copy(demo_image(tmp_path), "/root")
        machine.host.copy(build_image("busybox", release=RELEASE), "/root/busybox.tar")
        yield machine
    finally:
        machine.host.stop()


def test_exec_takes_less_than_half_of_podmans_time(both: GearHost) -> None:
    both.gear("image", "load", "/root/hello")
    both.gear("install", "hello", "ours", "--net", "none", "--start", "--", "sleep", "10000")
    # A nested host's control groups are not to be written, where they are v1.
    both.sh("podman import -q /root/busybox.tar busybox")
    both.sh("podman run -d --name theirs --net none --cgroups=disabled busybox sleep 10000")
    both.write("/root/measure.py", MEASURE.encode())
    commands = [["gear", "exec", "ours", "--", "true"], ["podman", "exec", "theirs", "true"]]
    for _ in range(SERIES):
        ours, theirs = json.loads(both.out("python3", "/root/measure.py", str(ROUNDS), json.dumps(commands)))
        print(f"exec: {ours / theirs:.2f} times podman's {theirs * 1000:.0f} ms by the medians")
        if ours / theirs <= BOUND:
            break
    assert ours / theirs <= BOUND, (ours, theirs)
