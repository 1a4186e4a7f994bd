"""Starting a container against starting a bare service, side by side, as a ratio; no absolute time counts."""

from __future__ import annotations

import json

from gearhost import GearHost
from timing import MEASURE, SERIES

# Some 1.5 on a quiet machine; this also holds while another host is under test on the same two processors.
BOUND = 3.0
ROUNDS = 40


def test_start_is_within_the_bound_of_a_bare_service(host: GearHost) -> None:
    host.write(
        "/run/systemd/system/bare.service", b"[Service]\nType=exec\nExecStart=/bin/busybox sleep 10000\n"
    )
    host.write("/root/measure.py", MEASURE.encode())
    host.gear("install", "hello", "fast", "--net", "none", "--", "sleep", "10000")
    for _ in range(SERIES):
        times = json.loads(
            host.out("python3", "/root/measure.py", str(ROUNDS), "bare.service", "ctr-fast.service")
        )
        (bare_best, bare), (our_best, ours) = times["bare.service"], times["ctr-fast.service"]
        print(
            f"start: {ours / bare:.2f} times a bare service's by the medians, {our_best / bare_best:.2f} by the best"
        )
        if ours / bare <= BOUND:
            break
    host.sh("rm /run/systemd/system/bare.service; systemctl daemon-reload")
    assert ours / bare <= BOUND, times
