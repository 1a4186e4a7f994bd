"""Copying files into and out of a host: one tar at each end of a pipe."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import needs
from .errors import ToolError, UsageError

if TYPE_CHECKING:
    from .host import Host

EXCLUDED = ("__pycache__", ".git")
TIMEOUT_S = 600.0

# $1 the target, $2 the name in the archive when the target may be its new name, empty when it is a directory.
UNPACK = """\
set -e
if [ -z "$2" ] || [ -d "$1" ]; then
    mkdir -p -- "$1"
    exec tar -x --numeric-owner -p -f - -C "$1"
fi
top=$(dirname -- "$1")
mkdir -p -- "$top"
new=$(mktemp -d -- "$top/.copy-XXXXXX")
trap 'rm -rf -- "$new"' EXIT
tar -x --numeric-owner -p -f - -C "$new"
mv -T -- "$new/$2" "$1"
"""


def pack(sources: Sequence[Path]) -> list[str]:
    """The tar command that writes the sources, each by its last name, to its standard output."""
    argv = ["tar", "-c", "--numeric-owner", "-f", "-"]
    argv += [f"--exclude={name}" for name in EXCLUDED]
    for source in sources:
        argv += ["-C", os.fspath(source.parent), f"./{source.name}"]
    return argv


def unpack(target: str, names: Sequence[str]) -> list[str]:
    """The command that reads such an archive, with cp's rules for what the target means."""
    rename = "" if len(names) != 1 or target.endswith("/") else names[0]
    return ["sh", "-c", UNPACK, "sh", target, rename]


def absolute(path: Path) -> Path:
    """Without '.' and '..', so that it has a last name; symbolic links stay what they are."""
    return Path(os.path.abspath(path))


def send(host: Host, sources: Sequence[Path], target: str) -> None:
    needs.programs("tar")
    sources = [absolute(source) for source in sources]
    for source in sources:
        if not os.path.lexists(source):
            raise UsageError(f"no such file: {source}")
    receiver = unpack(target, [source.name for source in sources])
    command, environment = host.command(receiver)
    pump(host, (pack(sources), None), (command, environment), f"copying to {target}")


def receive(host: Host, source: str, target: Path) -> None:
    needs.programs("tar")
    top, name = os.path.split(os.path.normpath(source))
    if name in ("", "..", "."):
        raise UsageError(f"{source!r} names no file")
    command, environment = host.command(
        ["tar", "-c", "--numeric-owner", "-f", "-", "-C", top or "/", f"./{name}"]
    )
    where = str(absolute(target)) + ("/" if str(target).endswith("/") else "")
    pump(host, (command, environment), (unpack(where, [name]), None), f"fetching {source}")


def pump(
    host: Host,
    writer: tuple[list[str], dict[str, str] | None],
    reader: tuple[list[str], dict[str, str] | None],
    what: str,
) -> None:
    """Run two commands with a pipe between them; raises with what they said when one fails."""
    with tempfile.TemporaryFile() as complaints:
        first = subprocess.Popen(
            writer[0], env=writer[1], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        )
        with first:
            second = subprocess.Popen(
                reader[0], env=reader[1], stdin=first.stdout, stdout=subprocess.DEVNULL, stderr=complaints
            )
            with second:
                assert first.stdout is not None
                first.stdout.close()
                try:
                    statuses = [second.wait(TIMEOUT_S), first.wait(TIMEOUT_S)]
                except BaseException:
                    first.kill()
                    second.kill()
                    raise
        if statuses != [0, 0]:
            complaints.seek(0)
            text = complaints.read()[-1000:].decode(errors="replace").strip()
            raise ToolError(f"{host.name}: {what} failed: {text or shlex.join(reader[0])}")
