"""What a hostile image or payload does to those who run it, enter it or take it away."""

from __future__ import annotations

import shlex

from gearhost import GearHost

# Ways from a descriptor of a directory to the root above it.
_ABOVE = ("..", "../../../../..")


def _busybox_of_the_host(host: GearHost, directory: str) -> None:
    """A program that needs nothing of the container, outside of every container."""
    host.sh(
        f"mkdir -p {directory}; cp $(find /var/lib/gear/images -name busybox -type f | head -n 1) {directory}/sh"
    )


def test_no_program_of_the_host_is_found_by_a_descriptor(host: GearHost) -> None:
    """CVE-2024-21626 by the name of the program: execve(2) looks it up before close-on-exec closes anything."""
    _busybox_of_the_host(host, "/usr/local/victim")
    before = host.sh("sha256sum /usr/local/victim/sh")
    overwrite = "exec 9</proc/self/exe; exec /bin/busybox sh -c 'echo pwned > /proc/self/fd/9'"
    paths = [
        f"/proc/self/fd/{number}/{above}/usr/local/victim/sh" for number in range(3, 16) for above in _ABOVE
    ]
    try:
        for name, userns in (("own", "auto"), ("hosts", "host")):
            options = f"--userns {userns} --user 0"
            host.gear("install", "hello", name, *options.split(), "--start")
            for path in paths:
                exec_ = f"gear exec {name} -- {path} -c {shlex.quote(overwrite)}"
                run = f"gear run --rm {options} --entrypoint {path} hello -c {shlex.quote(overwrite)}"
                said = host.sh(f"{exec_} || echo exec $?; {run} || echo run $?", check=False)
                assert said.split("\n") == ["exec 127", "run 127"], (path, said)
        assert host.sh("sha256sum /usr/local/victim/sh") == before
    finally:
        host.sh("rm -r /usr/local/victim")
