"""Carrying attacks out: compiles tests/attacks, puts the program into images, and reads what it says.

Not the expectations: each tests/host/test_attack_*.py has those of its class.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import archives
from gearhost import TOP, GearHost

SOURCES = TOP / "tests" / "attacks"
FLAGS = ("-O1", "-Wall", "-Wextra", "-Werror")
# Where the programs are on the test host, to be run there as root: the same attack without the defence.
PROBE = "/root/attacks/probe"
# What says that the way is closed, whichever gate closed it.
REFUSED = frozenset(("EPERM", "EACCES", "EROFS", "ENOSYS"))


@cache
def programs(directory: Path) -> tuple[Path, Path]:
    """Compile the attacking programs into *directory*: the probe and the hostile program loader."""
    probe, loader = directory / "probe", directory / "interp"
    sources = sorted(path for path in SOURCES.glob("*.c") if path.stem != "interp")
    _compile("-static", "-o", probe, *sources)
    alone = ("-static-pie", "-fPIE", "-nostdlib", "-fno-stack-protector")
    _compile(*alone, "-o", loader, SOURCES / "interp.c")
    return probe, loader


def _compile(*words: object) -> None:
    done = subprocess.run(
        ["gcc", *FLAGS, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"gcc complains (apt-get install gcc libc6-dev):\n{done.stderr}"


def parse(lines: Iterable[str]) -> dict[str, str]:
    """What the probe said, up to its end: name -> result."""
    result = {}
    for line in lines:
        if line == "the-end":
            break
        name, _, outcome = line.partition(" ")
        result[name] = outcome
    return result


class Attacker:
    """The images and containers that attack one test host."""

    def __init__(self, host: GearHost, probe: Path, loader: Path) -> None:
        self.host = host
        self.probe, self.loader = probe.read_bytes(), loader.read_bytes()
        self.images: list[str] = []
        host.host.copy([probe, loader], "/root/attacks/")
        self.image("attack")

    def image(
        self,
        name: str,
        *members: tuple[tarfile.TarInfo, bytes],
        options: Iterable[str] = ("--cmd", '["/bin/probe"]'),
    ) -> None:
        """Import an image of busybox, the probe, and *members*, which come last and may replace what is there."""
        content = [archives.directory(place) for place in ("bin", "etc", "tmp", "proc", "sys", "dev")]
        content.append(archives.entry("bin/probe", self.probe, mode=0o755))
        replaced = {member[0].name for member in members}
        if "etc/passwd" not in replaced:
            content += [
                archives.entry(
                    "etc/passwd", b"root:x:0:0::/:/bin/sh\nwww:x:8080:8080::/:/bin/sh\n", mode=0o644
                )
            ]
        content += list(members)
        self.host.write("/var/lib/t/attack.tar", archives.tar(*content))
        self.host.gear("image", "import", "/var/lib/t/attack.tar", name, *options)
        self.images.append(name)

    def forget(self) -> None:
        """Remove the images."""
        for name in set(self.images):
            self.host.run("gear", "image", "rm", name, check=False)

    def start(self, name: str, *words: str, image: str = "attack", options: Iterable[str] = ()) -> None:
        """Start the attack *words* in a container as its root, unless *options* say otherwise."""
        self.host.gear("install", image, name, "--user", "0", "--restart", "no", *options, "--start",
                       "--entrypoint", "/bin/probe", "--", *words)  # fmt: skip

    def result(self, name: str) -> dict[str, str]:
        """Wait for the end of the attack in the container *name*: what the probe said."""
        self.host.wait(lambda: "the-end" in self.log(name), f"the end of the attack in {name}")
        return parse(self.log(name))

    def log(self, name: str) -> list[str]:
        """The lines of the journal since the container's start."""
        return self.host.gear("logs", "-i", name).split("\n")

    def attack(
        self, *words: str, name: str = "attack", image: str = "attack", options: Iterable[str] = ()
    ) -> dict[str, str]:
        """Start the attack, wait for its end, remove the container: what the probe said."""
        self.start(name, *words, image=image, options=options)
        result = self.result(name)
        self.host.gear("delete", "--volumes", name)
        return result

    def control(self, *words: str, wrapper: Iterable[str] = ()) -> dict[str, str]:
        """The same attack as the host's root, outside of any container."""
        return parse(self.host.out(*wrapper, PROBE, *words).split("\n"))


def gained(result: dict[str, str]) -> list[str]:
    """The attempts that succeeded."""
    return sorted(name for name, outcome in result.items() if outcome == "ok")


def command(*words: str) -> tuple[str, str]:
    """Options of image import for a command."""
    return ("--cmd", json.dumps(words))
