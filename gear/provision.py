"""Secrets, configs and environment sets in the unit and the bundle of a container, as pure functions of its spec.

A secret's value is nowhere here: PID 1 decrypts it for the unit, and the start hands it on (gear/helper/supplies.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gear import unitfile
from gear.confinement import QUIET
from gear.errors import UsageError
from gear.model import Layout
from gear.oci import Identity
from gear.records import dataclass, field
from gear.signals import signal_number
from gear.spec import Spec
from gear.supplies import CONFIG, ENV, SECRET, SECRETS, object_path

# What the rendered file of a config is called, in the container's directory.
PREFIX = "config-"
# Beside them, its time is that of the last reload.
RELOADED = "reloaded"


@dataclass(frozen=True)
class Content:
    """What the objects of a container hold, as far as it is rendered: variables of its sets, bytes of its configs."""

    variables: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, bytes] = field(default_factory=dict)


def is_config(path: Path) -> bool:
    """Whether *path* is the rendered file of a config: containers that run have it mounted."""
    return path.name.startswith(PREFIX)


def config_path(layout: Layout, container: str, name: str) -> Path:
    """The file of the config *name* that *container* has mounted."""
    return layout.containers / container / f"{PREFIX}{name}"


def unit_lines(spec: Spec, layout: Layout, script: Sequence[str]) -> list[tuple[str, str]]:
    """Settings of the section [Service]; *script* begins the command that has the payload read its configs again."""
    lines = []
    for name in spec.supplies.names(SECRET):
        credential = object_path(layout, SECRET, name)
        lines.append(("LoadCredentialEncrypted", f"{name}:{unitfile.value(str(credential))}"))
    if spec.supplies.reload_signal is not None:
        number = str(signal_number(spec.supplies.reload_signal))
        lines.append(("ExecReload", unitfile.command([*script, number, str(layout.containers / spec.name)])))
    return lines


def variables(spec: Spec, content: Content) -> dict[str, str]:
    """What is added to the environment before what the specification has itself."""
    found = {"CREDENTIALS_DIRECTORY": SECRETS} if spec.supplies.files else {}
    return found | dict(content.variables)


def mounts(spec: Spec, layout: Layout, taken: set[str]) -> list[dict[str, Any]]:
    """Mounts of its configs, in OCI's words; raises UsageError when something else is to be mounted there.

    Those of secrets are made by the start.
    """
    for place in spec.supplies.destinations():
        for other in taken:
            if other == place or other.startswith(f"{place}/"):
                raise UsageError(
                    f"{spec.name} can't have a mount on {other} and a secret or config on {place}."
                )
    shifted = ["idmap"] if spec.own_ids else []
    return [
        {
            "destination": config.target,
            "type": "bind",
            "source": str(config_path(layout, spec.name, config.name)),
            "options": ["bind", "ro", *shifted, *QUIET],
        }
        for config in spec.supplies.configs
    ]


def start_members(spec: Spec, identity: Identity, layout: Layout) -> dict[str, Any]:
    """Members of start.json (gear/helper/supplies.py): what the start makes of secrets, and whose the configs are."""
    found: dict[str, Any] = {}
    if spec.supplies.secrets:
        files = [
            {
                "name": secret.name,
                "target": secret.target,
                "uid": identity.uid if secret.uid is None else _held(spec, secret.uid),
                "gid": identity.gid if secret.gid is None else _held(spec, secret.gid),
                "mode": int(secret.mode, 8),
            }
            for secret in spec.supplies.files
        ]
        variables = {secret.target: secret.name for secret in spec.supplies.secrets if secret.kind == ENV}
        found["secrets"] = {"files": files, "variables": variables}
    if spec.supplies.configs:
        found["configs"] = [
            {
                "path": str(config_path(layout, spec.name, config.name)),
                "uid": _held(spec, config.uid),
                "gid": _held(spec, config.gid),
                "mode": int(config.mode, 8),
            }
            for config in spec.supplies.configs
        ]
    return found


def _held(spec: Spec, number: int) -> int:
    if number >= spec.id_count:
        raise UsageError(f"{spec.name} has no id {number}: it has ids 0 to {spec.id_count - 1}.")
    return number


def files(spec: Spec, layout: Layout, content: Content) -> dict[Path, bytes]:
    """The files of its configs, by their paths."""
    return {
        config_path(layout, spec.name, name): content.configs[name] for name in spec.supplies.names(CONFIG)
    }
