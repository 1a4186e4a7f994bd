"""Committing, snapshots, clones and switches, as far as no systemd is needed."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from gear import cloning, committing, containers, contents, files, snapshots, switching, unfinished
from gear.changes import Changes
from gear.errors import IntegrityError, NotFoundError, UsageError
from gear.isolation import Isolation
from gear.model import Layout
from gear.mounting import Mount
from gear.oci import Image, ImageConfig
from gear.outline import ImageRef
from gear.spec import Spec

DIGEST = "sha256:" + 64 * "0"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "state", tmp_path / "units")
    files.make_directory(made.containers / "web")
    files.make_directory(made.volumes)
    return made


def spec_of(**fields: Any) -> Spec:
    return Spec(**{"name": "web", "image": ImageRef("hello:latest", DIGEST), "uid_base": 0x80000, **fields})


# ---- what a committed image says


CONFIG = {
    "Cmd": ["old"],
    "Entrypoint": ["start"],
    "Env": ["PATH=/bin", "A=1"],
    "Labels": {"x": "1"},
    "Volumes": {"/data": {}},
    "User": "www",
    "OnBuild": ["kept"],
}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Changes(), {}),
        (Changes(cmd=["new"]), {"Cmd": ["new"]}),
        (Changes(entrypoint=["new"]), {"Entrypoint": ["new"], "Cmd": None}),
        (Changes(entrypoint=[]), {"Entrypoint": None, "Cmd": None}),
        (Changes(cmd=[]), {"Cmd": None}),
        (Changes(env={"B": "2", "A": "="}), {"Env": ["PATH=/bin", "A==", "B=2"]}),
        (Changes(labels={"y": "2"}), {"Labels": {"x": "1", "y": "2"}}),
        (Changes(volumes=["/more"]), {"Volumes": {"/data": {}, "/more": {}}}),
        (Changes(user="5", workdir="/w"), {"User": "5", "WorkingDir": "/w"}),
        (Changes(ports=["80"]), {"ExposedPorts": {"80/tcp": {}}}),
    ],
)
def test_changes_on_top_of_a_config(asked: Changes, expected: dict[str, Any]) -> None:
    wanted = {member: value for member, value in (CONFIG | expected).items() if value is not None}
    assert asked.onto(CONFIG) == wanted


def test_how_it_was_asked_to_run_and_the_instructions_on_top() -> None:
    spec = spec_of(command=("serve",), env={"A": "1"}, user="5", stop_signal="QUIT", labels={"l": "v"})
    asked = committing._asked(spec, ["ENV B=2", "USER 6"])
    assert (asked.cmd, asked.env, asked.user, asked.stop_signal) == (
        ["serve"],
        {"A": "1", "B": "2"},
        "6",
        "QUIT",
    )
    assert committing._asked(spec, ['ENTRYPOINT ["x"]']).cmd is None
    assert committing._asked(spec, ['CMD ["y"]', 'ENTRYPOINT ["x"]']).cmd == ["y"]
    for wrong in ("RUN x", "STOPSIGNAL nonsense", "WORKDIR relative", "EXPOSE 99999"):
        with pytest.raises(UsageError):
            committing._asked(spec, [wrong])


def config_of(document: dict[str, Any], layers: int, wishes: committing.Wishes) -> dict[str, Any]:
    image = Image("x", DIGEST, ImageConfig.from_mapping({}), (DIGEST,) * layers, 0)
    return committing._config(document, image, Changes(), wishes, "2014-01-01T00:00:00Z")


def test_history_counts_every_layer() -> None:
    wishes = committing.Wishes(["ENV A=1"], "me", "why")
    made = config_of({"container": "x", "history": [{"empty_layer": True}, {"created_by": "y"}]}, 2, wishes)
    assert "container" not in made and made["author"] == "me" and made["created"] == "2014-01-01T00:00:00Z"
    assert made["history"][:3] == [{"created_by": "unknown"}, {"empty_layer": True}, {"created_by": "y"}]
    step = made["history"][3]
    assert step["comment"] == "why" and step["author"] == "me" and "ENV A=1" in step["created_by"]
    assert len(config_of({}, 3, committing.Wishes())["history"]) == 4


# ---- clones


def test_a_clone_shares_nothing_that_only_one_can_have() -> None:
    old = spec_of(
        hostname="web",
        isolation=Isolation(userns="700000:65536"),
        mounts=(
            Mount("volume", "data", "/data", ("ro",)),
            Mount("bind", "/etc", "/host"),
            Mount("volume", "data", "/again"),
            Mount("volume", "other", "/srv/x"),
        ),
    )
    new, renamed = cloning.renewed(old, "web2")
    assert (new.name, new.hostname, new.isolation.userns) == ("web2", None, "auto")
    assert renamed == {"data": "web2.data", "other": "web2.srv-x"}
    assert [mount.source for mount in new.mounts] == ["web2.data", "/etc", "web2.data", "web2.srv-x"]
    assert new.mounts[0].options == ("ro",)
    assert cloning.renewed(dataclasses.replace(old, hostname="db"), "web2")[0].hostname == "db"
    large = dataclasses.replace(old, isolation=Isolation(userns="700000:200000"))
    with pytest.raises(UsageError, match="web can't be cloned: it has 200000 user ids"):
        cloning.renewed(large, "web2")


def test_what_is_left_of_a_clone_is_taken_away(layout: Layout) -> None:
    for volume in ("new.data", "data"):
        (layout.volumes / volume / "data").mkdir(parents=True)
    cloning._begin(layout, "web", spec_of(name="new"), ["new.data"])
    (found,) = unfinished.changes(layout)
    assert found[0] == "a clone that was interrupted" and found[1] in unfinished.claimed(layout)
    found[2]()
    assert os.listdir(layout.volumes) == ["data"] and os.listdir(layout.containers) == ["web"]
    # One that has come to be stays: somebody may use it.
    cloning._begin(layout, "web", spec_of(name="new"), ["data"])
    files.write_atomic(layout.containers / "new" / "spec.json", b"{}")
    cloning.forget(layout, "new")
    assert os.listdir(layout.volumes) == ["data"] and os.listdir(layout.containers / "new") == ["spec.json"]


# ---- switches


def prepared(layout: Layout) -> switching.Switch:
    """Two directories and a file to be replaced, one directory and one file that are new."""
    exchanges = []
    for name, old in (("one", True), ("two", True), ("three", False)):
        exchange = switching.staged(layout.volumes / name)
        exchange.staged.mkdir()
        (exchange.staged / "new").touch()
        if old:
            exchange.target.mkdir()
            (exchange.target / "old").touch()
        exchanges.append(exchange)
    (layout.containers / "web/spec.json").write_bytes(b"old")
    contents = {
        layout.containers / "web/spec.json": (b"new\xff", 0o600),
        layout.state / "unit": (b"unit", 0o644),
    }
    return switching.Switch("a test", exchanges, contents)


def assert_switched(layout: Layout) -> None:
    assert sorted(os.listdir(layout.volumes)) == ["one", "three", "two"]
    for name in ("one", "two", "three"):
        assert os.listdir(layout.volumes / name) == ["new"]
    assert (layout.containers / "web/spec.json").read_bytes() == b"new\xff"
    assert (layout.state / "unit").read_bytes() == b"unit"
    assert not containers.switch_path(layout, "web").exists() and switching.interrupted(layout) == []


class StoppedError(Exception):
    """The machine went off."""


def test_a_switch_is_finished_from_wherever_it_stopped(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for stop in range(1, 40):
        here = Layout(tmp_path / f"state{stop}", tmp_path / "units")
        files.make_directory(here.containers / "web")
        files.make_directory(here.volumes)
        switching.begin(here, "web", prepared(here))
        assert switching.interrupted(here) == ["web"]
        calls = 0

        def counted(function: Any, stop: int = stop) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == stop:
                    raise StoppedError
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patched:
            for name in ("rename", "fsync", "unlink"):
                patched.setattr(os, name, counted(getattr(os, name)))
            try:
                assert switching.finish(here, "web")
            except StoppedError:
                pass
        done = calls < stop
        if not done and not containers.switch_path(here, "web").exists():
            # Only what was replaced is left, under partial names.
            for path in here.volumes.glob(".partial-*"):
                (path / "old").unlink(missing_ok=True)
                path.rmdir()
        switching.finish(here, "web")
        for path in here.containers.glob("web/.partial-*"):
            path.unlink()
        for path in here.state.glob(".partial-*"):
            path.unlink()
        assert_switched(here)
        if done:
            assert stop > 10
            return
    pytest.fail("it was never through")


@pytest.mark.parametrize(
    "damage", ["[]", "{}", '{"version": 2}', '{"version": 1, "what": "x", "exchanges": 5, "files": []}']
)
def test_a_damaged_journal_is_an_error(damage: str, layout: Layout) -> None:
    containers.switch_path(layout, "web").write_text(damage)
    with pytest.raises(IntegrityError, match="switch.json is damaged"):
        switching.finish(layout, "web")


def test_what_a_switch_will_use_is_not_left_over(layout: Layout) -> None:
    switch = prepared(layout)
    switching.begin(layout, "web", switch)
    claimed = unfinished.claimed(layout)
    assert {exchange.staged for exchange in switch.exchanges} <= claimed
    (found,) = unfinished.changes(layout)
    assert "was interrupted" in found[0]


# ---- snapshots


def written(layout: Layout, label: str, **members: Any) -> None:
    path = snapshots.directory(layout, "web") / label
    files.make_directory(path)
    document = {"version": 1, "created": 5, "volumes": ["data"], **members}
    files.write_atomic(path / "snapshot.json", files.dump_json(document))
    files.write_atomic(path / "spec.json", files.dump_json(spec_of().to_mapping()))


def test_snapshots_are_listed_by_age(layout: Layout) -> None:
    files.write_atomic(layout.containers / "web/spec.json", files.dump_json(spec_of().to_mapping()))
    assert snapshots.listing(layout, "web") == []
    written(layout, "b", created=1)
    written(layout, "a", created=2.5)
    (snapshots.directory(layout, "web") / ".partial-c-1").mkdir()
    assert [snapshot.label for snapshot in snapshots.listing(layout, "web")] == ["b", "a"]
    assert snapshots.users(layout) == {DIGEST: ["web (snapshot b)", "web (snapshot a)"]}
    assert unfinished.partials(layout) == [snapshots.directory(layout, "web") / ".partial-c-1"]
    with pytest.raises(NotFoundError, match="web has no snapshot x"):
        snapshots.find(layout, "web", "x")
    for wrong in ("", "..", "a/b", ".partial-c-1", "x" * 64):
        with pytest.raises(UsageError):
            snapshots.find(layout, "web", wrong)


@pytest.mark.parametrize(
    "members",
    [{"version": 2}, {"created": "x"}, {"volumes": "data"}, {"volumes": ["../x"]}, {"created": True}],
)
def test_a_damaged_snapshot_is_an_error(members: dict[str, Any], layout: Layout) -> None:
    written(layout, "s", **members)
    with pytest.raises(IntegrityError, match="is damaged"):
        snapshots.find(layout, "web", "s")


def test_places_that_a_start_makes(layout: Layout) -> None:
    mounts = [{"destination": "/etc/hosts"}, {"destination": "/srv/a/b"}, {"destination": "/"}]
    files.write_atomic(layout.containers / "web/config.json", files.dump_json({"mounts": mounts}))
    assert contents.made_for_mounts(layout, "web") == {
        b"./etc", b"./etc/hosts", b"./srv", b"./srv/a", b"./srv/a/b",
    }  # fmt: skip
    assert contents.made_for_mounts(layout, "other") == frozenset()
