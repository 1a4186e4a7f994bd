"""Power cuts at random moments of install, change, delete and pull: what was committed is there, and fsck is content.

A virtual machine keeps everything of gear on a second disk whose writes and flushes are logged.  That disk is made what
it was at some moments of the log, and a nested host, which is twenty times faster, looks at each.  This loses what the
guest had not flushed; killing qemu loses only what the guest had not written.  GEAR_TEST_EVERY=1 has fifty moments, and
GEAR_TEST_SEED chooses them.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gearhost import EVERY, RELEASE, GearHost, demo_image
from powerlog import Log
from testhostlib import boot

MOMENTS = 50 if EVERY else 8
SEED = int(os.environ.get("GEAR_TEST_SEED") or random.randrange(1 << 32))

# A registry with one image, of the OCI layout /root/hello: what a pull asks for.
REGISTRY = b"""
import http.server, json, pathlib
top = pathlib.Path("/root/hello")
(entry,) = json.loads((top / "index.json").read_text())["manifests"]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        kind, _, name = self.path.rpartition("/")
        is_manifest = kind.endswith("/manifests")
        digest = name if ":" in name else entry["digest"]
        path = top / "blobs/sha256" / digest.removeprefix("sha256:")
        found = self.path == "/v2/" or path.is_file()
        data = path.read_bytes() if found and self.path != "/v2/" else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", entry["mediaType"] if is_manifest else "application/octet-stream")
        self.send_header("Docker-Content-Digest", digest)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
    do_HEAD = do_GET
http.server.ThreadingHTTPServer(("127.0.0.1", 5000), Handler).serve_forever()
"""

# Everything of gear's that lasts is on the disk.
PLACES = {
    "state": "/var/lib/gear",
    "units": "/usr/local/lib/systemd/system",
    "system": "/etc/systemd/system",
}
ON_DISK = (
    "".join(f"mkdir -p /d/{name} {place}; " for name, place in PLACES.items())
    + ("cp -a /etc/systemd/system/. /d/system; sync -f /d; ")
    + "".join(f"mount --bind /d/{name} {place}; " for name, place in PLACES.items())
)

REMOTE = "localhost:5000/hello:1"
# What is done, one command after the other.
WORK: tuple[tuple[str, ...], ...] = (
    ("install", REMOTE, "first", "-v", "first:/data", "-e", "V=1"),
    ("start", "first"),
    ("install", REMOTE, "second", "-e", "V=1", "-p", "8081:8080"),
    ("install", REMOTE, "first", "-v", "first:/data", "-e", "V=2", "-p", "8082:8080"),
    ("stop", "first"),
    ("delete", "second"),
    ("image", "tag", REMOTE, "kept:1"),
    ("start", "first"),
    ("install", REMOTE, "second", "-e", "V=2", "--net", "none"),
    ("install", REMOTE, "second", "-e", "V=3", "-v", "other:/data", "--stop-timeout", "7"),
    ("image", "rm", "kept:1"),
    ("delete", "--volumes", "second"),
    ("install", REMOTE, "first", "-v", "first:/data", "-e", "V=3"),
)


@dataclass(frozen=True)
class State:
    """What there is: images by name, containers with the V of their environment, those that start at boot, volumes."""

    images: frozenset[str] = frozenset()
    containers: frozenset[tuple[str, str]] = frozenset()
    at_boot: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()


LOOK = """
cd /var/lib/gear 2>/dev/null || exit 0
for f in images/references/*; do [ -e "$f" ] && echo "image ${f##*/}"; done
for f in containers/*/spec.json; do
    [ -e "$f" ] && d=${f%/*} && echo "container ${d##*/} $(sed -n 's/.*"V": "\\(.*\\)".*/\\1/p' $f)"; done
for f in /etc/systemd/system/container-active.target.wants/ctr-*; do [ -L "$f" ] && echo "boot ${f##*/}"; done
for f in volumes/*/data; do [ -e "$f" ] && d=${f%/*} && echo "volume ${d##*/}"; done
:
"""


def look(host: GearHost) -> State:
    rows = [line.split() for line in host.sh(LOOK).splitlines()]

    def of(kind: str) -> list[list[str]]:
        return [row[1:] for row in rows if row[0] == kind]

    return State(
        frozenset(name for (name,) in of("image")),
        frozenset((row[0], row[1]) for row in of("container")),
        frozenset(name for (name,) in of("boot")),
        frozenset(name for (name,) in of("volume")),
    )


@dataclass
class Record:
    """What the machine did: states by the number of requests that the disk had seen when each was acknowledged."""

    log: Log
    pristine: Path
    states: list[tuple[int, State]] = field(default_factory=list)
    commands: list[tuple[str, ...]] = field(default_factory=list)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """The work, done once in a virtual machine."""
    directory = tmp_path_factory.mktemp("power")
    disk, pristine = directory / "disk.img", directory / "pristine.img"
    with open(disk, "wb") as file:
        file.truncate(192 << 20)
    eager = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", eager, disk], check=True)
    shutil.copyfile(disk, pristine)
    found = Record(Log(directory / "disk.img.log"), pristine)
    host = boot(RELEASE, vm=True, logged=disk)
    try:
        machine = GearHost(host)
        machine.host.copy(demo_image(directory), "/root")
        machine.write("/root/registry", REGISTRY)
        machine.sh(f"mkdir /d; mount /dev/vdb /d; {ON_DISK}")
        machine.run("systemd-run", "-q", "--unit=registry", "/usr/bin/python3", "/root/registry")
        machine.wait(lambda: machine.out("ss", "-Hltn", "sport = :5000"), "the registry")
        for command in (("image", "pull", REMOTE), *WORK):
            machine.gear(*command)
            found.commands.append(command)
            # The next command writes to the disk after this, and so nothing that came before is of it.
            found.states.append((len(found.log.entries()), look(machine)))
    finally:
        host.stop()
    yield found


def moments(record: Record, chance: random.Random) -> list[int]:
    """When power fails: half of the moments are those right after an acknowledgement."""
    acknowledged = [moment for moment, _ in record.states]
    first, last = acknowledged[0] // 2, acknowledged[-1]
    chosen = chance.sample(acknowledged, min(MOMENTS // 2, len(acknowledged)))
    return chosen + [chance.randint(first, last) for _ in range(MOMENTS - len(chosen))]


def possible(record: Record, moment: int) -> tuple[State, State, str]:
    """The last state that was acknowledged by then, the one after it, and the command between."""
    done = sum(1 for when, _ in record.states if when <= moment)
    before = record.states[done - 1][1] if done else State()
    if done == len(record.states):
        return before, before, "the end"
    return before, record.states[done][1], " ".join(record.commands[done])


def between(found: State, before: State, after: State) -> bool:
    """Whether each thing is as it was before or after a command."""

    def kept(part: str) -> bool:
        old, new, now = (getattr(state, part) for state in (before, after, found))
        return bool(old & new <= now <= old | new)

    containers = [dict(state.containers) for state in (before, after, found)]
    whole = all(containers[2].get(name) in (containers[0].get(name), containers[1].get(name))
                for name in set().union(*containers))  # fmt: skip
    return whole and all(kept(part) for part in ("images", "at_boot", "volumes"))


def test_a_power_cut_loses_nothing_that_was_committed(record: Record, tmp_path: Path) -> None:
    print(f"GEAR_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    image = tmp_path / "cut.img"
    machine = GearHost(boot(RELEASE, binds=[(str(tmp_path), "/power")]))
    wrong = []
    try:
        machine.sh("for n in $(seq 0 63); do [ -e /dev/loop$n ] || mknod -m 600 /dev/loop$n b 7 $n; done;"
                   " [ -e /dev/loop-control ] || mknod -m 600 /dev/loop-control c 10 237; mkdir -p /d;"
                   f" mkdir -p {' '.join(PLACES.values())}")  # fmt: skip
        for moment in moments(record, chance):
            how = record.log.cut(record.pristine, moment, chance, image)
            before, after, command = possible(record, moment)
            problem = problem_of(machine, before, after)
            if problem:
                wrong.append(f"{command}, {how}: {problem}")
    finally:
        machine.host.stop()
    assert not wrong, f"seed {SEED}:\n" + "\n".join(wrong)


def problem_of(machine: GearHost, before: State, after: State) -> str:
    """What is wrong on the disk that power was cut from; nothing if it is as it should be."""
    binds = "".join(f"mount --bind /d/{name} {place}; " for name, place in PLACES.items())
    machine.sh("mount -o loop /power/cut.img /d; mkdir -p /d/state /d/units /d/system")
    try:
        machine.sh(f"{binds} systemctl daemon-reload")
        found = look(machine)
        if not between(found, before, after):
            return f"there is {found}, and not {before} or {after}"
        done = machine.run("gear", "fsck", "--output", "json", check=False)
        if done.returncode:
            return f"gear fsck says {done.stdout.decode()}{done.stderr.decode()}"
        if found.at_boot:
            machine.run("systemctl", "start", "container-active.target", *found.at_boot, check=False)
            states = machine.out("systemctl", "is-active", *found.at_boot) if found.at_boot else ""
            if set(states.split()) != {"active"}:
                return f"{found.at_boot} are {states}"
        machine.gear("fsck", "--repair")
        machine.gear("clean")
        left = machine.run("gear", "fsck", check=False).stdout.decode()
        return "" if left == "everything is as it should be\n" else left
    finally:
        machine.run("systemctl", "stop", "ctr-*.service", "gear-network@*.service", check=False)
        machine.sh("".join(f"umount {place} || :; " for place in PLACES.values()) + "umount /d")
