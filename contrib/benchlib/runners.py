"""The tools that are measured and have no images and daemons: runtimes, LXC and systemd-nspawn."""

from __future__ import annotations

from dataclasses import dataclass

from .peers import (
    COMMAND,
    IMAGE,
    NO_IMAGES,
    ROOT,
    TOP,
    UNITS,
    Bare,
    Docker,
    Gear,
    Peer,
    Podman,
    script_unit,
    started_often,
)

# What the runtimes' own `spec` writes, with our program and mount, and without a terminal.
BUNDLE = """
import json, subprocess, sys
path = sys.argv[1] + "/config.json"
subprocess.run(["crun", "spec", "-b", sys.argv[1]], check=True)
document = json.load(open(path))
document["process"] |= {"terminal": False, "args": sys.argv[4:]}
document["root"] = {"path": sys.argv[2], "readonly": False}
document["mounts"].append({"destination": "/mark", "type": "bind", "source": sys.argv[3], "options": ["rbind"]})
document["linux"].pop("resources", None)
json.dump(document, open(path, "w"))
"""


@dataclass(frozen=True)
class Runtime(Peer):
    """An OCI runtime as a service that runs a bundle, with nothing above it.

    Its unit is active once the runtime has been executed, so that its own time counts to the first instruction only.
    """

    ready = False

    @property
    def argv(self) -> list[str]:
        return [f"/usr/bin/{self.name}"]

    def make(self, names: list[str], *, port: int | None = None) -> str:
        script = f"cat >{TOP}/bundle.py <<'PYTHON'\n{BUNDLE}PYTHON\n"
        for name in names:
            bundle = f"{TOP}/bundles/{name}"
            script += (
                f"mkdir -p {bundle}; rm -f {bundle}/config.json\n"
                f"python3 {TOP}/bundle.py {bundle} {ROOT} {TOP}/mark {' '.join(COMMAND)}\n"
            )
            text = (
                "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\n"
                f"ExecStartPre=-{' '.join(self.argv)} delete -f {name}\n"
                f"ExecStart={' '.join(self.argv)} run -b {bundle} {name}\n"
                f"ExecStop={' '.join(self.argv)} kill {name} TERM\n"
            )
            script += script_unit(name, text)
        return script

    def remove(self, names: list[str]) -> str:
        return (
            "rm -rf "
            + " ".join(f"{TOP}/bundles/{name}" for name in names)
            + " "
            + " ".join(f"{UNITS}/{name}.service" for name in names)
        )

    def execute(self, name: str) -> list[str]:
        return [*self.argv, "exec", name, "true"]

    def list_all(self) -> list[str]:
        return [*self.argv, "list"]

    def lacks(self, what: str) -> str:
        if what in ("run", "install"):
            return NO_IMAGES
        return super().lacks(what)


@dataclass(frozen=True)
class Crun(Runtime):
    name: str = "crun"

    @property
    def note(self) -> str:
        return "crun run of a bundle as a service" + (", --cgroup-manager=disabled" if self.nested else "")

    @property
    def argv(self) -> list[str]:
        return ["/usr/bin/crun", *(["--cgroup-manager=disabled"] if self.nested else [])]


@dataclass(frozen=True)
class Runc(Runtime):
    name: str = "runc"

    @property
    def note(self) -> str:
        return "runc run of a bundle as a service"

    def lacks(self, what: str) -> str:
        if self.nested:
            return "runc can't do without control groups, which a nested host may not write: see --vm"
        return super().lacks(what)


@dataclass(frozen=True)
class Lxc(Peer):
    name: str = "lxc"
    ready = False

    @property
    def note(self) -> str:
        return "lxc@.service: lxc-start of a directory, without a user namespace"

    def make(self, names: list[str], *, port: int | None = None) -> str:
        script = ""
        for name in names:
            directory = f"/var/lib/lxc/{name}"
            script += (
                f"mkdir -p {directory}\ncat >{directory}/config <<'CONFIG'\nlxc.uts.name = {name}\n"
                f"lxc.rootfs.path = dir:{ROOT}\nlxc.net.0.type = empty\nlxc.init.cmd = /bin/{' '.join(COMMAND)}\n"
                f"lxc.mount.auto = proc sys\nlxc.mount.entry = {TOP}/mark mark none bind,create=dir 0 0\n"
                "lxc.signal.halt = SIGTERM\nCONFIG\n"
            )
        return script + started_often("lxc@") + "systemctl daemon-reload\n"

    def remove(self, names: list[str]) -> str:
        return "rm -rf " + " ".join(f"/var/lib/lxc/{name}" for name in names)

    def unit(self, name: str) -> str:
        return f"lxc@{name}.service"

    def execute(self, name: str) -> list[str]:
        return ["lxc-attach", "-n", name, "--", "true"]

    def list_all(self) -> list[str]:
        return ["lxc-ls", "-f"]

    def inspect(self, *names: str) -> list[str] | None:
        return ["lxc-info", "-n", *names] if len(names) == 1 else None

    def lacks(self, what: str) -> str:
        if what == "bridge":
            return "it publishes no ports"
        if what in ("run", "install"):
            return NO_IMAGES
        return ""


@dataclass(frozen=True)
class Nspawn(Peer):
    name: str = "nspawn"
    # It notifies PID 1 before it executes the payload.
    ready = False

    @property
    def note(self) -> str:
        return "systemd-nspawn@.service with Boot=no, users and network of its own"

    def make(self, names: list[str], *, port: int | None = None) -> str:
        script = "mkdir -p /etc/systemd/nspawn /var/lib/machines\n"
        for name in names:
            script += (
                # Two machines can't have one directory.
                f"[ -e /var/lib/machines/{name} ] || cp -a {ROOT} /var/lib/machines/{name}\n"
                f"cat >/etc/systemd/nspawn/{name}.nspawn <<'SETTINGS'\n[Exec]\nBoot=no\n"
                f"Parameters={' '.join(COMMAND)}\nPrivateUsers=pick\nKillSignal=SIGTERM\n"
                f"[Files]\nBind={TOP}/mark:/mark\nPrivateUsersOwnership=auto\n"
                "[Network]\nPrivate=yes\nVirtualEthernet=no\nSETTINGS\n"
            )
        return script + started_often("systemd-nspawn@") + "systemctl daemon-reload\n"

    def remove(self, names: list[str]) -> str:
        return "\n".join(
            f"rm -rf /var/lib/machines/{name} /etc/systemd/nspawn/{name}.nspawn" for name in names
        )

    def unit(self, name: str) -> str:
        return f"systemd-nspawn@{name}.service"

    def once(self) -> list[str]:
        # As `run --rm` of others: a root of its own, which is gone then.
        return [
            "systemd-nspawn", "-q", "-D", ROOT, "--ephemeral", "--private-network", "--register=no", "--keep-unit",
            "-U", "--", "/bin/true",
        ]  # fmt: skip

    def lacks(self, what: str) -> str:
        if what == "bridge":
            return "it publishes ports only with systemd-networkd at both ends"
        if what == "exec":
            return "it enters only containers that run systemd (machinectl shell)"
        if what == "install":
            return NO_IMAGES
        return ""


KINDS: tuple[type[Peer], ...] = (Bare, Gear, Podman, Docker, Lxc, Nspawn, Crun, Runc)
NAMES = ("bare", "gear", "podman", "docker", "lxc", "nspawn", "crun", "runc")
# A script that makes what all share.
SETUP = f"""
mkdir -p {TOP}/mark {ROOT} {TOP}/bundles
tar -C {ROOT} -xf /root/busybox.tar
mkdir -p {ROOT}/usr {ROOT}/mark
[ -p {TOP}/mark/fifo ] || mkfifo -m 666 {TOP}/mark/fifo
chmod 666 {TOP}/mark/fifo
"""


def peers(names: tuple[str, ...], release: str, *, nested: bool) -> list[Peer]:
    """The tools that were asked for, in the order of the table."""
    made = [kind(release=release, nested=nested) for kind in KINDS]
    return [peer for peer in made if peer.name in names]


__all__ = ["IMAGE", "KINDS", "NAMES", "SETUP", "peers"]
