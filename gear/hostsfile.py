"""What containers are called on a network, and the files that tell others.

    STATE/networks/NETWORK/hosts         everybody on it; /etc/hosts of those that are on this network and no other
    STATE/networks/NETWORK/telling       there while it changes who is on it, and not all hosts files say so
    STATE/containers/NAME/hosts          /etc/hosts of a container with lines of its own (gear/bundle.py)

Running containers have these files mounted, so they are never replaced: lines are changed where they are.  Readers
take no lock, and get a file in pieces; so no line ever moves, and each comes and goes by its first byte, which is `#`
while the rest is written.  Whoever reads meanwhile sees the line or does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gear import files
from gear.attachment import LOOPBACK_LINES
from gear.model import Layout

# The addresses of a network that have names: address -> the container, then its aliases.
Names = Mapping[str, tuple[str, ...]]

NAME = "hosts"
# A line's place is as long as the next multiple, so that it is good for most other lines later.
_GRAIN = 32


def path(layout: Layout, network: str) -> Path:
    """The file that says who is on *network*."""
    return layout.networks / network / NAME


def own_path(layout: Layout, container: str) -> Path:
    """The hosts file of a container that does not have that of its network."""
    return layout.containers / container / NAME


def _mark(layout: Layout, network: str) -> Path:
    return layout.networks / network / "telling"


def find(layout: Layout, network: str) -> dict[str, tuple[str, ...]] | None:
    """Who is on *network*; None when a change has not come to its end, or the file is damaged."""
    content = None if _mark(layout, network).exists() else files.read_bytes(path(layout, network))
    if content is None:
        return None
    found = _named(content)
    return found if all(found.values()) else None


def said(layout: Layout, network: str) -> dict[str, tuple[str, ...]]:
    """Who is on *network* as far as its file says now, whether or not a change has come to its end."""
    return {
        address: each
        for address, each in _named(files.read_bytes(path(layout, network)) or b"").items()
        if each
    }


def _named(content: bytes) -> dict[str, tuple[str, ...]]:
    """Names by address; none in a damaged line."""
    found = {}
    for line in sorted(active(content).difference(LOOPBACK_LINES.encode().splitlines())):
        address, *names = line.decode("ascii", "replace").split()
        found[address] = tuple(names)
    return found


def begin(layout: Layout, network: str) -> None:
    """Say, durably, that it is going to change who is on *network*."""
    files.write_atomic(_mark(layout, network), b"")


def end(layout: Layout, network: str) -> None:
    """Say that everybody on *network* has been told."""
    files.remove_file(_mark(layout, network))


def write(layout: Layout, network: str, names: Names) -> None:
    """Have the network's file say who is on it."""
    wanted = [*LOOPBACK_LINES.splitlines(), *lines(names)]
    change(path(layout, network), [line.encode() for line in wanted])


def lines(names: Names) -> list[str]:
    """Lines of a hosts file."""
    return ["\t".join((address, " ".join(called))) for address, called in names.items()]


def active(content: bytes) -> set[bytes]:
    """The lines of a hosts file that mean something."""
    found = {line.rstrip() for line in content.split(b"\n")}
    return {line for line in found if line and line[:1] != b"#"}


def tidy(content: bytes, expected: bytes) -> bytes:
    """What *content* means, in the form of *expected*: equal to it if both mean the same."""
    there, wanted = active(content), expected.splitlines()
    more = [line.rstrip() for line in content.split(b"\n") if line.rstrip() in there - set(wanted)]
    return b"".join(line + b"\n" for line in [*(line for line in wanted if line in there), *more])


def edits(content: bytes, wanted: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The writes, each at its offset, after which the lines of a hosts file are *wanted*.

    Whoever reads the file between any two of them sees each line whole or not at all, and one that stays always.
    """
    missing = dict.fromkeys(wanted)
    free: list[tuple[int, int]] = []
    gone, place = [], 0
    for line in content.split(b"\n"):
        text = line.rstrip()
        if line[:1] == b"#":
            free.append((place, len(line)))
        elif text in missing:
            del missing[text]
        elif text:
            gone.append(place)
        place += len(line) + 1
    end = len(content)
    if missing and content and not content.endswith(b"\n"):
        yield end, b"\n"
        end += 1
    for text in missing:
        fitting = next((item for item in free if item[1] >= len(text)), None)
        if fitting is not None:
            free.remove(fitting)
            offset, length = fitting
            yield offset, b"#" + text[1:].ljust(length - 1)
        else:
            offset, length = end, -(-(len(text) + 1) // _GRAIN) * _GRAIN - 1
            yield offset, b"#" + text[1:].ljust(length - 1) + b"\n"
            end += length + 1
        yield offset, text[:1]
    # Last, so that a name that changes its address has one all the time.
    for offset in gone:
        yield offset, b"#"


def change(where: Path, wanted: Iterable[bytes], *, durable: bool = True) -> bool:
    """Give a hosts file the lines *wanted* without replacing it, or make it; tells whether anything was to do.  Whoever
    changes many makes them durable together."""
    content, listed = files.read_bytes(where), list(wanted)
    if content is None:
        files.write_atomic(where, b"".join(line + b"\n" for line in listed))
        return True
    todo = list(edits(content, listed))
    with files.explained(f"write {where}"):
        if todo:
            descriptor = os.open(where, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                for offset, data in todo:
                    os.pwrite(descriptor, data, offset)
                if durable:
                    os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
    return bool(todo)
