"""The ways to a registry, what it has besides plain images, and from one gear host to another: all with real parts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gearhost import GearHost  # noqa: E402
from registryhost import copy, digest_of, make_image, raw, serve  # noqa: E402

NAME_SERVER = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 53))
while True:
    sock.recv(4096)
"""


def test_a_name_server_that_never_answers(registry: GearHost) -> None:
    registry.run("systemd-run", "-q", "--unit=deaf", "python3", "-c", NAME_SERVER)
    registry.wait(lambda: registry.out("ss", "-Hlun", "sport = :53"), "the name server")
    kept = registry.sh("cat /etc/resolv.conf 2>/dev/null || :")
    registry.write("/etc/resolv.conf", b"nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    try:
        began = time.monotonic()
        error = registry.fails(1, "image", "pull", "--timeout", "1", "slow.test/x:1")
        took = time.monotonic() - began
    finally:
        registry.write("/etc/resolv.conf", kept.encode())
        registry.run("systemctl", "stop", "deaf")
    assert "The name slow.test could not be resolved within 1 seconds." in error
    assert "hint: The name servers of /etc/resolv.conf do not answer." in error
    assert took < 10, took


# An address that is not the loopback's by name, so that proxies count for it.
FAR = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/plain}}
http: {addr: "192.0.2.1:443", tls: {certificate: /root/tls/far.pem, key: /root/tls/far.key}}
"""
LOGIN = "me:geheim"
PROXY = """Port 8888
Listen 192.0.2.2
Allow 127.0.0.0/8
Allow 192.0.2.0/24
BasicAuth me geheim
ConnectPort 443
LogLevel Connect
"""
SET_UP = """
ip address add 192.0.2.1/32 dev lo
ip address add 192.0.2.2/32 dev lo
echo 192.0.2.1 registry.test >>/etc/hosts
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout /root/tls/far.key -out /root/tls/far.pem \\
    -subj /CN=registry.test -addext subjectAltName=DNS:registry.test 2>/dev/null
"""


@pytest.fixture
def far(registry: GearHost) -> Iterator[GearHost]:
    """The host, with a registry on registry.test and a proxy on 192.0.2.2:8888 that wants a password."""
    registry.write("/root/far.yml", FAR.encode())
    registry.write("/root/proxy.conf", PROXY.encode())
    registry.sh(SET_UP)
    serve(registry, "far", 443)
    registry.run("systemd-run", "-q", "--unit=proxy", "tinyproxy", "-d", "-c", "/root/proxy.conf")
    registry.wait(lambda: registry.out("ss", "-Hltn", "sport = :8888"), "the proxy")
    registry.write("/etc/gear/registries.yaml", b"registries: {registry.test: {ca: /root/tls/far.pem}}\n")
    try:
        yield registry
    finally:
        registry.sh(
            "systemctl stop proxy far; rm /etc/gear/registries.yaml; sed -i /registry.test/d /etc/hosts"
        )
        registry.sh("ip address del 192.0.2.1/32 dev lo; ip address del 192.0.2.2/32 dev lo")


def connections(machine: GearHost) -> int:
    """How often the proxy has connected somebody."""
    return machine.out("journalctl", "-u", "proxy", "-o", "cat").count("CONNECT registry.test:443")


def test_https_by_a_proxy_that_wants_a_password(far: GearHost) -> None:
    name = "registry.test/hello:1"
    env = {"https_proxy": f"http://{LOGIN}@192.0.2.2:8888"}
    assert far.gear("image", "pull", name, env=env).startswith(f"{name} sha256:")
    before = connections(far)
    assert before > 0
    error = far.fails(
        1,
        "image",
        "pull",
        name,
        env={"https_proxy": f"http://{LOGIN.replace('geheim', 'falsch')}@192.0.2.2:8888"},
    )
    assert "The proxy on the way to registry.test wants a name and a password (401)." in error
    assert "falsch" not in error
    assert "wants a name and a password (407)" in far.fails(
        1, "image", "pull", name, env={"HTTPS_PROXY": "192.0.2.2:8888"}
    )
    count = connections(far)
    far.gear("image", "pull", name, env={**env, "no_proxy": "example.com,.test"})
    assert connections(far) == count
    # What is wrong with the registry is not said of the proxy.
    far.run("rm", "/etc/gear/registries.yaml")
    assert "The certificate of registry.test can't be trusted" in far.fails(1, "image", "pull", name, env=env)
    far.run("touch", "/etc/gear/registries.yaml")
    error = far.fails(1, "image", "pull", name, env={"https_proxy": "http://192.0.2.2:1"})
    assert "The connection to 192.0.2.2:1 failed" in error


MAKE_INDEX = r"""
cd /root
cp -r hello multi
umoci config --image multi:hello --tag arm --architecture arm64 --config.label platform=arm
for tag in hello arm; do
    skopeo copy -q --dest-tls-verify=false oci:/root/multi:$tag docker://localhost:5000/multi:$tag
    skopeo inspect --raw --tls-verify=false docker://localhost:5000/multi:$tag >/root/$tag.json
done
python3 - >/root/index.json <<'END'
import hashlib, json
entries = []
for name, architecture in (("arm", "arm64"), ("hello", "amd64")):
    data = open(f"/root/{name}.json", "rb").read()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    kind = "application/vnd.oci.image.manifest.v1+json"
    platform = {"os": "linux", "architecture": architecture}
    entries.append({"mediaType": kind, "digest": digest, "size": len(data), "platform": platform})
kind = "application/vnd.oci.image.index.v1+json"
print(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}, indent=7))
END
put() {
    curl -sf -X PUT --data-binary @/root/index.json -H "Content-Type: application/vnd.oci.image.index.v1+json" \
        http://localhost:5000/v2/multi/manifests/$1
}
put 1
rm -r /root/multi
"""


@pytest.fixture(scope="module")
def index(registry: GearHost) -> str:
    """The digest of an index for amd64 and arm64, localhost:5000/multi:1."""
    registry.sh(MAKE_INDEX)
    return digest_of(raw(registry, "localhost:5000/multi:1"))


def test_all_platforms_there_and_back(registry: GearHost, index: str) -> None:
    name, target = "localhost:5000/multi:1", "localhost:5000/elsewhere/multi:2"
    assert "for one platform only" in (
        registry.gear("image", "pull", name) and registry.fails(1, "image", "push", "--all-platforms", name)
    )
    registry.gear("image", "pull", "--all-platforms", name)
    (shown,) = json.loads(registry.gear("image", "inspect", name))
    assert shown["index"] == index and shown["platforms"] == ["linux/amd64", "linux/arm64"]
    assert shown["architecture"] == "amd64"
    pushed = registry.json("image", "push", "--all-platforms", name, target)
    assert pushed == {"reference": target, "digest": index}
    assert raw(registry, target) == raw(registry, name)
    copy(registry, f"docker://{target}", "oci:/root/both:x", "--all", "--src-tls-verify=false")
    assert registry.sh("ls /root/both/blobs/sha256 | wc -l") == "6"
    # Without the registry: the other platform from what is here; the policy `newer` with one request.
    assert registry.gear("image", "pull", "--platform", "linux/arm64", name)
    registry.gear("image", "pull", name)
    before = requests(registry)
    registry.gear("install", "--pull", "newer", name, "multi")
    assert requests(registry)[len(before) :] == ["HEAD /v2/multi/manifests/1"]
    registry.gear("delete", "multi")
    registry.gear("image", "rm", name)
    registry.gear("clean")  # the image for the other platform has lost its name
    assert registry.sh("ls /var/lib/gear/images/indexes/sha256") == ""


def requests(machine: GearHost) -> list[str]:
    """What the registry on port 5000 was asked for manifests and blobs."""
    lines = machine.out("journalctl", "-u", "plain", "-o", "cat").splitlines()
    words = [line.split('"') for line in lines if line.startswith(("127.0.0.1 ", "::1 "))]
    return [line[1].rpartition(" ")[0] for line in words if "/manifests/" in line[1] or "/blobs/" in line[1]]


def test_referrers_by_tag_in_a_registry_without_the_api(registry: GearHost, index: str) -> None:
    name = "localhost:5000/multi:1"
    assert registry.json("image", "referrers", name) == {
        "image": f"localhost:5000/multi@{index}",
        "referrers": [],
    }
    registry.sh(
        'sed -i \'s/"platform"/"artifactType": "text\\/x", "platform"/\' /root/index.json\n'
        + MAKE_INDEX[MAKE_INDEX.index("put() {") : MAKE_INDEX.index("put 1")]
        + f"put {index.replace(':', '-')}"
    )
    found = registry.json("image", "referrers", "--type", "text/x", name)["referrers"]
    assert [one["artifactType"] for one in found] == ["text/x"] * 2
    assert "text/x" in registry.gear("image", "referrers", name)


def received(machine: GearHost) -> int:
    """Bytes that have come over the loopback."""
    return int(machine.out("cat", "/sys/class/net/lo/statistics/rx_bytes"))


def test_a_second_image_costs_its_own_layer_on_the_wire_and_on_disk(registry: GearHost) -> None:
    shared, own = "11:30000000", "12:1000000"
    make_image(registry, "first", shared)
    make_image(registry, "second", shared, own)

    def pull(name: str) -> tuple[int, int]:
        before, disk = (
            received(registry),
            int(registry.sh("mkdir -p /var/cost; du -sB1 /var/cost").split()[0]),
        )
        registry.gear("--state-dir", "/var/cost", "image", "pull", f"localhost:5000/{name}:1")
        return received(registry) - before, int(registry.sh("du -sB1 /var/cost").split()[0]) - disk

    wire, disk = pull("first")
    assert wire > 30_000_000 and 60_000_000 < disk < 62_000_000  # the blob, and what it unpacks to
    wire, disk = pull("second")
    assert 1_000_000 < wire < 1_100_000 and 2_000_000 < disk < 2_200_000
    registry.run("rm", "-r", "/var/cost")


# -- over ssh ----------------------------------------------------------------------------------------------------

SSH = """
mkdir -p -m 700 /root/.ssh /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
/usr/sbin/sshd -o ListenAddress=127.0.0.1 -o PidFile=/run/sshd.pid
ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null >/root/.ssh/known_hosts
"""
# Two stores on one machine are two hosts to gear.
OTHER = ("--remote-command", "gear --state-dir /var/lib/other")


@pytest.fixture(scope="module")
def ssh(registry: GearHost) -> Iterator[GearHost]:
    registry.sh(SSH)
    yield registry
    registry.sh("kill $(cat /run/sshd.pid); rm -r /root/.ssh /var/lib/other")


def sent(machine: GearHost, *arguments: str) -> list[str]:
    """The blobs that a copy sent, by the first digits of their digests."""
    done = machine.run("gear", "image", "copy", *OTHER, *arguments)
    return [line.split()[0] for line in done.stderr.decode().splitlines() if line.endswith(("sent", "done"))]


def test_copies_between_hosts_send_what_is_lacking(ssh: GearHost) -> None:
    make_image(ssh, "base", "21:3000000")
    make_image(ssh, "more", "21:3000000", "22:500000")
    names = ["localhost:5000/base:1", "localhost:5000/more:1"]
    ssh.gear("image", "pull", "-q", *names)
    assert len(sent(ssh, names[0], "127.0.0.1")) == 2
    assert len(sent(ssh, *names, "root@127.0.0.1")) == 2
    assert sent(ssh, *names, "127.0.0.1::") == []
    there = ssh.json("--state-dir", "/var/lib/other", "image", "list")
    here = [row for row in ssh.json("image", "list") if row["reference"] in names]
    assert there == here
    # And back again, into a store that lacks them: two layers; configs come as documents, without a line.
    ssh.gear("image", "rm", *names)
    assert len(sent(ssh, *(f"127.0.0.1::{name}" for name in names))) == 2
    assert [row for row in ssh.json("image", "list") if row["reference"] in names] == here
    copied = ssh.json("image", "copy", "-q", *OTHER, *(f"127.0.0.1::{name}" for name in names))
    assert [(one["reference"], one["changed"]) for one in copied] == [(name, False) for name in names]
    ssh.gear("image", "rm", *names)
    assert ssh.leftovers() == []


def test_a_copy_has_all_platforms_if_asked(ssh: GearHost, index: str) -> None:
    name = "localhost:5000/multi:1"
    ssh.gear("image", "pull", "-q", "--all-platforms", name)
    ssh.gear("image", "copy", "-q", "--all-platforms", *OTHER, name, "127.0.0.1")
    (shown,) = json.loads(ssh.gear("--state-dir", "/var/lib/other", "image", "inspect", name))
    assert shown["index"] == index and shown["platforms"] == ["linux/amd64", "linux/arm64"]
    ssh.gear("image", "rm", name)


def test_copies_that_fail_say_why(ssh: GearHost) -> None:
    ssh.gear("image", "pull", "-q", "localhost:5000/hello:1")
    name = "localhost:5000/hello:1"
    error = ssh.fails(1, "image", "copy", *OTHER, "127.0.0.1::nothing")
    assert "warning: 127.0.0.1: error: There is no image 'nothing' on this host." in error
    assert "error: gear on 127.0.0.1 ended with status 1 before all was done." in error
    error = ssh.fails(1, "image", "copy", "--remote-command", "nogear", name, "127.0.0.1")
    assert "There is no program nogear on 127.0.0.1." in error
    assert "ssh can't connect to ssh://127.0.0.1:99." in ssh.fails(
        1, "image", "copy", name, "ssh://127.0.0.1:99"
    )
    noisy = ("--remote-command", "echo Welcome; gear")
    assert "must print nothing" in ssh.fails(1, "image", "copy", *noisy, f"127.0.0.1::{name}")
    assert "must print nothing" in ssh.fails(1, "image", "copy", *noisy, name, "127.0.0.1")


def test_a_key_that_may_only_bring_images(ssh: GearHost) -> None:
    """restrict,command= in authorized_keys: whatever is asked for, gear image receive runs."""
    ssh.gear("image", "pull", "-q", "localhost:5000/hello:1")
    ssh.sh(
        "sed -i 's|^ssh|restrict,command=\"gear --state-dir /var/lib/other image receive -q\" ssh|' "
        "/root/.ssh/authorized_keys"
    )
    try:
        ssh.gear("image", "copy", "-q", "localhost:5000/hello:1", "127.0.0.1")
        assert "localhost:5000/hello:1" in ssh.gear("--state-dir", "/var/lib/other", "image", "list")
    finally:
        ssh.sh("cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys")


def test_a_copy_that_is_killed_goes_on(ssh: GearHost) -> None:
    make_image(ssh, "killed", "31:60000000")
    name = "localhost:5000/killed:1"
    ssh.gear("image", "pull", "-q", name)
    ssh.sh(
        f"gear image copy -q {OTHER[0]} '{OTHER[1]}' {name} 127.0.0.1 >/dev/null 2>&1 &\n"
        "file=/var/lib/other/images/downloads/sha256/*\n"
        'until [ "$(stat -c %s $file 2>/dev/null || echo 0)" -gt 1000000 ]; do :; done\n'
        "kill -KILL $!; wait $! || :"
    )
    ssh.wait(lambda: not ssh.sh("pgrep -f '[i]mage receive' || :"), "the other end to go")
    left = int(ssh.sh("stat -c %s /var/lib/other/images/downloads/sha256/*"))
    assert left > 1_000_000 and name not in ssh.gear("--state-dir", "/var/lib/other", "image", "list")
    before = received(ssh)
    ssh.gear("image", "copy", "-q", *OTHER, name, "127.0.0.1")
    # ssh adds some to each packet, and what came before is not sent again.
    assert received(ssh) - before < (60_000_000 - left) * 1.2 + 1_000_000
    ssh.gear("image", "rm", name)
