"""gear-oci's mounts, namespaces, network devices and terminals on a host with systemd."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bundles import OCI, WAIT, bind, bundle, detached, facts, fails, mounted, namespaces, status
from gearhost import GearHost

pytestmark = pytest.mark.host


# ---- mounts


def test_mounts_propagate_as_they_are_told(oci: GearHost) -> None:
    oci.sh("mkdir -p /srv/volume && mount -t tmpfs -o size=1m volume /srv/volume && mount --make-rshared /srv/volume; "
           "mkdir -p /srv/volume/below /srv/volume/late")  # fmt: skip
    make = "mount -t tmpfs -o size=1m made /data/below && echo done"
    capable = {name: ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"] for name in ("bounding", "effective", "permitted")}

    def run(option: str) -> bool:
        """Whether what is mounted in the container is seen on the host."""
        place = bundle(oci, "volume", make)
        config = oci.json_file(f"{place}/config.json")
        config["mounts"].append(bind("/srv/volume", "/data", "rbind", option))
        config["process"]["capabilities"] = capable
        oci.write(f"{place}/config.json", json.dumps(config).encode())
        assert oci.out(OCI, "run", "--bundle", place, "volume") == "done"
        seen = "made" in oci.read("/proc/self/mounts").decode()
        if seen:
            oci.sh("umount /srv/volume/below")
        return seen

    assert run("rshared")
    assert not run("rslave")
    assert not run("rprivate")
    # What the host mounts later is seen by a slave, and not by a private mount.
    for option, seen in (("rslave", "late"), ("rprivate", "")):
        place = bundle(oci, "volume", WAIT)
        config = oci.json_file(f"{place}/config.json")
        config["mounts"].append(bind("/srv/volume", "/data", "rbind", option))
        oci.write(f"{place}/config.json", json.dumps(config).encode())
        detached(oci, "run", "--detach", "--bundle", place, "volume")
        oci.sh("mount -t tmpfs -o size=1m late /srv/volume/late")
        assert (
            oci.out(OCI, "exec", "volume", "sh", "-c", "grep -o ^late /proc/self/mounts || :").strip() == seen
        )
        oci.sh("umount /srv/volume/late")
        oci.run(OCI, "delete", "--force", "volume")
    oci.sh("umount /srv/volume")


@pytest.mark.parametrize(
    "kind", ["shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable"]
)
def test_the_roots_propagation(oci: GearHost, kind: str) -> None:
    show = "sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* [/] [^ ]* \\(.*\\)- .*/\\1/p' /proc/self/mountinfo"
    shown = mounted(oci, "propagation", show, linux={"rootfsPropagation": kind})
    words = {"shared": ["shared"], "slave": [], "private": [], "unbindable": ["unbindable"]}[
        kind.removeprefix("r") if kind[1:] in ("shared", "slave", "private") else kind
    ]
    assert [word.partition(":")[0] for word in shown.split()] == words
    assert not [line for line in oci.mount_table() if "propagation" in line]


def test_ids_of_a_mount_are_mapped(oci: GearHost) -> None:
    oci.sh("mkdir -p /var/ids; touch /var/ids/zero /var/ids/five; chown 5:6 /var/ids/five")
    maps = {
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 10}],
    }
    shown = mounted(
        oci,
        "mapped",
        "stat -c %u:%g /data/zero /data/five",
        bind("/var/ids", "/data", "bind", "idmap", **maps),
    )
    assert shown.split() == ["1000:2000", "1005:2006"]
    linux = {
        "namespaces": [*namespaces(), {"type": "user"}],
        "uidMappings": [{"containerID": 0, "hostID": 300000, "size": 1000}],
        "gidMappings": [{"containerID": 0, "hostID": 300000, "size": 1000}],
    }
    place = bundle(oci, "mapped", "stat -c %u:%g /data/zero /data/five; touch /data/new", linux=linux)
    config = oci.json_file(f"{place}/config.json")
    config["mounts"].append(bind("/var/ids", "/data", "bind", "idmap"))
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    oci.sh(f"chmod 755 /root; chown -h 300000:300000 {place}/rootfs")
    assert oci.out(OCI, "run", "--bundle", place, "mapped").split() == ["0:0", "5:6"]
    assert oci.out("stat", "-c", "%u:%g", "/var/ids/new") == "0:0"
    oci.sh(f"chmod 700 /root; rm -r /var/ids {place}")
    assert "neither a mapping nor a user namespace" in _refused(
        oci, mounts=[bind("/srv", "/data", "bind", "idmap")]
    )


def _refused(host: GearHost, *, mounts: list[dict[str, Any]] | None = None, **members: Any) -> str:
    place = bundle(host, "refused", "true", **members)
    config = host.json_file(f"{place}/config.json")
    config["mounts"] += mounts or []
    host.write(f"{place}/config.json", json.dumps(config).encode())
    error: str = fails(host, "create", "--bundle", place, "refused")
    assert "refused" not in host.out(OCI, "list", "--quiet")
    return error


def test_options_of_whole_trees(oci: GearHost) -> None:
    oci.sh(
        "mkdir -p /srv/tree; mount -t tmpfs outer /srv/tree; "
        "mkdir /srv/tree/inner; mount -t tmpfs inner /srv/tree/inner"
    )
    show = "grep ' /data' /proc/self/mounts | cut -d' ' -f4"
    outer, inner = mounted(
        oci, "tree", show, bind("/srv/tree", "/data", "rbind", "ro", "rnosuid", "rnoexec")
    ).split()
    oci.sh("umount -R /srv/tree")
    assert {"ro", "nosuid", "noexec"} <= set(outer.split(","))
    assert {"rw", "nosuid", "noexec"} <= set(inner.split(","))


def test_relative_paths_begin_at_the_bundle_and_at_the_root(oci: GearHost) -> None:
    place = bundle(oci, "relative", "cat /data/file")
    oci.write(f"{place}/beside/file", b"found\n")
    config = oci.json_file(f"{place}/config.json")
    config["mounts"].append(bind("beside", "data", "bind"))
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    assert oci.out(OCI, "run", "--bundle", place, "relative") == "found"


# ---- namespaces


def test_namespaces_are_joined_by_path_and_no_others(oci: GearHost) -> None:
    first = bundle(oci, "first", WAIT, linux={"namespaces": [*namespaces(), {"type": "time"}]})
    detached(oci, "run", "--detach", "--bundle", first, "first")
    pid = json.loads(oci.out(OCI, "state", "first"))["pid"]
    files = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "time": "time"}
    show = "for kind in pid net ipc uts cgroup time mnt; do readlink /proc/self/ns/$kind; done"
    theirs = dict(zip([*files, "mount"], oci.sh(show.replace("self", str(pid))).split(), strict=True))
    for kind, file in files.items():
        joined = namespaces(kind, **{kind: f"/proc/{pid}/ns/{file}"})
        place = bundle(oci, "second", show, linux={"namespaces": joined})
        ours = dict(
            zip([*files, "mount"], oci.out(OCI, "run", "--bundle", place, "second").split(), strict=True)
        )
        assert ours[kind] == theirs[kind] and ours["mount"] != theirs["mount"], kind
        wrong = {kind: f"/proc/{pid}/ns/{'ipc' if kind != 'ipc' else 'uts'}"}
        place = bundle(oci, "second", show, linux={"namespaces": namespaces(kind, **wrong)})
        assert f"that is no {kind} namespace" in fails(oci, "create", "--bundle", place, "second")
    place = bundle(oci, "second", show, linux={"namespaces": namespaces(uts="/etc/passwd")})
    assert "that is no uts namespace" in fails(oci, "create", "--bundle", place, "second")
    assert "No such file" in _refused(oci, linux={"namespaces": namespaces(uts="/run/nothing")})
    oci.run(OCI, "delete", "--force", "first")


# ---- network devices


def test_network_devices_move_with_their_addresses(oci: GearHost) -> None:
    oci.sh(
        "ip link add moved type veth peer name peer; ip addr add 192.0.2.7/24 dev moved; "
        "ip addr add 2001:db8::7/64 dev moved nodad; ip link set moved up; ip link set peer up; "
        "ip link add veth-a type veth peer name veth-b; ip link add stays type veth peer name other"
    )
    code = """
import subprocess
links = json.loads(subprocess.run(["/bin/ip", "-j", "addr"], capture_output=True).stdout)
found["links"] = {link["ifname"]: link["flags"] for link in links}
found["addresses"] = [f"{address['local']}/{address['prefixlen']}" for link in links if link["ifname"] == "eth0"
                      for address in link["addr_info"] if address["scope"] == "global"]
"""
    found = facts(oci, "network", code, linux={"netDevices": {"moved": {"name": "eth0"}, "veth-b": {}}})
    assert set(found["links"]) >= {"lo", "eth0", "veth-b"} and "stays" not in found["links"]
    assert "UP" in found["links"]["eth0"] and found["addresses"] == ["192.0.2.7/24", "2001:db8::7/64"]
    # A create that fails gives back what it has taken.
    error = _refused(oci, linux={"netDevices": {"stays": {"name": "mine"}, "nothing": {}}})
    assert "there is no network device nothing" in error
    oci.sh("ip link show stays")
    place = bundle(oci, "network", "true", hooks={"createRuntime": [{"path": "/bin/false"}]},
                   linux={"netDevices": {"stays": {"name": "mine%d"}}})  # fmt: skip
    fails(oci, "create", "--bundle", place, "network")
    oci.sh("ip link show stays >/dev/null; ip link del stays; ip link show veth-a 2>/dev/null || :")


# ---- terminals


def test_a_terminal_of_the_callers(oci: GearHost) -> None:
    script = "stty size; tty; trap 'echo caught; stty size; exit 5' INT; echo ready; sleep 1000 & wait; wait"
    place = bundle(oci, "typed", script)
    config = oci.json_file(f"{place}/config.json")
    config["process"]["terminal"] = True
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    for arguments in (
        ["run", "--bundle", place, "typed"],
        ["exec", "--tty", "outer", "/bin/sh", "-c", script],
    ):
        if arguments[0] == "exec":
            detached(oci, "run", "--detach", "--bundle", bundle(oci, "outer", WAIT), "outer")
        shown = oci.typed([["ready", "resize 44"], ["", "\x03"]], *arguments, program=OCI)
        words = shown.replace("\r", "").split("\n")
        assert words[:3] == ["33 77", "/dev/pts/0", "ready"], shown
        assert "caught" in shown and "44 77" in words and "status 5, steps left 0" in words
    oci.run(OCI, "delete", "--force", "outer")
    assert oci.out(OCI, "list", "--quiet") == ""


def test_a_terminal_for_a_socket(oci: GearHost) -> None:
    place = bundle(oci, "handed", "tty; stty size; read word; echo got $word; exit 6")
    config = oci.json_file(f"{place}/config.json")
    config["process"].update(terminal=True, consoleSize={"height": 20, "width": 30})
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    receiver = f"""
import array, os, socket, subprocess, sys, termios
directory = "/run/" + "long" * 30
os.makedirs(directory, exist_ok=True)
os.chdir(directory)
server = socket.socket(socket.AF_UNIX)
server.bind("socket")
server.listen(1)
create = ["{OCI}", "create", "--console-socket", directory + "/socket", "--bundle", "{place}", "handed"]
subprocess.run(create, check=True)
_, fds, _, _ = socket.recv_fds(server.accept()[0], 4096, 4)
subprocess.run(["{OCI}", "start", "handed"], check=True)
os.write(fds[0], b"word\\n")
seen = b""
while True:
    try:
        data = os.read(fds[0], 4096)
    except OSError:
        break
    seen += data
print(seen.decode())
"""
    oci.write("/root/receiver.py", receiver.encode())
    shown = oci.out("/usr/bin/python3", "/root/receiver.py").replace("\r", "").split("\n")
    assert {"/dev/pts/0", "20 30", "got word"} <= set(shown)
    oci.wait(lambda: status(oci, "handed") == "stopped", "the end")
    oci.run(OCI, "delete", "handed")


# ---- seccomp with a listener


def test_an_agent_answers_for_system_calls(oci: GearHost) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/agent.sock",
        "listenerMetadata": "mine",
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}],
    }
    code = "import socket\nsocket.sethostname('elsewhere')\nprint(socket.gethostname())"
    place = bundle(oci, "asked", "true", hostname="before", linux={"seccomp": profile})
    config = oci.json_file(f"{place}/config.json")
    config["process"]["args"] = ["/usr/bin/python3", "-ISc", code]
    oci.write(f"{place}/config.json", json.dumps(config).encode())
    agent = f"""
import ctypes, fcntl, json, os, socket, struct, subprocess
if os.path.exists("/run/agent.sock"):
    os.unlink("/run/agent.sock")
server = socket.socket(socket.AF_UNIX)
server.bind("/run/agent.sock")
server.listen(1)
payload = subprocess.Popen(["{OCI}", "run", "--bundle", "{place}", "asked"], stdout=subprocess.PIPE)
message, fds, _, _ = socket.recv_fds(server.accept()[0], 1 << 20, 4)
request = bytearray(80)
fcntl.ioctl(fds[0], 0xC0502100, request)
identity, pid = struct.unpack_from("QI", request)
fcntl.ioctl(fds[0], 0xC0182101, bytearray(struct.pack("QqiI", identity, 0, 0, 0)))
os.close(fds[0])
print(json.dumps({{"message": json.loads(message), "pid": pid, "shown": payload.communicate()[0].decode().strip()}}))
"""
    oci.write("/root/agent.py", agent.encode())
    told = json.loads(oci.out("/usr/bin/python3", "/root/agent.py"))
    # The agent said that it was done, and nothing was.
    assert told["shown"] == "before"
    message = told["message"]
    assert message["metadata"] == "mine" and message["fds"] == ["seccompFd"]
    assert message["state"]["id"] == "asked" and message["pid"] == message["state"]["pid"] == told["pid"]
    assert message["ociVersion"] == message["state"]["ociVersion"]
    oci.sh("rm -r /run/gear/oci/.cache")
