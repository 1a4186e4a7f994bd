"""Signed images in Debian's registry: signed by skopeo and by gear, judged by gear and by podman, which have to agree.

What a registry of strangers sends is tests/unit/test_signatures.py's matter, gpg's ways tests/unit/test_openpgp.py's.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gearhost import RELEASE, GearHost, demo_image, start_host  # noqa: E402
from keys import SigstoreKey  # noqa: E402

REGISTRY = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/plain}, delete: {enabled: true}}
http: {addr: "127.0.0.1:5000"}
"""
PLACES = "docker: {localhost:5000: {%s: 'file:///var/lib/sigs', use-sigstore-attachments: true}}\n"
# Debian 12 has skopeo and podman without sigstore; its name for the store of signatures is the older one.
SIGSTORE = RELEASE != "bookworm"
MAKE_KEYS = """
make() { gpg -q --batch --passphrase '' "$@"; }
cd /root/keys
for user in me other revoked; do make --quick-gen-key $user@example.org rsa2048 sign never; done
make --faked-system-time 20200101T000000! --quick-gen-key expired@example.org rsa2048 sign 30d
for user in me other revoked expired; do gpg --export $user@example.org >$user.gpg; done
"""
# gpg signs in the past only when it is told to, so this is done by hand, of what skopeo would sign.
SIGN_IN_THE_PAST = """
cd /root
name=localhost:5000/gpg-expired:1
skopeo inspect --raw --tls-verify=false docker://$name >manifest
digest=$(skopeo manifest-digest manifest)
printf '{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":' $name >payload
printf '"%s"},"type":"atomic container signature"},"optional":{}}' $digest >>payload
place=/var/lib/sigs/gpg-expired@sha256=${digest#sha256:}
mkdir -p $place
gpg -q --batch --passphrase '' --faked-system-time 20200102T000000! -u expired@example.org \\
    -o $place/signature-1 --sign payload
"""
REVOKE = """
fingerprint=$(gpg --with-colons -k revoked@example.org | sed -n 's/^fpr:*\\([^:]*\\):/\\1/p')
sed 's/^:---/---/' ~/.gnupg/openpgp-revocs.d/$fingerprint.rev | gpg -q --import
gpg --export revoked@example.org >/root/keys/revoked.gpg
"""
# Of the image of the layout one more for another machine, and an index of both, called `both`.
MAKE_INDEX = """
import hashlib, json
top = "/root/hello/"
index = json.load(open(top + "index.json"))
read = lambda digest: open(top + "blobs/sha256/" + digest[7:], "rb").read()
def blob(document, kind):
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    open(top + "blobs/sha256/" + digest, "wb").write(data)
    return {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(data)}
(entry,) = index["manifests"]
manifest = json.loads(read(entry["digest"]))
config = json.loads(read(manifest["config"]["digest"]))
own = {**entry, "platform": {"os": "linux", "architecture": config["architecture"]}}
own.pop("annotations", None)
config["architecture"] = "s390x"
manifest["config"] = blob(config, "config.v1+json")
other = {**blob(manifest, "manifest.v1+json"), "platform": {"os": "linux", "architecture": "s390x"}}
both = blob({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [own, other]},
            "index.v1+json")
both["annotations"] = {"org.opencontainers.image.ref.name": "both"}
index["manifests"].append(both)
json.dump(index, open(top + "index.json", "w"))
"""


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GearHost]:
    """A host with a registry, images in it that are signed in several ways, and the keys in /root/keys."""
    machine = start_host(extra="registry")
    try:
        machine.sh(
            "systemctl disable --now -q docker-registry; mkdir -p /root/keys /etc/containers/registries.d"
        )
        machine.write("/root/plain.yml", REGISTRY.encode())
        start_registry(machine)
        machine.write(
            "/etc/containers/registries.d/local.yaml",
            (PLACES % ("lookaside" if SIGSTORE else "sigstore")).encode(),
        )
        machine.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
        machine.run("python3", "-c", MAKE_INDEX)
        machine.sh(MAKE_KEYS)
        machine.write("/root/keys/word", b"geheim\n")
        for name in ("team", "other"):
            key = SigstoreKey()
            machine.write(f"/root/keys/{name}.pub", key.public())
            machine.write(f"/root/keys/{name}.key", key.cosigns(b"geheim", cost=1 << 15), mode="600")
        sign_images(machine)
        yield machine
    finally:
        machine.host.stop()


def start_registry(machine: GearHost) -> None:
    machine.run("systemd-run", "-q", "--unit=plain", "docker-registry", "serve", "/root/plain.yml")
    machine.wait(lambda: bool(machine.out("ss", "-Hltn", "sport = :5000")), "the registry")


def push(machine: GearHost, target: str, *options: str, source: str = "hello") -> None:
    """Have skopeo push an image, and sign it as *options* say."""
    source, target = f"oci:/root/hello:{source}", f"docker://localhost:5000/{target}"
    machine.run("skopeo", "copy", "-q", "--dest-tls-verify=false", *options, source, target)


def sign_images(machine: GearHost) -> None:
    push(machine, "unsigned:1")
    for user in ("me", "other", "revoked"):
        push(machine, f"gpg-{user}:1", "--sign-by", f"{user}@example.org")
    push(machine, "gpg-both:1", "--sign-by", "other@example.org")
    both = "docker://localhost:5000/gpg-both:1"
    options = ("--src-tls-verify=false", "--dest-tls-verify=false", "--sign-by", "me@example.org")
    machine.run("skopeo", "copy", "-q", *options, both, both)
    # The same digest under another tag, which nobody has signed.
    push(machine, "gpg-me:2")
    push(machine, "index:1", "--all", "--sign-by", "me@example.org", source="both")
    push(machine, "list-only:1", "--all", source="both")
    push(machine, "gpg-expired:1")
    machine.sh(SIGN_IN_THE_PAST)
    machine.sh(REVOKE)
    for key in ("team", "other"):
        push(machine, f"key-{key}:1")
        name = f"localhost:5000/key-{key}:1"
        machine.gear("image", "pull", "-q", name)
        machine.gear(
            "image", "sign", name, "--key", f"/root/keys/{key}.key", "--passphrase-file", "/root/keys/word"
        )
    push(machine, "key-team:2")
    machine.sh("gear image rm localhost:5000/key-team:1 localhost:5000/key-other:1")


def gpg(*users: str, **more: Any) -> list[dict[str, Any]]:
    keys: dict[str, Any] = {"keyPath": f"/root/keys/{users[0]}.gpg"}
    return [{"type": "signedBy", "keyType": "GPGKeys", **keys, **more}]


def sigstore(name: str, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "sigstoreSigned", "keyPath": f"/root/keys/{name}.pub", **more}]


def identity(kind: str, **more: str) -> dict[str, Any]:
    return {"signedIdentity": {"type": kind, **more}}


REJECT = [{"type": "reject"}]
ANY = [{"type": "insecureAcceptAnything"}]
# As Debian's packages have it; skopeo does nothing without a policy.
TAKE_ALL = {"default": ANY}
# What holds for localhost:5000, an image, and whether it is taken.
CASES = [
    (ANY, "unsigned:1", True),
    (REJECT, "unsigned:1", False),
    (gpg("me"), "unsigned:1", False),
    (gpg("me"), "gpg-me:1", True),
    (gpg("me"), "gpg-me:2", False),
    (gpg("me", **identity("matchRepository")), "gpg-me:2", True),
    (gpg("me"), "gpg-other:1", False),
    (gpg("other"), "gpg-other:1", True),
    (gpg("me"), "gpg-both:1", True),
    (gpg("me") + gpg("other"), "gpg-both:1", True),
    (gpg("me") + gpg("other"), "gpg-me:1", False),
    (gpg("me") + REJECT, "gpg-me:1", False),
    (gpg("me") + ANY, "gpg-me:1", True),
    (gpg("expired"), "gpg-expired:1", False),
    (gpg("revoked"), "gpg-revoked:1", False),
    (gpg("me"), "index:1", True),
    (gpg("me"), "list-only:1", False),
    (gpg("me", **identity("matchExact")), "gpg-me:1", True),
    (gpg("me", **identity("exactRepository", dockerRepository="localhost:5000/gpg-me")), "gpg-me:2", True),
    (gpg("me", **identity("exactRepository", dockerRepository="localhost:5000/gpg-me")), "gpg-both:1", False),
    (gpg("me", **identity("exactReference", dockerReference="localhost:5000/gpg-me:1")), "gpg-me:2", True),
    (gpg("me", **identity("exactReference", dockerReference="localhost:5000/gpg-me:2")), "gpg-me:2", False),
    (
        gpg(
            "me",
            **identity(
                "remapIdentity", prefix="localhost:5000/gpg-both", signedPrefix="localhost:5000/gpg-me"
            ),
        ),
        "gpg-both:1",
        False,
    ),
    ([], "unsigned:1", False),
    ([{"type": "rejected"}], "unsigned:1", False),
    (gpg("missing"), "gpg-me:1", False),
]
if SIGSTORE:
    CASES += [
        (sigstore("team"), "key-team:1", True),
        (sigstore("team"), "key-team:2", False),
        (sigstore("team", **identity("matchRepository")), "key-team:2", True),
        (sigstore("team"), "key-other:1", False),
        (sigstore("other"), "key-other:1", True),
        (sigstore("team"), "unsigned:1", False),
        (sigstore("team") + gpg("me"), "key-team:1", False),
        (gpg("me"), "key-team:1", False),
    ]


@pytest.mark.parametrize(("rule", "image", "taken"), CASES)
def test_a_policy_means_to_gear_what_it_means_to_podman(
    signed: GearHost, rule: list[dict[str, Any]], image: str, taken: bool
) -> None:
    name = f"localhost:5000/{image}"
    document = {"default": REJECT, "transports": {"docker": {"localhost:5000": rule}}}
    with_policy(signed, document)
    podman = signed.run("podman", "pull", "-q", "--tls-verify=false", name, check=False)
    signed.run("podman", "rmi", "--all", "--force", check=False)
    store = ("--state-dir", "/var/lib/judged")
    gear = signed.run("gear", *store, "image", "pull", "-q", name, check=False)
    try:
        assert (podman.returncode == 0) is taken, podman.stderr.decode()
        assert (gear.returncode == 0) is taken, gear.stderr.decode()
        found = signed.sh(
            "cd /var/lib/judged/images 2>/dev/null && find . -type f ! -name lock || true"
        ).split()
        assert bool(found) is taken, "a refused image leaves nothing"
        if taken and rule != ANY:
            signed.run("systemctl", "stop", "plain")
            assert "signed by" in signed.gear(*store, "image", "verify", name)
            start_registry(signed)
    finally:
        signed.sh("rm -rf /var/lib/judged")
        with_policy(signed, TAKE_ALL)


def with_policy(machine: GearHost, document: Any) -> None:
    machine.write("/etc/containers/policy.json", json.dumps(document).encode())


def own_policy(machine: GearHost, text: str) -> None:
    machine.write("/etc/gear/policy.yaml", text.encode())


BOTH_KINDS = "{gpg: [/root/keys/me.gpg], sigstore: [/root/keys/team.pub]}"


def test_gears_own_policy(signed: GearHost) -> None:
    with_policy(signed, {"default": REJECT})
    own_policy(signed, f"default: reject\nscopes:\n  localhost:5000: {BOTH_KINDS}\n")
    for image in ("gpg-me:1", "key-team:1", "gpg-both:1"):
        assert signed.gear("image", "pull", "-q", f"localhost:5000/{image}").startswith("localhost:5000/")
        signed.gear("image", "rm", f"localhost:5000/{image}")
    before = signed.sh("find /var/lib/gear/images | sort")
    for image, reason in (
        ("unsigned:1", "there is no signature of it"),
        ("gpg-me:2", "it is for localhost:5000/gpg-me:1"),
        ("key-other:1", "it was made with another key"),
        ("gpg-other:1", "it was made with another key"),
    ):
        error = signed.fails(1, "image", "pull", "-q", f"localhost:5000/{image}")
        assert "is not signed as /etc/gear/policy.yaml: scopes.localhost:5000 wants it" in error
        assert reason in error
    assert "is refused by /etc/gear/policy.yaml: default" in signed.fails(1, "image", "pull", "quay.io/x")
    assert signed.sh("find /var/lib/gear/images | sort") == before
    signed.sh("rm /etc/gear/policy.yaml")
    with_policy(signed, TAKE_ALL)


def test_what_is_refused_is_neither_installed_nor_run(signed: GearHost) -> None:
    own_policy(signed, f"default: reject\nscopes:\n  localhost:5000: {BOTH_KINDS}\n")
    assert "not signed" in signed.fails(1, "install", "localhost:5000/unsigned:1", "refused")
    assert "not signed" in signed.fails(1, "run", "--rm", "localhost:5000/unsigned:1", "true")
    signed.gear("install", "localhost:5000/gpg-me:1", "taken")
    own_policy(signed, "default: reject\n")
    assert "is refused by" in signed.fails(
        1, "install", "--pull", "always", "localhost:5000/gpg-me:1", "taken"
    )
    verified = signed.run("gear", "image", "verify", "localhost:5000/gpg-me:1", check=False)
    assert verified.returncode == 1 and b"is refused by" in verified.stdout
    signed.gear("install", "localhost:5000/gpg-me:1", "taken")
    signed.gear("delete", "taken")
    own_policy(signed, "")
    assert "is empty" in signed.fails(2, "image", "pull", "localhost:5000/gpg-me:1")
    signed.sh("rm /etc/gear/policy.yaml; gear image rm localhost:5000/gpg-me:1")
    assert signed.leftovers() == []


def test_images_of_files(signed: GearHost) -> None:
    own_policy(signed, "default: reject\n")
    error = signed.fails(1, "image", "load", "/root/hello", "--name", "from-file")
    assert "docker.io/library/from-file:latest is refused" in error and "`load: accept`" in error
    own_policy(signed, "default: reject\nload: accept\n")
    signed.gear("image", "load", "/root/hello", "--name", "from-file")
    signed.sh("rm /etc/gear/policy.yaml; gear image rm from-file")


def test_what_is_saved_is_taken_by_a_host_with_the_same_policy(signed: GearHost) -> None:
    elsewhere, places = ("--state-dir", "/var/lib/gear-elsewhere"), "/etc/containers/registries.d"
    own_policy(signed, f"default: reject\nscopes:\n  localhost:5000: {BOTH_KINDS}\n")
    for name in ("localhost:5000/gpg-me:1", "localhost:5000/key-team:1", "localhost:5000/index:1"):
        signed.gear("image", "pull", "-q", name)
        (told,) = json.loads(signed.gear("image", "inspect", name))
        assert told["signatures"] and len(told["signers"]) == 1, told
        signed.gear("image", "save", name, "-o", "/root/signed.tar")
        # This host's own places of signatures are none of the other's.
        signed.sh(f"mv {places} /root/places")
        signed.gear(*elsewhere, "image", "load", "/root/signed.tar")
        assert b"signed by" in signed.run("gear", *elsewhere, "image", "verify", name).stdout
        signed.gear(*elsewhere, "fsck")
        # Another name, for which nothing is signed.
        error = signed.fails(
            1, *elsewhere, "image", "load", "/root/signed.tar", "--name", "localhost:5000/new:1"
        )
        assert "it is for" in error
        raw = signed.run("skopeo", "inspect", "--raw", f"oci-archive:/root/signed.tar:{name}").stdout
        assert hashlib.sha256(raw).hexdigest() == told["digest"].partition(":")[2]
        signed.sh("podman load -q -i /root/signed.tar && podman rmi -a -f")
        signed.gear("image", "rm", name)
        signed.sh(f"mv /root/places {places}")
        # What came without a policy has no signatures to go along.
        own_policy(signed, "default: accept\n")
        signed.gear("image", "pull", "-q", name)
        signed.gear("image", "save", name, "-o", "/root/signed.tar")
        signed.gear("image", "rm", name)
        own_policy(signed, f"default: reject\nscopes:\n  localhost:5000: {BOTH_KINDS}\n")
        signed.gear(*elsewhere, "image", "rm", name)
        signed.sh(f"mv {places} /root/places")
        assert "no signature of it" in signed.fails(1, *elsewhere, "image", "load", "/root/signed.tar")
        signed.sh(f"mv /root/places {places}")
        assert json.loads(signed.gear(*elsewhere, "image", "list", "--output", "json")) == []
    signed.sh("rm -r /etc/gear/policy.yaml /var/lib/gear-elsewhere /root/signed.tar")


def test_push_signs_and_a_passphrase_is_asked_for(signed: GearHost) -> None:
    signed.gear("image", "load", "/root/hello", "--name", "localhost:5000/pushed:1")
    key = ("--sign-by", "/root/keys/team.key")
    error = signed.fails(2, "image", "push", "-q", "localhost:5000/pushed:1", *key)
    assert "no terminal to ask for it on" in error
    signed.write("/root/keys/wrong", b"falsch")
    wrong = ("--passphrase-file", "/root/keys/wrong")
    assert "passphrase is wrong" in signed.fails(
        2, "image", "push", "-q", "localhost:5000/pushed:1", *key, *wrong
    )
    seen = signed.typed([["Passphrase", "geheim\n"]], "image", "push", "-q", "localhost:5000/pushed:1", *key)
    assert "status 0" in seen and "geheim" not in seen
    signed.gear("image", "rm", "localhost:5000/pushed:1")
    own_policy(signed, "default: {sigstore: [/root/keys/team.pub]}\n")
    signed.gear("image", "pull", "-q", "localhost:5000/pushed:1")
    signed.sh("rm /etc/gear/policy.yaml; gear image rm localhost:5000/pushed:1")


if SIGSTORE:

    def test_skopeo_signs_with_a_key_of_sigstore(signed: GearHost) -> None:
        key = ("--sign-by-sigstore-private-key", "/root/keys/team.key")
        push(signed, "by-skopeo:1", *key, "--sign-passphrase-file", "/root/keys/word")
        own_policy(signed, "default: {sigstore: [/root/keys/team.pub]}\n")
        name = "localhost:5000/by-skopeo:1"
        signed.gear("image", "pull", "-q", name)
        signed.gear(
            "image", "sign", name, "--key", "/root/keys/other.key", "--passphrase-file", "/root/keys/word"
        )
        own_policy(signed, "default: {sigstore: [/root/keys/other.pub]}\n")
        assert "other.pub" in signed.gear("image", "verify", name)
        signed.sh(f"rm /etc/gear/policy.yaml; gear image rm {name}")
        document = {"default": sigstore("team") + sigstore("other")}
        with_policy(signed, document)
        signed.run("podman", "pull", "-q", "--tls-verify=false", name)
        signed.sh("podman rmi -a -f >/dev/null")
        with_policy(signed, TAKE_ALL)
