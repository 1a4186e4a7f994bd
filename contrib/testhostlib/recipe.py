"""What goes into a root tree, as data; pure.

One tree per release serves both kinds of host: what a virtual machine needs on top, a kernel and its modules,
is unpacked when its disk is made (disks.py), in 3 s.  A second tree would cost another mmdebstrap run of 20
s, and would be one more thing that can differ between the kinds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from .errors import UsageError

VERSION = 1  # raise it when trees.py makes something different of the same recipe

RELEASES = ("bookworm", "trixie")

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps",
    "python3", "python3-pystemd", "python3-dbus-next", "python3-pyroute2", "python3-yaml",
    "python3-seccomp",
    "iproute2", "nftables", "curl", "busybox-static", "strace", "openssh-server", "catatonit",
)  # fmt: skip

# What a host may have besides, by the name of the set: programs that tests hold gear against.
EXTRAS = {
    "podman": (
        "podman", "buildah", "crun", "conmon", "netavark", "aardvark-dns", "catatonit", "uidmap",
        "apparmor", "iptables",
    ),
    # What else makes rules for packets on a host.
    "firewalls": (
        "firewalld", "ufw", "docker.io", "iptables", "podman", "crun", "conmon", "netavark", "aardvark-dns",
    ),
    # A real registry and a real proxy, what makes images, puts them there and looks at them, and what pulls are timed
    # against.
    "registry": (
        "docker-registry", "tinyproxy-bin", "skopeo", "umoci", "buildah", "podman", "crun", "conmon", "openssl",
        "python3-zstandard", "zstd", "python3-cryptography", "python3-nacl", "gpg", "gpg-agent",
    ),
    # Name services of hosts.
    "resolver": ("systemd-resolved", "dnsmasq-base"),
    # Everything that contrib/bench measures gear against, and a registry to pull from.
    "peers": (
        "podman", "buildah", "crun", "runc", "conmon", "netavark", "aardvark-dns", "uidmap", "iptables", "docker.io",
        "lxc", "systemd-container", "docker-registry", "skopeo", "zstd", "python3-zstandard",
    ),
}  # fmt: skip
# What a set has besides on one release, where packages were split.
OF_RELEASE = {("peers", "trixie"): ("docker-cli",)}

# The kernel's package is fetched while the package lists are there, but not installed: disks.py unpacks it.
KERNEL_HOOK = """\
mkdir -p "$1/usr/lib/testhost-kernel"
chroot "$1" sh -c 'cd /usr/lib/testhost-kernel
apt-get -q -o APT::Sandbox::User=root download "$(apt-cache depends --important linux-image-cloud-amd64 |
    sed -n "s/.*Depends: //p" | head -n 1)"'
"""

# systemd-resolved's package makes resolv.conf a link to a file of the running service, and there is none yet.
RESOLVER_HOOK = """\
rm -f "$1/etc/resolv.conf"
cp -L /etc/resolv.conf "$1/etc/resolv.conf"
"""

# Not unpacked at all: a tree that is smaller by a third is quicker to build and to put on a disk.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")

# Timers that would start work in the middle of a test, and terminals nobody sits at.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "man-db.timer", "logrotate.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service",
    "getty@tty1.service", "console-getty.service", "serial-getty@ttyS0.service",
)  # fmt: skip

# Before a command: its processes end with the caller, and its mounts with them, so an interrupted build
# leaves nothing running and, above all, no /proc or /dev mounted in a tree that is going to be removed.
CONFINED = (
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--",
)  # fmt: skip

READY_MARK = "testhost-ready"

FILES = {
    "etc/systemd/journald.conf.d/testhost.conf": """\
[Journal]
Storage=persistent
RateLimitIntervalSec=0
SystemMaxUse=512M
""",
    "etc/ssh/sshd_config.d/testhost.conf": """\
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
MaxSessions 500
MaxStartups 500
""",
    # The network of a nested host is private and has no ssh client on the other side.
    "etc/systemd/system/ssh.service.d/testhost.conf": """\
[Unit]
ConditionVirtualization=vm
""",
    "etc/systemd/system/testhost-ready.service": f"""\
[Unit]
Description=Tell testhost that ssh can be used
ConditionVirtualization=vm
After=ssh.service

[Service]
Type=oneshot
ExecStart=echo {READY_MARK}
StandardOutput=tty
TTYPath=/dev/ttyS0
""",
}

LINKS = {
    "etc/systemd/system/multi-user.target.wants/testhost-ready.service": "../testhost-ready.service",
    "etc/systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
    **{f"etc/systemd/system/{unit}": "/dev/null" for unit in MASKED},
}


def check_release(release: str) -> str:
    if release not in RELEASES:
        raise UsageError(f"no such release: {release!r}", hint=f"known releases: {', '.join(RELEASES)}")
    return release


def key(*parts: object) -> str:
    """A short name for what the parts say; another recipe gets another one."""
    text = json.dumps([VERSION, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def packages(release: str, extra: str = "") -> tuple[str, ...]:
    """What is installed in a tree; *extra* names a set of EXTRAS."""
    if not extra:
        return PACKAGES
    if extra not in EXTRAS:
        raise UsageError(f"no such set of packages: {extra!r}", hint=f"known sets: {', '.join(EXTRAS)}")
    return (*PACKAGES, *EXTRAS[extra], *OF_RELEASE.get((extra, release), ()))


def tree_key(release: str, extra: str = "") -> str:
    return key(release, packages(release, extra), hook(extra), EXCLUDED, FILES, LINKS)


def hook(extra: str = "") -> str:
    """What is done in a tree when its packages are there."""
    return RESOLVER_HOOK + KERNEL_HOOK if "systemd-resolved" in EXTRAS.get(extra, ()) else KERNEL_HOOK


def mmdebstrap(
    release: str, packages: Sequence[str], target: str, *, hook: str = "", mirror: str | None = None
) -> list[str]:
    """The command that builds a tree (TARGET a directory) or a tar (TARGET ends in .tar)."""
    argv = [*CONFINED, "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--architectures=amd64"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    argv += ["--dpkgopt=force-unsafe-io"]
    if packages:
        argv.append(f"--include={','.join(packages)}")
    if hook:
        argv.append(f"--customize-hook={hook}")
    argv += [release, target]
    return argv + ([mirror] if mirror else [])
