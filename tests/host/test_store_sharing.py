"""The store among others: archives for skopeo and podman, commands at the same time, kills of pull, mounts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gearhost import GearHost, demo_image, start_host  # noqa: E402

REGISTRY = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/plain}}
http: {addr: "127.0.0.1:5000"}
"""
# Images of one layer that all have, and one of their own.
MAKE = """
import json, hashlib, io, os, random, sys, tarfile
def add(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    os.makedirs('/root/many/blobs/sha256', exist_ok=True)
    open('/root/many/blobs/sha256/' + digest, 'wb').write(data)
    return {'mediaType': 'application/vnd.oci.image.' + kind, 'digest': 'sha256:' + digest, 'size': len(data)}
def layer(seed):
    out, source = io.BytesIO(), random.Random(seed)
    with tarfile.open(fileobj=out, mode='w') as tar:
        for number in range(40):
            info = tarfile.TarInfo('%s/%d' % (seed, number)); info.size = 20000
            tar.addfile(info, io.BytesIO(source.randbytes(info.size)))
    return add(out.getvalue(), 'layer.v1.tar')
shared, entries = layer('shared'), []
for number in range(4):
    layers = [shared, layer('own%d' % number)]
    config = {'architecture': 'amd64', 'os': 'linux', 'config': {'Cmd': ['x']},
              'rootfs': {'type': 'layers', 'diff_ids': [item['digest'] for item in layers]}}
    document = {'schemaVersion': 2, 'config': add(json.dumps(config).encode(), 'config.v1+json'), 'layers': layers}
    entry = add(json.dumps(document).encode(), 'manifest.v1+json')
    entry['annotations'] = {'org.opencontainers.image.ref.name': 'many/%d:1' % number}
    entries.append(entry)
open('/root/many/index.json', 'w').write(json.dumps({'schemaVersion': 2, 'manifests': entries}))
open('/root/many/oci-layout', 'w').write('{"imageLayoutVersion": "1.0.0"}')
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GearHost]:
    """A host with a registry, skopeo and podman."""
    machine = start_host(extra="registry")
    try:
        machine.sh("systemctl disable --now -q docker-registry; mkdir -p /var/lib/plain")
        machine.write("/root/plain.yml", REGISTRY.encode())
        machine.run("systemd-run", "-q", "--unit=plain", "docker-registry", "serve", "/root/plain.yml")
        machine.wait(lambda: machine.out("ss", "-Hltn", "sport = :5000"), "the registry")
        machine.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
        machine.run("python3", "-c", MAKE)
        for number in range(4):
            source = f"oci:/root/many:many/{number}:1"
            machine.run("skopeo", "copy", "-q", "--dest-tls-verify=false", source,
                        f"docker://localhost:5000/many/{number}:1")  # fmt: skip
        yield machine
    finally:
        machine.host.stop()


def sound(machine: GearHost) -> None:
    assert machine.gear("fsck") == "everything is as it should be\n"


def test_archives_for_skopeo_and_podman(machine: GearHost) -> None:
    machine.gear("image", "load", "/root/hello")
    machine.gear("image", "load", "/root/many")
    machine.gear("image", "tag", "hello", "registry.example/team/hello:2")
    names = ["hello:latest", "many/0:1", "many/1:1", "registry.example/team/hello:2"]
    machine.sh(f"gear image save {' '.join(names)} > /root/all.tar")
    for name in names:
        archive = f"oci-archive:/root/all.tar:{name}"
        digest = json.loads(machine.gear("image", "inspect", name))[0]["digest"]
        raw = machine.run("skopeo", "inspect", "--raw", archive).stdout
        blob = f"/var/lib/gear/images/blobs/{digest.replace(':', '/')}"
        assert raw == machine.read(blob)
        machine.sh(f"rm -rf /root/copied; skopeo copy -q --preserve-digests {archive} oci:/root/copied:x")
        assert json.loads(machine.out("skopeo", "inspect", "oci:/root/copied:x"))["Digest"] == digest
        # As docker load reads it: manifest.json and no index.
        machine.sh(
            f"rm -rf /root/legacy; skopeo copy -q docker-archive:/root/all.tar:{name} oci:/root/legacy:x"
        )
    machine.sh("podman load -q -i /root/all.tar")
    shown = machine.out("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert any("hello:latest" in name for name in shown), shown
    machine.sh("podman rmi -a -f")
    machine.gear("image", "prune", "--all", "--yes")


def test_commands_at_the_same_time(machine: GearHost) -> None:
    """Pulls, loads, installs, removals, prunes and checks together; nothing fails but for what was just removed."""
    machine.write(
        "/root/storm",
        b"""#!/bin/sh
# storm KIND: one kind of command, again and again
for round in 1 2 3 4 5 6; do
    case $1 in
        pull*) gear image pull -q localhost:5000/many/${1#pull}:1 || echo FAILED $1 ;;
        load) gear image load /root/many || echo FAILED load ;;
        install) gear image load /root/hello && gear install --pull never hello storm -v stormy:/data ||
                 echo RETRY install
                 gear delete --volumes storm || echo FAILED delete ;;
        prune) gear image prune || echo FAILED prune ;;
        all) gear image prune --all || echo FAILED all ;;
        rm) gear image rm localhost:5000/many/0:1 || : ;;
        fsck) gear fsck --repair > /root/fsck.$round || { echo FAILED fsck; cat /root/fsck.$round; } ;;
    esac
done
""",
        mode="755",
    )
    kinds = ["pull0", "pull1", "pull0", "load", "install", "prune", "all", "rm", "fsck"]
    for number, kind in enumerate(kinds):
        command = f"/root/storm {kind} > /root/storm.{number} 2>&1"
        machine.run("systemd-run", "-q", f"--unit=storm{number}", "--property=Type=exec", "sh", "-c", command)
    units = [f"storm{number}.service" for number in range(len(kinds))]

    def done() -> bool:
        states = machine.run("systemctl", "is-active", *units, check=False).stdout.decode().split()
        return "active" not in states and "activating" not in states

    machine.patience_s, patience = 240.0, machine.patience_s
    machine.wait(done, "the storm to end")
    machine.patience_s = patience
    said = machine.sh("cat /root/storm.[0-9]")
    assert "Traceback" not in said, said
    # What prune --all takes away between a load and an install is no failure of either.
    assert "FAILED" not in said, said
    machine.gear("fsck", "--repair")
    sound(machine)
    machine.gear("image", "prune", "--all")
    assert machine.sh("find /var/lib/gear/images -type f") == "/var/lib/gear/images/lock"


def test_pull_killed_anywhere(machine: GearHost) -> None:
    machine.gear("image", "prune", "--all")
    pull = ("image", "pull", "-q", "localhost:5000/many/2:1")
    listing = "cd /var/lib/gear/images && find . | sort"
    steps, kills = machine.steps(*pull), 0
    expected = machine.sh(listing)
    for number, step in enumerate(steps):
        machine.gear("image", "prune", "--all")
        kills += machine.killed(step, *pull)
        after = json.loads(machine.gear("fsck", "--quick", "--output", "json"))
        assert not any(item["damage"] for item in after), f"step {step}: {after}"
        if number % 2:  # otherwise what is left is taken up
            machine.gear("fsck", "--repair")
            sound(machine)
        machine.gear(*pull)
        machine.gear("clean")
        assert machine.sh(listing) == expected, f"after a kill at step {step}"
    sound(machine)
    assert kills > 5 and kills >= len(steps) - 8


def test_prune_says_who_needs_what_stays(machine: GearHost) -> None:
    machine.gear("image", "load", "/root/many")
    # One of them is being saved, to a pipe that nobody empties.
    machine.sh("gear image save many/0:1 many/1:1 > /root/fifo.tar; rm -f /root/fifo; mkfifo /root/fifo")
    machine.run("systemd-run", "-q", "--unit=slow", "sh", "-c", "gear image save many/0:1 -o /root/fifo")
    machine.run("systemd-run", "-q", "--unit=reader", "sh", "-c", "exec 3</root/fifo; exec sleep 1000")
    machine.wait(lambda: machine.sh("cat /var/lib/gear/images/leases/* || :"), "the lease")
    said = machine.run("gear", "image", "prune", "--all", check=True)
    error = said.stderr.decode()
    assert "warning: the image sha256:" in error and "stays: gear image save (process" in error, said
    left = json.loads(machine.gear("image", "list", "--output", "json"))
    assert len(left) == 1 and left[0]["reference"] == ""
    machine.sh("systemctl stop reader slow || :")
    machine.wait(
        lambda: machine.run("systemctl", "is-active", "slow", check=False).returncode, "the end of it"
    )
    machine.gear("image", "prune")
    assert json.loads(machine.gear("image", "list", "--output", "json")) == []
    sound(machine)


def test_mounted_images(machine: GearHost) -> None:
    machine.gear("image", "load", "/root/hello")
    before = machine.mount_table()
    machine.run("systemd-run", "-q", "--unit=peer", "--property=PrivateMounts=yes", "sleep", "1000")
    peer = machine.show("peer", "MainPID")
    machine.sh("mkdir -p '/mnt/a b'")
    for place in ("/mnt/a b", None):
        shown = machine.gear("image", "mount", "hello", *([place] if place else [])).rstrip("\n")
        assert shown == place or shown.startswith("/run/gear/images/")
        assert "It works" in machine.sh(f"cat '{shown}/www/index.html'")
        assert machine.run("touch", f"{shown}/x", check=False).returncode == 1
        options = machine.out("findmnt", "-no", "OPTIONS,PROPAGATION", "-t", "overlay", shown)
        assert all(word in options for word in ("ro", "nosuid", "nodev", "private")), options
        escaped = shown.replace(" ", "\\\\040")
        assert "overlay" not in machine.sh(f"grep '{escaped}' /proc/{peer}/mountinfo || :")
        (row,) = machine.json("image", "mount")
        assert row["directory"] == shown and row["references"] == ["hello:latest"]
        error = machine.fails(1, "image", "rm", "hello")
        assert f"is in use by the mount on {shown}" in error and "gear image unmount" in error
        machine.gear("image", "prune", "--all")
        machine.gear("clean", "--images")
        assert len(machine.json("image", "list")) == 1
        sound(machine)
        machine.run("systemd-run", "-q", "--unit=user", f"--working-directory={shown}", "sleep", "1000")
        assert "is in use, so it stays mounted" in machine.fails(1, "image", "unmount", shown)
        machine.sh("systemctl stop user")
        machine.wait(
            lambda at=shown: machine.run("gear", "image", "unmount", at, check=False).returncode == 0,  # type: ignore[misc]
            "the mount to be free",
        )
        assert machine.json("image", "mount") == []
    machine.sh("systemctl stop peer")
    assert machine.mount_table() == before
    assert "is not empty" in machine.fails(2, "image", "mount", "hello", "/etc")
    assert "is no directory" in machine.fails(2, "image", "mount", "hello", "/nowhere")
    machine.fails(1, "image", "unmount", "/mnt")
    machine.fails(2, "image", "unmount")
    machine.gear("image", "mount", "hello")
    machine.gear("image", "mount", "hello", "/mnt/a b")
    assert "Images are mounted on /mnt/a b, /run/gear/images/" in machine.fails(1, "purge")
    assert len(machine.gear("image", "unmount", "hello").splitlines()) == 2
    machine.gear("image", "mount", "hello", "/mnt/a b")
    machine.host.reboot(hard=True)
    assert machine.json("image", "mount") == []
    sound(machine)
    # What a kill between both mounts would leave.
    digest = machine.json("image", "list")[0]["digest"]
    machine.sh(f"mount -t tmpfs gear-image:/var/lib/gear/images@{digest} '/mnt/a b'")
    assert "was to be mounted there" in machine.gear("fsck")
    machine.gear("fsck", "--repair")
    assert "gear-image" not in str(machine.mount_table())


def test_terminals(machine: GearHost) -> None:
    machine.gear("image", "load", "/root/hello")
    assert "not written to a terminal" in machine.typed([], "image", "save", "hello")
    assert "status 0" in machine.typed([["[y/N]", "n\n"]], "image", "prune", "--all")
    assert len(machine.json("image", "list")) == 1
    machine.typed([["[y/N]", "y\n"]], "image", "prune", "--all")
    assert machine.json("image", "list") == []
