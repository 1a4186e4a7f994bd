"""A virtual machine: its own kernel, cgroup v2 and every controller, some twenty times slower than native.

QEMU emulates, because /dev/kvm may exist and not work; where it does, GEAR_TESTHOST_ACCEL=kvm is much faster.
The guest is reached by ssh alone, through a port of 127.0.0.1; it can't reach anything itself.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import cgroups, needs, recipe
from .errors import ToolError
from .guest import Guest, News, Watched
from .places import Places
from .state import Request

# QEMU 7.2's emulation of cmpxchg16b corrupts flags, and kernels panic under load: hence -cx16.
ACCEL = {
    "tcg": ["-accel", "tcg,thread=multi", "-cpu", "qemu64,-cx16,-svm"],
    "kvm": ["-accel", "kvm", "-cpu", "host"],
}
FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s")

# ssh binds a temporary name beside the control path, 17 bytes longer; a socket's path has at most 107.
CONTROL_PATH_MAX = 90


def qemu(request: Request, source: Path, disk: Path, qmp_fd: int, accel: str = "tcg") -> list[str]:
    """The command; port 0 has the kernel choose a free one, which QMP then tells: no race for it."""
    words = ["console=ttyS0", "root=/dev/vda", "rw", "quiet", "net.ifnames=0", "mitigations=off", "panic=-1"]
    words += [f"systemd.hostname={request.name}", f"systemd.machine_id={request.machine_id}"]
    argv = ["qemu-system-x86_64", *ACCEL[accel], "-smp", "2", "-m", f"{request.memory}M", "-no-reboot"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none"]
    argv += [
        "-kernel",
        str(source / "vmlinuz"),
        "-initrd",
        str(source / "initrd"),
        "-append",
        " ".join(words),
    ]
    argv += ["-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe".replace(str(disk), comma(disk))]
    if request.logged is not None:
        argv += logged_disk(request.logged)
    argv += ["-netdev", "user,id=net,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"]
    argv += ["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"]
    argv += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    return [*argv, "-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"]


def logged_disk(image: str) -> list[str]:
    """A second disk whose writes and flushes are recorded.  That it outlives this machine's own power is not needed."""
    names = {"disk": image, "log": f"{image}.log"}
    nodes = [
        f"driver=file,node-name={node},cache.no-flush=on,filename={comma(Path(path))}"
        for node, path in names.items()
    ]
    nodes.append("driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512")
    options = [word for node in nodes for word in ("-blockdev", node)]
    return [*options, "-device", "virtio-blk-pci,drive=logged,addr=0x1e"]  # after the root disk


def comma(path: Path) -> str:
    """QEMU's options want a comma doubled."""
    return str(path).replace(",", ",,")


class Machine(Guest):
    """The guest for the supervisor."""

    def prepare(self) -> None:
        self.source = self.places.cache / self.request.source
        self.disk = self.storage / "disk.qcow2"
        self.control = control_path(self.places, self.request.name)
        if not self.disk.exists():
            argv = [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                str(self.source / "root.img"),
            ]
            subprocess.run([*argv, str(self.disk)], check=True)

    def start(self) -> None:
        self.port: int | None = None
        self.master: int | None = None
        self.screen = b""
        self.answers = b""
        self.reset = False
        self.control.unlink(missing_ok=True)
        self.qmp, theirs = socket.socketpair()
        accel = os.environ.get("GEAR_TESTHOST_ACCEL") or "tcg"
        argv = qemu(self.request, self.source, self.disk, theirs.fileno(), accel)
        with theirs:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                preexec_fn=lambda: cgroups.join(self.cgroups, "host"),
            )
        assert process.stdout is not None
        self.child = process.pid
        self.output = process.stdout
        self.sources: list[Watched] = [self.output, self.qmp]
        self.ask("qmp_capabilities")
        self.ask("human-monitor-command", {"command-line": "info usernet"})

    def ask(self, command: str, arguments: Mapping[str, str] | None = None) -> None:
        request = {"execute": command, "arguments": dict(arguments or {})}
        self.qmp.sendall(json.dumps(request).encode() + b"\n")

    def watched(self) -> list[Watched]:
        return self.sources

    def heard(self, source: Watched) -> News | None:
        data = os.read(source.fileno(), 65536)
        if not data:
            self.sources.remove(source)
            return None
        if source is self.output:
            self.console(data)
            return None
        *lines, self.answers = (self.answers + data).split(b"\n")
        return self.told([json.loads(line) for line in lines])

    def told(self, messages: list[dict[str, object]]) -> News | None:
        """Take what QEMU's monitor says: the port, and why the guest has ended."""
        for message in messages:
            if message.get("event") == "SHUTDOWN":
                reason = message["data"]
                self.reset = isinstance(reason, dict) and reason.get("reason") == "guest-reset"
            answer = message.get("return")
            if isinstance(answer, str) and (match := FORWARD.search(answer)):
                self.port = int(match[1])
                return News(leader=self.child, port=self.port)
        return None

    def console(self, data: bytes) -> None:
        """Save the guest's console; on its mark, log in, as sshd listens by then."""
        with open(self.directory / "console.log", "ab") as file:
            file.write(data)
        self.screen = (self.screen + data)[-65536:]
        if recipe.READY_MARK.encode() in self.screen and self.master is None and self.port is not None:
            argv = ssh_options(self.places, self.request.name, self.source, self.port)
            argv += ["-f", "-N", "-o", "ControlMaster=yes", "root@127.0.0.1"]
            self.master = subprocess.Popen(argv, stdin=subprocess.DEVNULL).pid

    def helper_ended(self, pid: int, status: int) -> News | None:
        """ssh -f goes to the background, so it ends, once it is logged in."""
        if pid != self.master:
            return None
        if status == 0:
            return News(ready=True)
        self.master = None  # tried again on the next output of the console
        return None

    def ended(self, status: int) -> bool:
        for source in list(self.sources):
            self.drain(source)
        self.output.close()
        self.qmp.close()
        self.sources = []
        self.child = None
        return self.reset

    def drain(self, source: Watched) -> None:
        """Take the last words; the other end is closed, so this ends."""
        try:
            while source in self.sources:
                self.heard(source)
        except ConnectionResetError:
            return

    def cut_power(self) -> None:
        if self.child is not None:
            os.kill(self.child, signal.SIGKILL)


def control_path(places: Places, name: str) -> Path:
    path = places.host(name) / "ssh"
    if len(os.fsencode(path)) > CONTROL_PATH_MAX:
        raise ToolError(
            f"{path} is too long for a socket", hint="name a shorter cache in GEAR_TESTHOST_CACHE"
        )
    return path


def ssh_options(places: Places, name: str, source: Path, port: int) -> list[str]:
    """The start of an ssh command; its algorithms are those that are quick without hardware."""
    options = {
        "BatchMode": "yes",
        "Ciphers": "chacha20-poly1305@openssh.com",
        "ConnectTimeout": "60",
        "ControlPath": str(control_path(places, name)).replace("%", "%%"),
        "HostKeyAlgorithms": "ssh-ed25519",
        "HostKeyAlias": "testhost",
        "IdentitiesOnly": "yes",
        "IdentityFile": f'"{places.ssh}/id_ed25519"',
        "KexAlgorithms": "curve25519-sha256",
        "LogLevel": "ERROR",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{source}/known_hosts"',
    }
    words = [f"-o{key}={value}" for key, value in options.items()]
    return ["ssh", "-F", "none", *words, "-p", str(port)]


def ssh(
    places: Places,
    request: Request,
    port: int,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    tty: bool,
    timeout_s: float | None,
) -> tuple[list[str], dict[str, str]]:
    """The command that runs ARGV in the guest, and its environment here.

    The guest does not learn that its client was killed; with a timeout it ends the command itself, a little
    later.
    """
    command = ["env", "-i", *(f"{key}={value}" for key, value in environment.items())]
    if timeout_s is not None:
        command += ["timeout", "--foreground", "--signal=KILL", f"{timeout_s + 2:f}"]
    command += argv
    # Not the shell's last command, which it would become: this way a signal is told as 128 + N.  What the
    # shell says about it goes nowhere.
    remote = f"cd /; exec 3>&2 2>/dev/null; {shlex.join(command)} 2>&3 3>&-; exit $?"
    options = ssh_options(places, request.name, places.cache / request.source, port)
    local = [*options, "-tt" if tty else "-T", "root@127.0.0.1", remote]
    return local, {"PATH": needs.SEARCH_PATH, "HOME": "/root", "TERM": environment.get("TERM", "dumb")}
