"""One nested host of the release under test for all host tests; each test uses names of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attacking import Attacker, programs  # noqa: E402
from gearhost import TOP, GearHost, demo_image, start_host  # noqa: E402


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


@pytest.fixture
def host(booted: GearHost) -> Iterator[GearHost]:
    """The host, on which nothing of a test may be left: no container, no mount, nothing to clean."""
    before = sorted(booted.mount_table())
    yield booted
    names = booted.gear("list-units", "--all", "--quiet").split()
    if names:
        booted.gear("delete", "--volumes", *names)
    networks = booted.sh("ls /var/lib/gear/networks 2>/dev/null || :").split()
    if networks:
        booted.gear("network", "rm", *networks)
    assert sorted(booted.mount_table()) == before
    assert booted.leftovers() == []


@pytest.fixture(scope="module")
def _attacks(booted: GearHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacker]:
    made = Attacker(booted, *programs(tmp_path_factory.getbasetemp()))
    yield made
    made.forget()


@pytest.fixture
def attacker(host: GearHost, _attacks: Attacker) -> Attacker:
    """The attacking programs, in the image `attack` and on the host; containers go with the test's end."""
    return _attacks
