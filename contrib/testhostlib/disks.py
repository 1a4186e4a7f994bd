"""Kernel, initrd and root disk of a virtual machine, made from the root tree and kept in the cache.

CACHE/disks/RELEASE-KEY/vmlinuz, initrd, root.img (raw ext4), known_hosts
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import initrd, needs, recipe, trees
from .places import Places

DISK_MIB = 1536
DISK_SIZE = "8G"  # sparse

# The tree is seen through an overlay, so that nothing is written to it and nothing is copied twice.
# $1 lower, $2 staging, $3 kernel version, $4 size of the disk
SCRIPT = """\
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/merged"
rm -rf "$2/merged/usr/lib/testhost-kernel"
chroot "$2/merged" depmod "$3"
for module in {modules}; do
    chroot "$2/merged" modprobe --set-version "$3" --show-depends "$module"
done > "$2/modules"
mke2fs -q -t ext4 -L root -d "$2/merged" "$2/root.img" "$4"
"""


def build_disk(release: str, *, extra: str = "", places: Places | None = None) -> Path:
    """The directory with the cached disk of a release, built now when it is not there, from its tree."""
    places = places or Places.default()
    tree = trees.build_tree(release, extra=extra, places=places)
    needs.programs("mke2fs", "ssh-keygen", "setpriv", "unshare", "dpkg-deb")
    public = public_key(places)
    path = disk_path(places, release, public, extra)
    return trees.build_once(places, path, DISK_MIB, lambda staging, held: fill(tree, staging, public, held))


def disk_path(places: Places, release: str, public: str, extra: str = "") -> Path:
    key = recipe.key(recipe.tree_key(release, extra), initrd.INIT, initrd.MODULES, SCRIPT, DISK_SIZE, public)
    return places.disks / f"{release}-{key}"


def public_key(places: Places) -> str:
    """The public half of the cache's own ssh key, which is made when it is not there."""
    private = places.ssh / "id_ed25519"
    if not private.exists():
        with places.lock("ssh"):
            if not private.exists():
                staging = places.cache / ".new-ssh"
                trees.remove(staging)
                staging.mkdir(mode=0o700)
                argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testhost"]
                trees.output([*argv, "-f", str(staging / private.name)], "make an ssh key")
                os.rename(staging, places.ssh)
    return private.with_suffix(".pub").read_text()


def fill(tree: Path, staging: Path, public: str, held: int) -> None:
    for name in ("kernel", "upper", "work", "merged"):
        (staging / name).mkdir(parents=True)
    (package,) = (tree / "usr/lib/testhost-kernel").glob("*.deb")
    trees.output(["dpkg-deb", "-x", str(package), str(staging / "kernel")], f"unpack {package.name}")
    (vmlinuz,) = staging.glob("kernel/boot/vmlinuz-*")
    version = vmlinuz.name.removeprefix("vmlinuz-")
    (modules,) = staging.glob("kernel/**/lib/modules")
    # Never /lib itself: in the tree it is a symbolic link, which a directory here would hide.
    (staging / "upper/usr/lib").mkdir(parents=True)
    modules.rename(staging / "upper/usr/lib/modules")
    vmlinuz.rename(staging / "vmlinuz")
    authorized = staging / "upper/root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, parents=True)
    authorized.parents[1].chmod(0o700)
    authorized.write_text(public)
    script = SCRIPT.format(modules=" ".join(initrd.MODULES))
    argv = [*recipe.CONFINED, "sh", "-c", script, "sh", str(tree), str(staging), version, DISK_SIZE]
    trees.output(argv, "make a disk", held)
    found = modules_to_load((staging / "modules").read_text(), staging / "upper")
    (staging / "initrd").write_bytes(initrd.build((tree / "usr/bin/busybox").read_bytes(), found))
    host_key = (tree / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    (staging / "known_hosts").write_text(f"testhost {host_key}")
    for name in ("kernel", "upper", "work", "merged"):
        shutil.rmtree(staging / name)


def modules_to_load(text: str, upper: Path) -> list[Path]:
    """The files named by 'modprobe --show-depends', each once; builtin ones have none."""
    paths = []
    for line in text.splitlines():
        word, _, name = line.partition(" ")
        if word == "insmod":
            name = name.split()[0].lstrip("/")
            path = upper / (name if name.startswith("usr/") else f"usr/{name}")
            if path not in paths:
                paths.append(path)
    return paths
