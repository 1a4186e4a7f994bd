"""One nested host of the release under test for all host tests; each test uses names of its own."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attacking import Attacker, programs  # noqa: E402
from gearhost import RELEASE, TOP, GearHost, demo_image, start_host  # noqa: E402
from registryhost import registry_host  # noqa: E402
from testhostlib import build_image  # noqa: E402


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GearHost]:
    machine = start_host()
    try:
        machine.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
        machine.gear("image", "load", "/root/hello")
        yield machine
    finally:
        machine.host.stop()


@pytest.fixture(scope="session")
def oci(booted: GearHost) -> GearHost:
    """The host, with gear-oci on it."""
    booted.sh("mkdir -p /opt/gear/contrib")
    booted.host.copy([TOP / "contrib" / "gear-oci"], "/opt/gear/contrib")
    return booted


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GearHost]:
    """Another host, with registries; each test uses repositories of its own."""
    with registry_host(tmp_path_factory.mktemp("image")) as machine:
        yield machine


@pytest.fixture(scope="session")
def services(registry: GearHost, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """What puts the image of a Debian service, one of testhostlib's trees, into the registry and names it there."""

    @functools.cache
    def put(service: str) -> str:
        name = f"localhost:5000/debian/{service}:1"
        archive = tmp_path_factory.mktemp("service") / f"{service}.tar.zst"
        subprocess.run(["zstd", "-q", "-1", build_image(service, release=RELEASE), "-o", archive], check=True)
        registry.host.copy([archive], "/root")
        registry.gear("image", "import", f"/root/{archive.name}", name)
        registry.gear("image", "push", "-q", name)
        registry.gear("image", "rm", name)
        registry.sh(f"rm /root/{archive.name}; gear clean >/dev/null")
        archive.unlink()
        return name

    return put


@pytest.fixture
def host(booted: GearHost) -> Iterator[GearHost]:
    """The host, on which nothing of a test may be left: no container, no mount, nothing to clean."""
    with booted.tidy():
        yield booted


@pytest.fixture(scope="module")
def _attacks(booted: GearHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacker]:
    made = Attacker(booted, *programs(tmp_path_factory.getbasetemp()))
    yield made
    made.forget()


@pytest.fixture
def attacker(host: GearHost, _attacks: Attacker) -> Attacker:
    """The attacking programs, in the image `attack` and on the host; containers go with the test's end."""
    return _attacks


@pytest.fixture(scope="session")
def _on_btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GearHost]:
    machine = start_host()
    try:
        machine.mount_new("btrfs", "/var/lib/gear")
        machine.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
        machine.gear("image", "load", "/root/hello")
        yield machine
    finally:
        machine.host.stop()


@pytest.fixture
def fitting(request: pytest.FixtureRequest, driver: str) -> Iterator[GearHost]:
    """A host with the image `hello` whose file system the storage driver of the test's parameter *driver* can use;
    nothing may be left on it either."""
    machine: GearHost = request.getfixturevalue("_on_btrfs" if driver == "btrfs" else "booted")
    with machine.tidy():
        yield machine
