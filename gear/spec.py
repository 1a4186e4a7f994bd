"""What was asked for: the specification of one container, kept as spec.json.

The only truth about a container.  Units, bundle and everything else are rendered from it and the image
(gear/containers.py), so this form is versioned and strict: unknown members are refused, not ignored.
"""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gear.errors import IntegrityError, UsageError
from gear.model import container_name

VERSION = 1
UID_RANGE_SIZE = 65536

NETWORKS = ("none", "host")
# systemd.service(5), "Restart="; unless-stopped is Docker's word: stopping keeps a container from starting at
# boot whatever the policy, so here it means what `always` means.
RESTARTS = (
    "no",
    "on-failure",
    "always",
    "unless-stopped",
    "on-success",
    "on-abnormal",
    "on-abort",
    "on-watchdog",
)
BIND_OPTIONS = ("ro", "rw", "idmap", "nosuid", "nodev", "noexec", "rbind")
VOLUME_OPTIONS = ("ro", "rw", "nosuid", "nodev", "noexec")

_SLICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*", re.ASCII)
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", re.ASCII)
_HOSTNAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([bkmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_FACTORS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TMPFS = re.compile(
    r"(size|nr_inodes)=[0-9]+[kmgKMG%]?|mode=[01]?[0-7]{3}|(uid|gid)=[0-9]{1,5}|ro|rw|nosuid|nodev|noexec|exec|suid",
    re.ASCII,
)


@dataclass(frozen=True)
class Mount:
    """One mount that was asked for.  *source* is a host path for `bind`, a volume's name for `volume`, and empty
    for `tmpfs`."""

    kind: str
    source: str
    destination: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageRef:
    """The image a container was installed from: what was typed, and the manifest it stood for."""

    reference: str
    digest: str


@dataclass(frozen=True)
class Spec:
    """A container as it was asked for; None means what the image or gear's default says."""

    name: str
    image: ImageRef
    uid_base: int
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    hostname: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    slice: str = "container.slice"
    memory: int | None = None  # bytes
    cpus: float | None = None  # 1.0 is one processor's whole time
    pids_limit: int | None = None
    restart: str = "on-failure"
    stop_signal: str | None = None
    stop_timeout: float = 10.0  # seconds
    net: str = "none"

    @property
    def unit(self) -> str:
        """The name of the container's service unit."""
        return unit_name(self.name)

    def to_mapping(self) -> dict[str, Any]:
        """The content of spec.json."""
        return {
            "version": VERSION,
            "name": self.name,
            "image": {"reference": self.image.reference, "digest": self.image.digest},
            "uid_base": self.uid_base,
            "entrypoint": None if self.entrypoint is None else list(self.entrypoint),
            "command": None if self.command is None else list(self.command),
            "env": dict(self.env),
            "user": self.user,
            "workdir": self.workdir,
            "mounts": [
                {"kind": m.kind, "source": m.source, "destination": m.destination, "options": list(m.options)}
                for m in self.mounts
            ],
            "read_only": self.read_only,
            "hostname": self.hostname,
            "labels": dict(self.labels),
            "slice": self.slice,
            "memory": self.memory,
            "cpus": self.cpus,
            "pids_limit": self.pids_limit,
            "restart": self.restart,
            "stop_signal": self.stop_signal,
            "stop_timeout": self.stop_timeout,
            "net": self.net,
        }

    @classmethod
    def from_mapping(cls, document: Any, where: str) -> Spec:
        """The spec in *document*; raises IntegrityError naming *where* and every fault in it."""
        faults: list[str] = []
        if not isinstance(document, dict):
            raise IntegrityError(f"{where} is not a container specification: it is no JSON object.")
        found = document.get("version")
        if found != VERSION or isinstance(found, bool):
            raise IntegrityError(f"{where} is a container specification of version {found!r}, not {VERSION}.")
        unknown = sorted(set(document) - set(_READERS) - {"version"})
        faults += [f"/{member}: no such member" for member in unknown]
        values: dict[str, Any] = {}
        for member, reader in _READERS.items():
            if member not in document:
                if member in ("name", "image", "uid_base"):
                    faults.append(f"/{member}: missing")
                continue
            try:
                values[member] = reader(document[member])
            except UsageError as error:
                faults.append(f"/{member}: {error.message.removesuffix('.')}")
            except (TypeError, ValueError, KeyError) as error:
                faults.append(f"/{member}: not as expected ({error})")
        if faults:
            raise IntegrityError(f"{where} is damaged: {'; '.join(faults)}.")
        return cls(**values)


def unit_name(name: str) -> str:
    """The service unit of the container *name*."""
    return f"ctr-{name}.service"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a string is wanted, not {value!r}")
    if "\0" in value:
        raise ValueError("it holds a NUL byte")
    return value


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"an array is wanted, not {value!r}")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object is wanted, not {value!r}")
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number is wanted, not {value!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in _array(value))


def _optional(reader: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else reader(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"true or false is wanted, not {value!r}")
    return value


def _image(value: Any) -> ImageRef:
    return ImageRef(_text(_object(value)["reference"]), _text(value["digest"]))


def _uid_base(value: Any) -> int:
    if not isinstance(value, int) or value <= 0 or value % UID_RANGE_SIZE or value > 0x6FFF0000:
        raise ValueError(f"{value!r} can't begin a range of {UID_RANGE_SIZE} user ids")
    return value


def environment_name(text: str) -> str:
    """*text* if it can name an environment variable; raises UsageError otherwise."""
    if not text or "=" in text or "\0" in text:
        raise UsageError(f"{text!r} can't name an environment variable.")
    return text


def _environment(value: Any) -> dict[str, str]:
    return {environment_name(_text(name)): _text(content) for name, content in _object(value).items()}


def _labels(value: Any) -> dict[str, str]:
    return {_text(name): _text(content) for name, content in _object(value).items()}


def _mounts(value: Any) -> tuple[Mount, ...]:
    return tuple(
        checked_mount(
            Mount(_text(m["kind"]), _text(m["source"]), _text(m["destination"]), _texts(m["options"]))
        )
        for m in map(_object, _array(value))
    )


def checked_mount(mount: Mount) -> Mount:
    """*mount* with its destination made normal; raises UsageError for what can't be mounted."""
    destination = container_path(mount.destination, "A mount's destination")
    if destination == "/":
        raise UsageError("Nothing can be mounted on / of a container.", hint="The root comes from the image.")
    if (taken := kernel_view(destination)) is not None and destination != "/dev/shm":
        raise UsageError(
            f"Nothing can be mounted on {destination}: {taken} belongs to the container's kernel view."
        )
    allowed: tuple[str, ...] = ()
    if mount.kind == "bind":
        allowed = BIND_OPTIONS
        source = host_path(mount.source)
    elif mount.kind == "volume":
        allowed = VOLUME_OPTIONS
        source = volume_name(mount.source)
    elif mount.kind == "tmpfs":
        source = ""
        wrong = [option for option in mount.options if not _TMPFS.fullmatch(option)]
        if wrong:
            raise UsageError(
                f"A tmpfs has no option {wrong[0]!r}.",
                hint="Options are size=, mode=, ro, exec and the like.",
            )
    else:
        raise UsageError(f"{mount.kind!r} is no kind of mount.", hint="Kinds are bind, volume and tmpfs.")
    if allowed and (wrong := [option for option in mount.options if option not in allowed]):
        raise UsageError(
            f"A {mount.kind} mount has no option {wrong[0]!r}.", hint=f"Options are {', '.join(allowed)}."
        )
    return Mount(mount.kind, source, destination, mount.options)


def kernel_view(path: str) -> str | None:
    """Which of /proc, /sys and /dev a normal path is or is in; None for others."""
    for taken in ("/proc", "/sys", "/dev"):
        if path == taken or path.startswith(taken + "/"):
            return taken
    return None


def container_path(text: str, what: str) -> str:
    """*text* as an absolute, normal path inside a container; raises UsageError naming *what*."""
    if not text.startswith("/") or "\0" in text:
        raise UsageError(f"{what} must be an absolute path in the container, not {text[:200]!r}.")
    path = posixpath.normpath(text)
    return path[1:] if path.startswith("//") else path


def host_path(text: str) -> str:
    """*text* as an absolute, normal path on the host; raises UsageError."""
    if not text.startswith("/"):
        raise UsageError(f"A bind mount's source must be an absolute path on the host, not {text!r}.")
    if any(character < " " or character == "\x7f" for character in text):
        # RequiresMountsFor= of the unit knows no escapes for them.
        raise UsageError(f"{text!r} can't be bound: it has control characters.")
    path = posixpath.normpath(text)
    return path[1:] if path.startswith("//") else path


def volume_name(text: str) -> str:
    """*text* if it may name a volume; raises UsageError otherwise."""
    if not _VOLUME.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} can't name a volume.",
            hint="Use letters, digits, '_', '.' or '-'; a directory of the host is given as an absolute path.",
        )
    return text


def parse_volume(text: str) -> Mount:
    """`-v`: SOURCE:DESTINATION[:OPTION,...], where an absolute SOURCE is a bind and a name is a volume."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise UsageError(
            f"{text!r} is no volume.",
            hint="Write /host/directory:/in/container[:ro] or name:/in/container[:ro].",
        )
    options = tuple(parts[2].split(",")) if len(parts) == 3 else ()
    kind = "bind" if parts[0].startswith("/") else "volume"
    return checked_mount(Mount(kind, parts[0], parts[1], options))


def parse_tmpfs(text: str) -> Mount:
    """`--tmpfs`: DESTINATION[:OPTION,...]."""
    destination, _, options = text.partition(":")
    return checked_mount(Mount("tmpfs", "", destination, tuple(options.split(",")) if options else ()))


def parse_size(text: str) -> int:
    """A number of bytes with Docker's suffixes b, k, m, g, t (powers of 1024); raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if not match or (size := int(float(match[1]) * _FACTORS[match[2].lower()])) <= 0:
        raise UsageError(f"{text!r} is no amount of memory.", hint="Write for example 512m or 2g.")
    return size


def memory_limit(value: Any) -> int:
    """Bytes of memory, at least 1 MiB: below that no process starts; raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 << 20 <= value < 1 << 62:
        raise UsageError(f"A memory limit of {value!r} bytes can't work.", hint="Give at least 1m.")
    return value


def cpu_limit(value: Any) -> float:
    """Processors' worth of time, 0.01 to 8192; raises UsageError."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not 0.01 <= number <= 8192:
        raise UsageError(f"{value!r} is no number of processors.", hint="Write for example 0.5 or 2.")
    return number


def pids_limit(value: Any) -> int:
    """A number of processes and threads, at least 1; raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4194304:
        raise UsageError(f"{value!r} is no limit of processes.", hint="Give a number from 1 to 4194304.")
    return value


def slice_name(text: str) -> str:
    """The full name of a slice unit, `.slice` added where it is missing; raises UsageError."""
    stem = text.removesuffix(".slice")
    if not _SLICE.fullmatch(stem) or len(stem) > 200:
        raise UsageError(
            f"{text[:80]!r} can't name a slice.", hint="For example container-small or web.slice."
        )
    return stem + ".slice"


def host_name(text: str) -> str:
    """*text* if it may be a host name (hostname(7)); raises UsageError."""
    if not _HOSTNAME.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} can't be a host name.", hint="Use up to 64 letters, digits, '-' and '.'."
        )
    return text


def signal_number(text: str) -> int:
    """The number of a signal given as SIGTERM, TERM, 15 or SIGRTMIN+3; raises UsageError.

    Docker's STOPSIGNAL allows each form; the numbers are this machine's (signal(7)).
    """
    word = text.strip().upper()
    if word.isascii() and word.isdigit() and len(word) < 4 and 1 <= int(word) <= signal.SIGRTMAX:
        return int(word)
    word = word.removeprefix("SIG")
    if match := re.fullmatch(r"(RTMIN|RTMAX)(?:([+-])([0-9]{1,2}))?", word):
        number = getattr(signal, f"SIG{match[1]}") + int((match[2] or "+") + (match[3] or "0"))
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return int(number)
    elif isinstance(found := getattr(signal, f"SIG{word}", None), signal.Signals):
        return int(found)
    raise UsageError(f"{text[:40]!r} is no signal.", hint="For example SIGTERM, QUIT, 15 or SIGRTMIN+3.")


def restart_policy(text: str) -> str:
    """One of RESTARTS; raises UsageError."""
    if text not in RESTARTS:
        raise UsageError(f"{text!r} is no restart policy.", hint=f"Policies are {', '.join(RESTARTS)}.")
    return text


def network(text: str) -> str:
    """One of NETWORKS; raises UsageError."""
    if text not in NETWORKS:
        raise UsageError(f"There is no network {text!r}.", hint=f"Networks are {' and '.join(NETWORKS)}.")
    return text


def stop_timeout(value: Any) -> float:
    """Seconds, 0 (kill at once) to a day; raises UsageError."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise UsageError(f"{value!r} is no time to wait for a stop.", hint="Give seconds, 0 to 86400.")
    return seconds


_READERS: dict[str, Callable[[Any], Any]] = {
    "name": lambda value: container_name(_text(value)),
    "image": _image,
    "uid_base": _uid_base,
    "entrypoint": _optional(_texts),
    "command": _optional(_texts),
    "env": _environment,
    "user": _optional(_text),
    "workdir": _optional(lambda value: container_path(_text(value), "The working directory")),
    "mounts": _mounts,
    "read_only": _boolean,
    "hostname": _optional(lambda value: host_name(_text(value))),
    "labels": _labels,
    "slice": lambda value: slice_name(_text(value)),
    "memory": _optional(memory_limit),
    "cpus": _optional(lambda value: cpu_limit(_number(value))),
    "pids_limit": _optional(pids_limit),
    "restart": lambda value: restart_policy(_text(value)),
    "stop_signal": _optional(lambda value: _text(value) if signal_number(_text(value)) else ""),
    "stop_timeout": lambda value: stop_timeout(_number(value)),
    "net": lambda value: network(_text(value)),
}
