"""Root trees built by mmdebstrap and kept in the cache.

A tree is built beside its place and renamed into it, under a lock: two callers share one build, and whoever
holds the lock removes what an interrupted build has left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from . import needs, recipe
from .errors import ToolError
from .places import Places

TREE_MIB = 1024


def tree_path(places: Places, release: str, extra: str = "") -> Path:
    return places.trees / f"{release}-{recipe.tree_key(release, extra)}"


def build_tree(release: str, *, extra: str = "", places: Places | None = None) -> Path:
    """The cached root tree of a release, built now when it is not there; blocks for about 20 s then."""
    places = places or Places.default()
    recipe.check_release(release)
    path = tree_path(places, release, extra)
    if path.exists():
        return path
    needs.root()
    needs.programs("mmdebstrap", "setpriv", "unshare")
    places.make()

    def fill(staging: Path, held: int) -> None:
        bootstrap(release, recipe.packages(release, extra), staging, held, hook=recipe.hook(extra))
        finish(staging)

    return build_once(places, path, TREE_MIB, fill)


def build_once(places: Places, path: Path, mebibytes: int, fill: Callable[[Path, int], None]) -> Path:
    """Have PATH made by FILL, unless it is there already.

    FILL gets another name beside it, and the lock's descriptor for the processes it starts: when this one is
    killed, the next builder waits until they are gone, too.
    """
    with places.lock(path.name) as held:
        if path.exists():
            return path
        # The start of the name stays, because mmdebstrap chooses between directory and tar by its end.
        staging = path.with_name(f".new-{path.name}")
        remove(staging)
        needs.space(places.cache, mebibytes)
        try:
            fill(staging, held)
        except BaseException:
            remove(staging)
            raise
        os.rename(staging, path)
    return path


def remove(path: Path) -> None:
    """Remove a file or a tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        if any(os.path.ismount(top) for top, _, _ in os.walk(path)):
            raise ToolError(f"{path} can't be removed: something is mounted in it", hint=f"umount -R {path}")
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bootstrap(release: str, packages: Sequence[str], target: Path, held: int, *, hook: str = "") -> None:
    mirror = os.environ.get("GEAR_TESTHOST_MIRROR")
    argv = recipe.mmdebstrap(release, packages, os.fspath(target), hook=hook, mirror=mirror)
    environment = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    environment |= {"PATH": needs.SEARCH_PATH, "LANG": "C.UTF-8", "HOME": "/root"}
    result = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=[held],
    )
    if result.returncode != 0:
        lines = result.stdout.decode(errors="replace").strip().splitlines()
        raise ToolError(
            f"mmdebstrap could not build {release} (status {result.returncode}): " + " | ".join(lines[-4:]),
            hint="check the network, or name another mirror in GEAR_TESTHOST_MIRROR",
        )


def output(argv: list[str], what: str, *held: int) -> bytes:
    """What a program of this machine writes; raises with what it complains about when it fails."""
    environment = {"PATH": needs.SEARCH_PATH, "LANG": "C.UTF-8"}
    result = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, env=environment, pass_fds=held
    )
    if result.returncode != 0:
        raise ToolError(f"testhost could not {what}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def finish(tree: Path) -> None:
    """Turn what mmdebstrap made into a host that boots fast and to 'running'."""
    for name, text in recipe.FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in recipe.LINKS.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    # Empty, not absent: no first boot, and each host is given its own.
    (tree / "etc/machine-id").write_text("")
    (tree / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (tree / "var/log/journal").mkdir(mode=0o755, exist_ok=True)
    (tree / "var/lib/gear").mkdir(mode=0o755, exist_ok=True)
    shadow = tree / "etc/shadow"
    lines = shadow.read_text().splitlines()
    shadow.write_text("".join(f"{no_password(line)}\n" for line in lines))


def no_password(line: str) -> str:
    """Root's line of /etc/shadow with an empty password, so that a console lets one in; others unchanged."""
    name, _, rest = line.partition(":")
    return f"root::{rest.partition(':')[2]}" if name == "root" else line
