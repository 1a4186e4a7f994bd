"""gear on a test host: what the host and vm tests drive it with.

Not the test host itself (contrib/testhostlib), which knows nothing of gear.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "contrib"))

from testhostlib import Host, boot  # noqa: E402 (its directory is put on the path above)

RELEASE = os.environ.get("GEAR_TEST_RELEASE", "bookworm")
# Kill at every change that a command makes, not at some: takes hours.
EVERY = os.environ.get("GEAR_TEST_EVERY") == "1"

# As pip makes one of an entry point.
_PROGRAM = b"""#!/usr/bin/python3
import sys
sys.path.insert(0, "/opt/gear")
from gear.cli import program
sys.exit(program())
"""


# Runs a program on a terminal of 33 rows and 77 columns, types what it is given when the text before it has appeared,
# and tells how it ended: arguments are the command, standard input has [[wait for, type], ...] in JSON.
TYPIST = b"""
import fcntl, json, os, pty, select, struct, sys, termios, time
steps = json.load(sys.stdin)
pid, master = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
before = termios.tcgetattr(master)
seen, deadline = b"", time.monotonic() + 30
while time.monotonic() < deadline:
    if steps and steps[0][0].encode() in seen:
        keys = steps.pop(0)[1]
        if keys.startswith("resize "):
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", int(keys[7:]), 77, 0, 0))
        else:
            os.write(master, keys.encode())
            seen = b""
    if not select.select([master], [], [], 0.5)[0]:
        continue
    try:
        data = os.read(master, 4096)
    except OSError:
        break
    if not data:
        break
    seen += data
    sys.stdout.write(data.decode(errors="replace"))
else:
    os.kill(pid, 9)
status = os.waitpid(pid, 0)[1]
print(f"status {os.waitstatus_to_exitcode(status)}, steps left {len(steps)}")
"""


# What changes files, and what talks to systemd.
_CHANGES = ("mkdir,mkdirat,symlink,symlinkat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,"
            "chown,fchown,lchown,fchownat,chmod,fchmod,fchmodat,fsync,pwrite64,sendmsg")  # fmt: skip
# What Python caches on a first run would be counted among the calls.
_NO_CACHE = {"PYTHONDONTWRITEBYTECODE": "1"}


class GearHost:
    """A booted test host with the checkout in /opt/gear and `gear` on its path."""

    def __init__(self, host: Host) -> None:
        self.host = host
        # Virtual machines are emulated: everything takes some 20 times as long.
        self.patience_s = 60.0 if host.kind == "nested" else 600.0
        self.sh("mkdir -p /opt/gear")
        host.copy([TOP / "gear", TOP / "units"], "/opt/gear")
        self.write("/usr/local/bin/gear", _PROGRAM, mode="755")

    def run(
        self, *argv: str, check: bool = True, input: bytes | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the host."""
        return self.host.run(list(argv), check=check, input=input, env=env)

    def out(self, *argv: str) -> str:
        """What a command prints, without the last newline."""
        return self.run(*argv).stdout.decode().rstrip("\n")

    def sh(self, script: str, *, check: bool = True) -> str:
        """What a shell script prints, without the last newline."""
        return self.run("sh", "-ec", script, check=check).stdout.decode().rstrip("\n")

    def gear(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        """Run gear; it must succeed.  Returns what it prints."""
        return self.run("gear", *arguments, env=env).stdout.decode()

    def json(self, *arguments: str) -> Any:
        """Run gear with --output json; it must succeed."""
        return json.loads(self.gear(*arguments, "--output", "json"))

    def fails(self, status: int, *arguments: str, env: dict[str, str] | None = None) -> str:
        """Run gear; it must end with *status* and without a traceback.  Returns standard error."""
        done = self.run("gear", *arguments, check=False, env=env)
        error = done.stderr.decode(errors="replace")
        assert "Traceback" not in error, error
        assert done.returncode == status, (
            f"status {done.returncode}, not {status}: {error}{done.stdout.decode()}"
        )
        return error

    def typed(self, steps: list[list[str]], *arguments: str, program: str = "gear") -> str:
        """What a person sees who runs gear on a terminal and types *steps*: [wait for, type], or `resize ROWS`."""
        arguments = (program, *arguments)
        self.write("/root/typist", TYPIST)
        done = self.run("/usr/bin/python3", "/root/typist", *arguments, input=json.dumps(steps).encode())
        return done.stdout.decode()

    def show(self, unit: str, prop: str) -> str:
        """One property of a unit, as systemctl shows it."""
        return self.out("systemctl", "show", "--property", prop, "--value", unit)

    def pid(self, name: str) -> int:
        """The main process of a container."""
        return int(self.show(f"ctr-{name}.service", "MainPID"))

    def inside(self, name: str, script: str) -> str:
        """Run a shell script of the host in the network namespace of a container."""
        return self.out("nsenter", "--target", str(self.pid(name)), "--net", "sh", "-ec", script)

    def read(self, path: str) -> bytes:
        """The content of a file of the host."""
        return self.run("cat", path).stdout

    def json_file(self, path: str) -> Any:
        """The content of a JSON file of the host."""
        return json.loads(self.read(path))

    def write(self, path: str, content: bytes, *, mode: str = "644") -> None:
        """Make a file of the host."""
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, input=content)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until *condition* holds; fails after the host's patience, saying *what* was waited for."""
        deadline = time.monotonic() + self.patience_s
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"

    def mount_new(self, kind: str, place: str, mib: int = 400, *, options: str = "loop") -> None:
        """Mount a new file system, `btrfs`, `xfs` or `ext4`, on the directory *place*; it goes with the host.

        It is made on this machine and is a file in the host, where nodes for loop devices can be had: so whatever
        happens, no mount and no loop device of this machine is left.
        """
        with tempfile.TemporaryDirectory() as directory:
            disk = Path(directory) / f"{place.replace('/', '-')[1:]}.img"
            with open(disk, "wb") as file:
                file.truncate(mib << 20)
            features = ["-O", "quota,project", "-E", "quotatype=prjquota"] if kind == "ext4" else []
            subprocess.run([f"mkfs.{kind}", "-q", *features, disk], check=True, capture_output=True)
            archive = ["tar", "-C", directory, "-cS", disk.name]
            packed = subprocess.run(archive, check=True, stdout=subprocess.PIPE).stdout
        self.run("tar", "-xSC", "/var/tmp", input=packed)
        nodes = "".join(f"[ -e /dev/loop{n} ] || mknod -m 600 /dev/loop{n} b 7 {n}\n" for n in range(64))
        self.sh("[ -e /dev/loop-control ] || mknod -m 600 /dev/loop-control c 10 237\n" + nodes)
        self.sh(f"mkdir -p {place}; mount -o {options} /var/tmp/{disk.name} {place}")

    def mount_table(self) -> list[str]:
        """The host's own mounts: device, place and type."""
        return [" ".join(line.split()[:3]) for line in self.read("/proc/1/mounts").decode().splitlines()]

    def killed(self, step: tuple[str, int], *arguments: str) -> bool:
        """Run gear and kill it at the N-th call of one kind; tells whether it got that far.

        strace counts each kind of call, and each thread, for itself.
        """
        call, number = step
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        done = self.run("strace", "-qq", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject,
                        "/usr/local/bin/gear", *arguments, check=False, env=_NO_CACHE)  # fmt: skip
        assert done.returncode in (0, 137), done.stderr.decode()
        return done.returncode == 137

    def steps(self, *arguments: str, most: int = 10) -> list[tuple[str, int]]:
        """Run gear and choose some of the changes that it makes, for killed(): *most* of each thread's, or a few more.

        A call that fails changes nothing, and a kill loses nothing that is written, so a kill at either shows what one
        at the next call shows.  Of calls of one kind in one directory the first two and the last are among those to
        choose from.  Of one release it is others than of the other.  With GEAR_TEST_EVERY=1 in the environment all are
        chosen.
        """
        traced = ("strace", "-qq", "-f", "-y", "-o", "/root/changes", "-e", f"trace={_CHANGES}")
        self.run(*traced, "/usr/local/bin/gear", *arguments, env=_NO_CACHE)
        return chosen_steps(
            self.read("/root/changes").decode(errors="replace"), most, late=RELEASE != "bookworm"
        )

    def forget(self) -> None:
        """Delete all containers and networks."""
        names = self.gear("list-units", "--all", "--quiet").split()
        if names:
            self.gear("delete", "--volumes", *names)
        networks = self.gear("network", "list", "--quiet").split()
        if networks:
            self.gear("network", "rm", *networks)

    @contextmanager
    def tidy(self) -> Iterator[None]:
        """Delete all containers in the end, and see that nothing is left then: no mount, and nothing to clean."""
        before = sorted(self.mount_table())
        yield
        # Without gear, whose start would be most of what a small test takes.
        found = self.sh("ls -d /var/lib/gear/containers/*/spec.json 2>/dev/null || :")
        if found:
            self.gear("delete", "--volumes", *(Path(path).parent.name for path in found.split()))
        assert sorted(self.mount_table()) == before
        assert self.leftovers() == []

    def leftovers(self) -> list[dict[str, str]]:
        """What gear clean would remove."""
        found: list[dict[str, str]] = self.json("clean", "--dry-run")
        return found


def start_host(*, vm: bool = False, extra: str = "") -> GearHost:
    """Boot a host of the release under test, with gear on it; *extra* names further packages of testhost's."""
    return GearHost(boot(RELEASE, vm=vm, extra=extra))


def chosen_steps(trace: str, most: int, every: bool = EVERY, *, late: bool = False) -> list[tuple[str, int]]:
    """What GearHost.steps() chooses, as call and number, of what strace wrote of all changing calls of some threads."""
    numbers: dict[tuple[str, str], int] = {}
    threads: dict[str, dict[tuple[str, int], str]] = {}
    for thread, call, rest in re.findall(r"(?m)^([0-9]+) +([a-z0-9]+)\((.*)$", trace):
        number = numbers[thread, call] = numbers.get((thread, call), 0) + 1
        if every or (") = -1 E" not in rest and call != "fsync"):
            where = re.sub(r"\.partial-[^/\">]*|[0-9a-f]{8,}|[0-9]+", "#", rest)
            threads.setdefault(thread, {})[call, number] = call + re.sub(r'[^/"<>]*[">]', "", where)
    chosen: dict[tuple[str, int], None] = {}
    for made in threads.values():
        kinds: dict[str, list[tuple[str, int]]] = {}
        for step, kind in made.items():
            kinds.setdefault(kind, []).append(step)
        telling = {step for alike in kinds.values() for step in (*alike[:2], alike[-1])}
        steps = [step for step in made if every or step in telling]
        # What was made is put in its place at the end.
        last = most // 4
        begin, end = steps[:-last], steps[-last:]
        apart = -(-len(begin) // (most - last)) or 1
        chosen |= dict.fromkeys(steps if every else begin[apart // 2 * late :: apart] + end)
    return list(chosen)


def demo_image(directory: Path, name: str = "hello") -> Path:
    """The embedded default image as an OCI layout below *directory*."""
    layout = directory / name
    program = [sys.executable, str(TOP / "contrib" / "demo-image"), "--name", name, str(layout)]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    return layout
