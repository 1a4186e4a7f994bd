"""What is kept about upgrades, the units of their timers, and lock files; carrying them out is tested on hosts."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import rendering
import unitsyntax

from gear import containers, files, leftovers, locking, schedule, scheduling, upgrade_record, upgrading
from gear.errors import GearError, IntegrityError, UsageError
from gear.model import Layout
from gear.outline import ImageRef
from gear.schedule import Schedule
from gear.spec import Spec
from gear.upgrade_record import DONE, UNDONE, Entry, Pending, Record

OLD, NEW = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "state", tmp_path / "units", tmp_path / "config")


def spec(digest: str = OLD, reference: str = "r.example/app:1", **members: Any) -> Spec:
    return dataclasses.replace(rendering.make_spec(**members), image=ImageRef(reference, digest))


def installed(layout: Layout, name: str, wanted: Spec) -> Spec:
    """A container of which there is a specification alone."""
    wanted = dataclasses.replace(wanted, name=name)
    files.make_directory(layout.containers / name)
    files.write_atomic(containers.spec_path(layout, name), files.dump_json(wanted.to_mapping()))
    return wanted


def pending(origin: Spec, target: Spec) -> Pending:
    return Pending(upgrade_record.UPGRADE, 5.5, "boot", origin, target, "upgrade-1", None, True, True)


def test_what_is_written_is_read(layout: Layout) -> None:
    origin = installed(layout, "web", spec())
    target = dataclasses.replace(origin, image=ImageRef("r.example/app:1", NEW))
    assert upgrade_record.read(layout, "web") == Record() and upgrade_record.pending(layout, "web") is None
    item = pending(origin, target)
    upgrade_record.begin(layout, "web", item)
    assert upgrade_record.pending(layout, "web") == item
    failed = dataclasses.replace(item, failed="it was red")
    upgrade_record.begin(layout, "web", failed)
    assert upgrade_record.pending(layout, "web") == failed
    record = Record(origin, "upgrade-1").noted(item.entry(DONE)).noted(item.entry(UNDONE, "why"))
    upgrade_record.write(layout, "web", record)
    assert upgrade_record.read(layout, "web") == record
    assert [entry.reason for entry in record.history] == ["", "why"]
    for path in (upgrade_record.record_path(layout, "web"), upgrade_record.pending_path(layout, "web")):
        assert path.stat().st_mode & 0o777 == 0o600
    # Both ends stay, with their writable layers, for as long as anybody may go there.
    assert [found.image.digest for found in upgrade_record.specs(layout, "web")] == [OLD, OLD, NEW]
    assert {path.name for path in upgrade_record.layers(layout, "web")} == {
        "layer-111111111111",
        "layer-222222222222",
    }
    assert leftovers.mounted(layout, "web") == []
    upgrade_record.end(layout, "web")
    assert upgrade_record.pending(layout, "web") is None and not upgrade_record.abandoned(layout, "web")


def test_history_is_bounded() -> None:
    record = Record()
    for number in range(upgrade_record.MOST + 5):
        record = record.noted(Entry(float(number), "upgrade", OLD, NEW, DONE))
    assert [entry.time for entry in record.history] == [
        float(number) for number in range(5, upgrade_record.MOST + 5)
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"previous": {}},
        {"previous": 1},
        {"snapshot": "../x"},
        {"snapshot": 1},
        {"history": [{}]},
        {"history": {}},
        {"history": [{"time": "x", "kind": "", "from": "", "to": "", "result": "", "reason": ""}]},
    ],
)
def test_a_damaged_record_is_told(layout: Layout, change: dict[str, Any]) -> None:
    installed(layout, "web", spec())
    upgrade_record.write(layout, "web", Record())
    path = upgrade_record.record_path(layout, "web")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=r"upgrades\.json is damaged"):
        upgrade_record.read(layout, "web")


@pytest.mark.parametrize(
    "change", [{"version": 0}, {"ran": 1}, {"to": {}}, {"restore": "a/b"}, {"failed": 3}]
)
def test_a_damaged_journal_is_told(layout: Layout, change: dict[str, Any]) -> None:
    origin = installed(layout, "web", spec())
    upgrade_record.begin(layout, "web", pending(origin, origin))
    path = upgrade_record.pending_path(layout, "web")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=r"upgrade\.json is damaged"):
        upgrade_record.pending(layout, "web")


def test_one_at_a_time(layout: Layout) -> None:
    origin = installed(layout, "web", spec())
    upgrade_record.begin(layout, "web", pending(origin, origin))
    assert upgrade_record.abandoned(layout, "web")
    with upgrade_record.owned(layout, "web"):
        assert not upgrade_record.abandoned(layout, "web")
        with (
            pytest.raises(GearError, match="being upgraded by somebody else"),
            upgrade_record.owned(layout, "web"),
        ):
            pass
    assert upgrade_record.abandoned(layout, "web")
    with pytest.raises(GearError, match="no container"), upgrade_record.owned(layout, "nobody"):
        pass


def test_sockets_stay_where_they_are_the_same(layout: Layout) -> None:
    def published(*ports: str) -> Spec:
        from gear import network

        asked = network.Network("none", (), tuple(p for text in ports for p in network.parse_publish(text)))
        return spec(network=asked.to_mapping())

    keeps = upgrading._keeps_sockets
    fd, led = published("8080:80,fd"), published("8080:80,socket")
    assert keeps(layout, fd, fd, copies=False) and keeps(layout, led, led, copies=True)
    # The next connection to a socket of mode fd would start what is being copied.
    assert not keeps(layout, fd, fd, copies=True)
    assert not keeps(layout, fd, led, copies=False) and not keeps(layout, spec(), spec(), copies=False)


def test_a_schedule_is_rendered(layout: Layout) -> None:
    wanted = Schedule("Sun 03:00", 1800, "/opt/venv/bin/gear", volumes=True)
    assert Schedule.read(wanted.to_mapping()) == wanted
    found = schedule.render("web", wanted, layout, ["/etc/systemd/system"])
    assert list(found) == ["gear-upgrade@web.timer", "gear-upgrade@web.service"]
    assert {schedule.owner(unit) for unit in found} == {"web"}
    assert schedule.owner("gear-upgrade@.timer") is schedule.owner("ctr-web.service") is None
    timer, service = (unitsyntax.parse(content.decode()) for content in found.values())
    assert ("OnCalendar", "Sun 03:00") in timer["Timer"] and ("RandomizedDelaySec", "1800s") in timer["Timer"]
    assert ("Persistent", "yes") in timer["Timer"] and timer["Install"] == [("WantedBy", "timers.target")]
    command = dict(service["Service"])["ExecStart"]
    state, units, config = layout.state, layout.units, layout.config
    assert command == (
        f"/opt/venv/bin/gear --state-dir={state} --unit-dir={units} --config-dir={config} "
        "upgrade --quiet --snapshot-volumes web"
    )
    usual = schedule.render("web", dataclasses.replace(wanted, volumes=False, delay=0), Layout(), [])
    assert b"ExecStart=/opt/venv/bin/gear upgrade --quiet web\n" in usual["gear-upgrade@web.service"]
    assert b"RandomizedDelaySec" not in usual["gear-upgrade@web.timer"]


@pytest.mark.parametrize("text", ["", "a\nb", "%H", "daily;", "x" * 201, "\u0660\u0663:00", '"daily"'])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is no time to upgrade at"):
        schedule.calendar(text)


def test_delays_and_programs() -> None:
    texts = ("30m", "30min", "90", "90s", "2h", "1d", "0")
    assert [schedule.parse_delay(text) for text in texts] == [1800, 1800, 90, 90, 7200, 86400, 0]
    for text in ("", "-1", "8d", "2w", "1.5s", "30 m", "9999999"):
        with pytest.raises(UsageError):
            schedule.parse_delay(text)
    assert schedule.program("/usr/bin/../bin/gear") == "/usr/bin/gear"
    for text in ("gear", "/a\nb", "/a%b", '/a"b', "/a\x1bb"):
        with pytest.raises(UsageError):
            schedule.program(text)


def test_the_program_of_a_timer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "gear"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    module = tmp_path / "module.py"
    module.touch(0o644)
    monkeypatch.setattr("sys.argv", [str(program)])
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setattr(scheduling, "__file__", str(module))
    assert scheduling.program() == str(program)
    # As `python3 -m gear` and the like.
    monkeypatch.setattr("sys.argv", [str(tmp_path / "__main__.py")])
    monkeypatch.setattr(scheduling, "_PATH", str(tmp_path))
    assert scheduling.program() == str(program)
    # A unit runs it as root, and its modules with it.
    for file in (module, program):
        file.chmod(0o757)
        with pytest.raises(UsageError, match=f"{file} can be changed by others"):
            scheduling.program()
        file.chmod(0o755)
    program.unlink()
    with pytest.raises(UsageError, match="No unit can run gear"):
        scheduling.program()


def test_a_damaged_schedule_is_told(layout: Layout) -> None:
    installed(layout, "web", spec())
    assert scheduling.find(layout, "web") is None
    path = scheduling.path(layout, "web")
    good = Schedule("daily", 0, "/usr/bin/gear").to_mapping()
    changes = (
        {"calendar": "a\nb"},
        {"delay": -1},
        {"delay": True},
        {"program": "x"},
        {"volumes": 1},
        {"version": 2},
    )
    for change in changes:
        path.write_text(json.dumps(good | change))
        with pytest.raises(IntegrityError, match="is damaged"):
            scheduling.find(layout, "web")
        (finding,) = scheduling.check(layout, "web")
        assert finding.path == path


def test_lock_files_say_what_runs(layout: Layout, tmp_path: Path) -> None:
    for name, digest, reference in (
        ("b", NEW, "r.example/b:1"),
        ("a", OLD, "r.example/a:1"),
        ("c", "", "host:/"),
    ):
        installed(layout, name, spec(digest, reference))
    images = locking.pins(layout, ["b", "a", "c"])
    assert images == {"r.example/a:1": OLD, "r.example/b:1": NEW}
    path = tmp_path / "gear.lock"
    assert locking.write(path, images) and not locking.write(path, images)
    assert path.read_text().index("r.example/a:1") < path.read_text().index("r.example/b:1")
    assert locking.read(path) == images
    assert locking.pinned(images, "r.example/a:1", path) == ("r.example/a:1", OLD)
    assert locking.pinned({"docker.io/library/nginx:latest": OLD}, "nginx", path)[1] == OLD
    for text in ("r.example/a:2", "r.example/c:1", f"r.example/a:1@{NEW}"):
        with pytest.raises(UsageError, match="has no digest for the image"):
            locking.pinned(images, text, path)
    installed(layout, "d", spec(NEW, "r.example/a:1"))
    with pytest.raises(GearError, match="a and d run different images by the name"):
        locking.pins(layout, ["a", "d"])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "images": {}}',
        '{"version": 1, "images": []}',
        '{"version": 1, "images": {"a:1": "sha256:12"}}',
        '{"version": 1, "images": {"A b": "sha256:' + "1" * 64 + '"}}',
        '{"version": 1, "images": {"a:1": 1}}',
    ],
)
def test_what_is_no_lock_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "gear.lock"
    path.write_text(content)
    with pytest.raises(UsageError):
        locking.read(path)
    os.unlink(path)
    with pytest.raises(UsageError, match="There is no lock file"):
        locking.read(path)
