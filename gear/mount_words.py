"""Docker's long form of a mount, `--mount type=bind,source=/a,target=/b,readonly`, in gear's words.

Words of Docker that ask for what gear does not have are refused, not ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable

from gear.errors import UsageError
from gear.mounting import IDMAP, OWNER, SUBPATH, Mount, checked_mount

# Docker's other names for a word.
_ALIASES = {
    "src": "source",
    "destination": "target",
    "dst": "target",
    "ro": "readonly",
    "volume-subpath": "subpath",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}
# What each kind of mount takes: words that are true or false, and words with a value that stay as they are.
_SWITCHES = {
    "bind": ("readonly", "nosuid", "nodev", "noexec", "rbind", "idmap"),
    "volume": ("readonly", "nosuid", "nodev", "noexec"),
    "tmpfs": ("readonly", "noexec"),
}
_VALUES = {"bind": (IDMAP, OWNER), "volume": (SUBPATH,), "tmpfs": ("size=", "mode=")}
# Words whose one value means what gear does anyway.
_USUAL = {
    "bind-propagation": ("private", "rprivate"),
    "bind-recursive": ("disabled",),
    "bind-nonrecursive": ("true", "1"),
    "volume-driver": ("local",),
    "consistency": ("default", "consistent", "cached", "delegated"),
}
_INSTEAD = {
    "bind-propagation": "What is mounted on either side later stays there.",
    "volume-opt": "gear volume create makes volumes with options of their own.",
    "volume-label": "gear volume create --label",
    "volume-nocopy": "gear volume create --owner UID makes a volume that no image fills.",
}


def parse(text: str) -> Mount:
    """The mount that `--mount` asks for; raises UsageError."""
    fields = _fields(text)
    kind = fields.pop("type", None) or "volume"
    if kind not in _SWITCHES:
        raise UsageError(f"{kind[:40]!r} is no kind of mount.", hint="Kinds are bind, volume and tmpfs.")
    source, target = fields.pop("source", None) or "", fields.pop("target", None)
    if target is None:
        raise UsageError(f"{text[:80]!r} has no target.", hint="Add target=/in/container.")
    if not source and kind != "tmpfs":
        what = "source=/host/directory" if kind == "bind" else "source=NAME"
        raise UsageError(f"{text[:80]!r} has no source.", hint=f"Add {what}.")
    if source and kind == "tmpfs":
        raise UsageError("A tmpfs has no source: it is empty in the beginning.")
    return checked_mount(Mount(kind, source, target, tuple(_options(kind, fields.items()))))


def _fields(text: str) -> dict[str, str | None]:
    """The words of *text* by Docker's usual names; those without a value have None."""
    try:
        (words,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise UsageError(f"{text[:80]!r} is no mount: its quotes do not fit.") from None
    fields: dict[str, str | None] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = _ALIASES.get(name.lower(), name.lower())
        if name in fields:
            raise UsageError(f"{name} is said twice in {text[:80]!r}.")
        if name in ("type", "source", "target") and not value:
            raise UsageError(f"{name} has no value in {text[:80]!r}.")
        fields[name] = value if equals else None
    return fields


def _options(kind: str, fields: Iterable[tuple[str, str | None]]) -> Iterable[str]:
    for name, value in fields:
        if value is not None and f"{name}=" in _VALUES[kind]:
            yield f"{name}={value}"
        elif name in _SWITCHES[kind]:
            if _is_true(name, value):
                yield "ro" if name == "readonly" else name
        elif name == "bind-recursive" and kind == "bind" and value == "enabled":
            yield "rbind"
        elif value is None or value not in _USUAL.get(name, ()):
            shown = name if value is None else f"{name}={value}"
            known = [*_SWITCHES[kind], *_VALUES[kind]]
            raise UsageError(
                f"A {kind} mount has no option {shown[:80]!r}.",
                hint=_INSTEAD.get(name, f"Options are {', '.join(known)}."),
            )


def _is_true(name: str, value: str | None) -> bool:
    if value in (None, "true", "1"):
        return True
    if value in ("false", "0"):
        return False
    raise UsageError(f"{name} is true or false, not {value!r}.")
