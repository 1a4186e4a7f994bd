"""How long a pull takes, beside podman's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gearhost import GearHost  # noqa: E402
from registryhost import make_image  # noqa: E402

MEASURE = """
import json, resource, subprocess, sys, time
began = time.monotonic()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds = time.monotonic() - began
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""


def test_a_pull_takes_no_longer_than_podmans(registry: GearHost) -> None:
    """The best of three each, of 300 MB of a Debian tree in three layers, into stores that are new."""
    registry.sh(
        "mkdir -p /root/tree; cd /root/tree; for part in lib bin share; do\n"
        "tar -C / -cf - usr/$part | gzip -1 >$part.tar.gz; done"
    )
    make_image(registry, "real", *(f"/root/tree/{part}.tar.gz" for part in ("lib", "bin", "share")))
    times: dict[str, list[float]] = {"gear": [], "podman": []}
    for number in range(3):
        registry.sh("rm -rf /var/speed; mkdir /var/speed; sync")
        podman = ("podman", "--root", f"/var/speed/p{number}", "--runroot", f"/run/speed{number}")
        for name, command in (
            ("podman", (*podman, "pull", "-q", "--tls-verify=false", "localhost:5000/real:1")),
            (
                "gear",
                ("gear", "--state-dir", f"/var/speed/g{number}", "image", "pull", "localhost:5000/real:1"),
            ),
        ):
            seconds, memory = json.loads(registry.out("python3", "-c", MEASURE, *command))
            times[name].append(seconds)
            assert name == "podman" or memory < 150, f"{memory} MiB"
    registry.sh("rm -rf /var/speed")
    print(f"pull: {min(times['gear']) / min(times['podman']):.2f} of podman's time by the best of three")
    assert min(times["gear"]) <= min(times["podman"]), times
