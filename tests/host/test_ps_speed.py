"""gear ps with a thousand containers, by ratios of times taken in the same run."""

from __future__ import annotations

import json

from gearhost import GearHost
from timing import SERIES

# Some 4.5 on a quiet machine, where it is a quarter of a second.
BOUND = 7.0
# A second thousand may take so many times what the first took.
GROWTH = 2.0

# Prints the best time of `gear ps --all` with so many containers, by number.
MEASURE = b"""
import json, os, subprocess, sys, time
document = json.load(open("/var/lib/gear/containers/obs-pattern/spec.json"))
best = {}
for count in (0, 1000, 2000):
    for number in range(count):
        name = f"obs-{number:04d}"
        directory = f"/root/obs-many/{count}/containers/{name}"
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/spec.json", "w") as file:
            json.dump({**document, "name": name}, file)
for _ in range(5):
    for count in (0, 1000, 2000):
        began = time.perf_counter()
        done = subprocess.run(["gear", "--state-dir", f"/root/obs-many/{count}", "ps", "--all", "--quiet"],
                              check=True, capture_output=True)
        best[count] = min(best.get(count, 1e9), time.perf_counter() - began)
        assert len(done.stdout.split()) == count
print(json.dumps(best))
"""


def test_a_thousand_containers_are_listed_at_once(host: GearHost) -> None:
    host.gear("install", "hello", "obs-pattern", "-p", "8080")
    host.write("/root/obs-measure.py", MEASURE)
    for _ in range(SERIES):
        times = json.loads(host.out("python3", "/root/obs-measure.py"))
        none, thousand, more = (times[count] for count in ("0", "1000", "2000"))
        ratio, growth = thousand / none, (more - thousand) / (thousand - none)
        print(f"ps: {ratio:.2f} times that of none, the second thousand {growth:.2f} times the first")
        if ratio <= BOUND and growth <= GROWTH:
            break
    host.sh("rm -r /root/obs-many /root/obs-measure.py")
    assert ratio <= BOUND and growth <= GROWTH, times
    # Whether one is paused is not asked of PID 1, one after the other.
    calls = host.sh(
        "gear start obs-pattern >/dev/null; strace -f -e trace=sendmsg gear ps 2>&1 >/dev/null | grep -c Freezer || :"
    )
    assert calls == "0"
