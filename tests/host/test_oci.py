"""gear-oci on a host with systemd: the operations, what a crash leaves, two at once, and its scope."""

from __future__ import annotations

import json

import pytest
from bundles import OCI, WAIT, bundle, detached, fails, status
from gearhost import GearHost

pytestmark = pytest.mark.host


def test_life_of_a_container(oci: GearHost) -> None:
    place = bundle(oci, "life", WAIT)
    detached(oci, "create", "--bundle", place, "--pid-file", "/run/life.pid", "life")
    assert status(oci, "life") == "created"
    assert "already exists" in fails(oci, "create", "--bundle", place, "life")
    assert "only a stopped one" in fails(oci, "delete", "life")
    oci.run(OCI, "start", "life")
    assert status(oci, "life") == "running"
    assert "is running, and only a created one" in fails(oci, "start", "life")
    pid = oci.out("cat", "/run/life.pid")
    assert json.loads(oci.out(OCI, "ps", "--format", "json", "life"))[0] == int(pid)
    assert oci.out(OCI, "exec", "life", "sh", "-c", "echo $0 $$ | cut -d' ' -f1") == "sh"
    assert oci.run(OCI, "exec", "life", "sh", "-c", "exit 9", check=False).returncode == 9
    missing = oci.run(OCI, "exec", "life", "no-such-program", check=False)
    assert missing.returncode == 255 and b"executable file not found" in missing.stderr
    oci.run(OCI, "pause", "life")
    assert status(oci, "life") == "paused"
    oci.run(OCI, "resume", "life")
    oci.run(OCI, "kill", "life", "TERM")
    oci.wait(lambda: status(oci, "life") == "stopped", "the end of the container")
    assert "not running" in fails(oci, "kill", "life", "KILL")
    oci.run(OCI, "delete", "life")
    assert "does not exist" in fails(oci, "state", "life")
    assert oci.sh("find /sys/fs/cgroup -name '*gear-oci-life*'; ls /run/gear/oci") == ""


def test_run_passes_the_exit_status_and_leaves_nothing(oci: GearHost) -> None:
    place = bundle(oci, "status", "exit 7")
    assert oci.run(OCI, "run", "--bundle", place, "status", check=False).returncode == 7
    assert oci.out(OCI, "list", "--quiet") == ""


def test_a_checkout_that_root_alone_may_read_is_enough(oci: GearHost) -> None:
    """The container's root, who mounts control groups, is somebody else."""
    ids = [{"containerID": 0, "hostID": 700000, "size": 65536}]
    place = bundle(oci, "private", "echo $(hostname; cat /proc/self/uid_map)", domainname="example")
    config = json.loads(oci.read(f"{place}/config.json"))
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"].update(uidMappings=ids, gidMappings=ids)
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    oci.sh(f"chmod 755 /root; chown -h 700000:700000 {place}/rootfs")
    oci.sh("mkdir -m 700 /root/checkout; cp -r /opt/gear/* /root/checkout")
    done = oci.run("/root/checkout/contrib/gear-oci", "run", "--bundle", place, "private")
    assert "0 700000 65536" in done.stdout.decode()
    oci.sh("rm -r /root/checkout /root/private; chmod 700 /root")


def test_failed_create_leaves_nothing(oci: GearHost) -> None:
    hooks = {
        "createRuntime": [{"path": "/bin/false"}],
        "poststop": [{"path": "/usr/bin/touch", "args": ["touch", "/run/poststop"]}],
    }
    place = bundle(oci, "broken", "true", hooks=hooks)
    before = oci.mount_table()
    error = fails(
        oci, "--log", "/run/broken.log", "--log-format", "json", "create", "--bundle", place, "broken"
    )
    assert "/bin/false" in error
    assert json.loads(oci.read("/run/broken.log"))["level"] == "error"
    assert oci.out(OCI, "list", "--quiet") == "" and oci.mount_table() == before
    oci.sh("rm /run/poststop")
    assert oci.sh("find /sys/fs/cgroup -name '*gear-oci-broken*'") == ""


def test_hooks_get_the_state_and_no_environment(oci: GearHost) -> None:
    note = "cat >/run/hook.$0; env | grep -v -e ^PWD -e ^_ -e ^SHLVL >/run/hook.env; :"
    hooks = {
        kind: [{"path": "/bin/sh", "args": [kind, "-c", note, kind]}]
        for kind in ("prestart", "createRuntime", "poststart", "poststop")
    }
    place = bundle(oci, "hooked", "true", hooks=hooks)
    oci.run(OCI, "run", "--bundle", place, "hooked", env={"SECRET": "1"})
    states = {kind: json.loads(oci.read(f"/run/hook.{kind}")) for kind in hooks}
    assert [states[kind]["status"] for kind in hooks] == ["creating", "creating", "running", "stopped"]
    assert {state["id"] for state in states.values()} == {"hooked"}
    assert states["prestart"]["bundle"] == place
    assert oci.read("/run/hook.env") == b""


@pytest.mark.parametrize("hook", ["createRuntime", "createContainer"])
def test_interrupted_create_is_seen_and_removed(oci: GearHost, hook: str) -> None:
    """SIGKILL while a hook runs: the process that was made goes by itself, or with delete --force."""
    name = f"cut-{hook.lower()}"
    wait = {"path": "/bin/sh", "args": ["sh", "-c", "exec sleep 1000"]}
    place = bundle(oci, name, "true", hooks={hook: [wait]})
    oci.sh(f"{OCI} create --bundle {place} {name} >/dev/null 2>&1 & echo $! >/run/{name}.pid")
    oci.wait(lambda: oci.sh("pgrep -f '^sleep 1000' || :"), "the hook")
    assert status(oci, name) == "creating"
    oci.sh(f"kill -KILL $(cat /run/{name}.pid)")
    oci.wait(lambda: status(oci, name) == "stopped", "the end of the maker")
    oci.run(OCI, "delete", "--force", name)
    oci.sh("pkill -KILL -f '^sleep 1000' || :")
    assert oci.out(OCI, "list", "--quiet") == ""
    assert oci.sh(f"find /sys/fs/cgroup -name '*gear-oci-{name}*'") == ""


def test_only_one_of_several_creates_wins(oci: GearHost) -> None:
    place = bundle(oci, "race", WAIT)
    oci.sh(
        f"for n in 1 2 3 4 5 6; do {{ {OCI} create --bundle {place} race >/dev/null 2>&1 && echo $n >>/run/race; }} & "
        "done; wait"
    )
    assert len(oci.read("/run/race").split()) == 1
    oci.run(OCI, "delete", "--force", "race")
    assert oci.sh("rm /run/race; ls /run/gear/oci") == ""


def test_scope_of_systemd(oci: GearHost) -> None:
    limits = {
        "memory": {"limit": 64 << 20},
        "pids": {"limit": 40},
        "devices": [{"allow": False, "access": "rwm"}],
    }
    place = bundle(oci, "scoped", WAIT, linux={"cgroupsPath": "test.slice:oci:scoped", "resources": limits})
    detached(oci, "--systemd-cgroup", "run", "--detach", "--bundle", place, "scoped")
    scope = "oci-scoped.scope"
    assert oci.show(scope, "ActiveState") == "active"
    assert (oci.show(scope, "MemoryMax"), oci.show(scope, "TasksMax")) == (str(64 << 20), "40")
    assert (oci.show(scope, "Slice"), oci.show(scope, "Delegate")) == ("test.slice", "yes")
    assert "/dev/ptmx rwm" in oci.show(scope, "DeviceAllow")
    oci.run(OCI, "--systemd-cgroup", "update", "--pids-limit", "50", "scoped")
    assert oci.show(scope, "TasksMax") == "50"
    oci.run(OCI, "delete", "--force", "scoped")
    oci.wait(lambda: oci.show(scope, "LoadState") == "not-found", "the end of the scope")


def test_seccomp_filter_is_compiled_once_and_holds(oci: GearHost) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    place = bundle(
        oci, "filtered", "mkdir /x && exit 3; grep Seccomp: /proc/self/status", linux={"seccomp": profile}
    )
    for _ in range(2):
        assert oci.out(OCI, "run", "--bundle", place, "filtered").split() == ["Seccomp:", "2"]
    (name,) = oci.out("ls", "/run/gear/oci/.cache").split()
    assert oci.out("stat", "-c", "%a", "/run/gear/oci/.cache") == "700" and len(name) == 64
    oci.sh("rm -r /run/gear/oci/.cache")


def test_create_killed_at_any_moment_can_be_removed(oci: GearHost) -> None:
    """SIGKILL after 5, 10, ... ms: whatever there is by then, `delete --force` removes, and a new create works."""
    place = bundle(oci, "killed", WAIT)
    script = f"""
import os, signal, subprocess, sys, time
oci = "{OCI}"
whole = None
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
create = [oci, "create", "--bundle", "{place}", "killed"]
before = time.monotonic()
subprocess.run(create, check=True, **quiet)
whole = time.monotonic() - before
subprocess.run([oci, "delete", "--force", "killed"], check=True)
points = 25
for point in range(points):
    maker = subprocess.Popen(create, **quiet)
    time.sleep(whole * 1.1 * point / points)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    removed = subprocess.run([oci, "delete", "--force", "killed"], capture_output=True)
    assert removed.returncode == 0, (point, removed.stderr)
    assert os.listdir("/run/gear/oci") == [], point
    found = subprocess.run("find /sys/fs/cgroup -name '*gear-oci-killed*'", shell=True, capture_output=True).stdout
    assert found == b"", (point, found)
print("removed")
"""
    oci.write("/root/killer.py", script.encode())
    before = oci.mount_table()
    assert oci.out("/usr/bin/python3", "/root/killer.py") == "removed"
    # Processes that were not yet anybody's end by themselves, since their maker has.
    oci.wait(lambda: oci.sh("pgrep -f '[g]ear-oci create' || :") == "", "the end of what was begun")
    assert oci.mount_table() == before
