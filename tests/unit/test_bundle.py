"""The bundle: every case of tests/cases, and the rules that are no single case."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rendering
from hypothesis import given
from strategies import HOSTILE

from gear import bundle
from gear.errors import UsageError
from gear.isolation import Isolation
from gear.model import Layout
from gear.oci import Identity
from gear.outline import ImageRef


def at(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer, None when there is none."""
    for part in pointer.split("/")[1:]:
        document = document.get(part) if isinstance(document, dict) else document[int(part)]
    return document


@pytest.mark.parametrize("path", rendering.cases(), ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case = rendering.read(path)
    if "error" in case.document:
        return  # tests/unit/test_units.py
    files = case.bundle()
    assert case.bundle() == files
    # One that is on a single network has that of the network for its hosts.
    assert set(files) | {"hosts"} == {"config.json", "start.json", "hosts", "hostname"}
    config = json.loads(files["config.json"])
    for pointer, value in case.document.get("config", {}).items():
        assert at(config, pointer) == value, pointer
    env = dict(entry.split("=", 1) for entry in config["process"]["env"])
    assert len(env) == len(config["process"]["env"])
    for name, value in case.document.get("env", {}).items():
        assert env.get(name) == value, name
    mounts = {mount["destination"]: mount for mount in config["mounts"]}
    assert len(mounts) == len(config["mounts"])
    for destination, expected in case.document.get("mounts", {}).items():
        if expected is None:
            assert destination not in mounts
        else:
            assert {key: mounts[destination][key] for key in expected} == expected, destination
    golden = path.with_suffix(".config")
    if golden.exists():
        assert files["config.json"] == golden.read_bytes()


def test_layers_are_stacked_topmost_first_and_the_writable_one_is_of_the_image() -> None:
    case = rendering.read(rendering.CASES / "defaults.json")
    assert json.loads(case.bundle()["start.json"])["root"] == {
        "lower": ["/layers/02", "/layers/01"],
        "upper": "/var/lib/gear/containers/web/layer-abababababab/upper",
        "work": "/var/lib/gear/containers/web/layer-abababababab/work",
    }
    other = rendering.make_spec(image={"reference": "nginx:latest", "digest": "sha256:" + "cd" * 32})
    assert bundle.writable_layer(other, Layout()).name == "layer-cdcdcdcdcdcd"


def test_a_tree_of_its_own_takes_the_place_of_layers() -> None:
    case = rendering.read(rendering.CASES / "defaults.json")
    for driver in ("vfs", "btrfs"):
        tree = replace(case, spec=replace(case.spec, storage=driver))
        assert json.loads(tree.bundle()["start.json"])["root"] == {
            "tree": f"/var/lib/gear/containers/web/layer-abababababab-{driver}/root"
        }
        # Its ids are those of the image, whatever range the container has.
        other = replace(case.spec, storage=driver, isolation=Isolation(userns="host"), uid_base=0)
        assert bundle.writable_layer(other, Layout()).name == f"layer-abababababab-{driver}"
        brief = replace(case, spec=replace(case.spec, storage=driver, ephemeral=True))
        root = json.loads(brief.bundle()["start.json"])["root"]
        assert root == {"lower": ["/layers/02", "/layers/01"], "ephemeral": True}


def test_a_directory_of_the_host_is_not_copied() -> None:
    case = rendering.read(rendering.CASES / "defaults.json")
    image = ImageRef("host:/srv", "")
    with pytest.raises(UsageError, match="would copy a directory of this machine"):
        replace(case, spec=replace(case.spec, storage="vfs", image=image)).bundle()


def test_hosts_and_hostname_name_the_container() -> None:
    files = rendering.read(rendering.CASES / "env-hostname.json").bundle()
    assert files["hostname"] == b"db.example\n"
    assert files["hosts"] == (
        b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tdb.example web\n"
    )


def test_nothing_to_run_says_how_to_give_a_command() -> None:
    with pytest.raises(UsageError) as caught:
        bundle.arguments(rendering.make_spec(), rendering.make_image({}))
    assert caught.value.hint == "Add one at the end: gear install IMAGE NAME -- COMMAND ARGUMENT..."


def test_mounts_come_before_those_below_them() -> None:
    wanted = ["/data-x", "/data/a/b", "/data", "/data/a", "/b"]
    mounts = [{"kind": "tmpfs", "source": "", "destination": path, "options": []} for path in wanted]
    found = bundle.effective_mounts(
        rendering.make_spec(mounts=mounts), rendering.make_image({"Cmd": ["x"], "Volumes": {"/data/a/a": {}}})
    )
    assert [mount.destination for mount in found] == [
        "/b",
        "/data",
        "/data/a",
        "/data/a/a",
        "/data/a/b",
        "/data-x",
    ]


def test_volumes_of_images_have_different_names() -> None:
    pairs = [
        ("x", "/y.z"),
        ("x.y", "/z"),
        ("x", "/y/z"),
        ("x", "/y-z"),
        ("x", "/y_z"),
        ("x", "/y z"),
        ("x", "/Y/z"),
        ("x", "/ä"),
        ("x", "/ö"),
        ("x", "/" + "a" * 250 + "/1"),
        ("x", "/" + "a" * 250 + "/2"),
        ("x" * 63, "/" + "a" * 250),
        ("x" * 63, "/" + "a" * 251),
    ]
    names = {bundle.anonymous_volume(container, destination) for container, destination in pairs}
    assert len(names) == len(pairs)
    assert bundle.anonymous_volume("web", "/var/lib/db") == "web.var-lib-db"


@given(HOSTILE)
def test_volume_of_an_image_is_always_a_valid_name(path: str) -> None:
    spec, image = (
        rendering.make_spec(),
        rendering.make_image({"Cmd": ["x"], "Volumes": {"/srv/x" + path: {}}}),
    )
    for mount in bundle.effective_mounts(spec, image):
        again = rendering.make_spec(
            mounts=[{"kind": "volume", "source": mount.source, "destination": "/d", "options": []}]
        )
        assert again.mounts[0].source == mount.source
        assert mount.source.startswith("web.") and len(mount.source) <= 200


@given(HOSTILE, HOSTILE)
def test_arguments_and_environment_arrive_as_they_are(argument: str, value: str) -> None:
    spec = rendering.make_spec(command=["/bin/x", argument], env={"V": value})
    files = bundle.render(spec, rendering.make_image(), Identity(0, 0, (), "/"), [], Layout())
    process = json.loads(files[Path("/var/lib/gear/containers/web/config.json")])["process"]
    assert process["args"] == ["/bin/x", argument]
    assert f"V={value}" in process["env"]


def test_json_is_one_form() -> None:
    content = rendering.read(rendering.CASES / "env-odd.json").bundle()["config.json"]
    assert content.isascii() and content.endswith(b"\n}\n")
    assert content == (json.dumps(json.loads(content), indent=2, sort_keys=True) + "\n").encode()
