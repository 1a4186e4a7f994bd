"""A nested host: systemd as PID 1 of an nspawn container on a cached tree.  Fast, and no security boundary.

Below it all is the shared tree, read-only; changes go to an overlay of the host's own.  /var and /root are
plain directories, because overlayfs can't be the upper layer of another overlayfs, and containers bring
theirs.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import cgroups, kernel, needs
from .errors import ToolError
from .guest import Guest, News, Watched
from .processes import Process

REBOOT = 133  # nspawn's exit status for "start me again", with --keep-unit
NOTIFY = "/run/systemd/testhost-notify"

# Debian 13's systemd wants to be told twice that cgroup v1 is meant (systemd 256 NEWS).
LEGACY = ("SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1", "systemd.unified_cgroup_hierarchy=0")


def nspawn(name: str, root: str, binds: Sequence[tuple[str, str]], *, legacy: bool, files: int) -> list[str]:
    argv = ["systemd-nspawn", "-q", "-D", root, "-b", f"--machine={name}", "--keep-unit", "--register=no"]
    argv += ["--capability=all", "--system-call-filter=@known", "--console=pipe", "--private-network"]
    argv += [f"--rlimit=NOFILE=1024:{files}"]
    argv += ["--notify-ready=yes", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
    argv += [f"--bind={escape(source)}:{escape(target)}" for source, target in binds]
    return argv + (list(LEGACY) if legacy else [])


def escape(path: str) -> str:
    """nspawn splits --bind= at colons that have no backslash before them."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


def files_limit() -> int:
    """The hard limit of open files to ask for: that of a host of its own.

    nspawn's default is the kernel's, too little for dbus.  A root without CAP_SYS_RESOURCE can't raise its
    own.
    """
    return min(524288, int(Path("/proc/sys/fs/nr_open").read_text()))


class Nested(Guest):
    """The guest for the supervisor."""

    def prepare(self) -> None:
        self.root = self.directory / "root"
        upper, work, var, home = (self.storage / part for part in ("upper", "work", "var", "home"))
        for path in (self.root, upper, work):
            path.mkdir(exist_ok=True)
        # Relative to the cache, so that no character in its path needs escaping in the options.
        os.chdir(self.places.cache)
        layers = [os.path.relpath(path) for path in (upper, work)]
        if any(character in layer for layer in layers for character in ",:\\"):
            raise ToolError(
                f"overlayfs can't work in {self.storage}: its path has a comma, colon or backslash"
            )
        options = f"lowerdir={self.request.source},upperdir={layers[0]},workdir={layers[1]}"
        if not self.request.storage:
            options += ",volatile"  # nothing of it is kept, so nothing needs to be synced
        kernel.mount("overlay", str(self.root), "overlay", 0, options)
        if not var.exists():
            self.copy_var(var)
            (self.root / "etc/machine-id").write_text(self.request.machine_id + "\n")
            (self.root / "etc/hostname").write_text(self.request.name + "\n")
        home.mkdir(mode=0o700, exist_ok=True)
        self.binds = [
            (str(var), "/var"),
            (str(self.root / "var/lib/dpkg"), "/var/lib/dpkg"),
            (str(home), "/root"),
            *self.request.binds,
        ]
        # nspawn leaves directories in /run/systemd; this one is seen by it alone.
        os.makedirs("/run/systemd", exist_ok=True)
        kernel.mount("tmpfs", "/run/systemd", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notify.bind(NOTIFY)
        self.leader: int | None = None

    def copy_var(self, var: Path) -> None:
        """All of the tree's /var but dpkg's database, 90 % of it, which is bound from the overlay."""
        tree = self.places.cache / self.request.source / "var"
        staging = var.with_name(".var")
        (staging / "lib").mkdir(parents=True, exist_ok=True)
        lib = [path for path in tree.glob("lib/*") if path.name != "dpkg"]
        rest = [path for path in tree.iterdir() if path.name != "lib"]
        for sources, target in ((rest, staging), (lib, staging / "lib")):
            subprocess.run(["cp", "-a", "--reflink=auto", "-t", target, "--", *sources], check=True)
        (staging / "lib/dpkg").mkdir(exist_ok=True)
        staging.rename(var)

    def start(self) -> None:
        argv = nspawn(
            self.request.name,
            str(self.root),
            self.binds,
            legacy=cgroups.version() == "v1",
            files=files_limit(),
        )
        environment = {"PATH": needs.SEARCH_PATH, "NOTIFY_SOCKET": NOTIFY, "SYSTEMD_NSPAWN_LOCK": "0"}
        with open(self.directory / "console.log", "ab") as console:
            self.child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment,
                cwd="/",
                preexec_fn=lambda: cgroups.join(self.cgroups, "host"),
            ).pid

    def watched(self) -> list[Watched]:
        return [self.notify]

    def heard(self, source: Watched) -> News | None:
        words = dict(
            line.split("=", 1) for line in self.notify.recv(65536).decode().splitlines() if "=" in line
        )
        if "X_NSPAWN_LEADER_PID" in words:
            self.leader = int(words["X_NSPAWN_LEADER_PID"])
            return News(leader=self.leader)
        return News(ready=True) if words.get("READY") == "1" else None

    def ended(self, status: int) -> bool:
        self.child = self.leader = None
        return os.waitstatus_to_exitcode(status) == REBOOT

    def cut_power(self) -> None:
        victim = self.leader or self.child
        if victim is not None:
            os.kill(victim, signal.SIGKILL)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The clean environment of a command in a host."""
    words = {"PATH": needs.SEARCH_PATH, "HOME": "/root", "TERM": os.environ.get("TERM", "dumb")}
    return words | {"LANG": "C.UTF-8"} | dict(extra or {})


# $1 is the limit of open files; enters the cgroups named before '--', then runs what is after it.
JOIN = """\
ulimit -Hn "$1" 2>/dev/null
ulimit -Sn 1024
shift
until [ "$1" = -- ]; do echo 0 > "$1" || exit 125; shift; done
shift
exec "$@"
"""


def enter(leader: Process, argv: Sequence[str], *, tty: bool = False) -> list[str]:
    """The command that runs ARGV in all namespaces and in the cgroup of the leader, and dies with its parent.

    With TTY it gets a terminal of the host's own, by script(1); that of the caller has no name in there.
    """
    procs = [str(path / "cgroup.procs") for path in cgroups.of(leader.pid)]
    if tty:
        argv = ["script", "--quiet", "--return", "--command", f"exec {shlex.join(argv)}", "/dev/null"]
    inside = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    return [
        "sh",
        "-c",
        JOIN,
        "sh",
        str(files_limit()),
        *procs,
        "--",
        "nsenter",
        "-t",
        str(leader.pid),
        "-a",
        "--",
        *inside,
    ]
