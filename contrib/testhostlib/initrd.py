"""The initial RAM disk of a virtual machine: busybox, a few modules and a script.

Debian's own would bring initramfs-tools into the tree, take its time to make, and run udev twice at every
boot, where each program costs twenty times what it does natively.
"""

from __future__ import annotations

import gzip
import lzma
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")

# The address is the one QEMU's user network forwards to; set here, it needs no network service.
INIT = """\
#!/bin/busybox sh
export PATH=/bin
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
for module in {modules}; do busybox insmod /modules/$module; done
busybox ip link set lo up
busybox ip addr add 10.0.2.15/24 dev eth0
busybox ip link set eth0 up
tries=0
until [ -b /dev/vda ] || [ $tries = 1000 ]; do tries=$((tries + 1)); busybox sleep 0.01; done
busybox mount -t ext4 -o rw /dev/vda /root || busybox poweroff -f
for part in dev proc sys; do busybox mount --move /$part /root/$part; done
exec busybox switch_root /root /sbin/init
"""


def entry(number: int, name: str, mode: int, data: bytes = b"") -> bytes:
    """One member of a cpio archive in the "newc" format, see cpio(5)."""
    path = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return padded(header + path) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def archive(files: Mapping[str, bytes], directories: Sequence[str]) -> bytes:
    """A cpio archive of directories and executable files."""
    members = [(name, stat.S_IFDIR | 0o755, b"") for name in directories]
    members += [(name, stat.S_IFREG | 0o755, data) for name, data in files.items()]
    body = [entry(number, *member) for number, member in enumerate(members, 1)]
    return b"".join(body) + entry(0, "TRAILER!!!", 0)


def build(busybox: bytes, modules: Sequence[Path]) -> bytes:
    """The compressed archive; the modules in the order in which they are to be loaded."""
    names = [path.name.removesuffix(".xz") for path in modules]
    files = {"init": INIT.format(modules=" ".join(names)).encode(), "bin/busybox": busybox}
    for name, path in zip(names, modules, strict=True):
        data = path.read_bytes()
        files[f"modules/{name}"] = lzma.decompress(data) if path.suffix == ".xz" else data
    return gzip.compress(
        archive(files, ("bin", "modules", "dev", "proc", "sys", "root")), compresslevel=1, mtime=0
    )
