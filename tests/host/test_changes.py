"""What a container has changed: diff, commit, export, clone, on each storage driver that the host can."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from gearhost import GearHost

IDLE = ("--", "/bin/sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done")
# What tells whether two trees are the same, as root of the container or of this machine sees them.
CHANGE = (
    "echo new > /etc/new; chmod 4751 /etc/new; mkdir /made; echo a > /made/a; chown 33:34 /made/a; ln /made/a /made/b;"
    " ln -s a /made/l; mkfifo -m 640 /made/pipe; rm -r /home; rm -r /www; mkdir /www; echo 1 > /www/1; echo 2 > /www/2;"
    " chmod 700 /root; dd if=/dev/zero of=/made/sparse bs=1 count=1 seek=20M 2>/dev/null; mkdir -p /made/d;"
    " chmod 1777 /made/d"
)
CHANGES = [
    "C /etc", "A /etc/new", "D /home", "A /made", "A /made/a", "A /made/b", "A /made/d", "A /made/l", "A /made/pipe",
    "A /made/sparse", "C /root", "C /www", "A /www/1", "A /www/2", "D /www/index.html",
]  # fmt: skip
DRIVERS = ["overlay", "btrfs", "vfs"]


def install(host: GearHost, name: str, driver: str, *options: str) -> None:
    host.gear("install", "hello", name, "-u", "0", "--storage-driver", driver, "--start", *options, *IDLE)


def changed_by(host: GearHost, name: str) -> None:
    host.gear("exec", name, "sh", "-ec", CHANGE)


@pytest.mark.parametrize("driver", DRIVERS)
def test_diff_tells_what_was_written_and_nothing_else(fitting: GearHost, driver: str) -> None:
    host = fitting
    install(host, "differs", driver, "-v", "differs:/data", "--tmpfs", "/scratch/deep")
    assert host.gear("diff", "differs") == ""
    changed_by(host, "differs")
    host.gear("exec", "differs", "sh", "-c", "echo x > /data/f; echo y > /scratch/deep/f")
    assert host.gear("diff", "differs").splitlines() == CHANGES
    assert host.json("diff", "differs")[0] == {"kind": "C", "path": "/etc"}
    host.gear("stop", "differs")
    assert host.gear("diff", "differs").splitlines() == CHANGES


def test_what_has_no_files_says_so(host: GearHost) -> None:
    host.gear("install", "hello", "fleeting", "--ephemeral")
    for words in (("diff", "fleeting"), ("export", "fleeting"), ("commit", "fleeting", "x")):
        assert "error: fleeting keeps no files: " in host.fails(1, *words)
    assert "There is no container nobody" in host.fails(1, "diff", "nobody")
    host.gear("install", "host:/usr/share/doc", "bare", "--", "/bin/x")
    assert "bare can't become an image" in host.fails(1, "commit", "bare", "x")
    assert host.gear("diff", "bare") == ""


def listing(archive: bytes) -> dict[str, object]:
    """An archive by name, with all that is kept."""
    found: dict[str, object] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            reader = tar.extractfile(member) if member.isreg() else None
            xattrs = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY")}
            found[member.name] = (
                member.type if not member.issparse() else tarfile.REGTYPE, member.mode, member.uid, member.gid,
                member.linkname, member.mtime, member.devmajor, xattrs, reader.read() if reader else b"",
            )  # fmt: skip
    return found


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_committed_image_is_the_container(fitting: GearHost, driver: str) -> None:
    host = fitting
    install(host, "source", driver, "-v", "sources:/data", "-e", "ASKED=1")
    changed_by(host, "source")
    host.gear("stop", "source")
    made = host.json(
        "commit", "source", "result", "-m", "why", "-a", "me", "-c", 'CMD ["sh"]', "-c", "ENV B=2"
    )
    (found,) = json.loads(host.gear("image", "inspect", "result"))
    assert found["digest"] == made["digest"] and len(found["layers"]) == 2
    assert found["config"]["cmd"] == ["sh"] and found["config"]["env"]["ASKED"] == "1"
    assert found["config"]["env"]["B"] == "2" and found["config"]["user"] == "0"
    config = host.json_file("/var/lib/gear/images/blobs/" + found["config"]["digest"].replace(":", "/"))
    assert config["history"][-1]["comment"] == "why" and config["author"] == "me"
    assert sum(not step.get("empty_layer") for step in config["history"]) == 2
    # The same container gives the same image, and the image has the container's files.
    again = host.json(
        "commit", "source", "again", "-m", "why", "-a", "me", "-c", 'CMD ["sh"]', "-c", "ENV B=2"
    )
    assert again["digest"] == made["digest"]
    container = listing(host.run("gear", "export", "source").stdout)
    image = listing(host.run("gear", "image", "export", "result").stdout)
    mountpoints = {"./data", "./dev", "./proc", "./sys", "./etc/hosts", "./etc/hostname", "./etc/resolv.conf"}
    assert {name: container[name] for name in container if name not in mountpoints} == (
        {name: image[name] for name in image if name not in mountpoints}
    )
    assert host.gear("image", "diff", "result").splitlines() == CHANGES
    # It runs, and has changed nothing.
    host.gear("install", "result", "second", "--storage-driver", driver, "--start", *IDLE)
    assert host.gear("diff", "second") == ""
    assert host.gear("exec", "-u", "0", "second", "cat", "/etc/new") == "new\n"
    # What has changed nothing makes an image without a new layer.
    host.gear("commit", "--no-pause", "second", "third")
    assert len(json.loads(host.gear("image", "inspect", "third"))[0]["layers"]) == 2
    host.gear("delete", "--volumes", "second", "source")
    host.gear("image", "rm", "result", "again", "third")


def run(*arguments: str | Path) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def on_disk(root: Path) -> list[str]:
    """What GNU find says of each file, its attributes and its content; but for what a start has made for mounts."""
    lines = run("find", root, "-printf", "%P|%y|%m|%U|%G|%Ts|%n|%l\n").splitlines()
    lines += run("getfattr", "-R", "-h", "-d", "-m", "user|security", "--absolute-names", root).splitlines()
    lines += run("sh", "-c", 'cd "$1" && find . -type f -exec sha256sum {} +', "sh", root).splitlines()
    made = ("etc/hosts", "etc/hostname", "etc/resolv.conf", "data", "dev", "proc", "sys")
    shown = [line.replace(str(root), "") for line in lines]
    return sorted(line for line in shown if not line.startswith(made) and not line.endswith(made))


def test_umoci_unpacks_a_committed_image_to_the_container(host: GearHost, tmp_path: Path) -> None:
    """A peer's reading of the layer: owners, modes, links, attributes, whiteouts and the opaque marker."""
    for program in ("umoci", "skopeo", "getfattr"):
        assert shutil.which(program), f"this test needs {program}; apt-get install it"
    install(host, "peer", "overlay")
    changed_by(host, "peer")
    host.gear("stop", "peer")
    upper = host.out("sh", "-c", "echo /var/lib/gear/containers/peer/layer-*/upper")
    host.sh(f"setfattr -n user.note -v x {upper}/etc/new || :")
    digest = host.json("commit", "peer", "peered")["digest"]
    blobs = tmp_path / "layout/blobs"
    blobs.parent.mkdir()
    archive = host.run("tar", "-C", "/var/lib/gear/images", "-c", "blobs").stdout
    subprocess.run(["tar", "-x", "-C", blobs.parent], input=archive, check=True)
    size = (blobs / digest.replace(":", "/")).stat().st_size
    (blobs.parent / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "x"},
    }  # fmt: skip
    (blobs.parent / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    assert json.loads(run("skopeo", "inspect", f"oci:{blobs.parent}:x"))["Digest"] == digest
    run("umoci", "unpack", "--image", f"{blobs.parent}:x", tmp_path / "bundle")
    (tmp_path / "mine").mkdir()
    exported = host.run("gear", "export", "peer").stdout
    subprocess.run(
        ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpS", "-C", tmp_path / "mine"],
        input=exported, check=True,
    )  # fmt: skip
    assert on_disk(tmp_path / "bundle/rootfs") == on_disk(tmp_path / "mine")
    host.gear("image", "rm", "peered")


def test_export_is_an_archive_and_no_terminal_gets_one(host: GearHost) -> None:
    install(host, "exported", "overlay")
    host.gear("export", "exported", "-o", "/root/exported.tar")
    assert host.read("/root/exported.tar") == host.run("gear", "export", "exported").stdout
    assert host.sh("stat -c %a /root/exported.tar; ls -A /root | grep -c partial || :") == "600\n0"
    assert "An archive is not written on a terminal" in host.typed([], "export", "exported")
    assert "No such file or directory" in host.fails(1, "export", "exported", "-o", "/nowhere/x")
    # A reader who goes away is no traceback.
    assert "Traceback" not in host.sh(
        "gear export exported 2>&1 >/dev/full | cat; gear export exported | head -c 9 >/dev/null"
    )
    assert "full" in host.sh("gear export exported 2>&1 >/dev/full || :")


def test_a_container_that_writes_can_be_exported(host: GearHost) -> None:
    script = (
        "i=0; while :; do i=$((i+1)); mkdir -p /w/$((i%50)); echo $i > /w/$((i%50))/f;"
        " rm -rf /w/$(((i+25)%50)); done"
    )
    host.gear("install", "hello", "busy", "-u", "0", "--start", "--", "/bin/sh", "-c", script)
    host.wait(lambda: "/w" in host.gear("diff", "busy"), "the first file")
    for _ in range(5):
        archive = host.run("gear", "export", "busy").stdout
        assert "./bin/busybox" in listing(archive)
        host.gear("diff", "busy")
    host.gear("commit", "--no-pause", "busy", "caught")
    host.gear("image", "rm", "caught")


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_clone_has_the_files_and_nothing_shared(fitting: GearHost, driver: str, tmp_path: Path) -> None:
    host = fitting
    install(
        host, "first", driver, "-v", "firsts:/data", "-v", "/etc/os-release:/os:ro", "--hostname", "first"
    )
    changed_by(host, "first")
    host.gear(
        "exec", "first", "sh", "-c", "echo mine > /data/f; setfattr -n user.a -v b /etc/new 2>/dev/null || :"
    )
    host.gear("clone", "first", "plain", "--no-pause", "--start")
    host.gear("clone", "first", "full", "--no-pause", "--volumes", "--start")
    specs = {
        name: host.json_file(f"/var/lib/gear/containers/{name}/spec.json")
        for name in ("first", "plain", "full")
    }
    assert len({spec["uid_base"] for spec in specs.values()}) == 3
    assert len({spec["mounts"][0]["source"] for spec in specs.values()}) == 3
    assert specs["plain"]["mounts"][1] == specs["first"]["mounts"][1]
    for name in ("plain", "full"):
        assert host.gear("diff", name).splitlines() == CHANGES
        assert listing(host.run("gear", "export", name).stdout) == listing(
            host.run("gear", "export", "first").stdout
        )
        assert host.gear("exec", name, "hostname") == f"{name}\n"
        assert host.gear("exec", name, "stat", "-c", "%u:%g %h", "/made/a") == "33:34 2\n"
    assert host.gear("exec", "plain", "ls", "-A", "/data") == ""
    assert host.gear("exec", "full", "cat", "/data/f") == "mine\n"
    host.gear("exec", "full", "sh", "-c", "echo other > /data/f; rm -r /made")
    assert host.gear("exec", "first", "cat", "/data/f", "/made/a") == "mine\na\n"
    assert "There is a container full already" in host.fails(1, "clone", "first", "full")
    host.gear("delete", "plain")
    assert "there is one called plain.data already" in host.fails(1, "clone", "--no-pause", "first", "plain")
    assert not host.sh("ls /var/lib/gear/containers").count("plain")
    host.gear("delete", "--volumes", "first", "full")
    host.gear("clean", "--volumes")


def test_without_a_freezer_the_way_out_is_named(host: GearHost) -> None:
    install(host, "still", "overlay")
    if host.host.cgroup == "v2":
        host.gear("commit", "still", "stilled")
        host.gear("image", "rm", "stilled")
        return
    for words in (("commit", "still", "x"), ("clone", "still", "y"), ("snapshot", "still")):
        error = host.fails(1, *words)
        assert error.startswith("error: still can't be paused: ") and "hint: With --no-pause" in error
    assert host.leftovers() == []
    assert host.sh("ls /var/lib/gear/containers") == "still"
