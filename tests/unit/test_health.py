"""Health checks, readiness and restarts as words and as rendered files; and what of the prober needs no host."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rendering
import unitsyntax
from hypothesis import given
from hypothesis import strategies as st

from gear import bundle, durations, health, probed, prober, restarts, units
from gear.errors import IntegrityError, UsageError
from gear.health import Check, Health, Readiness
from gear.helper import probe
from gear.helper.relay import Relay
from gear.model import Layout
from gear.oci import Identity, ImageConfig
from gear.spec import Spec

SECOND = 1_000_000_000


def image(check: dict[str, Any] | None = None, **more: Any) -> Any:
    config = ImageConfig.from_mapping({"config": {"Cmd": ["x"], "Healthcheck": check, **more}})
    return replace(rendering.read(rendering.cases()[0]).image, config=config)


def rendered(spec: Spec, config: Any) -> tuple[dict[str, list[str]], dict[str, Any], dict[str, Any]]:
    """The settings of the unit, start.json and config.json."""
    settings: dict[str, list[str]] = {}
    for section in unitsyntax.parse(units.render(spec, config, Layout()).decode()).values():
        for name, content in section:
            settings.setdefault(name, []).append(content)
    files = bundle.render(spec, config, Identity(0, 0, (), "/"), [], Layout())
    found = {path.name: content for path, content in files.items()}
    return settings, json.loads(found["start.json"]), json.loads(found["config.json"])


def test_nothing_asked_for_is_nothing_written() -> None:
    spec = rendering.make_spec()
    assert "health" not in spec.to_mapping() and "pace" not in spec.to_mapping()
    settings, start, config = rendered(spec, image())
    assert settings["NotifyAccess"] == ["main"] and "health" not in start
    for name in ("TimeoutStartSec", "WatchdogSignal", "WatchdogSec", "StartLimitBurst", "RestartSec"):
        assert name not in settings
    assert not any(entry.startswith("NOTIFY_SOCKET") for entry in config["process"]["env"])
    # Not to want the image's is no more.
    off = rendering.make_spec(health={"test": ["NONE"]})
    assert rendered(off, image({"Test": ["CMD", "y"]}))[:2] == (settings, start)


def test_the_check_of_an_image() -> None:
    check = {"Test": ["CMD-SHELL", "curl -f http://localhost"], "Interval": 5 * SECOND, "Timeout": SECOND // 2,
             "Retries": 2, "StartPeriod": 60 * SECOND, "StartInterval": 0}  # fmt: skip
    settings, start, _ = rendered(rendering.make_spec(), image(check))
    assert start["health"] == {
        "unit": "ctr-web.service",
        "ready": "healthy",
        "check": {
            "command": ["/bin/sh", "-c", "curl -f http://localhost"],
            "interval": 5.0,
            "timeout": 0.5,
            "retries": 2,
            "patience": 70.0,
            "start_interval": 1.0,
            "on_failure": "restart",
            "signal": 15,
        },
    }
    assert settings["NotifyAccess"] == ["all"] and settings["WatchdogSignal"] == ["15"]
    assert settings["TimeoutStartSec"] == ["160.5s"]
    assert "WatchdogSec" not in settings  # PID 1 would count on while the container is paused
    # One member changed keeps the others; a command of one's own as well.
    found = health.check_of(Health(retries=7, test=("CMD", "/x")), check, "i")
    assert found == Check(("/x",), 5.0, 0.5, 7, 60.0, 1.0)
    assert health.check_of(Health(), None, "i") is None
    assert health.check_of(Health(), {"Test": ["NONE"]}, "i") is None
    assert health.check_of(Health(), {"Test": None}, "i") is None


@pytest.mark.parametrize(
    "check",
    [
        {"Test": "x"},
        {"Test": ["CMD"]},
        {"Test": ["RUN", "x"]},
        {"Test": ["CMD-SHELL", "a", "b"]},
        {"Test": ["CMD", "x"], "Interval": "5s"},
        {"Test": ["CMD", "x"], "Interval": -5},
        {"Test": ["CMD", "x"], "Timeout": True},
        {"Test": ["CMD", "x"], "Timeout": 10**30},
        {"Test": ["CMD", "x"], "Retries": 10**9},
        {"Test": ["CMD", "x"], "Retries": 1.5},
    ],
)
def test_a_check_that_is_none_is_told(check: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"The health check of the image i can't be used: ") as caught:
        health.check_of(Health(), check, "i")
    assert caught.value.hint and "--no-healthcheck" in caught.value.hint
    assert health.check_of(Health(test=("NONE",)), check, "i") is None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.floats(), st.lists))
def test_no_check_of_an_image_is_a_bug(value: Any) -> None:
    for name in ("Test", "Interval", "Retries", "StartInterval"):
        try:
            health.check_of(Health(), {"Test": ["CMD", "x"], name: value}, "i")
        except UsageError:
            pass


def test_options_without_a_check() -> None:
    with pytest.raises(UsageError, match="There is no health check for --health-start-period"):
        health.check_of(Health(start_period=1.0), None, "i")
    with pytest.raises(UsageError, match="never gets healthy"):
        health.readiness(Health(ready=Readiness("healthy")), None, [])


def test_what_a_start_waits_for() -> None:
    check = Check(("x",))
    assert health.readiness(Health(), None, []).kind == "started"
    assert health.readiness(Health(), check, []).kind == "healthy"
    assert health.readiness(Health(ready=Readiness("started")), check, []).kind == "started"
    port = Health(ready=Readiness("port"))
    assert health.readiness(port, None, [80]) == Readiness("port", 80)
    for ports in ([], [80, 443]):
        with pytest.raises(UsageError, match="Which port is meant is not clear"):
            health.readiness(port, None, ports)
    spec = rendering.make_spec(health={"ready_when": "port"})
    assert prober.wanted(spec, image(ExposedPorts={"53/udp": {}, "5432/tcp": {}}))[1].port == 5432
    for text in ("started", "healthy", "notify", "port", "port:8080", "log:a: b$"):
        assert str(Readiness.parse(text)) == text


def test_the_payloads_own_word() -> None:
    spec = rendering.make_spec(health={"ready_when": "notify"})
    settings, start, config = rendered(spec, image())
    assert start["health"] == {"unit": "ctr-web.service", "ready": "notify"}
    assert settings["NotifyAccess"] == ["all"] and "WatchdogSignal" not in settings
    assert "NOTIFY_SOCKET=/run/host/notify" in config["process"]["env"]
    (mount,) = (mount for mount in config["mounts"] if mount["destination"] == "/run/host/notify")
    assert mount["source"] == "/var/lib/gear/containers/web/notify" and "ro" in mount["options"]


def test_a_line_is_looked_for_where_it_is_written() -> None:
    log = {"health": {"ready_when": "log:^up$"}}
    assert rendered(rendering.make_spec(**log), image())[1]["health"] == {
        "unit": "ctr-web.service", "ready": "log", "pattern": "^up$",
    }  # fmt: skip
    spec = rendering.make_spec(**log, logging={"namespace": "web"})
    assert rendered(spec, image())[1]["health"]["namespace"] == "web"
    with pytest.raises(UsageError, match="can.t tell when it is ready"):
        rendered(rendering.make_spec(**log, logging={"driver": "none"}), image())


def test_reactions_and_times() -> None:
    def settings(**members: Any) -> dict[str, list[str]]:
        return rendered(rendering.make_spec(health={"test": ["CMD", "x"], **members}), image())[0]

    assert settings(on_failure="kill")["WatchdogSignal"] == ["SIGKILL"]
    assert "WatchdogSignal" not in settings(on_failure="none") | settings(on_failure="stop")
    assert settings(start_timeout=0)["TimeoutStartSec"] == ["infinity"]
    assert settings(start_timeout=7)["TimeoutStartSec"] == ["7s"]
    assert "TimeoutStartSec" not in settings(ready_when="started")


def test_the_pace_of_restarts() -> None:
    pace = {"delay": 1, "max_delay": 60, "limit": 5, "window": 86400}
    settings, _, _ = rendered(rendering.make_spec(pace=pace), image())
    assert settings["RestartSec"] == ["1s"] and settings["RestartMaxDelaySec"] == ["60s"]
    assert settings["StartLimitBurst"] == ["6"] and settings["StartLimitIntervalSec"] == ["86400s"]
    # No form of a number that systemd does not read.
    settings, _, _ = rendered(rendering.make_spec(pace={"limit": 1, "window": 31622400}), image())
    assert settings["StartLimitIntervalSec"] == ["31622400s"]
    assert restarts.parse_policy("on-failure:5") == ("on-failure", 5)
    assert restarts.parse_policy("on-failure:0") == ("on-failure", None)  # as with Docker, no limit
    assert restarts.parse_policy("unless-stopped") == ("unless-stopped", None)


@pytest.mark.parametrize(
    ("text", "seconds"), [
        ("90", 90), ("1m30s", 90), ("500ms", 0.5), ("1h", 3600), ("2m", 120), ("2min", 120), ("3sec", 3),
        ("1w2d", 777600), ("1.5h", 5400), ("1m500ms", 60.5),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert durations.parse(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "1x", "-1s", "1s1h", "..s", "1e9", "٣s", "1s\n", "9" * 13, "1m1m", "inf"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError):
        durations.parse(text)


@pytest.mark.parametrize(
    "members",
    [
        {"health": {"test": ["CMD", "x", "y"], "interval": 1.5, "ready_when": "log:x", "on_failure": "none"}},
        {"health": {"retries": 2, "start_timeout": 0, "start_period": 0}},
        {"pace": {"delay": 0, "limit": 1, "window": 60}},
    ],
)
def test_specifications_come_back(members: dict[str, Any]) -> None:
    spec = rendering.make_spec(**members)
    assert Spec.from_mapping(spec.to_mapping(), "x") == spec


@pytest.mark.parametrize(
    "members",
    [
        {"health": []},
        {"health": {"test": []}},
        {"health": {"test": ["CMD", "a\0b"]}},
        {"health": {"interval": 0}},
        {"health": {"interval": True}},
        {"health": {"interval": float("nan")}},
        {"health": {"retries": 0}},
        {"health": {"ready_when": "log:\n"}},
        {"health": {"other": 1}},
        {"pace": {"limit": 3}},
        {"pace": {"delay": 5, "max_delay": 4}},
        {"pace": {"delay": -1}},
    ],
)
def test_damaged_specifications(members: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=f"/{next(iter(members))}"):
        rendering.make_spec(**members)


class _Silent:
    def setblocking(self, flag: bool) -> None:
        assert not flag


def relay() -> Relay:
    return Relay(_Silent())  # type: ignore[arg-type]


def test_only_harmless_words_of_a_payload_are_passed_on() -> None:
    hearing = relay()
    hostile = (b"MAINPID=1", b"FDSTORE=1", b"FDSTOREREMOVE=1", b"NOTIFYACCESS=all", b"BARRIER=1", b"WATCHDOG_USEC=1",
               b"READY=1 ", b"READY=2", b" READY=1", b"MAINPIDFDID=1", b"ERRNO=2", b"RESTART_RESET=1", b"")  # fmt: skip
    assert hearing.passed(b"\n".join(hostile)) == [] and not hearing.ready
    assert hearing.passed(b"STATUS=a\x1b[1mb\tc\xff") == [] and hearing.status == "a?[1mb c\ufffd"
    assert hearing.passed(b"RELOADING=1\nREADY=1\nMAINPID=1") == ["RELOADING=1", "READY=1"]
    assert hearing.ready and hearing.passed(b"STOPPING=1\nWATCHDOG=1") == ["STOPPING=1", "WATCHDOG=1"]


def test_a_start_is_made_longer_within_bounds_and_a_stop_never() -> None:
    hearing = relay()
    assert hearing.passed(b"EXTEND_TIMEOUT_USEC=5000000") == ["EXTEND_TIMEOUT_USEC=5000000"]
    assert hearing.passed(b"EXTEND_TIMEOUT_USEC=999999999999999") == ["EXTEND_TIMEOUT_USEC=600000000"]
    for digits in (b"-1", b"1e9", b"9" * 30, b""):
        assert hearing.passed(b"EXTEND_TIMEOUT_USEC=" + digits) == []
    for _ in range(100):
        last = hearing.passed(b"EXTEND_TIMEOUT_USEC=600000000")
    assert last == []
    hearing = relay()
    assert hearing.passed(b"READY=1\nEXTEND_TIMEOUT_USEC=5") == ["READY=1"]


@given(st.binary(max_size=5000))
def test_any_message_comes_to_known_lines(message: bytes) -> None:
    hearing = relay()
    known = ("READY=1", "STOPPING=1", "RELOADING=1", "WATCHDOG=1", "WATCHDOG=trigger")
    for line in hearing.passed(message):
        assert line in known or line.startswith("EXTEND_TIMEOUT_USEC=")
    assert hearing.status.isprintable() and len(hearing.status) <= 203


@given(st.binary(max_size=3000))
def test_output_of_probes_is_one_line(output: bytes) -> None:
    said = probe.Result(1, "exit status 1", output).words()
    assert said.isprintable() and len(said) < 250


@pytest.mark.parametrize(
    ("active", "kept", "shown"),
    [
        ("active", "healthy", "healthy"),
        ("activating", "starting", "starting"),
        ("failed", "unhealthy", "unhealthy"),
        ("failed", "healthy", "stopped"),
        ("inactive", "healthy", "stopped"),
        ("active", "nonsense", "starting"),
    ],
)
def test_what_the_prober_has_found(tmp_path: Path, active: str, kept: str, shown: str) -> None:
    layout = Layout(state=tmp_path)
    directory = layout.containers / "web"
    directory.mkdir(parents=True)
    assert probed.health(layout, "web", active) is None
    (directory / "start.json").write_text('{"health": {"check": {}}}')
    assert probed.health(layout, "web", active, listed=True) is None
    (directory / "health.json").write_text(json.dumps({"status": kept, "failing": 1, "last": None}))
    found = probed.health(layout, "web", active)
    assert found is not None and found["status"] == shown
    (directory / "start.json").write_text("{}")
    assert probed.health(layout, "web", active) is None
