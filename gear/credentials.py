"""Secrets on disk, encrypted by systemd-creds(1) with a key of this host.

    STATE/secrets/NAME/credential       what PID 1 decrypts (systemd.exec(5), LoadCredentialEncrypted=)
    STATE/secrets/NAME/secret.json      {"version", "key", "labels", "created", "changed": seconds since the epoch}

A value is in memory and in pipes only: never in a file, an argument or a message.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from gear import files, members, objects, process
from gear.errors import GearError, IntegrityError, UsageError
from gear.model import Layout
from gear.supplies import SECRET, object_path

VERSION = 1
# What systemd-creds(1) can encrypt with: `auto` takes the TPM as well where there is one.
KEYS = ("auto", "host", "tpm2", "host+tpm2")


def encrypt(name: str, data: bytes, key: str) -> bytes:
    """*data* as a credential that is called *name*; raises GearError."""
    objects.require_size(data, f"The secret {name}")
    if key not in KEYS:
        raise UsageError(f"There is no key {key!r}.", hint=f"Keys are {', '.join(KEYS)}.")
    return process.filtered(
        ["systemd-creds", "encrypt", f"--with-key={key}", f"--name={name}", "-", "-"], data
    )


def decrypt(layout: Layout, name: str) -> bytes:
    """The value of the secret *name*; raises GearError, NotFoundError."""
    sealed = objects.read(layout, SECRET, name)
    with contextlib.suppress(GearError):
        return process.filtered(["systemd-creds", "decrypt", f"--name={name}", "-", "-"], sealed)
    raise IntegrityError(
        f"The secret {name} can't be decrypted on this machine.", hint=f"gear secret create --replace {name}"
    )


def create(layout: Layout, name: str, data: bytes, key: str, labels: Mapping[str, str] | None) -> None:
    """Make the secret *name*, or replace it; without *labels* it keeps those it has.  The caller holds gear's lock."""
    old = describe(layout, name) if objects.exists(layout, SECRET, name) else {}
    now = time.time()
    document = {
        "version": VERSION,
        "key": key,
        "labels": dict(labels if labels is not None else old.get("labels", {})),
        "created": old.get("created") or now,
        "changed": now,
    }
    content = {"credential": encrypt(name, data, key), "secret.json": files.dump_json(document)}
    objects.write(layout, SECRET, name, content)


def describe(layout: Layout, name: str) -> dict[str, Any]:
    """What there is to say of the secret *name*, which is never its value; raises NotFoundError."""
    objects.require(layout, SECRET, name)
    path = object_path(layout, SECRET, name).with_name("secret.json")
    try:
        document = members.mapping(files.read_json(path) or {})
        labels = members.text_mapping(document.get("labels", {}))
        times = [float(members.number(document.get(member, 0))) for member in ("created", "changed")]
        key = members.text(document.get("key", ""))
    except (TypeError, ValueError) as error:
        raise IntegrityError(
            f"{path} is damaged: {error}.", hint=f"gear secret create --replace {name}"
        ) from error
    return {"name": name, "key": key, "labels": labels, "created": times[0], "changed": times[1]}
