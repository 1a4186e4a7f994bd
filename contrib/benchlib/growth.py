"""What is measured of many containers: looking at all, starting all at once, and PID 1 reading their units again."""

from __future__ import annotations

import time

from testhostlib import CommandError

from . import peers
from .running import Run, Step

# The ones that keep lists of containers.
LISTING = ("gear", "podman", "docker")
# The ones that can be started together from units or by one command.
TOGETHER = ("bare", "gear", "podman", "docker", "crun", "lxc")
# Containers of one script: command lines have an end.
AT_ONCE = 500


def make_many(run: Run, measure: str, tool: peers.Peer, names: list[str]) -> bool:
    """Make containers, some hundred in one script."""
    return all(
        run.made(measure, "", tool, names[place : place + AT_ONCE]) for place in range(0, len(names), AT_ONCE)
    )


def listing(run: Run, *, inspect: bool = True, of: tuple[str, ...] = LISTING) -> None:
    """Listing all containers and looking at one and at all of them, as their number grows; none runs."""
    for tool in run.tools:
        if tool.name not in of:
            continue
        names: list[str] = []
        for count in (0, *run.counts):
            more = [f"{tool.name}-{number:05d}" for number in range(len(names), count)]
            began = time.monotonic()
            if more and not listed(run, tool, more):
                names += more  # some of them may be there
                break
            if more:
                # As each tool makes many: gear with one command, the others one after the other.
                each = (time.monotonic() - began) / len(more)
                run.results.add("list", "making each of the last", tool.name, {"make": [each]}, count)
            names += more
            cases = {"list": tool.list_all(), "inspect one": None, "inspect all": None}
            if names and inspect:
                cases |= {"inspect one": tool.inspect(names[len(names) // 2])}
                if count <= 1000:
                    cases |= {"inspect all": tool.inspect(*names)}
            for case, argv in cases.items():
                if argv:
                    # Processor times tell growth on a busy machine as well.
                    name = "list" if case == "list" else "inspect"
                    step: Step = {"argv": argv, "metric": name, "cpu": True, "pid1": True}
                    # What takes long varies little, and has filled its caches with fewer.
                    rounds, warmup = (run.rounds, 1) if count <= 100 else (min(run.rounds, 3), 0)
                    run.series("list", case, {tool.name: [step]}, count=count, rounds=rounds, warmup=warmup)
        # In parts: command lines have an end.
        for place in range(0, len(names), AT_ONCE):
            gone(run, tool, names[place : place + AT_ONCE])


def listed(run: Run, tool: peers.Peer, names: list[str]) -> bool:
    """Make containers that `ps -a` of the tool lists; Quadlet's would be listed only while they run."""
    if tool.name != "podman":
        return make_many(run, "list", tool, names)
    commands = [argv for name in names for argv in tool.create(name) or []]
    try:
        run.script("exec >/dev/null\n" + "\n".join(" ".join(argv) for argv in commands))
    except CommandError as err:
        run.lacking("list", f"{len(names)} more", tool.name, str(err)[-300:])
        return False
    return True


# Many records of one container; arguments are the specification and the numbers.
RECORDS = f"""
import json, os, sys
document = json.load(open(sys.argv[1]))
for count in map(int, sys.argv[2:]):
    for number in range(count):
        name = f"record-{{number:04d}}"
        directory = f"{peers.TOP}/records/{{count}}/containers/{{name}}"
        os.makedirs(directory)
        with open(f"{{directory}}/spec.json", "w") as file:
            json.dump({{**document, "name": name}}, file)
"""


def records(run: Run, counts: tuple[int, ...]) -> None:
    """gear's list of more containers than can be made in short: of each there is only the record that a list reads."""
    gear = run.tool("gear")
    if gear is None or not run.made("list", "records", gear, ["gear-record"]):
        return
    run.host.write(f"{peers.TOP}/records.py", RECORDS.encode())
    spec = "/var/lib/gear/containers/gear-record/spec.json"
    run.script(f"python3 {peers.TOP}/records.py {spec} {' '.join(map(str, counts))}")
    cases: dict[str, list[Step]] = {}
    for count in (0, *counts):
        argv = ["gear", "--state-dir", f"{peers.TOP}/records/{count}", "ps", "--all", "--quiet"]
        cases[str(count)] = [{"argv": argv, "metric": "list"}]
    run.series("list", "records", cases, counts_of="gear", warmup=1)
    run.script(f"rm -r {peers.TOP}/records")
    run.remove(gear, ["gear-record"])


def gone(run: Run, tool: peers.Peer, names: list[str]) -> None:
    """Remove what listed() has made."""
    if tool.name == "podman":
        run.script(f"podman rm -f -t 0 --ignore {' '.join(names)} >/dev/null 2>&1")
    else:
        run.remove(tool, names)


def bursts(run: Run) -> None:
    """Starts at once: until all payloads run, PID 1's processor time, and what is beside the payloads then."""
    for count in run.bursts:
        cases: dict[str, list[Step]] = {}
        made = []
        for tool in run.tools:
            if tool.name not in TOGETHER or tool.lacks("start"):
                continue
            names = [f"{tool.name}-{number:03d}" for number in range(count)]
            if not run.made("burst", f"{count}", tool, names):
                continue
            made.append((tool, names))
            start: Step = {
                "argv": tool.start(*names),
                "metric": "burst",
                "marks": count,
                "pid1": True,
                "beside": count,
            }
            # What PID 1 has had for earlier ones it keeps, and would not seem to take for these.
            fresh: Step = {"argv": ["systemctl", "daemon-reexec"]}
            cases[tool.name] = [fresh, start, {"argv": tool.stop(*names), "metric": "stop"}]
        rounds = 3 if count <= 50 else 1
        run.series(
            "burst", "", cases, count=count, rounds=min(rounds, run.rounds), warmup=1 if count <= 50 else 0
        )
        for tool, names in made:
            run.remove(tool, names)


def reloading(run: Run) -> None:
    """daemon-reload as units grow, with one tool's units at a time."""
    for tool in run.tools:
        if tool.name not in ("bare", "gear", "podman"):
            continue
        names: list[str] = []
        for count in (0, *run.counts):
            more = [f"{tool.name}-{number:05d}" for number in range(len(names), count)]
            if more and not make_many(run, "reload", tool, more):
                break
            names += more
            # A unit that nobody has asked for is not loaded, and costs nothing.
            hold(run, tool, names)
            step: Step = {"argv": ["systemctl", "daemon-reload"], "metric": "reload", "pid1": True}
            run.series(
                "reload",
                "units loaded",
                {tool.name: [step]},
                count=count,
                rounds=min(run.rounds, 5),
                warmup=1,
            )
        run.script("rm -f /run/systemd/system/bench-all.target; systemctl daemon-reload")
        for place in range(0, len(names), AT_ONCE):
            run.remove(tool, names[place : place + AT_ONCE])
        run.script("systemctl daemon-reload")


def hold(run: Run, tool: peers.Peer, names: list[str]) -> None:
    """Have PID 1 keep units loaded, by a target that is after them."""
    units = "".join(f"After={tool.unit(name)}\n" for name in names)
    run.script(
        f"cat >/run/systemd/system/bench-all.target <<'UNIT'\n[Unit]\n{units}UNIT\n"
        "systemctl daemon-reload; systemctl start bench-all.target"
    )
