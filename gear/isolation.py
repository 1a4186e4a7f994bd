"""How far a container is kept apart from the host: the member `isolation` of spec.json, and the words for it.

Only what was asked for.  What it comes to, with gear's defaults, is in gear/confinement.py.  The defaults of the class
are the isolation that every container has when nothing is said, and spec.json holds only what differs from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gear import members, records
from gear.errors import UsageError
from gear.members import container_path
from gear.patterns import pattern
from gear.records import dataclass, field
from gear.tunables import oom_score, shm_size, sysctl_name, ulimit_name, ulimit_value

# capabilities(7), in the order of their numbers.
ALL_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
        "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
        "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
        "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
        "PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
ALL = "ALL"
NAMESPACE_MODES = ("private", "host")
SYSTEMD_MODES = ("auto", "always", "false")
# Ids from here on are for people and machines; below are the accounts that every system has.
LOWEST_BASE = 1000
HIGHEST_ID = 0xFFFFFFFE

_RANGE = pattern(r"([0-9]{1,10})(?::([0-9]{1,10}))?", re.ASCII)
_ZONE = pattern(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+){0,3}", re.ASCII)
_PROFILE = pattern(r"[!-~]{1,200}", re.ASCII)
_LABEL_PART = pattern(r"(user|role|type):([A-Za-z0-9_]+)|(level):(s[0-9cs:,.-]+)", re.ASCII)


@dataclass(frozen=True)
class Device:
    """A device node of the host, as it was found when it was asked for; *destination* is where it is inside."""

    source: str
    destination: str
    access: str  # of r, w, m
    kind: str  # c or b
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Isolation:
    """What was asked for beyond gear's own isolation."""

    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    # None: the default filter; "unconfined": none; a profile in Docker's JSON form.
    seccomp: str | dict[str, Any] | None = None
    no_new_privileges: bool = False
    apparmor: str | None = None
    label: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    unmask: tuple[str, ...] = ()
    userns: str = "auto"  # or host, or BASE:SIZE
    pid: str = "private"
    ipc: str = "private"
    uts: str = "private"
    cgroupns: str = "private"
    sysctl: Mapping[str, str] = field(default_factory=dict)
    ulimits: Mapping[str, str] = field(default_factory=dict)  # name -> SOFT:HARD
    init: str | None = None  # the host's path of the reaper
    shm_size: int | None = None  # bytes
    group_add: tuple[str, ...] = ()
    umask: str | None = None
    timezone: str | None = None
    systemd: str = "auto"
    oom_score_adj: int | None = None

    @property
    def id_range(self) -> tuple[int, int] | None:
        """The (first id, count) that were asked for by number."""
        return user_range(self.userns) if self.userns not in ("auto", "host") else None

    def to_mapping(self) -> dict[str, Any]:
        """The member of spec.json: what differs from the default."""
        found: dict[str, Any] = {}
        for member in records.fields(self):
            value = getattr(self, member.name)
            if value != getattr(_DEFAULT, member.name):
                found[member.name] = _plain(value)
        return found

    @classmethod
    def read(cls, document: Any, where: str) -> tuple[Isolation, list[str]]:
        """The isolation in *document*, and a sentence for each fault of it."""
        values, faults = members.read(members.mapping(document), _READERS, where)
        return cls(**values), faults


_DEFAULT = Isolation()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Device):
        return {**vars(value), "mode": f"{value.mode:04o}"}
    return dict(value) if isinstance(value, Mapping) else value


def capability(text: str) -> str:
    """A capability's full name, or ALL, from how people write it; raises UsageError."""
    name = text.strip().upper()
    if name == ALL:
        return ALL
    full = name if name.startswith("CAP_") else f"CAP_{name}"
    if full not in ALL_CAPABILITIES:
        raise UsageError(
            f"{text[:40]!r} is no capability.",
            hint="For example NET_ADMIN, CAP_SYS_TIME or ALL; see capabilities(7).",
        )
    return full


def parse_device(text: str) -> tuple[str, str, str]:
    """`--device`: HOST[:CONTAINER[:ACCESS]] as (source, destination, access); raises UsageError."""
    parts = text.split(":")
    if len(parts) == 2 and re.fullmatch("[rwm]+", parts[1]):
        parts.insert(1, parts[0])  # HOST:ACCESS, which Docker takes as well
    if not 1 <= len(parts) <= 3 or not all(part.startswith("/") for part in parts[:2]):
        raise UsageError(
            f"{text!r} is no device.",
            hint="Write /dev/NAME[:/dev/INSIDE[:rwm]], for example /dev/kvm:/dev/kvm:rw.",
        )
    destination = parts[1] if len(parts) > 1 else parts[0]
    return parts[0], device_path(destination), device_access(parts[2] if len(parts) > 2 else "rwm")


def device_path(text: str) -> str:
    """Where a device may be inside; raises UsageError."""
    path = container_path(text, "A device's place")
    if path == "/" or path in ("/proc", "/sys", "/dev") or path.startswith(("/proc/", "/sys/")):
        raise UsageError(f"No device can be put on {path}.", hint="Devices belong below /dev.")
    return path


def device_access(text: str) -> str:
    """What may be done with a device: r, w and m in this order; raises UsageError."""
    if not text or set(text) - set("rwm") or len(set(text)) != len(text):
        raise UsageError(
            f"{text!r} is no access to a device.", hint="It is made of r, w and m (make the node)."
        )
    return "".join(letter for letter in "rwm" if letter in text)


def user_range(text: str) -> tuple[int, int]:
    """BASE[:SIZE] as numbers; raises UsageError."""
    match = _RANGE.fullmatch(text)
    base, size = (int(match[1]), int(match[2] or 65536)) if match else (0, 0)
    if not match or base < LOWEST_BASE or not 1 <= size or base + size - 1 > HIGHEST_ID:
        raise UsageError(
            f"{text[:40]!r} is no range of user ids.",
            hint=f"Write auto, host, BASE or BASE:SIZE, for example 200000:65536; BASE is at least {LOWEST_BASE}.",
        )
    return base, size


def user_namespace(text: str) -> str:
    """auto, host, or BASE:SIZE; raises UsageError."""
    if text in ("auto", "private"):
        return "auto"
    return text if text == "host" else "{}:{}".format(*user_range(text))


def namespace_mode(text: str, option: str) -> str:
    """private or host; raises UsageError."""
    if text not in NAMESPACE_MODES:
        hint = f"Write {option} private or {option} host."
        if text.startswith("container:"):
            hint += "  Namespaces of another container can't be shared: it has other user ids."
        raise UsageError(f"{text[:80]!r} is no choice for {option}.", hint=hint)
    return text


def umask(text: str) -> str:
    """A file mode creation mask in octal, four digits; raises UsageError."""
    if not re.fullmatch("0?[0-7]{1,3}", text, re.ASCII):
        raise UsageError(f"{text[:40]!r} is no umask.", hint="Write it in octal, for example 0027.")
    return f"{int(text, 8):04o}"


def timezone(text: str) -> str:
    """The name of a zone as tzdata has it, or `local`; raises UsageError."""
    if not _ZONE.fullmatch(text):
        raise UsageError(f"{text[:80]!r} is no time zone.", hint="For example Europe/Vienna, UTC or local.")
    return text


def security_options(items: Sequence[str]) -> dict[str, Any]:
    """The fields of Isolation that `--security-opt` words ask for; `seccomp` is still the path of a file.

    Docker's and Podman's words, with = or : after the first; raises UsageError for others.
    """
    found: dict[str, Any] = {"label": (), "mask": (), "unmask": ()}
    for item in items:
        key, value = (re.split("[=:]", item, maxsplit=1) + [""])[:2]
        match key:
            case "seccomp" if value:
                found["seccomp"] = value
            case "no-new-privileges" if value in ("", "true", "false"):
                found["no_new_privileges"] = value != "false"
            case "apparmor" if value:
                found["apparmor"] = apparmor(value)
            case "label" if value:
                found["label"] += (label(value),)
            case "mask" | "unmask" if value:
                found[key] += tuple(masked_path(path, key) for path in value.split(":"))
            case "systempaths" if value == "unconfined":
                found["unmask"] += (ALL,)
            case _:
                raise UsageError(
                    f"{item[:80]!r} is no security option.",
                    hint="There are seccomp=, no-new-privileges, apparmor=, label=, mask=, unmask= and "
                    "systempaths=unconfined.",
                )
    return found


def apparmor(text: str) -> str:
    """A profile's name; raises UsageError."""
    if not _PROFILE.fullmatch(text):
        raise UsageError(f"{text[:80]!r} can't name an AppArmor profile.")
    return text


def label(text: str) -> str:
    """A part of an SELinux label, or `disable`; raises UsageError."""
    if text != "disable" and not _LABEL_PART.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} is no part of an SELinux label.",
            hint="Write label=disable, or user:, role:, type: or level: with a value.",
        )
    return text


def masked_path(text: str, option: str) -> str:
    """A path to hide, or for unmask also ALL and a pattern; raises UsageError."""
    if option == "unmask" and text.upper() == ALL:
        return ALL
    return container_path(text, f"What {option}= names")


def systemd_mode(text: str) -> str:
    """One of SYSTEMD_MODES; raises UsageError."""
    if text not in SYSTEMD_MODES:
        raise UsageError(f"{text[:40]!r} is no choice for --systemd.", hint="Write auto, always or false.")
    return text


def _device(value: Any) -> Device:
    node = members.mapping(value)
    kind, mode = members.text(node["kind"]), int(members.text(node["mode"]), 8)
    source = container_path(members.text(node["source"]), "A device")
    numbers = [members.integer(node[key]) for key in ("major", "minor", "uid", "gid")]
    if kind not in ("c", "b") or mode > 0o777 or min(numbers) < 0 or set(node) != _DEVICE_MEMBERS:
        raise ValueError(f"{node!r} is no device node")
    where, access = (
        device_path(members.text(node["destination"])),
        device_access(members.text(node["access"])),
    )
    return Device(source, where, access, kind, numbers[0], numbers[1], mode, numbers[2], numbers[3])


_DEVICE_MEMBERS = {member.name for member in records.fields(Device)}


def _seccomp(value: Any) -> str | dict[str, Any] | None:
    if value is None or value == "unconfined":
        return None if value is None else "unconfined"
    return members.mapping(value)


def _mode(option: str) -> members.Reader:
    return lambda value: namespace_mode(members.text(value), option)


_READERS: dict[str, members.Reader] = {
    "privileged": members.boolean,
    "cap_add": lambda value: tuple(map(capability, members.texts(value))),
    "cap_drop": lambda value: tuple(map(capability, members.texts(value))),
    "devices": lambda value: tuple(map(_device, members.array(value))),
    "seccomp": _seccomp,
    "no_new_privileges": members.boolean,
    "apparmor": members.optional(lambda value: apparmor(members.text(value))),
    "label": lambda value: tuple(map(label, members.texts(value))),
    "mask": lambda value: tuple(masked_path(path, "mask") for path in members.texts(value)),
    "unmask": lambda value: tuple(masked_path(path, "unmask") for path in members.texts(value)),
    "userns": lambda value: user_namespace(members.text(value)),
    "pid": _mode("--pid"),
    "ipc": _mode("--ipc"),
    "uts": _mode("--uts"),
    "cgroupns": _mode("--cgroupns"),
    "sysctl": lambda value: {
        sysctl_name(name): members.text(content) for name, content in members.mapping(value).items()
    },
    "ulimits": lambda value: {
        ulimit_name(name): ulimit_value(members.text(content), name)
        for name, content in members.mapping(value).items()
    },
    "init": members.optional(lambda value: container_path(members.text(value), "The reaper")),
    "shm_size": members.optional(shm_size),
    "group_add": members.texts,
    "umask": members.optional(lambda value: umask(members.text(value))),
    "timezone": members.optional(lambda value: timezone(members.text(value))),
    "systemd": lambda value: systemd_mode(members.text(value)),
    "oom_score_adj": members.optional(oom_score),
}
