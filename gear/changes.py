"""How an image is to be run: options and Dockerfile-like instructions, as an image config or on top of one.

Pure, and not a Dockerfile parser: only instructions that change the config and take one line.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from gear.errors import UsageError
from gear.patterns import pattern
from gear.records import dataclass, field

_PORT = pattern(r"[0-9]{1,5}(?:/(?:tcp|udp|sctp))?", re.ASCII)


@dataclass
class Changes:
    """The settings given so far; each instruction changes one."""

    cmd: list[str] | None = None
    entrypoint: list[str] | None = None
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    stop_signal: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)

    def apply(self, instruction: str) -> None:
        """Follow one instruction, as in `CMD ["nginx", "-g", "daemon off;"]`."""
        keyword, _, rest = instruction.strip().partition(" ")
        rest = rest.strip()
        match keyword.upper():
            case "CMD":
                self.cmd = argv(rest)
            case "ENTRYPOINT":
                self.entrypoint = argv(rest)
            case "ENV":
                self.env.update(pairs(rest, "ENV"))
            case "LABEL":
                self.labels.update(pairs(rest, "LABEL"))
            case "USER":
                self.user = rest
            case "WORKDIR":
                self.workdir = rest
            case "STOPSIGNAL":
                self.stop_signal = rest
            case "VOLUME":
                self.volumes += argv(rest) if rest.startswith("[") else rest.split()
            case "EXPOSE":
                self.ports += rest.split()
            case _:
                raise UsageError(
                    f"{instruction[:80]!r} is no change to an image.",
                    hint="There are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.",
                )

    def config(self) -> dict[str, Any]:
        """The `config` member of an image config; raises UsageError for what can't be meant."""
        for path in (*self.volumes, *([self.workdir] if self.workdir else [])):
            if not path.startswith("/"):
                raise UsageError(f"{path!r} must be an absolute path in the image.")
        for port in self.ports:
            if not _PORT.fullmatch(port) or not 1 <= int(port.partition("/")[0]) <= 65535:
                raise UsageError(f"{port!r} is not a port.", hint="Write PORT, PORT/tcp or PORT/udp.")
        ports: dict[str, Any] = {port if "/" in port else f"{port}/tcp": {} for port in self.ports}
        members: dict[str, Any] = {
            "Cmd": self.cmd,
            "Entrypoint": self.entrypoint,
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "User": self.user,
            "WorkingDir": self.workdir,
            "StopSignal": self.stop_signal,
            "Labels": self.labels,
            "Volumes": {path: {} for path in self.volumes},
            "ExposedPorts": ports,
        }
        return {name: value for name, value in members.items() if value}

    def onto(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The `config` member of an image config with these changes; raises UsageError for what can't be meant.

        An entrypoint drops the command that was meant for another one, as in a Dockerfile.
        """
        new, result = self.config(), dict(config)
        if self.entrypoint is not None:
            result.pop("Entrypoint", None)
        if self.entrypoint is not None or self.cmd is not None:
            result.pop("Cmd", None)
        for member in ("Labels", "Volumes", "ExposedPorts"):
            if member in new:
                result[member] = {**(result.get(member) or {}), **new.pop(member)}
        if "Env" in new:
            old = dict(item.partition("=")[::2] for item in result.get("Env") or () if "=" in item)
            result["Env"] = [f"{name}={value}" for name, value in {**old, **self.env}.items()]
            del new["Env"]
        return result | new


def argv(text: str) -> list[str]:
    """A command: a JSON array, or words for a shell as in a Dockerfile."""
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{text[:80]!r} is not a JSON array: {error}.") from error
        if not all(isinstance(word, str) for word in words):
            raise UsageError(f"{text[:80]!r} is not an array of strings.")
        return list(words)
    if not text:
        raise UsageError("A command can't be empty.")
    return ["/bin/sh", "-c", text]


def words(text: str) -> list[str]:
    """A command as an option gives it: a JSON array, or words split as a shell does, without a shell."""
    if text.startswith("["):
        return argv(text)
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text[:80]!r} can't be split into words: {error}.") from error


def pairs(text: str, what: str) -> dict[str, str]:
    """NAME=VALUE words, quoted as for a shell."""
    return pair_list(words(text) if not text.startswith("[") else [text], what)


def pair_list(items: Sequence[str], what: str) -> dict[str, str]:
    """NAME=VALUE items."""
    result = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise UsageError(f"{what} takes NAME=VALUE, not {item[:80]!r}.")
        result[name] = value
    return result
