"""A run: a host with every tool on it, and series of cases that take turns in it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The tests' own way of putting gear on a host; contrib/bench and pytest have its directory on their path.
from gearhost import GearHost
from testhostlib import CommandError, boot, build_image

from . import inside, peers, runners
from .samples import Missing, Results

# Seconds that one series may take; virtual machines take twenty times as long.
SERIES_TIMEOUT_S = {"nested": 3600.0, "vm": 6 * 3600.0}
VERSIONS = {
    "systemd": "systemctl --version | head -n 1",
    "podman": "podman --version",
    "docker": "docker --version",
    "lxc": "lxc-start --version",
    "crun": "crun --version | head -n 1",
    "runc": "runc --version | head -n 1",
    # Not who has built it.
    "kernel": "uname -r | cut -d . -f 1,2",
}

Step = dict[str, Any]


@dataclass
class Run:
    """What is being measured on which host; measures add to *results*."""

    host: GearHost
    tools: list[peers.Peer]
    rounds: int
    warmup: int = 2
    # The numbers of containers that costs are followed over.
    counts: tuple[int, ...] = (10, 100, 1000)
    bursts: tuple[int, ...] = (10, 50, 200)
    results: Results = field(default_factory=Results)
    say: Callable[[str], None] = print

    def tool(self, name: str) -> peers.Peer | None:
        """One of the tools, if it takes part."""
        return next((tool for tool in self.tools if tool.name == name), None)

    def script(self, text: str) -> None:
        """Run a long script in the host; raises CommandError."""
        self.host.host.run(
            ["bash", "-es"], input=text.encode(), timeout=SERIES_TIMEOUT_S[self.host.host.kind]
        )

    def made(
        self, measure: str, case: str, tool: peers.Peer, names: list[str], *, port: int | None = None
    ) -> bool:
        """Make containers with a tool; where that fails, the results say so and why."""
        lacks = tool.lacks("bridge" if port is not None else measure)
        if not lacks:
            try:
                self.script(tool.make(names, port=port))
                return True
            except CommandError as err:
                lacks = str(err)[-300:]
        self.lacking(measure, case, tool.name, lacks)
        return False

    def lacking(self, measure: str, case: str, tool: str, reason: str) -> None:
        self.results.missing.append(Missing(measure, case, tool, reason))

    def remove(self, tool: peers.Peer, names: list[str]) -> None:
        """Remove what made() has made; what is gone already is no matter."""
        self.host.host.run(
            ["bash", "-s"],
            input=tool.remove(names).encode(),
            check=False,
            timeout=SERIES_TIMEOUT_S[self.host.host.kind],
        )

    def series(
        self,
        measure: str,
        case: str,
        cases: dict[str, list[Step]],
        *,
        count: int | None = None,
        rounds: int | None = None,
        warmup: int | None = None,
        counts_of: str | None = None,
    ) -> set[str]:
        """Have cases, by tool, take turns, and add what they have taken; returns the tools that failed.

        With *counts_of* they are all of that tool, by numbers of containers.
        """
        order = {
            "rounds": rounds or self.rounds,
            "warmup": self.warmup if warmup is None else warmup,
            "cases": [{"name": name, "steps": steps} for name, steps in cases.items()],
        }
        self.say(f"{measure} {case}{f' of {count}' if count is not None else ''}: {', '.join(cases)}")
        done = self.host.host.run(
            ["python3", f"{peers.TOP}/inside.py"],
            input=json.dumps(order).encode(),
            timeout=SERIES_TIMEOUT_S[self.host.host.kind],
        )
        answer = json.loads(done.stdout)
        for tool, values in answer["values"].items():
            if tool in answer["failed"]:
                continue
            if counts_of is None:
                self.results.add(measure, case, tool, values, count)
            else:
                self.results.add(measure, case, counts_of, values, int(tool))
        for tool, reason in answer["failed"].items():
            where = case if count is None else f"{case} of {count}"
            self.lacking(measure, where, tool, reason)
        return set(answer["failed"])


def facts(host: GearHost, tools: list[peers.Peer], rounds: int) -> dict[str, Any]:
    """What results are of: the host, the programs, and how busy this machine was."""
    versions = {}
    for name, script in VERSIONS.items():
        versions[name] = host.sh(f"{script} 2>/dev/null || :", check=False).strip()
    return {
        "release": host.host.release,
        "kind": host.host.kind,
        "cgroup": host.host.cgroup,
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "rounds": rounds,
        "versions": versions,
        "notes": {tool.name: tool.note for tool in tools if tool.note},
    }


@contextmanager
def started(
    release: str, *, vm: bool, tools: tuple[str, ...], rounds: int, say: Callable[[str], None]
) -> Iterator[Run]:
    """Boot a host with the tools, gear and the image on it, for as long as the context lasts."""
    say(f"booting {release}{' as a virtual machine' if vm else ''}")
    machine = boot(release, vm=vm, extra="peers")
    try:
        host = GearHost(machine)
        run = Run(host, runners.peers(tools, release, nested=not vm), rounds, say=say)
        prepare(run)
        run.results.host = facts(host, run.tools, rounds)
        yield run
        # The load of the whole of it says more than that of its beginning.
        run.results.host["load after"] = round(os.getloadavg()[0], 2)
    finally:
        machine.stop()


def prepare(run: Run) -> None:
    """Put on the host what all cases need."""
    run.host.host.copy(build_image("busybox", release=run.host.host.release), "/root/busybox.tar")
    run.script(runners.SETUP)
    run.host.write(f"{peers.TOP}/mark/payload", peers.PAYLOAD.encode())
    run.host.write(f"{peers.TOP}/inside.py", Path(inside.__file__).read_bytes())
    # Daemons that nobody asked for would share the processors.
    for name, units in (("docker", "docker.socket docker containerd"), ("lxc", "lxc-monitord")):
        if run.tool(name) is None:
            run.host.sh(f"systemctl stop -q {units} 2>/dev/null || :")
    run.host.sh("systemctl stop -q docker-registry netavark-dhcp-proxy 2>/dev/null || :")
    for tool in list(run.tools):
        try:
            run.script(tool.setup())
        except CommandError as err:
            run.tools.remove(tool)
            run.lacking("all", "", tool.name, str(err)[-300:])


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory of this machine for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)
