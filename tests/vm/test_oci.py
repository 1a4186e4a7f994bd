"""gear-oci where control groups are of version 2 and the kernel is Debian's: what nested hosts can't show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bundles import OCI, WAIT, bundle, detached, facts, fails, namespaces
from gearhost import RELEASE, TOP, GearHost
from testhostlib import build_image

PROFILE = """
profile gear-test flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  signal,
  deny /etc/secret r,
}
"""


@pytest.fixture(scope="module")
def oci(machine: GearHost) -> GearHost:
    machine.sh("mkdir -p /opt/gear/contrib")
    machine.host.copy([TOP / "contrib" / "gear-oci"], "/opt/gear/contrib")
    return machine


def test_apparmor_confines_the_payload_and_what_joins(oci: GearHost) -> None:
    oci.write("/root/profile", PROFILE.encode())
    oci.sh("apparmor_parser --replace /root/profile")
    look = "cat /proc/self/attr/current; cat /etc/secret"
    place = bundle(oci, "confined", f"{look}; touch /seen; sleep 1000 & wait")
    config = oci.json_file(f"{place}/config.json")
    config["process"]["apparmorProfile"] = "gear-test"
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    oci.write(f"{place}/rootfs/etc/secret", b"secret\n")
    oci.sh(f"{OCI} run --detach --bundle {place} confined </dev/null >/run/confined 2>&1")
    oci.wait(lambda: "seen" in oci.sh(f"ls {place}/rootfs"), "the payload")
    shown = oci.read("/run/confined").decode()
    assert shown.startswith("gear-test (enforce)") and "Permission denied" in shown
    joined = oci.run(OCI, "exec", "confined", "/bin/sh", "-c", look, check=False)
    assert joined.stdout == b"gear-test (enforce)\n" and b"Permission denied" in joined.stderr
    oci.run(OCI, "delete", "--force", "confined")
    config["process"]["apparmorProfile"] = "no-such-profile"
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    assert "apparmorProfile no-such-profile" in fails(oci, "run", "--bundle", place, "confined")
    oci.sh("apparmor_parser --remove /root/profile")


def test_a_container_with_users_of_its_own_owns_its_control_group(oci: GearHost) -> None:
    code = """
own = "/sys/fs/cgroup"
found["owners"] = {name: os.stat(f"{own}/{name}").st_uid for name in ("", "cgroup.procs", "memory.max", "cgroup.kill")}
os.mkdir(f"{own}/mine")
open(f"{own}/mine/cgroup.procs", "w").write("0")
open(f"{own}/cgroup.subtree_control", "w").write("+pids")
found["group"] = open("/proc/self/cgroup").read().strip()
try:
    open(f"{own}/pids.max", "w").write("max")
except OSError as error:
    found["refused"] = error.errno
"""
    mapping = [{"containerID": 0, "hostID": 500000, "size": 65536}]
    linux = {
        "namespaces": [*namespaces(), {"type": "user"}],
        "uidMappings": mapping,
        "gidMappings": mapping,
        "resources": {"pids": {"limit": 30}},
    }
    oci.sh("chmod 755 /root; mkdir -p /root/owner/rootfs; chown 500000:500000 /root/owner/rootfs")
    writable = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid"]}
    found = facts(oci, "owner", code, linux=linux, mounts=writable_cgroup(oci, writable))
    assert found["owners"] == {"": 0, "cgroup.procs": 0, "memory.max": 65534, "cgroup.kill": 65534}
    assert found["group"] == "0::/mine" and found["refused"] == 13
    assert oci.sh("find /sys/fs/cgroup -name '*gear-oci-owner*'; chmod 700 /root") == ""


def writable_cgroup(host: GearHost, cgroup: Any) -> list[Any]:
    """The mounts of a bundle as `spec` makes them, with *cgroup* in the place of the read-only one."""
    mounts = host.json_file(f"{bundle(host, 'template', 'true')}/config.json")["mounts"]
    return [cgroup if mount["type"] == "cgroup" else mount for mount in mounts]


def test_memory_policy_and_scheduler(oci: GearHost) -> None:
    code = """
found["policy"] = open("/proc/self/numa_maps").readline().split()[1]
found["scheduler"] = [os.sched_getscheduler(0), os.sched_getparam(0).sched_priority]
"""
    process = {"scheduler": {"policy": "SCHED_FIFO", "priority": 7}}
    linux = {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}}
    found = facts(oci, "policy", code, process=process, linux=linux)
    assert found["policy"].startswith("bind") and found["policy"].endswith(":0")
    assert found["scheduler"] == [1, 7]


def test_device_rules_hold(oci: GearHost) -> None:
    code = """
for name, number in (("null", 0x103), ("first", 0x440), ("second", 0x441)):
    path = f"/dev/try-{name}"
    os.mknod(path, 0o20600, number)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
        found[name] = 0
    except OSError as error:
        found[name] = error.errno
"""
    process = {"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), ["CAP_MKNOD"])}
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 4, "minor": 64, "access": "r"},  # a serial line
    ]
    for manager in ("cgroupfs", "systemd"):
        path = "system.slice:oci:ruled" if manager == "systemd" else "/ruled"
        linux = {"resources": {"devices": rules}, "cgroupsPath": path}
        place = bundle(oci, "ruled", "true", linux=linux)
        config = oci.json_file(f"{place}/config.json")
        program = f"import json, os\nfound = {{}}\n{code}\nprint(json.dumps(found))"
        config["process"].update({"args": ["/usr/bin/python3", "-ISc", program], **process})
        oci.write(f"{place}/config.json", json.dumps(config).encode())
        shown = oci.out(OCI, "--cgroup-manager", manager, "run", "--bundle", place, "ruled")
        assert json.loads(shown) == {"null": 0, "first": 0, "second": 1}, manager


def test_buildah_builds_and_runs(oci: GearHost) -> None:
    oci.host.copy(build_image("busybox", release=RELEASE), "/root/rootfs.tar")
    oci.write("/root/build/Containerfile", b"FROM scratch\nADD rootfs.tar /\nRUN id -u >/made\nUSER 33\n"
              b"RUN --mount=type=tmpfs,target=/t touch /t/x && id -u\n")  # fmt: skip
    oci.sh("mv /root/rootfs.tar /root/build/")
    runtime = f"--runtime {OCI} --network none"
    assert "\n33\n" in oci.sh(f"buildah bud {runtime} -t built /root/build 2>&1")
    run = f"c=$(buildah from built); buildah run {runtime} --user 0 $c sh -c 'cat /made; exit 5' || echo $?"
    assert oci.sh(f"{run}; buildah rm $c >/dev/null; buildah rmi built >/dev/null").split() == ["0", "5"]
    assert oci.sh("ls /run/gear/oci") == ""


def test_a_service_is_told_that_its_container_is_ready(oci: GearHost) -> None:
    """systemd as the one who waits: Type=notify with gear-oci in its ExecStart=."""
    code = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.sendto(b'MAINPID=1\\nSTATUS=mine\\nREADY=1', os.environ['NOTIFY_SOCKET']); time.sleep(1000)"
    )
    place = bundle(oci, "ready", WAIT)
    config = oci.json_file(f"{place}/config.json")
    config["process"]["args"] = ["/usr/bin/python3", "-ISc", code]
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    oci.run("systemd-run", "--unit", "ready", "-p", "Type=notify", "-p", "NotifyAccess=all", OCI, "run",
            "--bundle", place, "ready")  # fmt: skip
    # systemd-run has returned, so the service has started; and nothing else of what the payload told has arrived.
    assert oci.show("ready.service", "ActiveState") == "active"
    assert oci.show("ready.service", "StatusText") == ""
    assert oci.show("ready.service", "MainPID") != "1"
    oci.run("systemctl", "stop", "ready")
    detached(oci, "delete", "--force", "ready")
