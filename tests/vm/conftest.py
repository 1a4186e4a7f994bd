"""One virtual machine of the release under test, with cgroup v2 and every controller, for all vm tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gearhost import GearHost, demo_image, start_host  # noqa: E402


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GearHost]:
    booted = start_host(vm=True, extra="podman")
    try:
        booted.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
        booted.gear("image", "load", "/root/hello")
        yield booted
    finally:
        booted.host.stop()
