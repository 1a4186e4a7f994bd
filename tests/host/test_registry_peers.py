"""Images between gear, buildah, umoci, skopeo and Debian's registry, and real services from there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gearhost import GearHost  # noqa: E402
from registryhost import copy, digest_of, raw  # noqa: E402

BUILDAH = "buildah --root /var/lib/built --runroot /run/built"
# buildah of Debian 13 raises these otherwise, which a nested host may not.
LIMITS = "--ulimit nofile=512:1024 --ulimit nproc=512:1024"
# A layer with a new file that is set-user-ID, one that is gone, and a directory that is gone; and another config.
BUILD = f"""
export BUILDAH_ISOLATION=chroot
container=$({BUILDAH} from --tls-verify=false docker://localhost:5000/hello:1)
root=$({BUILDAH} mount $container)
echo new >$root/www/new; chmod 4711 $root/www/new; rm $root/www/index.html; rm -r $root/home
{BUILDAH} config --user 5:6 --cmd true --env BUILT=yes $container
{BUILDAH} umount $container >/dev/null
"""


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_what_buildah_pushed_goes_through_gear_byte_for_byte(registry: GearHost, form: str) -> None:
    name, target = f"localhost:5000/buildah:{form}", f"localhost:5000/buildah-back:{form}"
    registry.sh(
        f"{BUILD}{BUILDAH} commit -q --format {form} --tls-verify=false $container docker://{name}\n"
        f"{BUILDAH} rm $container"
    )
    registry.gear("image", "pull", name)
    registry.gear("image", "push", name, target)
    assert raw(registry, target) == raw(registry, name)
    assert config(registry, target) == config(registry, name)
    (shown,) = json.loads(registry.gear("image", "inspect", name))
    assert shown["digest"] == digest_of(raw(registry, name)) and len(shown["layers"]) == 2
    assert shown["config"]["user"] == "5:6" and shown["config"]["env"]["BUILT"] == "yes"
    top = f"/var/lib/gear/images/layers/{shown['layers'][1]['diffId'].replace(':', '/')}/root"
    assert registry.out("stat", "-c", "%a", f"{top}/www/new") == "4711"
    for gone in ("www/index.html", "home"):
        assert registry.out("stat", "-c", "%F %t,%T", f"{top}/{gone}") == "character special file 0,0"
    registry.gear("image", "rm", name)


def config(machine: GearHost, name: str) -> bytes:
    """The config of an image in the registry, byte for byte."""
    return machine.run(
        "skopeo", "inspect", "--config", "--raw", "--tls-verify=false", f"docker://{name}"
    ).stdout


def test_buildah_and_umoci_take_what_gear_made(registry: GearHost) -> None:
    """An image by gear image import, through the registry and as a layout, is one for every peer."""
    name = "localhost:5000/imported:1"
    registry.sh(
        "mkdir -p /root/made/bin /root/made/etc /root/made/dev /root/made/proc; cp /bin/busybox /root/made/bin/\n"
        "ln -s busybox /root/made/bin/sh; chmod 4755 /root/made/bin/busybox; mkfifo /root/made/fifo\n"
        "echo 'root:x:0:0::/:/bin/sh' >/root/made/etc/passwd; chown 33:34 /root/made/fifo\n"
        "ln /root/made/etc/passwd /root/made/etc/same"
    )
    registry.gear("image", "import", "/root/made", name, "--cmd", '["sh"]', "--env", "A=b", "--user", "0")
    pushed = registry.gear("image", "push", name).split()[1]
    shown = json.loads(registry.out("skopeo", "inspect", "--tls-verify=false", f"docker://{name}"))
    assert shown["Digest"] == pushed and shown["Env"] == ["A=b"]
    copy(registry, f"docker://{name}", "oci:/root/out:1", "--src-tls-verify=false", "--preserve-digests")
    registry.sh("umoci unpack --image /root/out:1 /root/unpacked")
    find = "find . -printf '%P|%y|%m|%U|%G|%s|%n|%l\\n' | grep -v '|d|' | sort"
    assert registry.sh(f"cd /root/unpacked/rootfs; {find}") == registry.sh(f"cd /root/made; {find}")
    ran = registry.sh(
        f"export BUILDAH_ISOLATION=chroot; container=$({BUILDAH} from {LIMITS} --tls-verify=false docker://{name})\n"
        f"{BUILDAH} run $container -- /bin/busybox sh -c 'echo $A; /bin/busybox stat -c %u:%g /fifo'\n"
        f"{BUILDAH} rm $container >/dev/null"
    )
    assert ran.splitlines() == ["b", "33:34"]
    # And back by umoci, with one more layer: gear shares the first.
    registry.sh(
        "echo more >/root/unpacked/rootfs/etc/more; umoci repack --image /root/out:2 /root/unpacked\n"
        "skopeo copy -q --dest-tls-verify=false oci:/root/out:2 docker://localhost:5000/imported:2"
    )
    lines = registry.run("gear", "image", "pull", "localhost:5000/imported:2").stderr.decode()
    registry.gear("image", "push", "localhost:5000/imported:2", "localhost:5000/imported:3")
    assert raw(registry, "localhost:5000/imported:3") == raw(registry, "localhost:5000/imported:2")
    assert config(registry, "localhost:5000/imported:3") == config(registry, "localhost:5000/imported:2")
    assert lines.count("done") == 1, lines
    registry.gear("image", "rm", name, "localhost:5000/imported:2")
    registry.sh("rm -rf /root/made /root/out /root/unpacked")


# -- services ----------------------------------------------------------------------------------------------------

POSTGRES = r"""
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
[ -e /var/lib/postgresql/data/PG_VERSION ] || $bin/initdb -D /var/lib/postgresql/data -A trust >/dev/null
exec $bin/postgres -D /var/lib/postgresql/data -c listen_addresses= -c unix_socket_directories=/tmp
"""
# Name of the tree -> how the image is run, and a query in the container with its answer.
SERVICES = {
    "postgresql": (
        ["--user", "postgres", "--entrypoint", "/bin/sh", "--", "-c", POSTGRES],
        ["psql", "-h", "/tmp", "-U", "postgres", "-tAc", "select sum(n) from generate_series(1, 100) as n"],
        "5050",
    ),
    "redis": (
        ["--user", "redis", "--entrypoint", "redis-server", "--", "--bind", "127.0.0.1", "--dir", "/tmp"],
        ["sh", "-c", "redis-cli incrby counter 41 >/dev/null; redis-cli incr counter; redis-cli del counter"],
        "42\n1",
    ),
    "nginx": (
        ["--entrypoint", "nginx", "--", "-g", "daemon off;"],
        [
            "bash",
            "-c",
            "exec 3<>/dev/tcp/127.0.0.1/80; printf 'HEAD / HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3",
        ],
        "HTTP/1.1 200 OK",
    ),
    "python": (
        ["--entrypoint", "python3", "--", "-m", "http.server", "8000", "--directory", "/etc"],
        [
            "python3",
            "-c",
            "from urllib.request import urlopen as u; print(len(u('http://127.0.0.1:8000/passwd').read()) > 99)",
        ],
        "True",
    ),
}


@pytest.mark.parametrize("service", SERVICES)
def test_a_debian_service_comes_from_the_registry_and_answers(
    registry: GearHost, service: str, services: Callable[[str], str]
) -> None:
    options, query, answer = SERVICES[service]
    name = services(service)
    registry.gear("install", "--pull", "always", name, service, "--start", *options)

    def answers() -> bool:
        done = registry.run("gear", "exec", service, "--", *query, check=False)
        return done.stdout.decode().strip() == answer

    try:
        registry.wait(answers, f"{service} to answer: {registry.gear('logs', service)}")
        assert name in registry.gear("image", "list")
    finally:
        registry.gear("delete", "--volumes", service)
        registry.gear("image", "rm", name)
    assert registry.leftovers() == []
