"""A test host with Debian's registry on the loopback, without TLS and with it; skopeo is the witness."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gearhost import GearHost, demo_image, start_host

# bcrypt of `geheim`, which is all that this registry takes.
HTPASSWD = b"me:$2b$05$abcdefghijklmnopqrstuuVWu8RjbNovPZWAMRdd7iqaaG0mI53Uu\n"
PLAIN = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/plain}, delete: {enabled: true}}
http: {addr: "127.0.0.1:5000"}
"""
SAFE = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/safe}}
http: {addr: "127.0.0.1:5443", tls: {certificate: /root/tls/cert.pem, key: /root/tls/key.pem}}
auth: {htpasswd: {realm: r, path: /root/tls/htpasswd}}
"""
# Takes whoever has a certificate of the one authority that it knows, which here is its own.
MUTUAL = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/plain}}
http:
  addr: "127.0.0.1:5444"
  tls: {certificate: /root/tls/cert.pem, key: /root/tls/key.pem, clientcas: [/root/tls/cert.pem]}
"""
MAKE_CERTIFICATE = """
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout /root/tls/key.pem -out /root/tls/cert.pem \\
    -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
"""


@contextmanager
def registry_host(directory: Path) -> Iterator[GearHost]:
    """A host with registries on port 5000, on 5443 with TLS and a password, on 5444 with client certificates.

    The demo image is hello:1 of the first, and in /root/hello; *directory* is for making it.
    """
    machine = start_host(extra="registry")
    try:
        machine.sh(
            "systemctl disable --now -q docker-registry; mkdir -p /root/tls /var/lib/plain /var/lib/safe"
        )
        machine.write("/root/plain.yml", PLAIN.encode())
        machine.write("/root/safe.yml", SAFE.encode())
        machine.write("/root/tls/htpasswd", HTPASSWD)
        machine.sh(MAKE_CERTIFICATE)
        machine.write("/root/mutual.yml", MUTUAL.encode())
        for name, port in (("plain", 5000), ("safe", 5443), ("mutual", 5444)):
            serve(machine, name, port)
        machine.host.copy(demo_image(directory), "/root")
        copy(machine, "oci:/root/hello:hello", "docker://localhost:5000/hello:1")
        yield machine
    finally:
        machine.host.stop()


def serve(machine: GearHost, name: str, port: int) -> None:
    """Run a registry with the configuration /root/NAME.yml."""
    machine.run("systemd-run", "-q", f"--unit={name}", "docker-registry", "serve", f"/root/{name}.yml")
    machine.wait(lambda: listens(machine, port), f"the registry on port {port}")


def listens(machine: GearHost, port: int) -> bool:
    return bool(machine.out("ss", "-Hltn", f"sport = :{port}"))


def copy(machine: GearHost, source: str, target: str, *options: str) -> None:
    machine.run("skopeo", "copy", "-q", "--dest-tls-verify=false", *options, source, target)


def raw(machine: GearHost, reference: str) -> bytes:
    """The manifest that the registry has, byte for byte."""
    return machine.run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}").stdout


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


MAKE_LAYOUT = """
import gzip, hashlib, io, json, os, random, sys, tarfile
name, *sizes = sys.argv[1:]
out = f"/root/{name}/"
os.makedirs(out + "blobs/sha256", exist_ok=True)
def blob(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    open(out + "blobs/sha256/" + digest, "wb").write(data)
    return {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(data)}
layers, diffs = [], []
for word in sizes:
    if ":" not in word:
        data = open(word, "rb").read()
        layers.append(blob(data, "layer.v1.tar+gzip"))
        diffs.append("sha256:" + hashlib.sha256(gzip.decompress(data)).hexdigest())
        continue
    seed, size = (int(part) for part in word.split(":"))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        info = tarfile.TarInfo(f"file{seed}")
        info.size = size
        archive.addfile(info, io.BytesIO(random.Random(seed).randbytes(size)))
    layers.append(blob(raw.getvalue(), "layer.v1.tar"))
    diffs.append(layers[-1]["digest"])
config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}}
manifest = {"schemaVersion": 2, "config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": layers}
entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
entry["annotations"] = {"org.opencontainers.image.ref.name": "made"}
json.dump({"schemaVersion": 2, "manifests": [entry]}, open(out + "index.json", "w"))
open(out + "oci-layout", "w").write('{"imageLayoutVersion": "1.0.0"}')
"""


def make_image(machine: GearHost, name: str, *layers: str) -> None:
    """Have an image NAME:1 in the registry on port 5000, of gzipped archives (PATH) or of noise (SEED:BYTES)."""
    machine.run("python3", "-c", MAKE_LAYOUT, name, *layers)
    uncompressed = "--dest-oci-accept-uncompressed-layers"
    copy(machine, f"oci:/root/{name}:made", f"docker://localhost:5000/{name}:1", uncompressed)
    machine.run("rm", "-r", f"/root/{name}")
