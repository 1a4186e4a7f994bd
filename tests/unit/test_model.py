"""Layout and names."""

from __future__ import annotations

from pathlib import Path

import pytest

from gear.errors import UsageError
from gear.model import Layout, absolute_path, container_name


def test_default_layout() -> None:
    layout = Layout()
    assert layout.state == Path("/var/lib/gear")
    assert layout.units == Path("/usr/local/lib/systemd/system")
    assert layout.containers == Path("/var/lib/gear/containers")
    assert layout.volumes == Path("/var/lib/gear/volumes")
    assert layout.images == Path("/var/lib/gear/images")
    assert layout.lock == Path("/var/lib/gear/lock")


def test_environment_moves_each_directory() -> None:
    environ = {
        "GEAR_STATE_DIR": "/a/../state",
        "GEAR_UNIT_DIR": "/a//units/",
        "OTHER": "x",
    }
    assert Layout.from_environment(environ) == Layout(Path("/state"), Path("/a/units"))
    assert Layout.from_environment({"GEAR_STATE_DIR": ""}) == Layout()
    assert Layout.from_environment({}) == Layout()


def test_environment_with_a_relative_path_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Layout.from_environment({"GEAR_UNIT_DIR": "units"})
    assert caught.value.message == "GEAR_UNIT_DIR must be an absolute path, not 'units'."


def test_moved_changes_one() -> None:
    moved = Layout().moved("units", Path("/x"))
    assert moved == Layout(units=Path("/x"))
    assert Layout().units != moved.units


@pytest.mark.parametrize("text", ["", "a", "./a", "a\0", "/a\0b", "/a\nb"])
def test_paths_that_are_not_absolute(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        absolute_path(text, "--state-dir")
    assert caught.value.message == f"--state-dir must be an absolute path, not {text!r}."


@pytest.mark.parametrize("text", ["a", "0", "Web-1", "a.b_c-d", "x" * 63])
def test_good_container_names(text: str) -> None:
    assert container_name(text) == text


def test_unit_stands_for_its_container() -> None:
    assert container_name("ctr-web.service") == "web"
    assert container_name("ctr-web") == "ctr-web"
    for text in ("ctr-.service", "ctr-a b.service", "ctr--x.service"):
        with pytest.raises(UsageError):
            container_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-a",
        ".a",
        "_a",
        "..",
        "a/b",
        "a b",
        "a@b",
        "a%b",
        "ä",
        "a\n",
        "\na",
        "x" * 64,
        "a\0",
        "٣",
        "a:b",
        "a=b",
    ],
)
def test_bad_container_names(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        container_name(text)
    assert caught.value.message == f"{text!r} can't name a container."
    assert (
        caught.value.hint == "Use 1 to 63 letters, digits, '_', '.' or '-', and begin with a letter or digit."
    )
    assert caught.value.exit_status == 2


def test_long_nonsense_is_cut_in_the_message() -> None:
    with pytest.raises(UsageError) as caught:
        container_name("x" * 10000)
    assert len(caught.value.message) < 120
