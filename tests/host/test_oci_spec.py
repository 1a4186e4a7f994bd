"""gear-oci against the specification, property by property, where crun's suite (contrib/conformance) does not look.

The bundles share the host's /usr; the payload tells what it finds as JSON.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from bundles import OCI, WAIT, bundle, detached, facts, fails, namespaces, status
from gearhost import GearHost

pytestmark = pytest.mark.host

ALL = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


# ---- operations


def test_operations_on_what_is_not_there_or_in_the_wrong_state(oci: GearHost) -> None:
    for verb in ("state", "start", "kill", "delete", "pause", "resume", "ps"):
        assert "does not exist" in fails(oci, verb, "nobody")
    place = bundle(oci, "states", WAIT)
    for name in ("", "a/b", "../x", ".hidden", "a b"):
        assert oci.run(OCI, "create", "--bundle", place, name, check=False).returncode == 2
    detached(oci, "create", "--bundle", place, "states")
    config = oci.json_file(f"{place}/config.json")
    config["process"]["args"] = ["/bin/false"]
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    assert "delete" in fails(oci, "delete", "states") and status(oci, "states") == "created"
    oci.run(OCI, "start", "states")
    # What config.json says by now is nothing to a container that was created before.
    assert status(oci, "states") == "running"
    fails(oci, "create", "--bundle", place, "states")
    fails(oci, "start", "states")
    fails(oci, "delete", "states")
    assert oci.run(OCI, "kill", "states", "NOSUCH", check=False).returncode == 2
    assert status(oci, "states") == "running"
    oci.run(OCI, "kill", "states", "15")
    oci.wait(lambda: status(oci, "states") == "stopped", "the end")
    assert json.loads(oci.out(OCI, "state", "states")).get("pid", 0) == 0
    for verb in ("start", "kill", "pause"):
        fails(oci, verb, "states")
    oci.run(OCI, "delete", "states")
    # The id is free again, and a created container can be killed.
    config["process"]["args"] = ["/bin/sh", "-c", "exec sleep 1000"]
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    detached(oci, "create", "--bundle", place, "states")
    oci.run(OCI, "kill", "states", "KILL")
    oci.wait(lambda: status(oci, "states") == "stopped", "the end of what was never started")
    oci.run(OCI, "delete", "states")


def test_a_bundle_without_a_process_can_be_created_but_not_started(oci: GearHost) -> None:
    place = bundle(oci, "idle", "true")
    config = oci.json_file(f"{place}/config.json")
    del config["process"]
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    detached(oci, "create", "--bundle", place, "idle")
    assert "no process" in fails(oci, "start", "idle")
    assert status(oci, "idle") == "created"
    oci.run(OCI, "delete", "--force", "idle")


@pytest.mark.parametrize("name", ["HUP", "INT", "USR1", "SIGUSR2", "RTMIN+3"])
def test_the_signal_that_is_asked_for_arrives(oci: GearHost, name: str) -> None:
    number = {"HUP": 1, "INT": 2, "USR1": 10, "SIGUSR2": 12, "RTMIN+3": 37}[name]
    place = bundle(oci, "signalled", f"trap 'exit 7' {number}; touch /ready; sleep 1000 & wait")
    oci.sh(f"rm -f {place}/rootfs/ready")
    detached(oci, "run", "--detach", "--bundle", place, "signalled")
    oci.wait(lambda: oci.sh(f"ls {place}/rootfs") and "ready" in oci.sh(f"ls {place}/rootfs"), "the payload")
    oci.run(OCI, "kill", "signalled", name)
    oci.wait(lambda: status(oci, "signalled") == "stopped", "the end by the signal")
    oci.run(OCI, "delete", "signalled")


# ---- hooks


def test_hooks_run_in_their_order_and_places(oci: GearHost) -> None:
    note = 'echo $0 $(readlink /proc/self/ns/mnt) $(sed \'s/.*"status": "\\([a-z]*\\)".*/\\1/\') >>/log'
    hooks = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", note, kind]}] for kind in ALL}
    place = bundle(oci, "ordered", "echo payload >>/log", hooks=hooks)
    oci.sh(f"rm -f /log {place}/rootfs/log; touch /log {place}/rootfs/log")
    config = oci.json_file(f"{place}/config.json")
    config["mounts"].append({"destination": "/log", "source": "/log", "type": "bind", "options": ["bind"]})
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    oci.run(OCI, "run", "--bundle", place, "ordered")
    lines = [line.split() for line in oci.sh("cat /log; rm /log").splitlines()]
    assert [line[0] for line in lines if line[0] not in ("payload", "poststart")] == [
        "prestart", "createRuntime", "createContainer", "startContainer", "poststop",
    ]  # fmt: skip
    states = {line[0]: line[-1] for line in lines}
    assert states == {
        "prestart": "creating", "createRuntime": "creating", "createContainer": "creating", "payload": "payload",
        "startContainer": "created", "poststart": "running", "poststop": "stopped",
    }  # fmt: skip
    places = {line[0]: line[1] for line in lines if len(line) == 3}
    assert places["prestart"] == places["createRuntime"] == places["poststart"] == places["poststop"]
    assert places["createContainer"] == places["startContainer"] != places["prestart"]


@pytest.mark.parametrize("kind", ALL)
def test_a_hook_that_fails_ends_the_container(oci: GearHost, kind: str) -> None:
    hooks: dict[str, Any] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", "touch /run/stopped"]}]}
    failing = {"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}
    hooks[kind] = [failing, *hooks.get(kind, ())]
    place = bundle(oci, "failing", "sleep 0", hooks=hooks)
    done = oci.run(OCI, "run", "--bundle", place, "failing", check=False)
    # After the end there is nothing to stop: it is only told.
    assert (done.returncode == 0) == (kind == "poststop")
    assert b"/bin/sh failed: exit status 3" in done.stderr
    oci.sh("rm /run/stopped")
    assert oci.out(OCI, "list", "--quiet") == ""


def test_hooks_that_do_not_read_get_their_state_or_their_timeout(oci: GearHost) -> None:
    annotations = {f"key{number}": "x" * 1000 for number in range(300)}
    code = (
        "import json, sys, time; time.sleep(0.3); sys.exit(len(json.load(sys.stdin)['annotations']) != 300)"
    )
    hooks = {
        "createRuntime": [
            {"path": "/bin/true"},
            {"path": "/usr/bin/python3", "args": ["python3", "-c", code], "timeout": 20},
        ],
        "startContainer": [{"path": "/usr/bin/python3", "args": ["python3", "-ISc", code]}],
    }
    place = bundle(oci, "large", "exit 4", annotations=annotations, hooks=hooks)
    assert oci.run(OCI, "run", "--bundle", place, "large", check=False).returncode == 4
    slow = {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}
    place = bundle(oci, "large", "true", annotations=annotations, hooks={"createRuntime": [slow]})
    assert "did not end within 1 s" in fails(oci, "create", "--bundle", place, "large")
    assert oci.out(OCI, "list", "--quiet") == ""


# ---- the process


def test_process(oci: GearHost) -> None:
    process = {
        "user": {"uid": 1234, "gid": 5678, "additionalGids": [5, 6], "umask": 0o027},
        "env": ["ONE=1", "EMPTY=", "PATH=/usr/bin", "LINE=a\nb"],
        "cwd": "/made/here",
        "capabilities": {
            **dict.fromkeys(("bounding", "effective", "permitted"), ["CAP_KILL", "CAP_CHOWN"]),
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "noNewPrivileges": True,
        "oomScoreAdj": 321,
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
    }  # fmt: skip
    code = """
import resource, ctypes
found["ids"] = [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), sorted(os.getgroups()), os.umask(0)]
found["env"], found["cwd"] = dict(os.environ), os.getcwd()
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
found["status"] = {k: status[k].strip() for k in "CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs".split()}
found["limits"] = [resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)]
found["score"] = int(open("/proc/self/oom_score_adj").read())
found["scheduler"] = [os.sched_getscheduler(0), os.nice(0)]
found["io"] = ctypes.CDLL(None).syscall({"x86_64": 252, "aarch64": 31}[os.uname().machine], 1, 0)
found["fds"] = sorted(os.listdir("/proc/self/fd"))[:4]
found["session"] = [os.getpid(), os.getsid(0)]
"""
    found = facts(
        oci, "process", code, process=process, linux={"namespaces": namespaces()}, root={"path": "rootfs"}
    )
    assert found["ids"] == [1234, 1234, 5678, 5678, [5, 6], 0o027]
    found["env"].pop("LC_CTYPE", None)  # Python's own doing
    assert found["env"] == {"ONE": "1", "EMPTY": "", "PATH": "/usr/bin", "LINE": "a\nb", "HOME": "/"}
    assert found["cwd"] == "/made/here"
    # execve(2) leaves one who is not root what is ambient.
    kill, both = f"{1 << 5:016x}", f"{1 << 5 | 1:016x}"
    assert found["status"] == {
        "CapInh": kill, "CapPrm": kill, "CapEff": kill, "CapBnd": both, "CapAmb": kill, "NoNewPrivs": "1",
    }  # fmt: skip
    assert found["limits"] == [[100, 200], [0, 0]] and found["score"] == 321
    assert found["scheduler"] == [3 | 0x40000000, 5] and found["io"] == 2 << 13 | 6
    assert found["session"] == [1, 1] and set(found["fds"]) <= {"0", "1", "2", "3"}


def test_root_names_and_parameters(oci: GearHost) -> None:
    code = """
import socket
try:
    open("/new", "w")
except OSError as error:
    found["write"] = error.errno
found["names"] = [socket.gethostname(), open("/proc/sys/kernel/domainname").read().strip()]
found["sysctl"] = [open("/proc/sys/net/ipv4/ip_forward").read().strip(), open("/proc/sys/kernel/msgmax").read().strip()]
found["links"] = {name: os.readlink("/dev/" + name) for name in ("fd", "stdin", "stdout", "stderr", "ptmx")}
found["devices"] = {n: os.stat("/dev/" + n).st_rdev for n in "null zero full random urandom tty mine".split()}
found["mine"] = [os.stat("/dev/mine").st_mode & 0o7777, os.stat("/dev/mine").st_uid, os.stat("/dev/mine").st_gid]
found["fifo"] = os.stat("/srv/fifo").st_mode
found["masked"] = [open("/proc/keys").read(), os.listdir("/proc/acpi") if os.path.isdir("/proc/acpi") else []]
try:
    open("/proc/sys/kernel/core_pattern", "r+")
except OSError as error:
    found["readonly"] = error.errno
found["personality"] = os.uname().machine
found["clock"] = open("/proc/uptime").read().split()[0]
"""
    linux = {
        "namespaces": [*namespaces(), {"type": "time"}],
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.msgmax": "12345"},
        "devices": [
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/srv/fifo", "type": "p", "fileMode": 0o600},
        ],
        "personality": {"domain": "LINUX32"},
        "timeOffsets": {"boottime": {"secs": 1000000, "nanosecs": 5}},
    }
    found = facts(
        oci,
        "named",
        code,
        hostname="inside",
        domainname="example",
        linux=linux,
        root={"path": "rootfs", "readonly": True},
    )
    assert found["write"] == 30 and found["readonly"] == 30
    assert found["names"] == ["inside", "example"] and found["sysctl"] == ["1", "12345"]
    assert found["links"] == {
        "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
        "ptmx": "pts/ptmx",
    }  # fmt: skip
    minors = {"null": 3, "mine": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
    assert found["devices"] == {"tty": 5 << 8, **{name: 1 << 8 | minor for name, minor in minors.items()}}
    assert found["mine"] == [0o640, 7, 8] and found["fifo"] == 0o10600
    assert found["masked"] == ["", []]
    assert found["personality"] in ("i686", "armv8l") and float(found["clock"]) > 1000000


def test_exec_affinity_and_options(oci: GearHost) -> None:
    place = bundle(oci, "joined", WAIT)
    detached(oci, "run", "--detach", "--bundle", place, "joined")
    process = {
        "args": ["/usr/bin/python3", "-ISc", "import os; print(os.sched_getaffinity(0), os.getuid(), os.getcwd())"],
        "cwd": "/usr", "user": {"uid": 3, "gid": 4}, "env": [], "execCPUAffinity": {"initial": "0-1", "final": "1"},
    }  # fmt: skip
    oci.write("/root/process.json", json.dumps(process).encode())
    assert oci.out(OCI, "exec", "--process", "/root/process.json", "joined") == "{1} 3 /usr"
    detached(oci, "exec", "--detach", "--pid-file", "/run/joined.pid", "joined", "/usr/bin/sleep", "900")
    assert oci.sh("tr '\\0' ' ' </proc/$(cat /run/joined.pid)/cmdline").split()[-2:] == [
        "/usr/bin/sleep",
        "900",
    ]
    oci.run(OCI, "delete", "--force", "joined")
    assert oci.sh("ls -d /proc/$(cat /run/joined.pid) 2>/dev/null || :") == ""


def test_calls_as_containerd_makes_them(oci: GearHost) -> None:
    """Its shim's options, with a state directory of its own, and everything in files or on standard input."""
    place = bundle(oci, "shim", "sleep 1000 & sleep 1000 & wait")
    options = ["--root", "/run/shim/k8s.io", "--log", f"{place}/log.json", "--log-format", "json"]
    oci.sh(
        f"{OCI} {' '.join(options)} create --bundle {place} --pid-file {place}/init.pid shim </dev/null >/dev/null 2>&1"
    )
    oci.run(OCI, *options, "start", "shim")
    process = {"args": ["/usr/bin/sleep", "900"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": []}
    oci.write(f"{place}/process.json", json.dumps(process).encode())
    joined = f"exec --process {place}/process.json --detach --pid-file {place}/joined.pid shim"
    oci.sh(f"{OCI} {' '.join(options)} {joined} </dev/null >/dev/null 2>&1")
    first, second = (int(oci.out("cat", f"{place}/{name}.pid")) for name in ("init", "joined"))
    found = json.loads(oci.out(OCI, *options, "ps", "--format", "json", "shim"))
    assert {first, second} <= set(found) and len(found) == 4
    oci.run(OCI, *options, "pause", "shim")
    assert json.loads(oci.out(OCI, *options, "state", "shim"))["status"] == "paused"
    oci.run(OCI, *options, "resume", "shim")
    refused = oci.run(
        OCI, *options, "update", "--resources", "-", "shim", input=b'{"pids": {"limit": "x"}}', check=False
    )
    assert refused.returncode == 1 and b"pids.limit must be a whole number" in refused.stderr
    assert "pids.limit" in json.loads(oci.read(f"{place}/log.json").splitlines()[-1])["msg"]
    oci.run(OCI, *options, "kill", "--all", "shim", "9")
    oci.wait(lambda: json.loads(oci.out(OCI, *options, "state", "shim"))["status"] == "stopped", "the end")
    oci.run(OCI, *options, "delete", "shim")
    oci.run(OCI, *options, "delete", "--force", "shim")
    fails(oci, *options, "delete", "shim")
    assert oci.sh("ls /run/shim/k8s.io; rm -r /run/shim") == ""
