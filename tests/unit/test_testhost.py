"""The parts of contrib/testhost that only compute: no root, no processes, no network."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import sys
import tarfile
from pathlib import Path

import pytest

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
sys.path.insert(0, str(CONTRIB))

from testhostlib import (  # noqa: E402
    cgroups,
    cli,
    disks,
    images,
    initrd,
    launch,
    machine,
    needs,
    nested,
    recipe,
    state,
    transfer,
    trees,
)
from testhostlib.errors import CommandError, ToolError, UsageError  # noqa: E402
from testhostlib.host import shell_status  # noqa: E402
from testhostlib.places import Places, check_name  # noqa: E402
from testhostlib.processes import Process, parse_stat, start_time  # noqa: E402

REQUEST = state.Request(
    name="web", kind="vm", release="trixie", source="disks/trixie-1", machine_id="ab" * 16, memory=512
)


# ---- names, places, what the machine must have


@pytest.mark.parametrize("name", ["a1", "web", "bookworm-0a1b2c", "x" * 32])
def test_good_host_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a", "Web", "1web", "web-", "../web", "a/b", ".gone-web", "x" * 33, "web\n"]
)
def test_bad_host_names(name: str) -> None:
    with pytest.raises(UsageError, match="can't be a host's name"):
        check_name(name)


def test_the_cache_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEAR_TESTHOST_CACHE", raising=False)
    assert Places.default().cache == Path("/var/cache/gear-testhost")
    monkeypatch.setenv("GEAR_TESTHOST_CACHE", "/elsewhere/")
    assert Places.default().host("web") == Path("/elsewhere/hosts/web")


def test_missing_programs_are_named_with_their_packages(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        needs.programs("ssh", "qemu-img", "ssh-keygen", path=str(tmp_path))
    assert caught.value.message == "this machine has no ssh, qemu-img, ssh-keygen"
    assert caught.value.hint == "apt-get install openssh-client qemu-utils"


def test_too_little_space_is_told(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"MiB free, and 1073741824 MiB are needed"):
        needs.space(tmp_path, 1 << 30)


def test_one_lock_excludes_another(tmp_path: Path) -> None:
    places = Places(tmp_path / "cache")
    places.make()
    with places.lock("thing"), open(places.cache / "locks/thing", "ab") as file:
        with pytest.raises(OSError) as caught:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert caught.value.errno == errno.EWOULDBLOCK


# ---- processes


def test_start_time_survives_a_hostile_command_name() -> None:
    rest = " ".join(str(number) for number in range(4, 53))
    assert parse_stat(f"12 (a) Z (b) S {rest}") == 22
    assert parse_stat(f"12 (a) S (b) Z {rest}") is None


def test_a_reused_pid_is_another_process() -> None:
    me = Process.current()
    assert me == Process(os.getpid(), start_time(os.getpid()) or -1)
    assert me.alive()
    assert not me.wait(0)
    other = Process(me.pid, me.start + 1)
    assert not other.alive()
    assert other.open() is None
    assert other.wait(0)


# ---- what is built


def test_the_key_follows_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe.tree_key("bookworm")
    assert recipe.tree_key("bookworm") == before
    assert recipe.tree_key("trixie") != before
    monkeypatch.setattr(recipe, "PACKAGES", (*recipe.PACKAGES, "hello"))
    with_package = recipe.tree_key("bookworm")
    monkeypatch.setattr(recipe, "VERSION", recipe.VERSION + 1)
    assert len({before, with_package, recipe.tree_key("bookworm")}) == 3


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        recipe.check_release("sarge")
    assert str(caught.value) == "no such release: 'sarge'\nhint: known releases: bookworm, trixie"


def test_mmdebstrap_dies_with_its_caller() -> None:
    argv = recipe.mmdebstrap("trixie", ["nginx", "redis"], "/t.tar", mirror="http://mirror/debian")
    assert argv[:5] == ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount"]
    assert argv[len(recipe.CONFINED)] == "mmdebstrap"
    assert argv[-4:] == ["--include=nginx,redis", "trixie", "/t.tar", "http://mirror/debian"]


def test_only_root_loses_its_password() -> None:
    assert trees.no_password("root:*:19000:0:99999:7:::") == "root::19000:0:99999:7:::"
    assert trees.no_password("daemon:*:19000:0:99999:7:::") == "daemon:*:19000:0:99999:7:::"


def test_a_build_is_atomic_and_done_once(tmp_path: Path) -> None:
    places = Places(tmp_path / "cache")
    places.make()
    path = places.trees / "thing"
    interrupted = places.trees / ".new-thing"
    interrupted.mkdir()
    (interrupted / "half").write_text("")
    calls = []

    def fail(staging: Path, held: int) -> None:
        staging.mkdir()
        raise ToolError("no network")

    def fill(staging: Path, held: int) -> None:
        calls.append(staging)
        assert not path.exists()
        staging.mkdir()
        (staging / "whole").write_text("")

    with pytest.raises(ToolError, match="no network"):
        trees.build_once(places, path, 1, fail)
    assert list(places.trees.iterdir()) == []
    assert trees.build_once(places, path, 1, fill) == path
    assert trees.build_once(places, path, 1, fill) == path
    assert calls == [interrupted]
    assert [entry.name for entry in path.iterdir()] == ["whole"]


def test_modules_are_loaded_once_and_in_order() -> None:
    text = (
        "insmod /lib/modules/6/b.ko \nbuiltin ext4\n"
        "insmod /usr/lib/modules/6/a.ko.xz opt=1\ninsmod /lib/modules/6/b.ko\n"
    )
    upper = Path("/u")
    expected = [upper / "usr/lib/modules/6/b.ko", upper / "usr/lib/modules/6/a.ko.xz"]
    assert disks.modules_to_load(text, upper) == expected


def test_a_cpio_member_is_padded_to_four_bytes() -> None:
    data = initrd.entry(1, "init", 0o100755, b"abc")
    assert data.startswith(b"070701" + b"00000001" + b"000081ed")
    assert data[94:102] == b"00000005"
    assert data[110:] == b"init\0\0abc\0"
    archive = initrd.archive({"a": b"x"}, ["d"])
    assert len(archive) % 4 == 0
    assert archive.index(b"d\0") < archive.index(b"a\0") < archive.index(b"TRAILER!!!")


def test_the_busybox_image_has_a_link_for_each_applet(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    images.busybox(target, b"\x7fELF", ["busybox", "sh", "httpd"])
    with tarfile.open(target) as tar:
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("bin/httpd").issym()
        assert tar.getmember("bin/busybox").isreg()
        assert tar.getmember("bin/busybox").mode == 0o755
        assert tar.getmember("tmp").mode == 0o1777
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None and passwd.readline() == b"root:x:0:0:root:/root:/bin/sh\n"


def test_an_unknown_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such image: 'oracle'"):
        images.image_path(Places(tmp_path), "oracle", "bookworm")


# ---- hosts


def test_requests_and_states_are_read_back_as_written(tmp_path: Path) -> None:
    request = state.Request(
        name="web", kind="nested", release="bookworm", source="trees/x", machine_id="0" * 32,
        owner=Process(7, 8), binds=(("/a", "/b"),), storage="/s",
    )  # fmt: skip
    now = state.State(
        "running", boots=2, keeper=Process(1, 2), supervisor=Process(3, 4), leader=Process(5, 6),
        cgroups=("/sys/fs/cgroup/x",), port=4444,
    )  # fmt: skip
    assert state.load_request(tmp_path) is None
    assert state.load_state(tmp_path) is None
    state.save_request(tmp_path, request)
    state.save_state(tmp_path, now)
    assert state.load_request(tmp_path) == request
    assert state.load_state(tmp_path) == now
    assert sorted(path.name for path in tmp_path.iterdir()) == ["request.json", "state.json"]


def test_a_host_is_dead_when_its_keeper_is(tmp_path: Path) -> None:
    assert launch.is_dead(tmp_path)
    me = Process.current()
    state.save_state(tmp_path, state.State("running", keeper=me))
    assert not launch.is_dead(tmp_path)
    state.save_state(tmp_path, state.State("running", keeper=Process(me.pid, me.start + 1)))
    assert launch.is_dead(tmp_path)


def test_storage_belongs_to_one_tree(tmp_path: Path) -> None:
    storage = tmp_path / "kept"
    assert launch.claim_storage(None, "bookworm-1") is None
    assert launch.claim_storage(storage, "bookworm-1") == str(storage)
    assert launch.claim_storage(storage, "bookworm-1") == str(storage)
    with pytest.raises(UsageError, match="holds changes to bookworm-1, not to bookworm-2"):
        launch.claim_storage(storage, "bookworm-2")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="it is not empty, and no host made it"):
        launch.claim_storage(tmp_path, "bookworm-1")


def test_the_nspawn_command() -> None:
    argv = nested.nspawn("web", "/c/root", [("/a:b", "/d\\e")], legacy=False, files=1000)
    assert argv[:6] == ["systemd-nspawn", "-q", "-D", "/c/root", "-b", "--machine=web"]
    assert argv[-2:] == ["--timezone=off", "--bind=/a\\:b:/d\\\\e"]
    for option in ("--keep-unit", "--register=no", "--private-network", "--rlimit=NOFILE=1024:1000"):
        assert option in argv
    legacy = nested.nspawn("web", "/c/root", [], legacy=True, files=1000)
    assert legacy[-2:] == list(nested.LEGACY)


def test_a_command_gets_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("TERM", "vt100")
    environment = nested.environment({"A": "b c"})
    assert environment == {
        "PATH": needs.SEARCH_PATH, "HOME": "/root", "TERM": "vt100", "LANG": "C.UTF-8", "A": "b c",
    }  # fmt: skip


def test_the_qemu_command() -> None:
    argv = machine.qemu(REQUEST, Path("/c/disks/x"), Path("/c/a,b/disk"), 9)
    text = " ".join(argv)
    assert "-accel tcg,thread=multi -cpu qemu64,-cx16,-svm" in text
    assert "-m 512M" in text
    assert "file=/c/a,,b/disk,if=virtio" in text
    assert "restrict=on,hostfwd=tcp:127.0.0.1:0-:22" in text
    assert "systemd.hostname=web systemd.machine_id=" + "ab" * 16 in text
    assert text.endswith("-chardev socket,id=qmp,fd=9 -mon chardev=qmp,mode=control")


def test_a_disk_whose_writes_are_logged(tmp_path: Path) -> None:
    image = tmp_path / "a,b.img"
    with pytest.raises(UsageError, match="there is no such file"):
        launch.check_logged(image, True)
    image.touch()
    with pytest.raises(UsageError, match="a nested host has no disk of its own"):
        launch.check_logged(image, False)
    assert launch.check_logged(image, True) == str(image) and (tmp_path / "a,b.img.log").exists()
    request = dataclasses.replace(REQUEST, logged=str(image))
    text = " ".join(machine.qemu(request, Path("/c/disks/x"), Path("/c/disk"), 9))
    assert f"driver=file,node-name=log,cache.no-flush=on,filename={tmp_path}/a,,b.img.log" in text
    assert "-device virtio-blk-pci,drive=logged," in text


def test_qemu_tells_the_port_and_why_the_guest_ended(tmp_path: Path) -> None:
    guest = machine.Machine(Places(tmp_path), REQUEST, [])
    guest.reset = False
    table = (
        "Hub -1 (net):\r\n  TCP[HOST_FORWARD]  12       127.0.0.1 40123       10.0.2.15    22     0     0\r\n"
    )
    guest.child = 77
    news = guest.told([{"return": {}}, {"return": table}])
    assert news is not None
    assert (news.leader, news.port, news.ready) == (77, 40123, False)
    assert guest.told([{"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}}]) is None
    assert not guest.reset
    guest.told([{"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}])
    assert guest.reset


def test_a_remote_command_is_quoted_for_the_shell(tmp_path: Path) -> None:
    argv, _ = machine.ssh(
        Places(tmp_path),
        REQUEST,
        40123,
        ["printf", "a b", "it's", "\n"],
        {"A": "b c"},
        tty=False,
        timeout_s=None,
    )
    assert argv[-2] == "root@127.0.0.1"
    assert argv[-1] == (
        "cd /; exec 3>&2 2>/dev/null; env -i 'A=b c' printf 'a b' 'it'\"'\"'s' '\n' 2>&3 3>&-; exit $?"
    )
    assert argv[argv.index("-p") + 1] == "40123"


def test_a_long_cache_path_is_refused_before_ssh_is(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is too long for a socket"):
        machine.control_path(Places(Path("/" + "x" * 90)), "web")


def test_cgroup_paths_are_read_from_every_kind_of_line() -> None:
    text = "9:name=systemd:/a\n4:memory:/b:c\n2:cpu,cpuacct:/\n0::/d\n"
    assert cgroups.parse(text) == {"name=systemd": "/a", "memory": "/b:c", "cpu,cpuacct": "/", "0::": "/d"}


def test_the_cgroup_version_is_that_of_the_controllers(tmp_path: Path) -> None:
    for name in ("systemd", "unified"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text("")
    assert cgroups.version(tmp_path) == "v1"
    assert cgroups.hierarchies(tmp_path) == {
        "name=systemd": tmp_path / "systemd",
        "0::": tmp_path / "unified",
    }
    (tmp_path / "cgroup.controllers").write_text("")
    assert cgroups.version(tmp_path) == "v2"
    assert cgroups.hierarchies(tmp_path) == {"0::": tmp_path}


# ---- the command line


def test_the_command_of_run_is_what_follows_the_first_dashes() -> None:
    words = ["run", "web", "-e", "A=b", "--", "sh", "--", "-e"]
    assert cli.split(words) == (words[:4], ["sh", "--", "-e"])
    assert cli.split(["journal", "web", "--", "x"]) == (["journal", "web", "--", "x"], [])


def test_binds_and_variables() -> None:
    assert cli.parse_bind("/a:/b:c") == ("/a", "/b:c")
    assert cli.parse_env(["A=b=c", "D="]) == {"A": "b=c", "D": ""}
    for bad in ("/a", ":/b", "/a:"):
        with pytest.raises(UsageError, match="--bind wants SRC:DST"):
            cli.parse_bind(bad)
    for bad in ("A", "=b"):
        with pytest.raises(UsageError, match="-e wants K=V"):
            cli.parse_env([bad])


def test_a_failed_command_is_told_whole() -> None:
    error = CommandError("web", ["ls", "a b"], 2, b"x" * 3000 + b"no such file\n")
    assert str(error).startswith("web: ls 'a b': exited with status 2: xxx")
    assert str(error).endswith("no such file")
    assert len(str(error)) < 2100
    late = CommandError("web", ["sleep", "9"], None, b"", timeout=1.5)
    assert str(late) == "web: sleep 9: did not end within 1.5 s"


def test_a_signal_is_told_as_a_shell_does() -> None:
    assert [shell_status(code) for code in (0, 3, -9)] == [0, 3, 137]


# ---- copying


def test_the_archive_leaves_out_what_is_never_wanted() -> None:
    argv = transfer.pack([Path("/a/b c"), Path("/d")])
    assert argv[-6:] == ["-C", "/a", "./b c", "-C", "/", "./d"]
    assert "--exclude=__pycache__" in argv
    assert "--exclude=.git" in argv


@pytest.mark.parametrize(
    ("target", "names", "rename"),
    [("/t", ["a"], "a"), ("/t/", ["a"], ""), ("/t", ["a", "b"], "")],
)
def test_what_the_target_means(target: str, names: list[str], rename: str) -> None:
    assert transfer.unpack(target, names)[-2:] == [target, rename]
