"""Environment sets on disk: variables under an id, which any number of containers refer to (geard's env ids).

    STATE/env/ID/env.json       {"version", "variables": {name: value}}, for root only

Values are data: whatever an environment can hold, bytes that are no text included (PEP 383).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from gear import files, members, objects
from gear.errors import IntegrityError, UsageError
from gear.model import Layout
from gear.provision import Content
from gear.spec import environment_name
from gear.supplies import CONFIG, ENV_SET, Supplies, object_path

VERSION = 1
# MAX_ARG_STRLEN of the kernel (linux/binfmts.h), with the NUL: no program can be started with a longer one.
_LONGEST = (1 << 17) - 1


def read(layout: Layout, name: str) -> dict[str, str]:
    """The variables of the set *name*; raises NotFoundError, and IntegrityError when it is damaged."""
    objects.require(layout, ENV_SET, name)
    path, hint = object_path(layout, ENV_SET, name), f"gear set-env {name} --reset K=V..."
    try:
        document = members.mapping(files.read_json(path))
        if document["version"] != VERSION or set(document) != {"version", "variables"}:
            raise ValueError("it is none of this version")
        variables = members.text_mapping(document["variables"])
        return {environment_name(key): value for key, value in variables.items()}
    except IntegrityError as error:
        error.hint = hint
        raise
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise IntegrityError(f"{path} is damaged: {str(error).rstrip('.')}.", hint=hint) from error


def write(layout: Layout, name: str, variables: Mapping[str, str]) -> None:
    """Make the set *name*, or replace it; raises UsageError for what no program can be started with.  The caller holds
    gear's lock."""
    for key, value in variables.items():
        if len(f"{environment_name(key)}={value}".encode(errors="surrogateescape")) >= _LONGEST:
            raise UsageError(f"The value of {key} is longer than a variable can be.")
        if "\0" in value:
            raise UsageError(f"The value of {key} holds a NUL byte, which no variable can.")
    document: dict[str, Any] = {"version": VERSION, "variables": dict(variables)}
    data = objects.require_size(files.dump_json(document), f"The environment set {name}")
    objects.write(layout, ENV_SET, name, {"env.json": data})


def content(layout: Layout, supplies: Supplies) -> Content:
    """What is rendered of all that a container gets: later sets count more; raises NotFoundError."""
    variables: dict[str, str] = {}
    for name in supplies.env_sets:
        variables |= read(layout, name)
    return Content(variables, {name: objects.read(layout, CONFIG, name) for name in supplies.names(CONFIG)})


def as_shell(variables: Mapping[str, str]) -> bytes:
    """Lines of NAME=VALUE that a shell reads back (bash, and POSIX of 2024), and that steer no terminal."""
    return b"".join(
        f"{key}={_quoted(value)}\n".encode() for key, value in map(_shown, sorted(variables.items()))
    )


def _shown(item: tuple[str, str]) -> tuple[str, str]:
    key, value = item
    return "".join(c if c.isprintable() else "?" for c in key), value


def _quoted(value: str) -> str:
    if value.isprintable():
        return shlex.quote(value)
    plain = set(range(0x20, 0x7F)) - set(b"'\\")
    # Octal, which has a fixed width: a digit that follows is none of it.
    data = value.encode(errors="surrogateescape")
    return "$'" + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in data) + "'"


def as_bytes(variables: Mapping[str, str]) -> bytes:
    """Each NAME=VALUE with a NUL behind it, as in /proc/PID/environ."""
    return b"".join(
        f"{key}={value}".encode(errors="surrogateescape") + b"\0" for key, value in sorted(variables.items())
    )
