"""The cases of tests/cases: specs and images, rendered, and what is expected of the outcome.

A case is one file `NAME.json`, and adding one is adding a test:

    about       one sentence
    spec        members of spec.json that differ from the smallest one
    image       the `config` member of the image's OCI config
    identity    who the payload runs as: uid, gid, groups, home
    unit        section -> key -> value as written, a list for a key that is there several times, null for none
    exec        key of an Exec line -> its argv as systemd splits it
    config      JSON pointer into config.json -> value, null for none
    env         name -> value in the payload's environment, null for none
    mounts      destination -> members of the mount that are expected, null for none
    error       instead of all these: the message of the UsageError

Files `NAME.service` and `NAME.config` beside it, where there are any, are the whole outcome, byte for byte.
`python3 tests/rendering.py NAME` writes them anew, to be read in the diff.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
CASES = TOP / "tests" / "cases"
if __name__ == "__main__":
    sys.path.insert(0, str(TOP))

from gear import bundle, units  # noqa: E402 (run as a program, its path is made above)
from gear.definition import Definition, interface_name, make_subnets  # noqa: E402
from gear.model import Layout  # noqa: E402
from gear.oci import (  # noqa: E402
    Identity,  # noqa: E402
    Image,
    ImageConfig,
)
from gear.spec import Spec  # noqa: E402

DIGEST = "sha256:" + "ab" * 32
LAYERS = ("sha256:" + "01" * 32, "sha256:" + "02" * 32)
SMALLEST: dict[str, Any] = {
    "version": 1,
    "name": "web",
    "image": {"reference": "nginx:latest", "digest": DIGEST},
    "uid_base": 524288,
}
_MEMBERS = {"about", "spec", "image", "identity", "unit", "exec", "config", "env", "mounts", "error"}


@dataclass(frozen=True)
class Case:
    """One case, ready to render."""

    name: str
    document: dict[str, Any]
    spec: Spec
    image: Image
    identity: Identity
    layout: Layout = Layout()

    def unit(self) -> bytes:
        """The text of the service."""
        return units.render(self.spec, self.image, self.layout)

    def bundle(self) -> dict[str, bytes]:
        """The files of the bundle by their name."""
        roots = [Path("/layers") / layer[7:9] for layer in self.image.layers]
        networks = {
            name: Definition(
                name, interface_name(name), make_subnets(["10.89.0.0/24", "fd00:1::/64"], [], [])
            )
            for name in self.spec.network.networks
        }
        files = bundle.render(self.spec, self.image, self.identity, roots, self.layout, networks=networks)
        assert all(path.parent == self.layout.containers / self.spec.name for path in files)
        return {path.name: content for path, content in files.items()}


def make_spec(**members: Any) -> Spec:
    """The smallest spec with *members* of spec.json changed."""
    return Spec.from_mapping(SMALLEST | members, "spec.json")


def make_image(config: dict[str, Any] | None = None) -> Image:
    """An image with the given `config` member of its OCI config."""
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": list(LAYERS)}}
    parsed = ImageConfig.from_mapping(
        document | {"config": {"Cmd": ["/bin/web"]} if config is None else config}
    )
    return Image("nginx:latest", DIGEST, parsed, LAYERS, 12345)


def read(path: Path) -> Case:
    """The case in *path*."""
    document = json.loads(path.read_bytes())
    assert set(document) <= _MEMBERS, f"{path.name} has unknown members {set(document) - _MEMBERS}"
    who = document.get("identity", {})
    identity = Identity(
        who.get("uid", 0), who.get("gid", 0), tuple(who.get("groups", ())), who.get("home", "/root")
    )
    spec, image = make_spec(**document.get("spec", {})), make_image(document.get("image"))
    return Case(path.stem, document, spec, image, identity)


def cases() -> list[Path]:
    """Every case's file, sorted."""
    return sorted(CASES.glob("*.json"))


def main(names: list[str]) -> None:
    """Write the expected outcome of each named case."""
    for name in names:
        case = read(CASES / f"{name}.json")
        (CASES / f"{name}.service").write_bytes(case.unit())
        (CASES / f"{name}.config").write_bytes(case.bundle()["config.json"])


if __name__ == "__main__":
    main(sys.argv[1:])
