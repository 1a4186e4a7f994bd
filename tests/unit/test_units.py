"""The service unit: every case of tests/cases, and what no image can do to a unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import rendering
import unitsyntax
from hypothesis import given
from hypothesis import strategies as st
from strategies import HOSTILE

from gear import units
from gear.errors import IntegrityError, UsageError
from gear.model import Layout
from gear.oci import ImageConfig


@pytest.mark.parametrize("path", rendering.cases(), ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case = rendering.read(path)
    if message := case.document.get("error"):
        with pytest.raises(UsageError) as caught:
            case.unit()
            case.bundle()
        assert caught.value.message == message
        return
    text = case.unit()
    assert case.unit() == text
    sections = unitsyntax.parse(text.decode())
    for section, expected in case.document.get("unit", {}).items():
        for key, value in expected.items():
            found = [content for name, content in sections[section] if name == key]
            assert found == ([] if value is None else value if isinstance(value, list) else [value]), key
    for key, argv in case.document.get("exec", {}).items():
        (line,) = (content for name, content in sections["Service"] if name == key)
        assert unitsyntax.command(line) == argv
    golden = path.with_suffix(".service")
    if golden.exists():
        assert text == golden.read_bytes()


def test_every_unit_has_the_same_sections_and_only_known_keys() -> None:
    keys = set()
    for path in rendering.cases():
        case = rendering.read(path)
        if "error" not in case.document:
            sections = unitsyntax.parse(case.unit().decode())
            on_demand = case.spec.network.on_demand
            assert list(sections) == ["Unit", "Service", *(() if on_demand else ("Install",))]
            keys |= {f"{section}.{key}" for section, settings in sections.items() for key, _ in settings}
    # A key that is not here has no case that asks for it.
    assert keys == set(
        "Unit.Description Unit.PartOf Unit.RequiresMountsFor Unit.Wants Unit.After Unit.Requires "
        "Unit.StopWhenUnneeded Service.Sockets Service.Type "
        "Service.NotifyAccess Service.Environment "
        "Service.ExecStart Service.ExecStop Service.ExecStopPost Service.KillMode Service.KillSignal "
        "Service.TimeoutStopSec Service.Restart "
        "Service.RestartPreventExitStatus Service.RestartForceExitStatus "
        "Service.SuccessExitStatus Service.Slice Service.SyslogIdentifier Service.IgnoreSIGPIPE Service.TasksMax "
        "Service.LogExtraFields Service.LogNamespace Service.LogRateLimitIntervalSec Service.LogRateLimitBurst "
        "Service.LogLevelMax Service.StandardOutput Service.StandardError "
        "Service.IOAccounting Service.MemoryMax Service.CPUQuota Service.DevicePolicy Service.DeviceAllow "
        "Service.MemorySwapMax Service.CPUWeight Service.AllowedCPUs "
        "Service.FileDescriptorStoreMax "
        "Service.LimitNOFILE Service.LimitCORE Service.OOMScoreAdjust Service.Delegate Service.ReadOnlyPaths "
        "Install.WantedBy".split()
    )


@given(
    HOSTILE, HOSTILE, HOSTILE, st.lists(HOSTILE, max_size=4), st.dictionaries(HOSTILE, HOSTILE, max_size=3)
)
def test_unit_text_depends_on_nothing_that_an_image_says_but_its_stop_signal(
    user: str, workdir: str, created: str, argv: list[str], pairs: dict[str, str]
) -> None:
    config = ImageConfig(
        architecture=created,
        os=user,
        entrypoint=tuple(argv),
        cmd=tuple(reversed(argv)),
        env=tuple(pairs.items()),
        user=user,
        workdir=workdir,
        stop_signal="",
        labels=pairs,
        volumes=(),
        exposed_ports=tuple(argv),
        healthcheck=pairs,
        diff_ids=rendering.LAYERS,
        created=created,
    )
    spec, image = rendering.make_spec(), rendering.make_image()
    expected = units.render(spec, image, Layout())
    assert units.render(spec, replace(image, config=config), Layout()) == expected


@given(HOSTILE)
def test_volume_that_an_image_declares_adds_one_word(path: str) -> None:
    image = rendering.make_image({"Cmd": ["x"], "Volumes": {f"/srv/x{path}": {}}})
    sections = unitsyntax.parse(units.render(rendering.make_spec(), image, Layout()).decode())
    (value,) = (value for key, value in sections["Unit"] if key == "RequiresMountsFor")
    container, *volumes = unitsyntax.words(value, escapes=False)
    assert container == "/var/lib/gear/containers/web"
    assert all(volume.startswith("/var/lib/gear/volumes/web.") for volume in volumes)
    assert len(volumes) == 1


@given(HOSTILE, HOSTILE, HOSTILE)
def test_what_was_asked_for_never_makes_a_setting(text: str, user: str, label: str) -> None:
    spec = rendering.make_spec(
        entrypoint=[text],
        command=[user],
        env={"A": text},
        user=user,
        workdir=f"/{text}",
        labels={label: text},
    )
    assert units.render(spec, rendering.make_image(), Layout()) == units.render(
        rendering.make_spec(), rendering.make_image(), Layout()
    )


@given(HOSTILE)
def test_bind_source_is_one_word_or_refused(name: str) -> None:
    source = "/srv/" + name.replace("/", "").replace(".", "") + "x"
    mounts = [{"kind": "bind", "source": source, "destination": "/data", "options": []}]
    try:
        spec = rendering.make_spec(mounts=mounts)
    except IntegrityError:
        assert any(character < " " or character == "\x7f" for character in source)
        return
    sections = unitsyntax.parse(units.render(spec, rendering.make_image(), Layout()).decode())
    (value,) = (value for key, value in sections["Unit"] if key == "RequiresMountsFor")
    found = [unitsyntax.specifiers(word) for word in unitsyntax.words(value, escapes=False)]
    assert found == ["/var/lib/gear/containers/web", source]


def test_layout_moves_every_path() -> None:
    layout = Layout().moved("state", Path("/opt/my state/%i"))
    sections = unitsyntax.parse(units.render(rendering.make_spec(), rendering.make_image(), layout).decode())
    service = dict(sections["Service"])
    assert unitsyntax.command(service["ExecStart"])[-2:] == [
        "/opt/my state/%i/helper/current/start",
        "/opt/my state/%i/containers/web",
    ]
    assert unitsyntax.command(service["ExecStop"])[1] == "/opt/my state/%i/helper/current/stop"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.001s"), (0.0004, "0.001s"), (0.25, "0.25s"), (1, "1s"), (90, "90s"), (86400, "86400s")],
)
def test_seconds(value: float, text: str) -> None:
    assert units.seconds(value) == text
