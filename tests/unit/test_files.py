"""gear's own files: written whole or not at all, locked, removed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest
from limits import file_size_limit

from gear import files
from gear.errors import GearError, HostError, IntegrityError


def test_write_makes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, b"one")
    assert path.read_bytes() == b"one"
    before = path.stat().st_ino
    files.write_atomic(path, b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_atomic(tmp_path / "file", b"", 0o644)
        files.make_directory(tmp_path / "a" / "b", 0o755)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    with file_size_limit(1000), pytest.raises(GearError) as caught:
        files.write_atomic(path, b"x" * 5000)
    assert caught.value.message == f"Can't write {path}: File too large."
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_failed_rename_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(GearError, match="Can't write .*/taken: Is a directory"):
        files.write_atomic(tmp_path / "taken", b"x")
    assert os.listdir(tmp_path) == ["taken"]


def test_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("target")
    files.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"kept"
    assert not (tmp_path / "link").is_symlink()


def test_full_disk_is_told_so() -> None:
    # /dev/full is a file system that has no room: write(2) really says ENOSPC.
    with pytest.raises(GearError) as caught, files.explained("write /x"):
        descriptor = os.open("/dev/full", os.O_WRONLY)
        try:
            files.write_all(descriptor, b"x")
        finally:
            os.close(descriptor)
    assert caught.value.message == "Can't write /x: the file system is full."
    assert caught.value.hint == "Free some space, then run the same command again."


@pytest.mark.parametrize(
    ("code", "kind", "message", "hint"),
    [
        (errno.ENOSPC, GearError, "Can't do it: the file system is full.", "Free some space"),
        (errno.EDQUOT, GearError, "Can't do it: the file system is full.", "Free some space"),
        (errno.EACCES, HostError, "Can't do it: Permission denied.", "gear needs root: run it with sudo."),
        (
            errno.EPERM,
            HostError,
            "Can't do it: Operation not permitted.",
            "gear needs root: run it with sudo.",
        ),
        (errno.EROFS, HostError, "Can't do it: the file system is read-only.", None),
        (errno.EIO, GearError, "Can't do it: Input/output error.", None),
    ],
)
def test_every_error_is_one_sentence(
    code: int, kind: type[GearError], message: str, hint: str | None
) -> None:
    error = files.explain(OSError(code, "whatever", "/x"), "do it")
    assert type(error) is kind
    assert error.message == message
    assert (error.hint or "").startswith(hint or "") and (error.hint is None) == (hint is None)


def test_write_all_goes_on_after_a_short_write() -> None:
    reader, writer = os.pipe()
    found = bytearray()

    def drain() -> None:
        while part := os.read(reader, 1000):
            found.extend(part)

    thread = threading.Thread(target=drain)
    thread.start()
    data = os.urandom(1 << 20)  # more than a pipe holds
    files.write_all(writer, data)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert bytes(found) == data


def test_make_directory(tmp_path: Path) -> None:
    files.make_directory(tmp_path / "a" / "b", 0o700)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    files.make_directory(tmp_path / "a" / "b", 0o755)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GearError, match=r"^Can't create the directory .*/file: File exists\.$"):
        files.make_directory(tmp_path / "file")
    with pytest.raises(GearError, match=r"^Can't create the directory .*/file/x: File exists\.$"):
        files.make_directory(tmp_path / "file" / "x")


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.read_bytes(path) is None
    assert files.read_json(path) is None
    path.write_bytes(b'{"a": 1}')
    assert files.read_bytes(path) == b'{"a": 1}'
    assert files.read_json(path) == {"a": 1}
    assert files.read_bytes(path, 8) == b'{"a": 1}'
    with pytest.raises(IntegrityError) as caught:
        files.read_bytes(path, 7)
    assert caught.value.message == f"{path} is larger than the 7 bytes that such a file may have."


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1} x', b"\xff", b"[" * 200000])
def test_damaged_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        files.read_json(tmp_path / "file")
    assert caught.value.message.startswith(f"{tmp_path / 'file'} is not valid JSON: ")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opened without a writer, it must not block
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(IntegrityError) as caught:
            files.read_bytes(path)
        assert caught.value.message == f"{path} is not a regular file."
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(GearError, match=r"Can't read .*: Too many levels of symbolic links\."):
        files.read_bytes(tmp_path / "link")


@pytest.mark.parametrize("part", [1, 3, 1 << 20])
def test_a_file_that_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """As a file system over a network may give it."""
    (tmp_path / "file").write_bytes(b"0123456789")
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, part)))
    assert files.read_bytes(tmp_path / "file") == b"0123456789"
    assert files.read_bytes(tmp_path / "file", 10) == b"0123456789"
    with pytest.raises(IntegrityError, match="is larger than the 9 bytes"):
        files.read_bytes(tmp_path / "file", 9)
    assert b"Name:" in (files.read_bytes("/proc/self/status") or b"")


def test_json_has_one_form() -> None:
    assert files.dump_json({"b": "\xe4\udcff", "a": [1]}) == (
        b'{\n  "a": [\n    1\n  ],\n  "b": "\\u00e4\\udcff"\n}\n'
    )


# ---- locks


def held_elsewhere(path: Path) -> bool:
    """Whether an open file description of its own can't have the lock on *path*."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_lock_is_held_and_released(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    with files.locked(path):
        assert held_elsewhere(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not held_elsewhere(path)
    with pytest.raises(ZeroDivisionError), files.locked(path):
        raise ZeroDivisionError
    assert not held_elsewhere(path)


def test_shared_locks_go_together(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.locked(path, shared=True), files.locked(path, shared=True):
        assert held_elsewhere(path)


def test_lock_excludes(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "lock", 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with files.locked(path):
                inside += 1
                most = max(most, inside)
                os.sched_yield()
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_lock_file_that_was_removed_meanwhile_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(first, fcntl.LOCK_EX)
    entered = threading.Event()

    def wait() -> None:
        with files.locked(path):
            entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    # Wait until the other thread is queued on the file that is about to go.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and f":{os.fstat(first).st_ino} " not in "".join(
        line for line in Path("/proc/locks").read_text().splitlines(True) if "->" in line
    ):
        os.sched_yield()
    path.unlink()
    second = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(second, fcntl.LOCK_EX)
    os.close(first)
    assert not entered.wait(0.05)
    os.close(second)
    thread.join(10)
    assert entered.is_set()


def test_lock_that_is_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/etc/passwd")
    with pytest.raises(GearError, match="^Can't lock "), files.locked(tmp_path / "lock"):
        pass


# ---- removal


def test_remove_tree(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"kept")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(tmp_path)
    (tree / "file").write_bytes(b"")
    files.remove_tree(tree)
    assert os.listdir(tmp_path) == ["outside"]
    files.remove_tree(tree)


def test_tree_is_renamed_before_it_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "inner").mkdir(parents=True)

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(GearError, match=r"^Can't remove .*/tree: Input/output error\.$"):
        files.remove_tree(tmp_path / "tree")
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".partial-tree-")


def test_partial_tree_is_removed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".partial-x" / "y").mkdir(parents=True)
    files.remove_tree(tmp_path / ".partial-x")
    assert os.listdir(tmp_path) == []


def test_remove_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert files.remove_file(tmp_path / "file") is True
    assert files.remove_file(tmp_path / "file") is False
    with pytest.raises(GearError, match=r"^Can't remove .*: Is a directory\.$"):
        files.remove_file(tmp_path)


def test_partial_names_are_fresh_and_beside(tmp_path: Path) -> None:
    names = {files.partial_name(tmp_path / "x") for _ in range(100)}
    assert len(names) == 100
    assert all(name.parent == tmp_path and name.name.startswith(".partial-x-") for name in names)
