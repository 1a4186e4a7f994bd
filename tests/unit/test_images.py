"""Loading, importing, listing, inspecting and removing, through the verbs of the command line."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from archives import OciLayout, config, digest, directory, entry, snapshot, tar

from gear import images, loading, store
from gear.changes import Changes
from gear.cli_image import VERBS
from gear.command import Context, printable
from gear.errors import GearError, IntegrityError, UsageError
from gear.model import Layout
from gear.outline import ImageRef
from gear.progress import amount
from gear.spec import Spec

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: load and import unpack with owners")
ONE = tar(directory("."), entry("one", b"1"))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(Layout(state=tmp_path / "state"))


def gear(context: Context, verb: str, *arguments: str) -> int:
    """Run a verb like the command line does."""
    chosen = next(each for each in VERBS if each.name == verb)
    parser = argparse.ArgumentParser()
    chosen.arguments(parser)
    return chosen.run(parser.parse_args(arguments), context)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = OciLayout()
    made.image(ONE, name="hello:1", document={**config(ONE, Cmd=["x"]), "created": "2014-03-01T00:00:00Z"})
    return made.write(tmp_path / "source")


def output(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@needs_root
def test_load_list_inspect_remove(context: Context, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gear(context, "load", str(source)) == 0
    name, found = output(capsys).split()
    assert name == "hello:1"
    assert gear(context, "list") == 0
    assert output(capsys).splitlines() == [
        "REFERENCE  DIGEST        SIZE  CREATED     ARCH",
        f"hello:1    {found[7:19]}  1 B   2014-03-01  amd64",
    ]
    assert gear(context, "list", "--output", "json") == 0
    assert json.loads(output(capsys)) == [
        {
            "reference": "hello:1",
            "digest": found,
            "size": 1,
            "created": "2014-03-01T00:00:00Z",
            "architecture": "amd64",
            "containers": [],
        }
    ]
    assert gear(context, "inspect", found[7:19]) == 0
    (document,) = json.loads(output(capsys))
    assert document["references"] == ["hello:1"]
    assert document["layers"] == [
        {
            "digest": digest(ONE),
            "diffId": digest(ONE),
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "size": len(ONE),
        }
    ]
    assert document["config"]["cmd"] == ["x"]
    assert gear(context, "rm", "hello:1") == 0
    assert output(capsys).split() == ["hello:1", found]
    assert [path for path in context.layout.images.rglob("*") if path.is_file()] == [
        context.layout.images / "lock"
    ]
    assert gear(context, "inspect", "hello:1") == 1
    assert json.loads(output(capsys)) == []


@needs_root
def test_loading_twice_changes_nothing(context: Context, source: Path) -> None:
    first = loading.load(context.layout, str(source))

    def state() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in context.layout.images.rglob("*") if path.is_file()}

    before, tree = state(), snapshot(context.layout.images)
    assert loading.load(context.layout, str(source)) == first
    assert state() == before and snapshot(context.layout.images) == tree


@needs_root
def test_names(context: Context, tmp_path: Path) -> None:
    made = OciLayout()
    made.image(ONE)
    path = made.write(tmp_path / "nameless")
    with pytest.raises(UsageError) as caught:
        loading.load(context.layout, str(path))
    assert caught.value.message == f"{path} holds an image without a name."
    assert caught.value.hint == "Give it one with --name REFERENCE."
    assert store.references(context.layout) == {}
    assert [image.reference for image in loading.load(context.layout, str(path), names=["mine"])] == [
        "mine:latest"
    ]
    made = OciLayout()
    made.image(ONE, name="a")
    made.image(tar(entry("two")), name="b")
    path = made.write(tmp_path / "two")
    with pytest.raises(UsageError, match="holds 2 images, which can't all have one name"):
        loading.load(context.layout, str(path), names=["c"])
    assert [image.reference for image in loading.load(context.layout, str(path), names=["b"])] == ["b:latest"]
    assert [image.reference for image in loading.load(context.layout, str(path))] == ["a:latest", "b:latest"]


@needs_root
def test_a_bad_image_leaves_nothing_visible(context: Context, tmp_path: Path) -> None:
    made = OciLayout()
    made.image(ONE, tar(entry("../x")), name="bad")
    with pytest.raises(IntegrityError, match="with '..' in its name"):
        loading.load(context.layout, str(made.write(tmp_path / "a")))
    made = OciLayout()
    made.image(ONE, name="bad", document=config(ONE, ONE))
    with pytest.raises(IntegrityError, match="The image bad:latest has 1 layers, but its config lists 2."):
        loading.load(context.layout, str(made.write(tmp_path / "b")))
    made = OciLayout()
    made.image(ONE, name="bad", document={**config(ONE), "os": "windows"})
    with pytest.raises(IntegrityError, match="is for 'windows', not for Linux"):
        loading.load(context.layout, str(made.write(tmp_path / "c")))
    assert images.listing(context.layout) == ([], [])


@pytest.mark.spawns
@needs_root
@pytest.mark.parametrize("layer_type", ["+gzip", "+zstd"])
def test_compressed_layers(layer_type: str, context: Context, tmp_path: Path) -> None:
    program = ["gzip", "-n"] if layer_type == "+gzip" else ["zstd", "-q"]
    packed = subprocess.run(program, input=ONE, check=True, capture_output=True).stdout
    made = OciLayout()
    made.image(
        packed,
        name="x",
        layer_type=f"application/vnd.oci.image.layer.v1.tar{layer_type}",
        document=config(ONE),
    )
    (image,) = loading.load(context.layout, str(made.write(tmp_path / "s")))
    assert (store.layer_root(context.layout, image.layers[0]) / "one").read_bytes() == b"1"
    assert store.blob_path(context.layout, digest(packed)).read_bytes() == packed


@needs_root
def test_import_of_a_directory_is_reproducible_and_complete(context: Context, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/file").write_bytes(b"content")
    os.chmod(root / "d/file", 0o6750)
    os.chown(root / "d", 7, 3_000_000)
    os.setxattr(root / "d/file", "user.note", b"a\0\xff")
    os.link(root / "d/file", root / "d/zlink")
    (root / os.fsdecode(b"\xff" + b"n" * 150)).symlink_to("t" * 150)
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "sock"))
    os.utime(root / "d/file", ns=(1, -1_500_000_000))
    os.utime(root, ns=(1, 1_400_000_000_123_456_789))
    first = loading.import_root(context.layout, str(root), "a", changes=Changes())
    again = loading.import_root(Layout(state=tmp_path / "other"), str(root), "b", changes=Changes())
    assert first.digest == again.digest
    copy = store.layer_root(context.layout, first.layers[0])
    (root / "sock").unlink()
    os.utime(root, ns=(1, 1_400_000_000_123_456_789))
    assert snapshot(copy) == snapshot(root)
    for name in (".", *snapshot(root)):
        ours, theirs = os.lstat(copy / name), os.lstat(root / name)
        fields = ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_nlink", "st_rdev")
        assert [getattr(ours, field) for field in fields] == [getattr(theirs, field) for field in fields]
    assert os.getxattr(copy / "d/file", "user.note") == b"a\0\xff"


@needs_root
def test_import_with_a_config(context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(ONE)
    options = [
        *("--change", 'CMD ["a b", "c"]', "--change", "ENV A=1 B='x y'", "--change", "user www"),
        *("--entrypoint", "/bin/sh -c", "--env", "A=2", "--workdir", "/srv", "--stop-signal", "SIGINT"),
        *("--label", "l=v", "--volume", "/data", "--expose", "80", "--expose", "53/udp"),
    ]
    assert gear(context, "import", str(path), "x/y", *options) == 0
    name, found = output(capsys).split()
    image = store.resolve(context.layout, name)
    assert (name, found) == ("x/y:latest", image.digest)
    assert image.config.cmd == ("a b", "c") and image.config.entrypoint == ("/bin/sh", "-c")
    assert image.config.env == (("A", "2"), ("B", "x y"))
    assert (image.config.user, image.config.workdir, image.config.stop_signal) == ("www", "/srv", "SIGINT")
    assert image.config.labels == {"l": "v"} and image.config.volumes == ("/data",)
    assert image.config.exposed_ports == ("53/udp", "80/tcp")
    assert image.config.created == "2014-05-13T16:53:20Z"


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("RUN x", "'RUN x' is no change to an image."),
        ("CMD", "A command can't be empty."),
        ("CMD [1]", "'[1]' is not an array of strings."),
        ("CMD [", "'[' is not a JSON array"),
        ("ENV A", "ENV takes NAME=VALUE, not 'A'."),
        ("VOLUME data", "'data' must be an absolute path in the image."),
        ("EXPOSE 99999", "'99999' is not a port."),
        ("WORKDIR x", "'x' must be an absolute path in the image."),
        ("USER a\0b", "The image config: config.User holds a NUL byte."),
    ],
)
@needs_root
def test_bad_changes_are_told_before_anything_is_read(
    instruction: str, message: str, context: Context, tmp_path: Path
) -> None:
    with pytest.raises(GearError) as caught:
        gear(context, "import", str(tmp_path / "missing"), "x", "--change", instruction)
    assert caught.value.message.startswith(message)
    assert not context.layout.state.exists()


@needs_root
def test_an_image_is_not_imported_as_a_root(context: Context, source: Path) -> None:
    with pytest.raises(UsageError) as caught:
        loading.import_root(context.layout, str(source), "x", changes=Changes())
    assert caught.value.hint == "Use `gear image load` for it."
    assert images.listing(context.layout) == ([], [])


def specification(name: str, image_digest: str) -> Any:
    return Spec(name=name, image=ImageRef("hello:1", image_digest), uid_base=1 << 19).to_mapping()


def install(context: Context, name: str, document: Any) -> None:
    path = context.layout.containers / name / "spec.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())


@needs_root
def test_an_image_in_use_stays(context: Context, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image,) = loading.load(context.layout, str(source))
    install(context, "web", specification("web", image.digest))
    install(context, "db", specification("db", image.digest))
    for name in ("hello:1", image.digest, image.digest[7:15]):
        assert gear(context, "rm", name) == 1
        assert capsys.readouterr().err == (
            f"error: The image {name} is in use by db, web.\nhint: Remove these first.\n"
        )
    (row,) = images.listing(context.layout)[0]
    assert row.containers == ("db", "web")
    store.set_reference(context.layout, "other", image.digest)
    assert gear(context, "rm", "hello:1") == 0
    assert output(capsys).split() == ["hello:1"]
    assert store.resolve(context.layout, "other").digest == image.digest


@needs_root
@pytest.mark.parametrize("document", [b"{", b"[]", {}, {"image": {}}, {"image": {"digest": "x"}}])
def test_a_damaged_spec_forbids_removal(document: Any, context: Context, source: Path) -> None:
    loading.load(context.layout, str(source))
    install(context, "web", document)
    assert gear(context, "rm", "hello:1") == 1
    assert store.references(context.layout) != {}
    with pytest.raises(IntegrityError, match=r"containers/web/spec\.json is "):
        images.users(context.layout)


@needs_root
def test_a_busy_store_frees_the_disk_later(context: Context, source: Path) -> None:
    (image,) = loading.load(context.layout, str(source))
    with store.lease(context.layout):
        assert images.remove(context.layout, "hello:1", in_use={}) == ["hello:1"]
    assert [row.reference for row in images.listing(context.layout)[0]] == [""]
    assert images.remove(context.layout, image.digest, in_use={}) == [image.digest]


@needs_root
def test_a_damaged_image_does_not_hide_the_others(
    context: Context, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image,) = loading.load(context.layout, str(source))
    store.set_reference(context.layout, "lost", "sha256:" + "0" * 64)
    assert gear(context, "list") == 1
    captured = capsys.readouterr()
    assert "hello:1" in captured.out
    assert captured.err.startswith("error: The image lost:latest is not in the store as a whole.")
    assert gear(context, "rm", "lost") == 0
    assert gear(context, "list") == 0


def test_text_of_an_image_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[31m\n") == "a?[31m?"
    assert [amount(size) for size in (0, 999, 1000, 170401280, 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "170.4 MB",
        "1.0 TB",
    ]


@pytest.mark.spawns
@needs_root
def test_the_demo_image_is_reproducible(context: Context, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "contrib/demo-image"
    made = [
        subprocess.run(
            [sys.executable, script, *options], check=True, capture_output=True, text=True
        ).stdout.strip()
        for options in ([tmp_path / "a"], [tmp_path / "b"], ["--tar", tmp_path / "c"])
    ]
    assert made[0] == made[1] == made[2]
    for source in "abc":
        (image,) = loading.load(context.layout, str(tmp_path / source))
        assert (image.reference, image.digest) == ("hello:latest", made[0])
    assert image.config.exposed_ports == ("8080/tcp",) and image.config.user == "www"
    failed = subprocess.run(
        [sys.executable, script, tmp_path / "d", "--busybox", tmp_path / "none"],
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    assert failed.stderr.endswith("hint: apt-get install busybox-static\n")


@needs_root
def test_a_list_of_a_thousand_references_costs_no_more_for_each(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processor time of one run; a search through all of them for each would be a hundred times as much."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    made = OciLayout()
    for number in range(50):
        made.image(ONE, name=f"i{number}:1", document=config(ONE, Labels={"n": str(number)}))
    loaded = loading.load(context.layout, str(made.write(tmp_path / "many")))

    def cost() -> float:
        times = []
        for _ in range(3):
            began = time.process_time()
            rows, faults = images.listing(context.layout)
            times.append((time.process_time() - began) / len(rows))
            assert not faults
        return min(times)

    few = cost()
    for number in range(950):
        image = loaded[number % len(loaded)]
        store.set_reference(context.layout, f"example.com/team/app{number}:1", image.digest)
    assert len(images.listing(context.layout)[0]) == 1000
    assert cost() < 2 * few
