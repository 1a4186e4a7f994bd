"""Installing and removing, as far as no privilege and no systemd is needed: publishing, rendering, comparing."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import replace
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

import pytest
import rendering
from limits import file_size_limit
from published import make_container, make_image

import gear
from gear import (
    composing,
    containers,
    files,
    install,
    leftovers,
    lifecycle,
    publishing,
    remove,
    replacing,
    storage,
    store,
    uids,
)
from gear.errors import GearError, IntegrityError, NotFoundError, UsageError
from gear.isolation import Isolation
from gear.model import Layout
from gear.outline import ImageRef


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    base = tmp_path / "root"
    return Layout(base / "state", base / "units", base / "config")


def tree(path: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below *path*: its mode and content."""
    return {
        str(file.relative_to(path)): (stat.S_IMODE(file.stat().st_mode), file.read_bytes())
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


# ---- publishing: all or nothing


def old_files(directory: Path) -> dict[Path, tuple[bytes | None, bytes]]:
    """Three files to replace and one that is new, in places and with modes of their own."""
    changed: dict[Path, tuple[bytes | None, bytes]] = {}
    for name, mode in (("a/spec.json", 0o600), ("b/ctr-web.service", 0o644), ("a/hostname", 0o644)):
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        files.write_atomic(path, b"old " + name.encode(), mode)
        changed[path] = (b"old " + name.encode(), b"new " + name.encode())
    changed[directory / "a/config.json"] = (None, b"new config")
    return changed


def test_publish_replaces_everything(tmp_path: Path) -> None:
    replacing.replace(old_files(tmp_path))
    assert tree(tmp_path) == {
        "a/spec.json": (0o600, b"new a/spec.json"),
        "a/config.json": (0o600, b"new config"),
        "a/hostname": (0o644, b"new a/hostname"),
        "b/ctr-web.service": (0o644, b"new b/ctr-web.service"),
    }


@pytest.mark.parametrize("place", range(4))
def test_failure_at_any_file_leaves_everything_as_it_was(tmp_path: Path, place: int) -> None:
    changed = old_files(tmp_path)
    before = tree(tmp_path)
    # A directory in the way makes rename(2) fail for this one, after those before it were replaced.
    blocked = tmp_path / "a" / "zz"
    (blocked / "x").mkdir(parents=True)
    order = list(changed.items())
    order.insert(place, (blocked, (None, b"never")))
    with pytest.raises(GearError, match=r"^Can't replace .*/a/zz: Is a directory\.$"):
        replacing.replace(dict(order))
    assert tree(tmp_path) == before


@pytest.mark.spawns
@pytest.mark.parametrize("place", range(1, 5))
def test_what_was_cut_off_after_the_first_file_is_found_and_finished(tmp_path: Path, place: int) -> None:
    """At each of the renames, and where the hosts file, which is changed in place, has its turn."""
    changed = old_files(tmp_path)
    hosts = tmp_path / "a" / "hosts"
    files.write_atomic(hosts, b"127.0.0.1 old\n")
    changed[hosts] = (b"127.0.0.1 old\n", b"127.0.0.1 new\n")
    number = hosts.stat().st_ino
    renamed: list[object] = []
    real = replacing._put

    def put(*arguments: Any, **options: Any) -> None:
        if len(renamed) == place:
            os._exit(0)  # as a power cut: nothing is tidied up
        renamed.append(arguments)
        real(*arguments, **options)

    if (child := os.fork()) == 0:
        replacing._put = put
        replacing.replace(changed)
    os.waitpid(child, 0)
    ready = replacing.staged(changed)
    assert len(ready) == 5 - place and tmp_path / "a/spec.json" not in ready and hosts in ready
    replacing.finish(changed)
    assert all(path.read_bytes() == content for path, (_, content) in changed.items() if path != hosts)
    assert b"127.0.0.1 new" in hosts.read_bytes() and hosts.stat().st_ino == number
    assert not list(tmp_path.rglob(".partial-*"))


def test_failure_to_write_leaves_everything_as_it_was(tmp_path: Path) -> None:
    changed = old_files(tmp_path)
    changed[tmp_path / "b" / "large"] = (None, b"x" * 10000)
    before = tree(tmp_path)
    with file_size_limit(5000), pytest.raises(GearError, match="File too large"):
        replacing.replace(changed)
    assert tree(tmp_path) == before
    assert not list(tmp_path.rglob(".partial-*"))


# ---- what is published besides


def test_helper_is_complete() -> None:
    sources = publishing.helper_sources()
    package = Path(gear.__file__).parent / "helper"
    modules = {f"gear/helper/{path.name}" for path in package.glob("*.py")}
    assert set(sources) == modules | {
        "gear/__init__.py",
        "start",
        "network",
        "proxy",
        "health",
        "stop",
        "remove",
        "reload",
    }
    for name, module in (
        ("start", "start"),
        ("network", "networks"),
        ("proxy", "proxy"),
        ("health", "health"),
    ):
        assert f"\nfrom gear.helper.{module} import main\n".encode() in sources[name]
    assert sources["stop"] == (package / "stop").read_bytes()
    assert all(sources.values())
    # Every file of the package is accounted for.
    others = {path.name for path in package.iterdir() if path.is_file() and path.suffix != ".py"}
    assert others == {
        "launcher",
        "stop",
        "remove",
        "reload",
    }


@pytest.mark.spawns
def test_helper_is_published_once_and_switched(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    publishing.publish_helper(layout)
    current = layout.state / "helper" / "current"
    first = os.readlink(current)
    assert tree(current).keys() >= publishing.helper_sources().keys()
    assert f"bytecode-{MAGIC_NUMBER.hex()}" in tree(current)
    before = current.resolve().stat().st_mtime_ns
    publishing.publish_helper(layout)
    assert current.resolve().stat().st_mtime_ns == before
    changed = publishing.helper_sources() | {"gear/helper/bundle.py": b"# another\n"}
    monkeypatch.setattr(publishing, "helper_sources", lambda: changed)
    publishing.publish_helper(layout)
    assert os.readlink(current) != first
    assert (current / "gear/helper/bundle.py").read_bytes() == b"# another\n"
    assert sorted(os.listdir(layout.state / "helper")) == sorted({first, os.readlink(current), "current"})


@pytest.mark.spawns
@pytest.mark.parametrize("without", [None, "bytecode-*", "gear", "content"])
def test_published_helper_runs_without_anything_else(
    layout: Layout, tmp_path: Path, without: str | None
) -> None:
    """Also after the interpreter has been exchanged for one of another version, and from the bytecode alone."""
    publishing.publish_helper(layout)
    current = layout.state / "helper/current"
    if without == "content":
        (path,) = current.glob("bytecode-*")
        path.write_bytes(b"")
        assert publishing.damaged_bytecode(current.resolve()) == current.resolve() / path.name
        (current / "SHA256SUMS").write_bytes(b"")
        assert publishing.damaged_bytecode(current.resolve())
    elif without:
        (path,) = current.glob(without)
        path.rename(tmp_path / "away")
    program = ["/usr/bin/python3", "-I", "-S", "-X", "utf8", str(current / "start"), str(tmp_path / "none")]
    done = subprocess.run(program, cwd="/", env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (226, "")
    assert done.stderr == (f"gear: can't read the bundle {tmp_path / 'none'}: No such file or directory\n")


@pytest.mark.spawns
def test_roots_of_containers_can_read_the_helper(layout: Layout) -> None:
    before = os.umask(0o077)
    try:
        publishing.publish_helper(layout)
    finally:
        os.umask(before)
    version = (layout.state / "helper/current").resolve()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (version, *version.rglob("*"))} == {0o755, 0o644}


def test_another_interpreter_is_another_version_of_the_helper(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = publishing.helper_version(publishing.helper_sources())
    monkeypatch.setattr("gear.units.PYTHON", str(tmp_path / "python3"))
    assert publishing.helper_version(publishing.helper_sources()) != before


def test_static_units_come_from_the_checkout() -> None:
    found = publishing.static_units()
    assert set(found) == {
        "container.slice",
        "container-small.slice",
        "container-large.slice",
        "container.target",
        "container-active.target",
        "container-sockets.target",
        "gear-metrics.socket",
        "gear-metrics@.service",
    }
    assert found == {path.name: path.read_bytes() for path in (rendering.TOP / "units").iterdir()}


def test_static_units_are_written_when_they_differ(layout: Layout) -> None:
    assert sorted(publishing.publish_static_units(layout)) == sorted(publishing.static_units())
    assert publishing.publish_static_units(layout) == []
    (layout.units / "container.slice").write_text("old")
    assert publishing.publish_static_units(layout) == ["container.slice"]
    assert tree(layout.units) == {
        name: (0o644, content) for name, content in publishing.static_units().items()
    }


# ---- specs


def test_request_keeps_the_range_and_takes_nothing(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"])
    assert install.request(layout, "web", image, {}).uid_base == uids.FIRST
    assert not uids.ranges(layout)
    make_container(layout, image, "other")
    spec = make_container(layout, image)
    wanted = install.request(layout, "web", image, {"read_only": True})
    assert wanted == replace(spec, read_only=True)
    (layout.containers / "web" / "spec.json").write_text("{")
    assert install.request(layout, "web", image, {}).uid_base == uids.FIRST


def test_preview_of_a_new_container_is_every_file_and_writes_none(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"])
    before = tree(layout.state)
    changed = install.preview(layout, install.request(layout, "web", image, {}), image)
    directory = layout.containers / "web"
    assert list(changed) == [
        directory / "spec.json",
        directory / "config.json",
        directory / "hosts",
        directory / "hostname",
        directory / "seccomp.bpf",
        directory / "start.json",
        layout.units / "ctr-web.service",
    ]
    assert all(found is None for found, _ in changed.values())
    assert tree(layout.state) == before


def test_preview_of_the_same_is_empty_and_of_a_change_is_what_changes(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"])
    spec = make_container(layout, image)
    assert install.preview(layout, spec, image) == {}
    changed = install.preview(layout, replace(spec, env={"A": "1"}), image)
    assert [path.name for path in changed] == ["spec.json", "config.json"]
    unit = layout.units / "ctr-web.service"
    unit.write_bytes(unit.read_bytes() + b"# mine\n")
    ((path, (found, expected)),) = install.preview(layout, spec, image).items()
    assert path == unit and found == expected + b"# mine\n"
    (layout.containers / "web" / "hosts").unlink()
    assert set(install.preview(layout, spec, image)) == {unit, layout.containers / "web" / "hosts"}


def test_hosts_are_changed_where_they_are(layout: Layout) -> None:
    """A container that runs has the file mounted."""
    image = make_image(layout, Cmd=["/x"])
    spec = make_container(layout, image)
    hosts = layout.containers / "web" / "hosts"
    number = hosts.stat().st_ino
    changed = install.preview(layout, replace(spec, hostname="other"), image)
    assert [path.name for path in changed] == ["spec.json", "config.json", "hosts", "hostname"]
    replacing.replace(changed)
    assert b"127.0.1.1\tother web" in hosts.read_bytes() and hosts.stat().st_ino == number
    # Lines that are struck out, and blanks, mean nothing.
    assert install.preview(layout, replace(spec, hostname="other"), image) == {}
    # What cannot be published is taken back there, too.
    blocked = layout.containers / "web" / "zz"
    (blocked / "x").mkdir(parents=True)
    with pytest.raises(GearError):
        replacing.replace(install.preview(layout, spec, image) | {blocked: (None, b"never")})
    assert install.preview(layout, replace(spec, hostname="other"), image) == {}
    assert hosts.stat().st_ino == number


def test_bind_source_must_be_there(layout: Layout, tmp_path: Path) -> None:
    image = make_image(layout, Cmd=["/x"])
    missing = tmp_path / "missing"
    mounts = [{"kind": "bind", "source": str(missing), "destination": "/d", "options": []}]
    spec = rendering.make_spec(mounts=mounts)
    with pytest.raises(UsageError) as caught:
        install.preview(layout, spec, image)
    assert caught.value.message == (
        f"web can't have {missing} mounted: there is no such file or directory on this machine."
    )
    assert caught.value.hint == f"mkdir -p {missing}"
    missing.symlink_to("nowhere")  # resolved when the container starts
    install.preview(layout, spec, image)


def test_containers_are_found_by_their_spec(layout: Layout) -> None:
    assert containers.names(layout) == []
    image = make_image(layout, Cmd=["/x"])
    spec = make_container(layout, image, "web")
    make_container(layout, image, "web2")
    for name in ("half", ".partial-web-123", "no name"):
        (layout.containers / name).mkdir()
    (layout.containers / "file").write_text("")
    assert containers.names(layout) == ["web", "web2"]
    assert containers.get(layout, "web") == containers.find(layout, "web") == spec
    assert containers.find(layout, "half") is None
    assert composing.image_of(layout, spec) == image
    with pytest.raises(NotFoundError) as caught:
        containers.get(layout, "half")
    assert caught.value.message == "There is no container half."
    assert caught.value.hint == "gear list-units --all shows what is installed."


def test_damaged_spec_counts_as_none_only_where_it_is_mended(layout: Layout) -> None:
    make_container(layout, make_image(layout, Cmd=["/x"]))
    path = containers.spec_path(layout, "web")
    path.write_text('{"version": 1}')
    with pytest.raises(IntegrityError) as caught:
        containers.get(layout, "web")
    assert caught.value.message == f"{path} is damaged: /name: missing; /image: missing; /uid_base: missing."
    assert containers.existing(layout, "web") is None


def test_user_of_the_image_that_is_unknown(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"], User="www")
    with pytest.raises(UsageError) as caught:
        composing.render(rendering.make_spec(), image, layout)
    assert caught.value.message == "The image has no user 'www'."
    composing.render(rendering.make_spec(user="5:6"), image, layout)


def test_stale_is_what_was_changed_after_the_start(layout: Layout) -> None:
    spec = make_container(layout, make_image(layout, Cmd=["/x"]))
    now = containers.modified(spec, layout)
    assert now > 0
    microseconds = int(now * 1e6)
    before = {"MainPID": 5, "ExecMainStartTimestamp": microseconds - 1000}
    after = {"MainPID": 5, "ExecMainStartTimestamp": microseconds + 1000}
    assert containers.is_stale(spec, layout, before)
    assert not containers.is_stale(spec, layout, after)
    assert not containers.is_stale(spec, layout, before | {"MainPID": 0})
    os.utime(containers.spec_path(layout, "web"), (now + 10, now + 10))  # no start reads it
    assert not containers.is_stale(spec, layout, after)
    shutil.rmtree(layout.containers)
    shutil.rmtree(layout.units)
    assert containers.modified(spec, layout) == 0.0


# ---- what is left behind


@pytest.fixture
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with systemd these tests would ask it about containers that it has never heard of."""
    monkeypatch.setattr(leftovers, "booted", lambda: False)


def found(layout: Layout, **options: bool) -> dict[str, str]:
    """What clean would remove, by path below the layout's parent."""
    return {
        str(item.path.relative_to(layout.state.parent)): item.what
        for item in leftovers.leftovers(layout, **options)
    }


@pytest.mark.usefixtures("no_systemd")
def test_nothing_is_left_over_of_what_is_in_use(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"], Volumes={"/data": {}})
    spec = make_container(layout, image)
    (layout.containers / "web" / f"layer-{image.digest.rpartition(':')[2][:12]}").mkdir()
    (layout.volumes / "web.data" / "data").mkdir(parents=True)
    publishing.publish_static_units(layout)
    for name in ("ctr-other.service", "ssh.service", ".partial-vim", ".hidden"):
        (layout.units / name).write_text("# somebody else's\n")
    assert found(layout, with_images=True, with_volumes=True) == {}
    assert spec.name == "web"


@pytest.mark.usefixtures("no_systemd")
def test_leftovers_are_found_and_removed(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"], Volumes={"/data": {}})
    make_container(layout, image)
    gone = make_container(layout, image, "web2")
    before = tree(layout.state)
    os.unlink(containers.spec_path(layout, "web2"))
    (layout.containers / "web" / "layer-000000000000").mkdir()
    (layout.containers / "web" / ".partial-layer-x-1").mkdir()
    (layout.containers / ".partial-web-1").mkdir()
    (layout.state / ".partial-helper-1").mkdir()
    for name in ("old", "unused"):
        (layout.volumes / name / "data").mkdir(parents=True)
    (layout.volumes / "web.data" / "data").mkdir(parents=True)
    (layout.volumes / ".partial-web.data-1").mkdir()
    (layout.state / "helper" / "0123").mkdir(parents=True)
    (layout.state / "helper" / "4567").mkdir()
    os.symlink("4567", layout.state / "helper" / "current")
    partials = [files.partial_name(layout.units / "ctr-web.service")]
    partials.append(files.partial_name(partials[0]))  # as a kill in the middle of publishing leaves it
    partials.append(files.partial_name(layout.units / "container.slice"))
    for path in partials:
        path.write_text("")
    expected = {
        "state/containers/web/layer-000000000000": "a writable layer of an earlier image or storage driver",
        "state/containers/web/.partial-layer-x-1": "interrupted work",
        "state/containers/.partial-web-1": "interrupted work",
        "state/.partial-helper-1": "interrupted work",
        "state/volumes/.partial-web.data-1": "interrupted work",
        "state/containers/web2": "a container without a specification",
        "units/ctr-web2.service": "a unit without a container",
        f"state/uids/{gone.uid_base}": "the user id range of web2",
        "state/helper/0123": "an earlier version of the start helper",
        **{f"units/{path.name}": "interrupted work" for path in partials},
    }
    assert found(layout) == expected
    volumes = {f"state/volumes/{name}": "a volume that no container uses" for name in ("old", "unused")}
    assert found(layout, with_volumes=True) == expected | volumes
    for item in leftovers.leftovers(layout, with_volumes=True):
        item.remove()
    assert found(layout, with_images=True, with_volumes=True) == {}
    assert {name for name in tree(layout.state) if "/web2/" not in name} <= before.keys()
    assert containers.names(layout) == ["web"]
    assert (layout.volumes / "web.data").is_dir()


def test_each_specification_is_read_once_for_what_is_taken(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_container(layout, make_image(layout, Cmd=["/x"]))
    layout.ports.mkdir(parents=True, exist_ok=True)
    for number in range(1, 9):
        os.symlink("web", layout.ports / f"tcp-{number}-")
    os.symlink("gone", layout.ports / "udp-53-")
    read: list[str] = []
    existing = containers.existing

    def noted(of: Layout, name: str) -> object:
        read.append(name)
        return existing(of, name)

    monkeypatch.setattr(containers, "existing", noted)
    for earlier, count in ((True, 1), (False, 9)):
        monkeypatch.setattr(lifecycle, "runs_with_earlier", lambda *_, earlier=earlier: earlier)
        found = leftovers.of_networks(layout, {"web"})
        assert len(found) == count
    assert read == ["web", "web"]
    assert "the port 53/udp, which gone does not have" in [item.what for item in found]


@pytest.mark.usefixtures("no_systemd")
def test_unit_is_only_gears_when_it_says_so_of_this_state(layout: Layout) -> None:
    odd = layout.moved("state", layout.state.parent / "100% mine")
    make_container(odd, make_image(odd, Cmd=["/x"]))
    shutil.rmtree(odd.containers / "web")
    assert leftovers.rendered_by_gear(odd.units / "ctr-web.service", odd)
    assert not leftovers.rendered_by_gear(odd.units / "ctr-web.service", layout)
    assert not leftovers.rendered_by_gear(odd.units / "none.service", odd)


@pytest.mark.usefixtures("no_systemd")
def test_images_are_left_over_only_on_request_and_unused(layout: Layout) -> None:
    used = make_image(layout, "used:latest", Cmd=["/x"])
    unused = make_image(layout, "unused:latest", Cmd=["/y"])
    make_container(layout, used)
    assert found(layout) == {}
    place = store.place(layout, "manifests", unused.digest)
    (item,) = leftovers.leftovers(layout, with_images=True)
    assert (item.path, item.what) == (place, "the image unused:latest, which no container uses")
    item.remove()
    assert list(store.references(layout)) == ["used:latest"]
    assert store.held(layout) == [used.digest]


def test_volumes_of_a_container_that_others_use_stay(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"], Volumes={"/own": {}})
    shared = rendering.make_spec(
        mounts=[
            {"kind": "volume", "source": name, "destination": f"/{name}", "options": []}
            for name in ("a", "b")
        ]
    ).mounts
    spec = make_container(layout, image, "web", mounts=shared)
    make_container(layout, image, "web2", mounts=shared[1:])
    assert remove._volumes_of(layout, spec) == ["a", "web.own"]


def test_drop_ins_are_found_by_the_exact_unit(layout: Layout) -> None:
    assert remove.drop_ins(layout, "gear-test-none") == []
    (layout.units / "ctr-web.service.d").mkdir(parents=True)
    (layout.units / "ctr-web2.service.d").mkdir()
    assert remove.drop_ins(layout, "web") == [layout.units / "ctr-web.service.d"]


def test_state_directory_goes_only_when_it_is_empty(layout: Layout) -> None:
    layout.volumes.mkdir(parents=True)
    layout.lock.touch()
    (layout.state / "mine").touch()
    remove._remove_if_empty(layout)
    assert os.listdir(layout.state) == ["mine", "lock"] or sorted(os.listdir(layout.state)) == [
        "lock",
        "mine",
    ]
    (layout.state / "mine").unlink()
    remove._remove_if_empty(layout)
    assert not layout.state.exists()
    (layout.volumes / "data").mkdir(parents=True)
    remove._remove_if_empty(layout)
    assert (layout.volumes / "data").is_dir()


@pytest.mark.spawns
def test_user_ids_that_are_asked_for_are_taken_and_those_of_before_are_kept_for_later(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"])
    spec = make_container(layout, image)
    for userns, base, layer in (("host", 0, "-0"), ("200000:70000", 200000, "-200000")):
        asked = install.request(layout, "web", image, {"isolation": Isolation(userns=userns)})
        assert asked.uid_base == base
        done = install.apply(layout, asked, image)
        assert (done.spec, done.changes[-1]) == (asked, "userns")
        assert containers.get(layout, "web") == asked
        upper = layout.containers / "web" / f"layer-{image.digest[7:19]}{layer}" / "upper"
        assert upper.stat().st_uid == base
    assert install.apply(layout, install.request(layout, "web", image, {}), image).spec == spec
    with pytest.raises(UsageError):
        wanted = {"isolation": Isolation(userns="269999")}
        install.apply(layout, install.request(layout, "other", image, wanted), image)
    assert {found.name for found in uids.ranges(layout)} == {"web"}


def test_filter_follows_the_capabilities_and_privilege_has_none(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"])
    path, start = (layout.containers / "web" / name for name in ("seccomp.bpf", "start.json"))

    def rendered(**isolation: Any) -> tuple[bytes | None, bool]:
        spec = install.request(layout, "web", image, {"isolation": Isolation(**isolation)})
        found = composing.render(spec, image, layout)
        return found.get(path), b"seccomp.bpf" in found[start]

    usual, named = rendered()
    assert usual and named
    more, _ = rendered(cap_add=("CAP_SYS_ADMIN",))
    assert more and more != usual
    own, _ = rendered(seccomp={"defaultAction": "SCMP_ACT_ALLOW"})
    assert own and len(own) < len(usual)
    assert rendered(seccomp="unconfined") == rendered(privileged=True) == (None, False)
    assert rendered(privileged=True, seccomp={"defaultAction": "SCMP_ACT_ALLOW"})[0]


@pytest.mark.spawns
def test_directory_of_the_host_is_an_image(layout: Layout, tmp_path: Path) -> None:
    root = tmp_path / "root dir"
    (root / "etc").mkdir(parents=True)
    (root / "etc/group").write_text("crew:x:77:\n")
    store.prepare(layout)
    options = {"command": ("/x",), "isolation": Isolation(group_add=("crew", "5"))}
    done = install.install(layout, "web", f"host:{root}/../root dir", options)
    assert (done.spec.image, done.spec.image.directory) == (ImageRef(f"host:{root}", ""), str(root))
    directory = layout.containers / "web"
    assert files.read_json(directory / "start.json")["root"]["lower"] == [str(root)]
    assert files.read_json(directory / "config.json")["process"]["user"]["additionalGids"] == [77, 5]
    image = composing.image_of(layout, done.spec)
    assert install.preview(layout, done.spec, image) == {}
    shutil.rmtree(root)
    with pytest.raises(NotFoundError):
        composing.image_of(layout, done.spec)


@pytest.mark.spawns
def test_ephemeral_container_has_no_writable_layer(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"])
    install.apply(layout, install.request(layout, "web", image, {"ephemeral": True}), image)
    assert list((layout.containers / "web").glob("layer-*")) == []
    assert files.read_json(layout.containers / "web" / "start.json")["root"] == {
        "ephemeral": True,
        "lower": [],
    }


def test_the_storage_driver_is_kept_or_configured(layout: Layout) -> None:
    image = make_image(layout, Cmd=["/x"])

    def driver(**options: Any) -> str:
        return install.request(layout, "web", image, options).storage

    assert driver() == "overlay" and driver(storage="btrfs") == "btrfs"
    files.make_directory(layout.config)
    files.write_atomic(layout.config / "storage.yaml", b"driver: vfs\n")
    assert driver() == "vfs" and driver(storage="overlay") == "overlay"
    directory = composing.resolve(layout, f"host:{layout.config}")
    assert install.request(layout, "web", directory, {}).storage == "overlay"
    make_container(layout, image)
    assert driver() == "overlay"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("driver: zfs", "storage.yaml: There is no storage driver 'zfs'"),
        ("driver:", "storage.yaml: There is no storage driver None"),
        ("drivers: vfs", "storage.yaml has an unknown member 'drivers'"),
        ("[vfs]", "storage.yaml is not a mapping"),
        ("driver: vfs\ndriver: vfs", "the key 'driver' occurs twice"),
    ],
)
def test_wrong_storage_configuration(layout: Layout, text: str, sentence: str) -> None:
    files.make_directory(layout.config)
    files.write_atomic(layout.config / "storage.yaml", text.encode())
    with pytest.raises(UsageError, match=sentence):
        storage.configured(layout)
    files.write_atomic(layout.config / "storage.yaml", b"# nothing\n")
    assert storage.configured(layout) == "overlay"


def test_zone_is_taken_from_this_machine_only_where_the_image_has_none(
    layout: Layout, tmp_path: Path
) -> None:
    zone = tmp_path / "root/usr/share/zoneinfo/Test"
    zone.mkdir(parents=True)
    (zone / "Inside").write_bytes(b"TZif2")
    image = composing.resolve(layout, f"host:{tmp_path}/root")
    for name, missing in (("Test/Inside", None), ("Test/Outside", "Test/Outside"), ("local", "local")):
        options = {"command": ("/x",), "isolation": Isolation(timezone=name)}
        spec = install.request(layout, "web", image, options)
        assert composing.zone_of_host(spec, image, layout) == missing
        config = composing.render(spec, image, layout)[layout.containers / "web" / "config.json"]
        assert (b'"TZ=Test/Inside"' in config) == (missing is None)
