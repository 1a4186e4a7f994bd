"""The helper's parts that need no privilege: documents, capabilities, descriptors, sentences, the stop script."""

from __future__ import annotations

import json
import os
import platform
import posix
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import rendering
from hypothesis import given
from hypothesis import strategies as st

from gear import confinement
from gear.helper import (
    bundle,
    channel,
    container,
    execute,
    mounts,
    notify,
    options,
    rights,
    rootfs,
    start,
    syscalls,
)
from gear.helper.failure import EXIT_NAMESPACE, Failure, Step

STOP = rendering.TOP / "gear" / "helper" / "stop"


# ---- reading config.json without the json module


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def load(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "document"
    path.write_bytes(content)
    return bundle.load_json(str(path))


@given(st.dictionaries(st.text(), JSON, max_size=4), st.booleans(), st.sampled_from([None, 2]))
def test_documents_are_read_as_json_does(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    try:
        content = text.encode()
    except UnicodeEncodeError:  # a lone surrogate can only be written as an escape
        content = json.dumps(document, indent=indent).encode()
    directory = tmp_path_factory.getbasetemp()
    assert load(directory, content) == json.loads(content) == document
    assert load(directory, b" \n" + content + b"\r\n\t") == document


def test_lone_surrogates_and_numbers(tmp_path: Path) -> None:
    text = b'{"a": "\\udcff\\ud83d\\ude00", "b": [1e3, -0, NaN, -Infinity], "c": {"d": null}}'
    assert repr(load(tmp_path, text)) == repr(json.loads(text))


@pytest.mark.parametrize("path", rendering.cases(), ids=lambda path: path.stem)
def test_every_rendered_bundle_is_understood(path: Path, tmp_path: Path) -> None:
    case = rendering.read(path)
    if "error" in case.document:
        return
    for name in ("config.json", "start.json"):
        assert load(tmp_path, case.bundle()[name]) == json.loads(case.bundle()[name])
    config = load(tmp_path, case.bundle()["config.json"])
    for mount in config["mounts"]:
        if bundle.is_bind(mount):
            # A bind has no file system that would take other words.
            words = [word for word in mount["options"] if not word.startswith(rootfs.SUBPATH)]
            assert options.Options(words).data == []


def test_without_the_c_scanner_the_json_module_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_json", None)
    assert load(tmp_path, b'{"a": ["\\udcff", 1.5]}') == {"a": ["\udcff", 1.5]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b"{} {}",
        b"{}x",
        b'{"a": }',
        b'{"a": 1',
        b"\xff{}",
        b"\xef\xbb\xbf{}",
        b"{" * 9,
        b'{"a":' * 100000,
    ],
)
@pytest.mark.parametrize("scanner", [True, False])
def test_damaged_documents_are_one_sentence(
    tmp_path: Path, content: bytes, scanner: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not scanner:
        monkeypatch.setitem(sys.modules, "_json", None)
    with pytest.raises(Failure) as caught:
        load(tmp_path, content)
    assert caught.value.message == f"{tmp_path / 'document'} is not one JSON object"
    assert caught.value.status == EXIT_NAMESPACE


def test_damaged_bundle_ends_the_start_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "notify", lambda state: None)
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "config.json").write_text('{"ociVersion": "1.0')
    assert start.main([str(tmp_path)]) == EXIT_NAMESPACE
    assert capsys.readouterr().err == f"gear: {tmp_path}/config.json is not one JSON object\n"
    assert start.main([str(tmp_path / "none")]) == EXIT_NAMESPACE
    assert (
        capsys.readouterr().err == f"gear: can't read the bundle {tmp_path}/none: No such file or directory\n"
    )


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ({"type": "bind"}, True),
        ({"type": "none", "options": ["rbind"]}, True),
        ({"options": ["ro", "bind"]}, True),
        ({"type": "tmpfs", "options": ["ro"]}, False),
        ({"type": "proc"}, False),
    ],
)
def test_binds(mount: dict[str, Any], expected: bool) -> None:
    assert bundle.is_bind(mount) is expected


def test_every_namespace_that_is_rendered_is_known() -> None:
    config = json.loads(rendering.read(rendering.CASES / "defaults.json").bundle()["config.json"])
    assert {namespace["type"] for namespace in config["linux"]["namespaces"]} == set(bundle.NAMESPACES) - {
        "time"
    }


# ---- capabilities


def test_capabilities_have_their_numbers() -> None:
    # linux/capability.h
    for number, name in ((0, "CHOWN"), (5, "KILL"), (21, "SYS_ADMIN"), (31, "SETFCAP"), (37, "AUDIT_READ")):
        assert rights.capability_mask([f"CAP_{name}"]) == 1 << number
    assert rights.capability_mask(["CAP_CHECKPOINT_RESTORE", "CAP_BPF"]) == 1 << 40 | 1 << 39
    assert len(rights.CAPABILITIES) == 41
    assert rights.capability_mask([]) == 0
    assert rights.capability_mask(["CAP_OF_TOMORROW", "kill"]) == 1 << 5


def test_default_set_is_dockers() -> None:
    # CapBnd of /proc/self/status in `docker run alpine`.
    assert rights.capability_mask(list(confinement.CAPABILITIES)) == 0x00000000A80425FB


# ---- the channel


@pytest.mark.parametrize("count", [1, 252, 253, 254, 300])
def test_descriptors_arrive_in_order_however_many(count: int, tmp_path: Path) -> None:
    ours, theirs = channel.pair()
    sent = [os.memfd_create(str(number)) for number in range(count)]
    try:
        ours.send(channel.DESCRIPTORS, sent)
        received = theirs.receive_descriptors(count)
        try:
            assert [os.fstat(fd).st_ino for fd in received] == [os.fstat(fd).st_ino for fd in sent]
            assert not any(os.get_inheritable(fd) for fd in received)
        finally:
            for descriptor in received:
                os.close(descriptor)
    finally:
        for descriptor in sent:
            os.close(descriptor)
        ours.close()
        theirs.close()


def test_running_out_of_descriptors_is_an_error_and_no_wait_without_end() -> None:
    ours, theirs = channel.pair()
    sent = [os.memfd_create(str(number)) for number in range(20)]
    ours.send(channel.DESCRIPTORS, sent)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(sent) + 5, hard))
    try:
        with pytest.raises(OSError, match="too many open files"):
            theirs.receive_descriptors(20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in sent:
            os.close(descriptor)
        for end in (ours, theirs):
            end.close()


def test_messages_keep_their_bounds_and_end_with_the_other_side() -> None:
    ours, theirs = channel.pair()
    ours.send(channel.EXEC)
    ours.send(channel.FAILED + b"203 no such program")
    assert theirs.receive() == (b"exec", [])
    assert theirs.receive() == (b"failed 203 no such program", [])
    ours.close()
    assert theirs.receive() == (b"", [])
    with pytest.raises(ConnectionResetError, match="the helper has died"):
        theirs.receive_descriptors(1)
    theirs.close()


def test_channel_is_not_inherited() -> None:
    ours, theirs = channel.pair()
    for end in (ours, theirs):
        assert not os.get_inheritable(end._end.fileno())
        end.close()


@pytest.mark.parametrize(
    ("messages", "outcome"),
    [
        ([channel.EXEC], None),
        ([], "the container's first process died while it was being set up"),
        ([channel.FAILED + b"203 can't run x: no"], "can't run x: no"),
        ([channel.EXEC, channel.FAILED + b"203 can't run x: no"], "can't run x: no"),
        ([channel.FAILED + "203 ä\udcff".encode(errors="surrogateescape")], "ä?"),
    ],
)
def test_start_follows_the_first_process(messages: list[bytes], outcome: str | None) -> None:
    ours, theirs = channel.pair()
    for message in messages:
        theirs.send(message)
    theirs.close()
    if outcome is None:
        container._follow(ours, 0, container.Events(), Step())
    else:
        with pytest.raises(Failure) as caught:
            container._follow(ours, 0, container.Events(), Step())
        assert caught.value.message == outcome
        assert caught.value.status == (203 if messages else EXIT_NAMESPACE)
    ours.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_service_manager_is_told_in_one_message(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"\0gear-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        shown = address.replace("\0", "@").encode()
        monkeypatch.setattr(posix, "environ", {b"NOTIFY_SOCKET": shown})
        notify.notify("MAINPID=5\nREADY=1\nSTATUS=ä\udcff")
        assert receiver.recv(1000) == b"MAINPID=5\nREADY=1\nSTATUS=\xc3\xa4\xff"
    monkeypatch.setattr(posix, "environ", {})
    notify.notify("READY=1")


# ---- sentences


def test_step_tells_what_was_being_done() -> None:
    step = Step()
    step.doing = "mount proc on /proc"
    assert step.failure(OSError(1, "mount: Operation not permitted")).message == (
        "can't mount proc on /proc: mount: Operation not permitted"
    )
    assert step.failure(OSError(2, "it lies outside")).message == (
        "can't mount proc on /proc: it lies outside (No such file or directory)"
    )
    assert step.failure(OSError("odd")).message == "can't mount proc on /proc: odd"


def elf(machine: int, *, big: bool = False) -> bytes:
    order = "big" if big else "little"
    head = b"\x7fELF\2" + (b"\2" if big else b"\1") + b"\1" + bytes(9)
    return head + (2).to_bytes(2, order) + machine.to_bytes(2, order) + bytes(100)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        (elf(183), 8, f"it is built for aarch64, and this machine is {platform.machine()}"),
        (elf(22, big=True), 8, f"it is built for s390x, and this machine is {platform.machine()}"),
        (elf(258), 8, f"it is built for machine type 258, and this machine is {platform.machine()}"),
        (b"echo hello\n", 8, "it is neither a program for this machine nor a script with a #! line"),
        (b"", 8, "it is neither a program for this machine nor a script with a #! line"),
        (b"#!/no/such/sh -e\nx", 2, "its interpreter (/no/such/sh -e) is not in the container"),
        (b"#! /no/sh", 2, "its interpreter (/no/sh) is not in the container"),
        (b"#!/no/\xff\n", 2, "its interpreter (/no/\ufffd) is not in the container"),
        (elf(62), 2, "it exists, but the program loader or a file that it needs is not in the container"),
        (b"x", 13, f"it is not executable for user {os.getuid()}"),
        (b"x", 7, "Argument list too long"),
    ],
)
def test_why_a_program_does_not_run(content: bytes, code: int, sentence: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(content)
    assert execute._why_not(str(program), OSError(code, os.strerror(code))) == sentence


def test_directory_is_no_program(tmp_path: Path) -> None:
    assert execute._why_not(str(tmp_path), OSError(13, "x")) == "it is a directory"


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("args", "path", "sentence"),
    [
        (["no-such"], "/bin", "can't run no-such: no such program in the container's PATH"),
        (["/no/such"], "/bin", "can't run /no/such: there is no such file in the container"),
        (["/bin/sh/x"], "/bin", "can't run /bin/sh/x: there is no such file in the container"),
        (["plain"], "/nowhere:{tmp}", "can't run {tmp}/plain: it is not executable for user {uid}"),
        (["script"], "{tmp}", "can't run {tmp}/script: its interpreter (/no/sh) is not in the container"),
        (["{tmp}"], "", "can't run {tmp}: it is a directory"),
        (["dangling"], "{tmp}:/nowhere", "can't run {tmp}/dangling: it exists, but"),
    ],
)
def test_refusal_to_execute_says_what_and_why(
    args: list[str], path: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("x")
    (tmp_path / "script").write_text("#!/no/sh\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "dangling").symlink_to("nowhere")
    values = {"tmp": str(tmp_path), "uid": str(os.getuid())}
    process = {
        "cwd": os.getcwd(),
        "args": [word.format(**values) for word in args],
        "env": [f"PATH={path.format(**values)}"],
        "user": {"uid": 0, "gid": 0},
    }
    with pytest.raises(Failure) as caught:
        execute.execute(process, execute.variables(process))
    assert caught.value.message.startswith(sentence.format(**values))
    assert caught.value.status == 203


def test_working_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        execute.change_directory(str(tmp_path / "none"))
    assert caught.value.message == (
        f"can't change to the working directory {tmp_path / 'none'}: No such file or directory"
    )
    assert caught.value.status == 200


@pytest.mark.spawns
def test_found_program_gets_argv_and_environment_as_they_are(tmp_path: Path) -> None:
    script = (
        "from gear.helper import execute\n"
        "process = {'args': ['printf', '%s|', 'a b', '', '\\udcff'], 'user': {'uid': 0},"
        " 'env': ['PATH=/nowhere:/usr/bin:/bin', 'A=b=c']}\n"
        "execute.execute(process, execute.variables(process))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=rendering.TOP,
        capture_output=True,
        check=True,
        env={"PYTHONPATH": "."},
    )
    assert done.stdout == b"a b||\xff|"


# ---- resolving below a root


@contextmanager
def root_of(path: Path) -> Iterator[mounts.Root]:
    ours, theirs = channel.pair()
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield mounts.Root(descriptor, ours, Step(), {"linux": {}})
    finally:
        os.close(descriptor)
        ours.close()
        theirs.close()


def place(root: mounts.Root, path: str, *, directory: bool = True) -> str:
    descriptor = root.destination(path, directory=directory)
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def test_renames_of_others_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """openat2(2) gives EAGAIN while anybody renames, and not for anything that is wrong here."""
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("../run")
    answers = iter([BlockingIOError, BlockingIOError, None])
    openat2 = syscalls.openat2

    def busy(*args: Any, **options: Any) -> int:
        if (error := next(answers)) is not None:
            raise error
        return openat2(*args, **options)

    monkeypatch.setattr(syscalls, "openat2", busy)
    with root_of(tmp_path) as root:
        place = root.destination("/var/run")
        assert os.fstat(place).st_ino == (tmp_path / "run").stat().st_ino
        os.close(place)


def test_destinations_stay_below_the_root(tmp_path: Path) -> None:
    root_path, outside = tmp_path / "root", tmp_path / "outside"
    (root_path / "real").mkdir(parents=True)
    outside.mkdir()
    for name, target in {
        "absolute": "/real",
        "up": "../../../../outside",
        "host": str(outside),
        "loop": "loop",
        "dangling": "/gone/x",
    }.items():
        (root_path / name).symlink_to(target)
    with root_of(root_path) as root:
        assert place(root, "/real") == str(root_path / "real")
        assert place(root, "/absolute/new/deep") == str(root_path / "real/new/deep")
        assert place(root, "/../../etc") == str(root_path / "etc")
        assert place(root, "/a//./b", directory=False) == str(root_path / "a/b")
        assert (root_path / "a/b").is_file() and (root_path / "real/new/deep").is_dir()
        # Links that lead out, or to what is not there, are followed inside.
        assert place(root, "/up/x") == str(root_path / "outside/x")
        assert place(root, "/host/x") == str(root_path / str(outside)[1:] / "x")
        assert place(root, "/dangling/y", directory=False) == str(root_path / "gone/x/y")
        with pytest.raises((OSError, Failure)):
            place(root, "/loop/x")
    assert os.listdir(outside) == []
    assert not (tmp_path / "etc").exists()


def test_magic_links_lead_nowhere() -> None:
    with root_of(Path("/")) as root, pytest.raises(OSError):
        root.open(f"/proc/{os.getpid()}/root/etc")


# ---- system calls


def test_missing_call_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(syscalls.Unsupported) as caught:
        syscalls._call("frob", None)
    assert caught.value.errno == 38
    assert f"frob: no system call number is known for {platform.machine()} machines" in str(caught.value)
    with pytest.raises(syscalls.Unsupported, match="nosuchcall: the running kernel has no such system call"):
        syscalls._call("nosuchcall", 100000)


def test_failed_call_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.openat2(syscalls.AT_FDCWD, str(tmp_path / "none"), os.O_RDONLY)
    assert caught.value.filename == str(tmp_path / "none")
    assert caught.value.strerror == "openat2: No such file or directory"


def test_opened_files_are_close_on_exec(tmp_path: Path) -> None:
    descriptor = syscalls.openat2(syscalls.AT_FDCWD, str(tmp_path), os.O_RDONLY)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


# ---- the stop script


def stop(number: int, pid: str) -> int:
    environ = {"MAINPID": pid} if pid else {}
    command = ["/bin/sh", str(STOP), str(number)]
    return subprocess.run(command, env=environ, check=True, capture_output=True).returncode


PROGRAM = """
import signal, sys
{setup}
print("ready", flush=True)
for line in sys.stdin:
    print("alive", flush=True)
"""


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("setup", "number", "killed"),
    [
        ("", signal.SIGTERM, True),
        ("", signal.SIGQUIT, True),
        # A name that looks like the rest of the line.
        ("open('/proc/self/comm', 'w').write('a) S 1 (b')", signal.SIGTERM, True),
        (
            "open('/proc/self/comm', 'w').write('a) S 1 (b'); signal.signal(15, lambda *_: None)",
            signal.SIGTERM,
            False,
        ),
        ("signal.signal(31, lambda *_: None)", 31, False),
        ("", 31, True),
        ("signal.signal(32 + 2, lambda *_: None)", 34, False),
        # Python itself has this handler, unless whoever runs the tests ignores the signal.
        ("signal.signal(signal.SIGINT, signal.default_int_handler)", signal.SIGINT, False),
        ("signal.signal(signal.SIGTERM, lambda *_: None)", signal.SIGTERM, False),
        ("signal.signal(signal.SIGTERM, lambda *_: None)", signal.SIGQUIT, True),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", signal.SIGTERM, True),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])", signal.SIGTERM, False),
        ("signal.signal(signal.SIGRTMIN + 3, lambda *_: None)", signal.SIGRTMIN + 3, False),
        ("", signal.SIGRTMIN + 3, True),
        ("signal.signal(64, lambda *_: None)", 64, False),
        ("", 64, True),
        ("signal.signal(1, lambda *_: None)", 1, False),
        ("", 1, True),
    ],
)
def test_payload_that_can_not_hear_is_killed(setup: str, number: int, killed: bool) -> None:
    program = [sys.executable, "-c", PROGRAM.format(setup=setup)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            assert stop(number, str(child.pid)) == 0
            if killed:
                assert child.wait(10) == -signal.SIGKILL
            else:
                # A process that was sent SIGKILL never gets to answer.
                child.stdin.write("\n")
                child.stdin.flush()
                assert child.stdout.readline() == "alive\n"
        finally:
            child.kill()


@pytest.mark.spawns
def test_stop_of_what_has_ended_is_no_error() -> None:
    assert stop(15, "") == 0
