"""OCI bundles on a test host, and gear-oci on them: what the tests of the runtime share.

The bundles share the host's /usr, so a payload may be anything that is there.
"""

from __future__ import annotations

import json
from typing import Any

from gearhost import GearHost

OCI = "/opt/gear/contrib/gear-oci"
# Ends at SIGTERM, which a program without a handler would not hear as the first process.
WAIT = "trap 'exit 5' TERM; sleep 1000 & wait"


def bundle(host: GearHost, name: str, script: str, **members: Any) -> str:
    """A bundle whose root has the host's /usr; returns its directory."""
    place = f"/root/{name}"
    host.sh(
        f"mkdir -p {place}/rootfs/usr {place}/rootfs/etc; cd {place}/rootfs; "
        "ln -sfn usr/bin bin; ln -sfn usr/lib lib; ln -sfn usr/lib64 lib64"
    )
    host.sh(f"rm -f {place}/config.json; {OCI} spec --bundle {place}")
    config = json.loads(host.read(f"{place}/config.json"))
    config["process"].update(terminal=False, args=["/bin/sh", "-c", script])
    config["root"]["readonly"] = False
    config["mounts"].append(
        {"destination": "/usr", "source": "/usr", "type": "bind", "options": ["rbind", "ro"]}
    )
    # Controllers are read-only in a nested host; what needs them is tried in a virtual machine.
    del config["linux"]["resources"]
    config["linux"].update(members.pop("linux", {}))
    config.update(members)
    host.write(f"{place}/config.json", json.dumps(config).encode())
    return place


def detached(host: GearHost, *arguments: str) -> None:
    """Run gear-oci, whose container keeps the standard streams: none of the test's, which would wait for them."""
    host.sh(
        f"{OCI} {' '.join(arguments)} </dev/null >/run/oci.err 2>&1 || {{ cat /run/oci.err >&2; exit 1; }}"
    )


def status(host: GearHost, name: str) -> str:
    found: str = json.loads(host.out(OCI, "state", name))["status"]
    return found


def fails(host: GearHost, *arguments: str) -> str:
    done = host.run(OCI, *arguments, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr, done.stderr
    return done.stderr.decode()


def facts(host: GearHost, name: str, code: str, *, process: Any = None, **members: Any) -> Any:
    """What the Python *code* puts into `found` as the process of a container."""
    place = bundle(host, name, "", **members)
    config = host.json_file(f"{place}/config.json")
    program = f"import json, os\nfound = {{}}\n{code}\nprint(json.dumps(found))"
    config["process"].update({"args": ["/usr/bin/python3", "-ISc", program], **(process or {})})
    config["root"]["readonly"] = members.get("root", {}).get("readonly", False)
    host.write(f"{place}/config.json", json.dumps(config).encode())
    return json.loads(host.out(OCI, "run", "--bundle", place, name))


def namespaces(*left_out: str, **paths: str) -> list[dict[str, str]]:
    kinds = ("pid", "network", "ipc", "uts", "mount", "cgroup")
    made = [{"type": kind} for kind in kinds if kind not in left_out and kind not in paths]
    return [*made, *({"type": kind, "path": path} for kind, path in paths.items())]


def mounted(host: GearHost, name: str, script: str, *mounts: dict[str, Any], **members: Any) -> str:
    """What a shell script prints in a container with further mounts."""
    place = bundle(host, name, script, **members)
    config = host.json_file(f"{place}/config.json")
    config["mounts"] += mounts
    host.write(f"{place}/config.json", json.dumps(config).encode())
    return host.out(OCI, "run", "--bundle", place, name)


def bind(source: str, where: str, *options: str, **members: Any) -> dict[str, Any]:
    return {"destination": where, "source": source, "type": "bind", "options": list(options), **members}
