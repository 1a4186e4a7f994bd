"""Units against each other by the time that their starts take, on a test host."""

from __future__ import annotations

# Other tests share the machine, and their load falls on either half by chance: one series within the bound shows that
# it can be met.
SERIES = 3

# Prints the best and the median time in seconds of each unit; arguments are the rounds and the units, which take turns.
MEASURE = """
import json, statistics, subprocess, sys, time
units, rounds = sys.argv[2:], int(sys.argv[1])
times = {unit: [] for unit in units}
for round in range(rounds + 3):
    for unit in units:
        subprocess.run(["systemctl", "stop", unit], check=True)
        before = time.perf_counter()
        subprocess.run(["systemctl", "start", unit], check=True)
        if round >= 3:  # the first ones fill caches
            times[unit].append(time.perf_counter() - before)
for unit in units:
    subprocess.run(["systemctl", "stop", unit], check=True)
print(json.dumps({unit: [min(t), statistics.median(t)] for unit, t in times.items()}))
"""
