"""The tools that are measured, as data: how each makes, starts, stops, enters and lists containers.

All run the same payload of the same image with the same directory mounted, as root.  A tool that has units of its own
is started by them, as it would be on a host that is run by systemd.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

TOP = "/var/lib/bench"
# One root file system for those that have no images.
ROOT = f"{TOP}/root"
IMAGE = "localhost/bench:1"
UNITS = "/run/systemd/system"
# Says that it runs, hears its stop signal, and waits.  The program is a file, so that no tool's quoting matters.
PAYLOAD = """trap "exit 0" TERM
echo >/mark/fifo
/bin/busybox sleep 100000 &
wait
"""
COMMAND = ("sh", "/mark/payload")
# A container's port, and where the first of a tool's containers has it outside.
PORT = 80
NO_IMAGES = "it has no images and installs nothing: a bundle is a directory"
NO_NETWORK = "it makes no networks"


@dataclass(frozen=True)
class Peer(ABC):
    """One tool.  *nested*: the host's control groups can't be written, so that limits are switched off."""

    name: str = ""
    release: str = "trixie"
    nested: bool = True

    # Whether its unit, or its command, is done when the payload runs, and not before.
    ready = True
    first_port = 0

    @property
    def note(self) -> str:
        """What is special about how it runs here."""
        return ""

    def setup(self) -> str:
        """A script that makes the tool ready, once."""
        return ""

    @abstractmethod
    def make(self, names: list[str], *, port: int | None = None) -> str:
        """A script that makes containers, with the payload; with *port* on the tool's bridge, published there."""

    @abstractmethod
    def remove(self, names: list[str]) -> str:
        """A script that removes containers that have been stopped."""

    def unit(self, name: str) -> str | None:
        """The unit that runs a container."""
        return f"{name}.service"

    def start(self, *names: str) -> list[str]:
        return ["systemctl", "start", *(self.unit(name) or "" for name in names)]

    def restart(self, name: str) -> list[str]:
        return ["systemctl", "restart", self.unit(name) or ""]

    def stop(self, *names: str) -> list[str]:
        return ["systemctl", "stop", *(self.unit(name) or "" for name in names)]

    def execute(self, name: str) -> list[str] | None:
        """The command that runs `true` in a container."""
        return None

    def once(self) -> list[str] | None:
        """The command that runs `true` in a container of its own, which is gone then."""
        return None

    def create(self, name: str) -> list[list[str]] | None:
        """The commands that make one container that can be started."""
        return None

    def delete(self, name: str) -> list[list[str]]:
        """The commands that remove it."""
        return []

    def list_all(self) -> list[str] | None:
        return None

    def inspect(self, *names: str) -> list[str] | None:
        return None

    def lacks(self, what: str) -> str:
        """Why it can't be measured at something, `bridge` say; empty if it can."""
        return NO_NETWORK if what == "bridge" else ""


def script_unit(name: str, text: str) -> str:
    """The part of a script that writes a unit."""
    return f"cat >{UNITS}/{name}.service <<'UNIT'\n{text}UNIT\n"


def started_often(template: str) -> str:
    """The part of a script by which units of a template may be started more than five times in ten seconds."""
    directory = f"{UNITS}/{template}.service.d"
    return f"mkdir -p {directory}; printf '[Unit]\\nStartLimitIntervalSec=0\\n' >{directory}/bench.conf\n"


@dataclass(frozen=True)
class Bare(Peer):
    """A service of the same program with nothing around it: what systemd itself takes."""

    name: str = "bare"

    def make(self, names: list[str], *, port: int | None = None) -> str:
        text = (
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\nExecStart=/bin/busybox sh /mark/payload\n"
        )
        return "ln -sfn /var/lib/bench/mark /mark\n" + "".join(script_unit(name, text) for name in names)

    def remove(self, names: list[str]) -> str:
        return "rm -f " + " ".join(f"{UNITS}/{name}.service" for name in names)

    def lacks(self, what: str) -> str:
        return ""


@dataclass(frozen=True)
class Gear(Peer):
    name: str = "gear"

    def setup(self) -> str:
        return f"gear image import /root/busybox.tar {IMAGE} >/dev/null"

    def make(self, names: list[str], *, port: int | None = None) -> str:
        if port is None:
            return (
                f"gear install {IMAGE} {' '.join(names)} --net none -v {TOP}/mark:/mark -- {' '.join(COMMAND)}"
                " >/dev/null"
            )
        return "\n".join(
            f"gear install {IMAGE} {name} -p {port + number}:{PORT} -v {TOP}/mark:/mark -- {' '.join(COMMAND)}"
            " >/dev/null"
            for number, name in enumerate(names)
        )

    def remove(self, names: list[str]) -> str:
        return f"gear delete {' '.join(names)} >/dev/null"

    def unit(self, name: str) -> str:
        return f"ctr-{name}.service"

    def execute(self, name: str) -> list[str]:
        return ["gear", "exec", name, "--", "true"]

    def once(self) -> list[str]:
        return ["gear", "run", "--rm", "--net", "none", IMAGE, "--", "true"]

    def create(self, name: str) -> list[list[str]]:
        return [["gear", "install", IMAGE, name, "--net", "none", "-v", f"{TOP}/mark:/mark", "--", *COMMAND]]

    def delete(self, name: str) -> list[list[str]]:
        return [["gear", "delete", name]]

    def list_all(self) -> list[str]:
        return ["gear", "ps", "--all"]

    def inspect(self, *names: str) -> list[str]:
        return ["gear", "inspect", *names]

    def lacks(self, what: str) -> str:
        return ""


# How many containers and volumes podman may have.
LOCKS = 16384


@dataclass(frozen=True)
class Podman(Peer):
    """By its units: Quadlet's where there is Quadlet, and else what `podman generate systemd --new` writes."""

    name: str = "podman"

    @property
    def note(self) -> str:
        unit = "units of Quadlet" if self.quadlet else "units as podman generate systemd --new writes them"
        unit += f", and num_locks = {LOCKS}, without which podman keeps 2048 containers at most"
        return unit + (", control groups off (--cgroups=disabled)" if self.nested else "")

    @property
    def quadlet(self) -> bool:
        return self.release != "bookworm"

    @property
    def options(self) -> list[str]:
        return [*(["--cgroups=disabled"] if self.nested else []), "-v", f"{TOP}/mark:/mark"]

    def setup(self) -> str:
        # The locks are made when podman is first used, which on Debian 12 a unit does at boot; nothing has one yet.
        return (
            "rm -f /dev/shm/libpod_lock\n"
            "mkdir -p /etc/containers/containers.conf.d\n"
            f"printf '[engine]\\nnum_locks = {LOCKS}\\n' >/etc/containers/containers.conf.d/bench.conf\n"
            f"podman import -q /root/busybox.tar {IMAGE} >/dev/null 2>&1"
        )

    def make(self, names: list[str], *, port: int | None = None) -> str:
        text = self.container if self.quadlet else self.generated
        script = "mkdir -p /etc/containers/systemd\n"
        for number, name in enumerate(names):
            script += text(name, None if port is None else port + number)
        return script + "systemctl daemon-reload\n"

    def container(self, name: str, port: int | None) -> str:
        network = "Network=none" if port is None else f"PublishPort={port}:{PORT}"
        off = "PodmanArgs=--cgroups=disabled\n" if self.nested else ""
        return (
            f"cat >/etc/containers/systemd/{name}.container <<'UNIT'\n[Unit]\nStartLimitIntervalSec=0\n"
            f"[Container]\nImage={IMAGE}\nContainerName={name}\n{network}\nVolume={TOP}/mark:/mark\n{off}"
            f"Exec={' '.join(COMMAND)}\nUNIT\n"
        )

    def generated(self, name: str, port: int | None) -> str:
        network = "--net none" if port is None else f"-p {port}:{PORT}"
        cgroups = "--cgroups=disabled" if self.nested else "--cgroups=no-conmon"
        return script_unit(
            name,
            "[Unit]\nStartLimitIntervalSec=0\nRequiresMountsFor=%t/containers\n"
            "[Service]\nEnvironment=PODMAN_SYSTEMD_UNIT=%n\nRestart=on-failure\nTimeoutStopSec=70\n"
            f"ExecStartPre=/bin/rm -f %t/%n.ctr-id\nExecStart=/usr/bin/podman run --cidfile=%t/%n.ctr-id {cgroups} "
            f"--rm --sdnotify=conmon -d --replace --name {name} {network} -v {TOP}/mark:/mark {IMAGE} "
            f"{' '.join(COMMAND)}\n"
            "ExecStop=/usr/bin/podman stop --ignore -t 10 --cidfile=%t/%n.ctr-id\n"
            "ExecStopPost=/usr/bin/podman rm -f --ignore -t 10 --cidfile=%t/%n.ctr-id\n"
            "Type=notify\nNotifyAccess=all\n",
        )

    def remove(self, names: list[str]) -> str:
        directory, ending = ("/etc/containers/systemd", "container") if self.quadlet else (UNITS, "service")
        files = " ".join(f"{directory}/{name}.{ending}" for name in names)
        return f"rm -f {files}\nsystemctl daemon-reload"

    def execute(self, name: str) -> list[str]:
        return ["podman", "exec", name, "true"]

    def once(self) -> list[str]:
        return ["podman", "run", "--rm", "--net", "none", *self.options, IMAGE, "true"]

    def create(self, name: str) -> list[list[str]]:
        return [["podman", "create", "--name", name, "--net", "none", *self.options, IMAGE, *COMMAND]]

    def delete(self, name: str) -> list[list[str]]:
        return [["podman", "rm", "-f", "-t", "0", name]]

    def list_all(self) -> list[str]:
        return ["podman", "ps", "-a"]

    def inspect(self, *names: str) -> list[str]:
        return ["podman", "inspect", *names]

    def lacks(self, what: str) -> str:
        return ""


@dataclass(frozen=True)
class Docker(Peer):
    """By its daemon and its command line: it has no units for containers."""

    name: str = "docker"

    @property
    def note(self) -> str:
        off = (
            "; crun instead of runc, which can't do without control groups (--cgroup-manager=disabled)"
            if self.nested
            else ""
        )
        return f"docker start and stop, with dockerd running{off}"

    def setup(self) -> str:
        plain = (
            'mkdir -p /etc/docker; echo \'{"default-runtime": "plain", "runtimes": {"plain": {"path": '
            '"/usr/bin/crun", "runtimeArgs": ["--cgroup-manager=disabled"]}}}\' >/etc/docker/daemon.json\n'
        )
        # A nested host has no cgroup for dockerd to put containers into.
        return (
            plain if self.nested else ""
        ) + f"systemctl restart docker\ndocker import /root/busybox.tar {IMAGE} >/dev/null"

    def unit(self, name: str) -> None:
        return None

    def start(self, *names: str) -> list[str]:
        return ["docker", "start", *names]

    def restart(self, name: str) -> list[str]:
        return ["docker", "restart", name]

    def stop(self, *names: str) -> list[str]:
        return ["docker", "stop", *names]

    def options(self, name: str) -> list[str]:
        return ["--name", name, "-v", f"{TOP}/mark:/mark"]

    def make(self, names: list[str], *, port: int | None = None) -> str:
        lines = []
        for number, name in enumerate(names):
            network = "--net none" if port is None else f"-p {port + number}:{PORT}"
            lines.append(
                f"docker create {' '.join(self.options(name))} {network} {IMAGE} {' '.join(COMMAND)} >/dev/null"
            )
        return "\n".join(lines)

    def remove(self, names: list[str]) -> str:
        return f"docker rm -f {' '.join(names)} >/dev/null"

    def execute(self, name: str) -> list[str]:
        return ["docker", "exec", name, "true"]

    def once(self) -> list[str]:
        return ["docker", "run", "--rm", "--net", "none", "-v", f"{TOP}/mark:/mark", IMAGE, "true"]

    def create(self, name: str) -> list[list[str]]:
        return [["docker", "create", *self.options(name), "--net", "none", IMAGE, *COMMAND]]

    def delete(self, name: str) -> list[list[str]]:
        return [["docker", "rm", name]]

    def list_all(self) -> list[str]:
        return ["docker", "ps", "-a"]

    def inspect(self, *names: str) -> list[str]:
        return ["docker", "inspect", *names]

    def lacks(self, what: str) -> str:
        return ""
