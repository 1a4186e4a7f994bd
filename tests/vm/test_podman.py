"""podman with gear-oci as its runtime, conmon between them: what a user of podman does, on a whole machine.

Not the runtime's conformance in detail, which contrib/conformance judges.  GEAR_TEST_RUNTIME names another runtime,
`crun` say, to find out whether a failure is this test's own.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator

import pytest
from gearhost import RELEASE, TOP, GearHost
from testhostlib import build_image

RUNTIME = os.environ.get("GEAR_TEST_RUNTIME") or "/opt/gear/contrib/gear-oci"
PAYLOAD = "trap 'exit 7' TERM; echo begun; while :; do sleep 0.1; done"


class Podman:
    """podman in the machine under test, always with the runtime under test."""

    def __init__(self, machine: GearHost) -> None:
        self.machine = machine

    def script(self, text: str) -> str:
        """What a script of the machine's shell prints; `podman` in it has the runtime under test."""
        return self.machine.sh(f'podman() {{ command podman --runtime={RUNTIME} "$@"; }}\n{text}')

    def run(self, *arguments: str) -> str:
        """What podman prints; it must succeed."""
        return self.script("podman " + shlex.join(arguments))

    def status(self, *arguments: str) -> int:
        """podman's exit status."""
        return int(
            self.script(f"podman {shlex.join(arguments)} >/dev/null 2>&1 </dev/null && echo 0 || echo $?")
        )

    def inspect(self, name: str, field: str) -> str:
        return self.run("inspect", "--type", "container", "--format", "{{" + field + "}}", name)

    def group(self, name: str) -> str:
        """The directory of a container's control group."""
        return "/sys/fs/cgroup" + self.inspect(name, ".State.CgroupPath")

    def begin(self, name: str, *options: str, payload: str = PAYLOAD) -> None:
        """Start a container in the background and wait until its payload has told so."""
        self.run("run", "-d", "--name", name, "--net", "none", *options, "busybox", "sh", "-c", payload)
        self.machine.wait(lambda: "begun" in self.run("logs", name), f"the payload of {name}")


@pytest.fixture(scope="module")
def booted(machine: GearHost) -> Podman:
    podman = Podman(machine)
    machine.host.copy(build_image("busybox", release=RELEASE), "/root/busybox.tar")
    if RUNTIME.startswith("/opt/gear/"):
        machine.host.copy(TOP / "contrib/gear-oci", "/opt/gear/contrib/")
    # What podman believes of no runtime but those that it knows by the last part of their path.
    known = '["gear-oci", "crun"]'
    conf = f"[engine]\nruntime_supports_json = {known}\nruntime_supports_nocgroup = {known}\n"
    machine.write("/etc/containers/containers.conf.d/runtime.conf", conf.encode())
    # The range that --userns=auto takes its ids from.
    machine.sh("echo containers:2000000:1000000 | tee /etc/subuid /etc/subgid")
    podman.run("import", "/root/busybox.tar", "busybox")
    return podman


@pytest.fixture
def podman(booted: Podman) -> Iterator[Podman]:
    """podman, whose containers leave neither a scope nor anything in the runtime's list."""
    yield booted
    booted.script("podman pod rm -fa -t 0; podman rm -fa -t 0")
    scopes = booted.machine.sh("systemctl list-units --all --plain --no-legend 'libpod-*' || :")
    assert [line for line in scopes.splitlines() if "libpod-conmon" not in line] == []
    if RUNTIME.startswith("/opt/gear/"):
        assert booted.machine.sh("ls /run/gear/oci 2>/dev/null || :") == ""


def test_life_of_a_container(podman: Podman) -> None:
    podman.begin("one", "--hostname", "inside", "--env", "WHO=me")
    assert podman.run("ps", "--format", "{{.Names}} {{.State}}") == "one running"
    assert podman.run("exec", "one", "sh", "-c", "hostname; echo $WHO $THERE", "-") == "inside\nme"
    assert podman.run("exec", "--env", "THERE=you", "--user", "33", "--workdir", "/tmp", "one", "sh", "-c",
                      "id -u; pwd; echo $THERE") == "33\n/tmp\nyou"  # fmt: skip
    assert podman.status("exec", "one", "sh", "-c", "exit 3") == 3
    assert podman.status("exec", "one", "no-such-program") == 127
    assert podman.script("echo through | podman exec -i one cat") == "through"
    podman.run("exec", "-d", "one", "touch", "/detached")
    podman.machine.wait(lambda: podman.status("exec", "one", "test", "-e", "/detached") == 0, "exec -d")
    podman.run("stop", "one")
    assert podman.inspect("one", ".State.Status .State.ExitCode".replace(" ", "}} {{")) == "exited 7"
    podman.run("start", "one")
    podman.machine.wait(lambda: podman.run("logs", "one").count("begun") == 2, "the second start")
    podman.run("kill", "--signal", "KILL", "one")
    assert podman.run("wait", "one") == "137"
    assert podman.status("exec", "one", "true") != 0


def test_exit_statuses(podman: Podman) -> None:
    run = ("run", "--rm", "--net", "none", "busybox")
    assert podman.status(*run, "sh", "-c", "exit 42") == 42
    assert podman.status(*run, "no-such-program") == 127
    assert podman.status(*run, "/etc/passwd") == 126


def test_limits_are_in_the_scope_and_can_be_changed(podman: Podman) -> None:
    podman.begin("limited", "--memory", "64m", "--pids-limit", "40", "--cpus", "0.5", "--cpu-shares", "512")
    group = podman.group("limited")
    files = f"cd {group}; cat memory.max pids.max cpu.max cpu.weight"
    before = podman.machine.sh(files).split()
    assert before[:4] == [str(64 << 20), "40", "50000", "100000"] and before[4] != "100"
    scope = f"libpod-{podman.inspect('limited', '.Id')}.scope"
    assert podman.machine.show(scope, "MemoryMax") == str(64 << 20)
    podman.run("update", "--memory", "96m", "--pids-limit", "50", "--cpus", "0.25", "limited")
    assert podman.machine.sh(files).split()[:4] == [str(96 << 20), "50", "25000", "100000"]
    # systemd writes its own idea again at a reload: it has to know the new limits, or the old ones are back.
    podman.machine.sh("systemctl daemon-reload")
    assert podman.machine.sh(files).split()[:4] == [str(96 << 20), "50", "25000", "100000"]
    podman.run("pause", "limited")
    assert podman.inspect("limited", ".State.Status") == "paused"
    # Of the group the payload is in, which some runtimes put below the scope.
    inner = podman.machine.sh(f"cut -d: -f3 /proc/{podman.inspect('limited', '.State.Pid')}/cgroup")
    assert "frozen 1" in podman.machine.sh(f"cat /sys/fs/cgroup{inner}/cgroup.events")
    podman.run("unpause", "limited")
    assert podman.inspect("limited", ".State.Status") == "running"
    # Whatever the payload does, it dies of its own memory and nobody else's.
    hog = "x=0123456789abcdef; while :; do x=$x$x; done"
    podman.run(
        "create",
        "--name",
        "hog",
        "--net",
        "none",
        "--memory",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "sh",
        "-c",
        hog,
    )
    assert podman.status("start", "--attach", "hog") == 137
    assert podman.inspect("hog", ".State.OOMKilled") == "true"


def test_containers_of_a_pod_share_namespaces(podman: Podman) -> None:
    podman.run(
        "pod", "create", "--name", "pod", "--share", "net,ipc,uts", "--network", "none", "--hostname", "both"
    )
    for name in ("left", "right"):
        podman.run("run", "-d", "--pod", "pod", "--name", name, "busybox", "sleep", "9999")
    look = "for kind in net ipc uts mnt pid; do readlink /proc/1/ns/$kind; done; hostname"
    left, right = (podman.run("exec", name, "sh", "-c", look).splitlines() for name in ("left", "right"))
    assert left[:3] == right[:3] and left[3] != right[3] and left[4] != right[4]
    assert left[5] == right[5] == "both"
    podman.run("pod", "stop", "-t", "0", "pod")
    assert podman.inspect("left", ".State.Status") == "exited"


def test_a_network_with_names_and_a_published_port(podman: Podman) -> None:
    podman.run("network", "create", "front")
    podman.run("run", "-d", "--name", "web", "--network", "front", "-p", "127.0.0.1:8081:80", "busybox", "sh", "-c",
               "mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www")  # fmt: skip
    fetch = "curl -sS --retry 100 --retry-connrefused --retry-delay 1 http://127.0.0.1:8081/"
    assert podman.machine.sh(fetch) == "served"
    other = podman.run("run", "--rm", "--network", "front", "busybox", "wget", "-q", "-O", "-", "http://web/")
    assert other == "served"
    podman.run("rm", "-f", "-t", "0", "web")
    podman.run("network", "rm", "front")


def test_a_terminal(podman: Podman) -> None:
    def terminal(command: str, typed: str = "") -> tuple[str, int]:
        full = f"podman --runtime={RUNTIME} {command}"
        text = podman.machine.sh(
            f"printf {shlex.quote(typed)} | script -qec {shlex.quote(full)} /dev/null && s=0 || s=$?; echo status $s"
        )
        *lines, last = text.replace("\r", "").replace("^@", "").splitlines()
        return "\n".join(lines), int(last.split()[1])

    shown, status = terminal(
        "run --rm -it --net none busybox sh -c 'tty; test -c /dev/console && echo console; exit 5'"
    )
    assert shown.splitlines()[-2:] == ["/dev/pts/0", "console"] and status == 5
    shown, status = terminal("run --rm -it --net none busybox sh", "echo $((6*7))\\nexit 4\\n")
    assert "42" in shown.split() and status == 4
    podman.begin("typed")
    shown, status = terminal("exec -it --user 33 typed sh -c 'tty; stat -c %u $(tty); exit 6'")
    assert shown.splitlines()[-2:] == ["/dev/pts/0", "33"] and status == 6


def test_user_namespaces(podman: Podman) -> None:
    show = ("busybox", "sh", "-c", "cat /proc/self/uid_map; touch /x; stat -c %u /x")
    mapped = podman.run(
        "run", "--rm", "--net", "none", "--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000", *show
    ).split()
    assert mapped == ["0", "100000", "5000", "0"]
    first, outside, count, owner = podman.run("run", "--rm", "--net", "none", "--userns=auto", *show).split()
    assert first == owner == "0" and 2000000 <= int(outside) < 3000000 and int(count) >= 1000
    podman.begin("mapped", "--userns=auto")
    assert podman.run("exec", "mapped", "id", "-u") == "0"
    pid = podman.inspect("mapped", ".State.Pid")
    assert int(podman.machine.sh(f"awk '/^Uid:/ {{print $2}}' /proc/{pid}/status")) >= 2000000


def test_seccomp(podman: Podman) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    podman.machine.write("/root/profile.json", json.dumps(profile).encode())
    mode = ("busybox", "sh", "-c", "awk '/^Seccomp:/ {print $2}' /proc/self/status; mkdir /x 2>&1 || :")
    run = ("run", "--rm", "--net", "none")
    assert podman.run(*run, *mode) == "2"
    assert podman.run(*run, "--security-opt", "seccomp=unconfined", *mode) == "0"
    shown = podman.run(*run, "--security-opt", "seccomp=/root/profile.json", *mode)
    assert shown.startswith("2\n") and shown.endswith("Operation not supported")


def test_options_reach_the_payload(podman: Podman) -> None:
    options = (
        "--read-only", "--cap-drop", "ALL", "--cap-add", "NET_RAW", "--ulimit", "nofile=111:222", "--init",
        "--tmpfs", "/t:size=1m", "-v", "/etc/hostname:/seen:ro", "--sysctl", "net.ipv4.ip_default_ttl=77",
        "--device", "/dev/kmsg", "--security-opt", "no-new-privileges", "--shm-size", "2m", "--umask", "0077",
        "--oom-score-adj", "300", "--group-add", "1234", "--stop-signal", "USR1",
    )  # fmt: skip
    look = [
        "touch /x 2>&1 | sed 's/.*: //'",
        "awk '/^(CapEff|NoNewPrivs|Groups):/ {$1 = $1; print}' /proc/self/status",
        "ulimit -Sn; ulimit -Hn; umask; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_default_ttl",
        "df -k /t /dev/shm | awk 'NR > 1 {print $2}'",
        "touch /t/y && echo written; test -c /dev/kmsg && echo device; (echo > /seen) 2>&1 | sed 's/.*: //'",
        "cat /proc/1/comm",
    ]
    shown = podman.run(
        "run", "--rm", "--net", "none", *options, "busybox", "sh", "-c", "\n".join(look)
    ).splitlines()
    assert shown == [
        "Read-only file system", "Groups: 1234", "CapEff: 0000000000002000", "NoNewPrivs: 1", "111", "222", "0077",
        "300", "77", "1024", "2048", "written", "device", "Read-only file system", "podman-init",
    ]  # fmt: skip


def test_without_a_control_group_and_in_the_hosts_namespaces(podman: Podman) -> None:
    own = podman.machine.sh("readlink /proc/1/ns/net /proc/1/ns/ipc /proc/1/ns/uts").splitlines()
    shared = ("--net", "host", "--ipc", "host", "--uts", "host")
    look = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done"
    shown = podman.run("run", "--rm", "--cgroups=disabled", *shared, "busybox", "sh", "-c", look)
    assert shown.splitlines() == own


def test_health_checks(podman: Podman) -> None:
    podman.begin(
        "healthy", "--health-cmd", "test -e /well", "--health-interval", "disable", "--health-retries", "1"
    )
    assert podman.status("healthcheck", "run", "healthy") == 1
    podman.run("exec", "healthy", "touch", "/well")
    assert podman.status("healthcheck", "run", "healthy") == 0
    assert podman.inspect("healthy", ".State.Health.Status") == "healthy"
