"""What a container gets of gear's own objects: secrets, configs and environment sets, and how it is told of a change.

The member `supplies` of spec.json, and the grammar of --secret and --config.  What the objects hold is in no
specification: gear/credentials.py, gear/configs.py and gear/envsets.py keep them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gear import members
from gear.errors import UsageError
from gear.members import container_path
from gear.model import NAME, Layout
from gear.mounting import kernel_view
from gear.patterns import pattern
from gear.records import dataclass

# The kinds of objects, each a directory of the state: what one is called, the file without which there is none, and the
# command that makes one.
SECRET, CONFIG, ENV_SET = "secrets", "configs", "env"
KINDS = {
    SECRET: ("secret", "credential", "gear secret create"),
    CONFIG: ("config", "data", "gear config create"),
    ENV_SET: ("environment set", "env.json", "gear set-env"),
}
# Where secrets are inside; also $CREDENTIALS_DIRECTORY there (systemd.exec(5), "Credentials").
SECRETS = "/run/secrets"
MOUNT, ENV = "mount", "env"
# Signals that a reload can't be: they end or stop any program (signal(7)).
_DEADLY = ("KILL", "STOP")

_MODE = pattern(r"0?[0-7]{3}", re.ASCII)
_ID = pattern(r"[0-9]{1,10}", re.ASCII)
_VARIABLE = pattern(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FILE = pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", re.ASCII)
_MOST_ID = (1 << 32) - 2


@dataclass(frozen=True)
class Secret:
    """A secret as the payload gets it: a file, in SECRETS unless *target* is an absolute path, or a variable called
    *target*.  Without *uid* and *gid* it belongs to the payload's user."""

    name: str
    kind: str = MOUNT
    target: str = ""
    uid: int | None = None
    gid: int | None = None
    mode: str = "0400"


@dataclass(frozen=True)
class Config:
    """A config as the payload gets it: the file *target*, which nobody inside can write to."""

    name: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: str = "0444"


@dataclass(frozen=True)
class Supplies:
    """Everything that one container gets.  Of environment sets a later one counts more; *reload_signal* is what has the
    payload read its configs again."""

    env_sets: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()
    configs: tuple[Config, ...] = ()
    reload_signal: str | None = None

    def to_mapping(self) -> dict[str, Any]:
        """The member of spec.json."""
        return {
            "env_sets": list(self.env_sets),
            "secrets": [vars(secret) for secret in self.secrets],
            "configs": [vars(config) for config in self.configs],
            "reload_signal": self.reload_signal,
        }

    @classmethod
    def read(cls, document: Any) -> Supplies:
        """What *document* says; raises UsageError, TypeError, ValueError or KeyError for what is wrong with it."""
        values, faults = members.read(members.mapping(document), _READERS, "")
        if faults:
            raise ValueError("; ".join(faults))
        return checked(cls(**values))

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of its objects of *kind*, each once."""
        found: Iterable[Secret | Config] = self.secrets if kind == SECRET else self.configs
        return tuple(dict.fromkeys(self.env_sets if kind == ENV_SET else (item.name for item in found)))

    @property
    def files(self) -> tuple[Secret, ...]:
        """The secrets that are files inside."""
        return tuple(secret for secret in self.secrets if secret.kind == MOUNT)

    def destinations(self) -> list[str]:
        """What is mounted for it, as paths inside."""
        found = [SECRETS] if self.files else []
        found += [secret.target for secret in self.files if secret.target.startswith("/")]
        return found + [config.target for config in self.configs]


def object_path(layout: Layout, kind: str, name: str) -> Path:
    """The file without which there is no object *name* of *kind*."""
    return layout.state / kind / name / KINDS[kind][1]


def object_name(text: str) -> str:
    """*text* if it may name a secret, a config or an environment set; raises UsageError.

    It becomes the name of a directory and of a credential.
    """
    if not NAME.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} can't name a secret, a config or an environment set.",
            hint="Use 1 to 63 letters, digits, '_', '.' or '-', and begin with a letter or digit.",
        )
    return text


def checked(supplies: Supplies) -> Supplies:
    """*supplies* if nothing is asked for twice; raises UsageError."""
    variables = [secret.target for secret in supplies.secrets if secret.kind == ENV]
    # What is to be elsewhere is in SECRETS as well, by its name.
    places = [
        f"{SECRETS}/{item.name if item.target.startswith('/') else item.target}" for item in supplies.files
    ]
    places += supplies.destinations()[1:] if supplies.files else supplies.destinations()
    for found in (variables, places, supplies.env_sets, [config.name for config in supplies.configs]):
        for item in found:
            if list(found).count(item) > 1:
                raise UsageError(f"Two of the secrets, configs or environment sets are asked for as {item}.")
    for place in places:
        if any(other.startswith(f"{place}/") for other in places):
            raise UsageError(f"{place} can't be a file and a directory with others in it.")
    return supplies


def parse_secret(text: str) -> Secret:
    """`--secret`: NAME[,type=mount|env][,target=TARGET][,uid=UID][,gid=GID][,mode=MODE]; raises UsageError."""
    found = _options(text, "secret", ("type", "target", "uid", "gid", "mode"))
    return make_secret(
        found["source"],
        found.get("type", MOUNT),
        found.get("target", ""),
        _id(found["uid"]) if "uid" in found else None,
        _id(found["gid"]) if "gid" in found else None,
        found.get("mode", "0400"),
    )


def make_secret(name: str, kind: str, target: str, uid: int | None, gid: int | None, mode: str) -> Secret:
    """A Secret with its target made normal; raises UsageError for what can't be."""
    object_name(name)
    target = target or name
    if kind == ENV:
        if not _VARIABLE.fullmatch(target):
            raise UsageError(
                f"The secret {name} can't be the variable {target[:80]!r}.",
                hint=f"For example --secret {name},type=env,target=PASSWORD",
            )
        if uid is not None or gid is not None or mode != "0400":
            raise UsageError(f"The secret {name} is to be a variable, which has no owner and no mode.")
        return Secret(name, kind, target)
    if kind != MOUNT:
        raise UsageError(f"A secret is of the type {MOUNT} or {ENV}, not {kind[:40]!r}.")
    if target.startswith("/"):
        target = _path(target, "A secret's target").removeprefix(f"{SECRETS}/")
    if not target.startswith("/") and not _FILE.fullmatch(target):
        raise UsageError(
            f"The secret {name} can't be the file {target[:80]!r}.",
            hint=f"Give a file name, which is then in {SECRETS}, or an absolute path.",
        )
    return Secret(name, kind, target, uid, gid, _mode(mode))


def parse_config(text: str) -> Config:
    """`--config`: NAME:PATH or NAME,target=PATH, and [,uid=UID][,gid=GID][,mode=MODE]; raises UsageError."""
    found = _options(text, "config", ("target", "uid", "gid", "mode"))
    name, separator, place = found["source"].partition(":")
    if bool(separator) == ("target" in found):
        raise UsageError(
            f"{text[:200]!r} says not where the config is inside.", hint="Write NAME:/etc/app.conf."
        )
    uid, gid = _id(found.get("uid", "0")), _id(found.get("gid", "0"))
    return make_config(name, place or found.get("target", ""), uid, gid, found.get("mode", "0444"))


def make_config(name: str, target: str, uid: int, gid: int, mode: str) -> Config:
    """A Config with its target made normal; raises UsageError for what can't be."""
    path = _path(target, "A config's target")
    if path == SECRETS or path.startswith(f"{SECRETS}/"):
        raise UsageError(f"A config can't be in {SECRETS}.", hint="gear secret create keeps what is secret.")
    return Config(object_name(name), path, uid, gid, _mode(mode))


def reload_signal(text: str) -> str:
    """*text* if it may tell a payload to read its configs again; raises UsageError.  Whether there is such a signal
    is for gear/spec.py to say."""
    if text.strip().upper().removeprefix("SIG") in _DEADLY or text.strip() in ("9", "19"):
        raise UsageError(f"{text} ends or stops a program, so it can't be a reload.", hint="For example HUP.")
    return text


def _path(text: str, what: str) -> str:
    path = container_path(text, what)
    taken = kernel_view(path)
    if path in ("/", SECRETS) or taken is not None or any(c < " " or c == "\x7f" for c in path):
        raise UsageError(f"{what} can't be {text[:200]!r}.")
    return path


def _options(text: str, what: str, known: tuple[str, ...]) -> dict[str, str]:
    """The words of NAME,KEY=VALUE,...; the name may be `source=NAME` anywhere, as with Docker."""
    found: dict[str, str] = {}
    for number, word in enumerate(text.split(",")):
        key, separator, value = word.partition("=")
        if not separator and number == 0:
            key, value = "source", word
        if key not in ("source", *known) or key in found:
            raise UsageError(
                f"{word[:80]!r} is no option of a {what}, or there is another one like it.",
                hint=f"Write NAME, and {', '.join(f'{option}=' for option in known)} behind it.",
            )
        found[key] = value
    if not found.get("source"):
        raise UsageError(f"{text[:200]!r} names no {what}.")
    return found


def _id(text: str) -> int:
    if not _ID.fullmatch(text) or int(text) > _MOST_ID:
        raise UsageError(f"{text[:40]!r} is no user or group id inside.", hint="Give a number.")
    return int(text)


def _mode(text: str) -> str:
    if not _MODE.fullmatch(text):
        raise UsageError(f"{text[:40]!r} is no mode of a file.", hint="For example 0440.")
    return f"{int(text, 8):04o}"


def _known_id(value: Any) -> int:
    return _id(str(members.integer(value)))


def _record(make: Callable[..., Any], readers: dict[str, members.Reader]) -> members.Reader:
    """What reads an array of objects with all of *readers*, and gives *make* the members of each."""

    def one(value: Any) -> Any:
        values, faults = members.read(members.mapping(value), readers, "", tuple(readers))
        if faults:
            raise ValueError("; ".join(faults))
        return make(**values)

    return lambda value: tuple(one(item) for item in members.array(value))


_OWNER: dict[str, members.Reader] = {"name": members.text, "target": members.text, "mode": members.text}
_READERS: dict[str, members.Reader] = {
    "env_sets": lambda value: tuple(object_name(text) for text in members.texts(value)),
    "secrets": _record(
        make_secret,
        {
            **_OWNER,
            "kind": members.text,
            "uid": members.optional(_known_id),
            "gid": members.optional(_known_id),
        },
    ),
    "configs": _record(make_config, {**_OWNER, "uid": _known_id, "gid": _known_id}),
    "reload_signal": members.optional(lambda value: reload_signal(members.text(value))),
}
