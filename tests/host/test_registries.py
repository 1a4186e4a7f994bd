"""Debian's registry on the loopback: pulling, pushing, logging in, resuming; skopeo is the witness."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gearhost import GearHost  # noqa: E402
from registryhost import copy, digest_of, make_image, raw, serve  # noqa: E402


@pytest.mark.parametrize("options", [(), ("--format=v2s2",), ("--dest-compress-format=zstd", "--format=oci")])
def test_what_skopeo_pushed_goes_through_gear_byte_for_byte(
    registry: GearHost, options: tuple[str, ...]
) -> None:
    name = f"localhost:5000/by-skopeo:{len(options)}{'z' if len(options) > 1 else ''}"
    copy(registry, "oci:/root/hello:hello", f"docker://{name}", *options)
    manifest = raw(registry, name)
    assert registry.gear("image", "pull", name) == f"{name} {digest_of(manifest)}\n"
    (there,) = registry.json("image", "pull", name)
    assert there == {"reference": name, "digest": digest_of(manifest), "changed": False}
    target = name.replace("by-skopeo", "by-gear")
    assert registry.gear("image", "push", name, target) == f"{target} {digest_of(manifest)}\n"
    assert raw(registry, target) == manifest
    copy(registry, f"docker://{target}", "dir:/root/copied", "--src-tls-verify=false")
    registry.gear("image", "rm", name)


def test_what_is_there_is_not_sent_again(registry: GearHost) -> None:
    registry.gear("image", "pull", "localhost:5000/hello:1")
    error = registry.run("gear", "image", "push", "localhost:5000/hello:1").stderr.decode()
    assert error.count("already there") == 2
    error = registry.run(
        "gear", "image", "push", "localhost:5000/hello:1", "localhost:5000/other/name"
    ).stderr.decode()
    assert "mounted" in error
    assert registry.gear("image", "search-tags", "localhost:5000/hello") == "localhost:5000/hello:1\n"


def test_a_registry_with_tls_and_a_password(registry: GearHost) -> None:
    options = ("--dest-creds=me:geheim",)
    copy(registry, "oci:/root/hello:hello", "docker://localhost:5443/hello:1", *options)
    name = "localhost:5443/hello:1"
    assert "can't be trusted" in registry.fails(1, "image", "pull", name)
    registry.write("/etc/gear/registries.yaml", b"registries: {localhost:5443: {ca: /root/tls/cert.pem}}\n")
    assert "hint: gear image login localhost:5443" in registry.fails(1, "image", "pull", name)
    login = ("gear", "image", "login", "localhost:5443", "--username", "me", "--password-stdin")
    assert registry.run(*login, input=b"falsch\n", check=False).returncode == 1
    assert "geheim" not in registry.run(*login, input=b"geheim\n").stdout.decode()
    assert registry.out("stat", "-c", "%a", "/root/.docker/config.json") == "600"
    assert registry.gear("image", "pull", name).startswith(name)
    registry.gear("image", "push", name, "localhost:5443/again:2")
    auth = ("--authfile=/root/.docker/config.json", "--tls-verify=false")
    assert registry.run("skopeo", "inspect", "--raw", *auth, "docker://localhost:5443/again:2").stdout == raw(
        registry, "localhost:5000/hello:1"
    )
    registry.gear("image", "logout", "localhost:5443")
    registry.fails(1, "image", "pull", "localhost:5443/again:2")
    registry.fails(1, "image", "logout", "localhost:5443")


def test_client_certificates_and_insecure_registries(registry: GearHost) -> None:
    name = "localhost:5444/hello:1"
    registry.write("/etc/gear/registries.yaml", b"registries: {localhost:5444: {insecure: true}}\n")
    assert "client certificate" in registry.fails(1, "image", "pull", name)
    more = b"certificate: /root/tls/cert.pem, key: /root/tls/key.pem"
    registry.write(
        "/etc/gear/registries.yaml", b"registries: {localhost:5444: {insecure: true, " + more + b"}}\n"
    )
    assert registry.gear("image", "pull", name).startswith(name)
    registry.run("rm", "/etc/gear/registries.yaml")
    registry.sh(
        "mkdir -p /etc/containers/certs.d/localhost:5444; cd /etc/containers/certs.d/localhost:5444\n"
        "cp /root/tls/cert.pem ca.crt; cp /root/tls/cert.pem client.cert; cp /root/tls/key.pem client.key"
    )
    assert registry.gear("image", "search-tags", "localhost:5444/hello") == f"{name}\n"


def test_bars_on_a_terminal(registry: GearHost) -> None:
    copy(registry, "oci:/root/hello:hello", "docker://localhost:5000/bars:1")
    seen = registry.typed([], "image", "pull", "localhost:5000/bars:1")
    assert "total" in seen and "/s" in seen and "[====" in seen and "status 0" in seen


def test_install_pulls_by_policy(registry: GearHost) -> None:
    copy(registry, "oci:/root/hello:hello", "docker://localhost:5000/policy:1")
    name = "localhost:5000/policy:1"
    assert "no image" in registry.fails(1, "install", "--pull", "never", name, "pulled")
    registry.gear("install", name, "pulled", "--start")
    assert json.loads(registry.gear("inspect", "pulled"))[0]["spec"]["image"]["reference"] == name
    registry.run("systemctl", "stop", "plain")
    registry.gear("install", "--pull", "newer", name, "pulled")
    registry.fails(1, "install", "--pull", "always", name, "pulled")
    serve(registry, "plain", 5000)
    registry.gear("install", "--pull", "always", name, "pulled")
    registry.gear("delete", "pulled")


# Stops the registry as soon as something of a layer is there, then ends gear without a chance to tidy up.
INTERRUPT = """
gear image pull -q localhost:5000/large:1 >/dev/null 2>&1 &
while :; do
    for file in /var/lib/gear/images/downloads/sha256/*; do
        [ "$(stat -c %s "$file" 2>/dev/null || echo 0)" -gt 1000000 ] && break 2
    done
done
systemctl kill -s STOP plain
kill -KILL $!
systemctl kill -s CONT plain
stat -c %s /var/lib/gear/images/downloads/sha256/*
"""


def test_sigkill_in_the_middle_and_the_next_pull_goes_on(registry: GearHost) -> None:
    make_image(registry, "large", *(f"{seed}:{80 << 20}" for seed in range(3)))
    sizes = [int(line) for line in registry.sh(INTERRUPT).split()]
    assert sizes and max(sizes) > 1_000_000
    assert "localhost:5000/large" not in registry.gear("image", "list")
    assert registry.gear("image", "pull", "localhost:5000/large:1").startswith(
        "localhost:5000/large:1 sha256:"
    )
    log = registry.out("journalctl", "-u", "plain", "-o", "cat")
    assert "http.response.status=206" in log, "nothing was taken up"
    assert registry.sh("ls /var/lib/gear/images/downloads/sha256") == ""
    assert registry.leftovers() == []


def test_two_pulls_and_a_removal_at_once(registry: GearHost) -> None:
    registry.sh("gear image rm localhost:5000/large:1 >/dev/null 2>&1; gear clean >/dev/null", check=False)
    done = registry.sh(
        "for i in 1 2; do gear image pull -q localhost:5000/large:1 & done; gear clean >/dev/null; wait\n"
        "gear image list --output json"
    )
    assert done.count("localhost:5000/large:1 sha256:") == 2
    rows = json.loads(done[done.index("[") :])
    assert [row["size"] for row in rows if row["reference"] == "localhost:5000/large:1"] == [240 << 20]
    assert registry.leftovers() == []
