"""contrib/conformance: reading what tests tell, and judging by waivers; no suite is fetched or run."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "contrib"))

from conformancelib import cli, fetch, suites, tap, waivers  # noqa: E402
from conformancelib.standins import libmount  # noqa: E402


@pytest.mark.parametrize(
    "line, expected",
    [
        ("ok 1 - mount-ro", ("mount-ro", "passed")),
        ("not ok 12 - mount-rw", ("mount-rw", "failed")),
        ("ok 3 - tty #SKIP", ("tty", "skipped")),
        ("ok 3 - tty # skip there is none", ("tty", "skipped")),
        ("ok 4", ("4", "passed")),
        ("1..4", None),
        ("# ok 1 - no", None),
        ("okay", None),
    ],
)
def test_a_line_of_tap(line: str, expected: tuple[str, str] | None) -> None:
    assert tap.result(line) == expected


def test_waivers_are_read_with_their_reasons() -> None:
    (waiver,) = waivers.parse("# a list\n\nmounts/* v2+systemd fails because of the weather\n")
    assert waiver == waivers.Waiver(
        "mounts/*", frozenset({"v2", "systemd"}), "failed", "because of the weather"
    )


@pytest.mark.parametrize("line", ["a", "a any fails", "a v3 fails for a reason", "a any breaks for a reason"])
def test_a_line_that_is_no_waiver_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is not TEST WHERE"):
        waivers.parse(f"#\n{line}\n")


def test_what_is_not_waived_has_to_pass_and_what_is_waived_must_not() -> None:
    known = waivers.parse("a any fails x\nb v2 fails x\nc/* any skips x\n")
    v1 = frozenset({"v1", "systemd"})
    assert waivers.judge({"a": "failed", "b": "passed", "c/1": "skipped", "d": "passed"}, known, v1) == []
    assert waivers.judge({"a": "passed"}, known, v1) == ["a passes and is waived: remove the waiver"]
    assert waivers.judge({"a": "skipped", "b": "failed", "c/1": "failed"}, known, v1) == [
        "a skipped",
        "b failed",
        "c/1 failed",
    ]
    assert waivers.judge({"b": "failed"}, known, frozenset({"v2"})) == []
    assert waivers.unknown({"a": "failed", "c/1": "skipped"}, known) == ["b"]


def test_the_projects_own_lists_can_be_read() -> None:
    for path in (TOP / "tests" / "conformance").iterdir():
        assert waivers.parse(path.read_text()), path
        assert path.stem in suites.SUITES and path.suffix == ".waivers"


def test_the_facts_are_the_machines(tmp_path: Path) -> None:
    assert waivers.facts(tmp_path, cpus=4) == {"v1", "no-systemd"}
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").touch()
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert waivers.facts(tmp_path, cpus=2) == {"v2", "systemd", "few-cpus"}


def test_the_upstream_tarball_is_found_among_a_packages_files() -> None:
    listing = (
        "Need to get 1 kB.\n"
        "'http://m/x_1.dsc' x_1.dsc 10 SHA256:aa\n"
        "'http://m/x_1.orig.tar.gz' x_1.orig.tar.gz 10 SHA256:bb\n"
        "'http://m/x_1.orig.tar.gz.asc' x_1.orig.tar.gz.asc 10 SHA256:cc\n"
    )
    assert fetch.upstream(listing) == ("http://m/x_1.orig.tar.gz", "x_1.orig.tar.gz", "SHA256:bb")
    with pytest.raises(fetch.Unfit, match="no upstream tarball"):
        fetch.upstream("E: nothing")


def test_only_what_is_wanted_of_a_tarball_is_written(tmp_path: Path) -> None:
    tarball = tmp_path / "x.tar"
    with tarfile.open(tarball, "w") as archive:
        for name, mode in (("x-1/tests/a.py", 0o644), ("x-1/tests/run", 0o755), ("x-1/src/b.c", 0o644),
                           ("x-1/tests/../../c", 0o644)):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.mode, member.size = mode, 1
            archive.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo("x-1/tests/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    fetch.unpack(tarball, tmp_path / "out", "tests/")
    found = {str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*") if not path.is_dir()}
    assert found == {"out/tests/a.py", "out/tests/run"}
    assert os.access(tmp_path / "out/tests/run", os.X_OK)


def test_a_suites_tests_are_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_b.py").write_text("all_tests = {'one': f, \"two\": g}\n")
    (tmp_path / "tests/test_a.py").write_text("def f(): pass\nall_tests = {'one': f}\nother = {'no': f}\n")
    names = suites.Crun(tmp_path).tests()
    assert names == ["a/one", "b/one", "b/two"]
    assert suites.chosen(names, ["b/*"]) == ["b/one", "b/two"]
    with pytest.raises(fetch.Unfit, match="no test c"):
        suites.chosen(names, ["c"])


def test_the_stand_in_reads_a_table_of_mounts(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "20 1 0:5 / /a rw - tmpfs tmpfs rw,size=1k\n21 20 0:6 / /a ro,nosuid shared:1 - ext4 /dev/x rw\n"
        "22 20 0:6 / /a\\040b ro - ext4 /dev/x rw\n"
    )
    mount = libmount.Table(str(table)).find_target("/a")
    assert (mount.vfs_options, mount.fs_options) == ("ro,nosuid", "rw")
    assert libmount.Table(str(table)).find_target("/a b").vfs_options == "ro"


def test_what_cannot_be_judged_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--prepared", str(tmp_path), "--runtime", "crun"]) == 2
    assert "holds no prepared suite" in capsys.readouterr().err


def test_the_summary_tells_what_was_unexpected(capsys: pytest.CaptureFixture[str]) -> None:
    known = waivers.parse("b any fails x\nz any fails x\n")
    assert cli.summary({"a": "passed", "b": "passed"}, known, whole=True) == 1
    shown = capsys.readouterr().out
    assert "# 2 passed, 0 failed, 0 skipped of 2" in shown
    assert "# unexpected: b passes and is waived" in shown and "# unexpected: z is waived" in shown
    assert cli.summary({"a": "passed"}, known, whole=False) == 0
