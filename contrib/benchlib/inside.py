"""What runs in the host: cases take turns, round after round, and each of their timed steps is noted.

Python's standard library only.  It is started as `python3 inside.py`, reads one order from standard input and prints
one answer, both in JSON:

    {"rounds": 15, "warmup": 2, "cases": [{"name": "gear", "steps": [STEP...]}...]}
    {"values": {"gear": {"start": [0.021, ...]...}...}, "failed": {"runc": "what it complained of"}}

A step is {"argv": [...]} and, where it is measured, "metric": its name.  More of it:
    "marks": N   the payloads say N times that they run, which is METRIC-first; see mark()
    "unit": U    how long PID 1 says that U was activating is METRIC-activating
    "pid1": true the processor time that PID 1 has taken is METRIC-pid1
    "beside": N  of the processes that there were not before and that are no payload: METRIC-processes and
                 METRIC-bytes, of each of N containers; and METRIC-host-bytes, what all others, PID 1 and daemons
                 among them, have taken more
    "memory": true   what the command, or one of its children, had in memory at most is METRIC-bytes
    "cpu": true      the processor time of the command itself is METRIC-cpu
    "numbers": true   the program prints JSON of metrics itself
A case that fails once is left out from there on, and the answer says why.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from typing import Any

# Where payloads tell that their first instruction has run: one byte each.
MARK = "/var/lib/bench/mark/fifo"
# Seconds until a step has failed, and until what a step leaves is settled.
PATIENCE, SETTLED = 600.0, 0.3


class Failed(Exception):
    """A step has failed; says why."""


def main() -> None:
    order = json.load(sys.stdin)
    mark = os.open(MARK, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    values: dict[str, dict[str, list[float]]] = {case["name"]: {} for case in order["cases"]}
    failed: dict[str, str] = {}
    for number in range(order["warmup"] + order["rounds"]):
        # What comes first in one round comes last in the next.
        for case in order["cases"][:: -1 if number % 2 else 1]:
            name = case["name"]
            if name in failed:
                continue
            try:
                taken = [(step, perform(step, mark)) for step in case["steps"]]
            except Failed as err:
                failed[name] = str(err)
                continue
            for step, metrics in taken:
                # The first rounds fill caches.
                if number >= order["warmup"] and "metric" in step:
                    for metric, value in metrics.items():
                        values[name].setdefault(metric, []).append(value)
    json.dump({"values": values, "failed": failed}, sys.stdout)


def perform(step: dict[str, Any], mark: int) -> dict[str, float]:
    """Do one step; returns its metrics by name, times in seconds."""
    metric = step.get("metric", "")
    drain(mark)
    before = processes() if "beside" in step else {}
    cpu = pid1_seconds() if step.get("pid1") else 0.0
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as printed:
        keep = printed if step.get("numbers") else subprocess.DEVNULL
        began = time.monotonic()
        process = subprocess.Popen(step["argv"], stdin=subprocess.DEVNULL, stdout=keep, stderr=said)
        ended, first, usage = watch(process, mark, step.get("marks", 0), began)
        if process.returncode != 0:
            said.seek(0)
            raise Failed(complaint(step["argv"], process.returncode, said.read()))
        printed.seek(0)
        metrics: dict[str, float] = json.load(printed) if step.get("numbers") else {metric: ended - began}
    if step.get("marks"):
        if first is None:
            raise Failed(f"{step['argv'][0]} said that it was done, and the payload did not run")
        metrics[f"{metric}-first"] = first - began
    if step.get("memory"):
        metrics[f"{metric}-bytes"] = usage.ru_maxrss * 1024
    if step.get("cpu"):
        metrics[f"{metric}-cpu"] = usage.ru_utime + usage.ru_stime
    if step.get("pid1"):
        metrics[f"{metric}-pid1"] = pid1_seconds() - cpu
    if "unit" in step:
        metrics[f"{metric}-activating"] = activating(step["unit"])
    if "beside" in step:
        now = settled(before)
        more = [size for pid, size in now.items() if pid not in before]
        grown = sum(size - before[pid] for pid, size in now.items() if pid in before)
        metrics[f"{metric}-processes"] = len(more) / step["beside"]
        metrics[f"{metric}-bytes"] = sum(more) / step["beside"]
        metrics[f"{metric}-host-bytes"] = grown / step["beside"]
    return metrics


def watch(
    process: subprocess.Popen[bytes], mark: int, marks: int, began: float
) -> tuple[float, float | None, resource.struct_rusage]:
    """Wait for the command's end and for the last of *marks*.

    Returns when they were, on the monotonic clock, and what the command has used.
    """
    ended: float | None = None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    first: float | None = None
    deadline = began + PATIENCE
    pidfd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if marks:
            poll.register(mark, select.POLLIN)
        while ended is None or (marks and process.returncode == 0):
            events = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            now = time.monotonic()
            if mark in events:
                marks -= len(os.read(mark, min(marks, 65536)))
                if not marks:
                    first = now
                    poll.unregister(mark)
            if pidfd in events:
                ended = now
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                poll.unregister(pidfd)
                # A payload that does not come now never comes.
                deadline = now + 30
            if not events:
                break
    finally:
        os.close(pidfd)
    if ended is None:
        process.kill()
        process.wait()
        raise Failed(f"{process.args!r} did not end within {PATIENCE:.0f} s"[:300])
    return ended, first, usage


def drain(mark: int) -> None:
    """Forget what payloads have said before."""
    try:
        while os.read(mark, 65536):
            pass
    except BlockingIOError:
        pass


def complaint(argv: list[str], status: int, said: bytes) -> str:
    """The last that a failed command has said that looks like a reason."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if "level=warning" not in line and not line.startswith("See ")]
    if argv[0] == "systemctl" and argv[1] in ("start", "restart"):
        log = subprocess.run(
            ["journalctl", "-q", "-n", "12", "-o", "cat", "-u", argv[-1]], capture_output=True, text=True
        )
        from_unit = [line for line in log.stdout.splitlines() if not line.startswith(argv[-1])]
        wanted = [line for line in from_unit if "rror" in line or "ail" in line or "efus" in line]
        lines += wanted[:1] or from_unit[-2:]
    return (lines[-1] if lines else f"{' '.join(argv[:3])} ended with status {status}")[:300]


def pid1_seconds() -> float:
    """The processor time that PID 1 has taken so far."""
    with open("/proc/1/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def activating(unit: str) -> float:
    """Seconds between PID 1's beginning of a unit's start and its being active."""
    names = ("ActiveEnterTimestampMonotonic", "InactiveExitTimestampMonotonic")
    shown = subprocess.run(
        ["systemctl", "show", "--property", ",".join(names), unit], capture_output=True, text=True, check=True
    )
    at = dict(line.split("=") for line in shown.stdout.split())
    return (int(at[names[0]]) - int(at[names[1]])) / 1e6


def processes() -> dict[int, int]:
    """The proportional set size in bytes of every process that is no payload, by pid; kernel threads and this one
    are none."""
    found = {}
    for word in os.listdir("/proc"):
        if not word.isdigit() or int(word) == os.getpid():
            continue
        try:
            if os.path.basename(os.readlink(f"/proc/{word}/exe")) == "busybox":
                continue
            with open(f"/proc/{word}/smaps_rollup") as file:
                sizes = [line.split()[1] for line in file if line.startswith("Pss:")]
        except OSError:
            continue  # it has ended, or is the kernel's
        found[int(word)] = int(sizes[0]) * 1024 if sizes else 0
    return found


def settled(before: dict[int, int]) -> dict[int, int]:
    """The processes that there are, once those that there are more of than *before* are the same for a while."""
    deadline = time.monotonic() + 10
    last: set[int] = set()
    since = time.monotonic()
    while True:
        now = processes()
        more = now.keys() - before.keys()
        if more != last:
            since = time.monotonic()
        last = more
        if time.monotonic() > min(since + SETTLED, deadline):
            return now
        time.sleep(0.05)


if __name__ == "__main__":
    main()
