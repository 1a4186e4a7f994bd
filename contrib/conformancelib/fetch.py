"""Upstream source of a Debian source package, fetched by apt with a configuration of its own.

The system's apt is neither asked nor changed, and nothing is unpacked by dpkg-source: the upstream tarball alone
is taken, whose checksum is in Debian's signed index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
HELPER = "/usr/lib/apt/apt-helper"


class Unfit(Exception):
    """What stops a run before a test has been made: one sentence."""


def options(place: Path, release: str) -> list[str]:
    """apt's options for a private configuration below *place* that knows one release's sources."""
    for name in (
        "etc/apt.conf.d",
        "etc/preferences.d",
        "etc/sources.list.d",
        "lists/partial",
        "archives/partial",
    ):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "status").touch()
    mirror = os.environ.get("GEAR_TESTHOST_MIRROR") or MIRROR
    (place / "etc/sources.list").write_text(f"deb-src [signed-by={KEYRING}] {mirror} {release} main\n")
    chosen = {
        "Dir::Etc": place / "etc",
        "Dir::State": place,
        "Dir::State::lists": place / "lists",
        "Dir::State::status": place / "status",
        "Dir::Cache": place,
        "APT::Sandbox::User": "root",
    }
    return [word for key, value in chosen.items() for word in ("-o", f"{key}={value}")]


def apt(argv: list[str], what: str) -> str:
    """What a program of apt's prints; raises with its complaint when it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        complaint = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise Unfit(f"{what} failed: {complaint}")
    return done.stdout


def upstream(text: str) -> tuple[str, str, str]:
    """Address, name and checksum of the upstream tarball among what 'apt-get source --print-uris' prints."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and ".orig.tar." in words[1] and not words[1].endswith(".asc"):
            return words[0].strip("'"), words[1], words[3]
    raise Unfit(f"apt names no upstream tarball: {text.strip()[:200]}")


def source(package: str, release: str, target: Path, wanted: str) -> Path:
    """Unpack the files below *wanted* of the package's upstream source in *target*; returns the tree's top."""
    place = target.with_name(f".new-{target.name}")
    shutil.rmtree(place, ignore_errors=True)
    try:
        chosen = options(place / "apt", release)
        apt(["apt-get", "-q", *chosen, "update"], f"fetching the index of {release}")
        listing = apt(
            ["apt-get", "-q", *chosen, "source", "--print-uris", "--only-source", package],
            f"looking for the source package {package} in {release}",
        )
        address, name, checksum = upstream(listing)
        tarball = place / name
        apt([HELPER, *chosen, "download-file", address, str(tarball), checksum], f"fetching {name}")
        unpack(tarball, place / "tree", wanted)
        shutil.rmtree(target, ignore_errors=True)
        (place / "tree").rename(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return target


def unpack(tarball: Path, target: Path, wanted: str) -> None:
    """Write the regular files below *wanted* of the one tree that the tarball holds."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = member.name.removeprefix("./").partition("/")[2]
            data = archive.extractfile(member) if member.isreg() else None
            if data is None or not name.startswith(wanted) or ".." in name.split("/"):
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.read())
            path.chmod(0o755 if member.mode & 0o100 else 0o644)
