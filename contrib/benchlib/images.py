"""What is measured of images: pulls from a registry on the same host, archives written and read."""

from __future__ import annotations

from registryhost import PLAIN, make_image, serve

from .peers import TOP
from .running import Run, Step

NAME = "localhost:5000/bench/real:1"
# Layers of a Debian tree, as images of services have them: libraries, and many small files.
PARTS = ("usr/lib/x86_64-linux-gnu", "usr/lib/python3*", "usr/share usr/lib/systemd")
MAKE_LAYERS = "cd /\n" + "\n".join(
    f"tar --exclude='*.pyc' -cf - {part} | gzip -1 >{TOP}/layer{number}.tar.gz"
    for number, part in enumerate(PARTS)
)


def moved(run: Run, wanted: tuple[str, ...] = ("pull", "save", "load"), *, rounds: int = 5) -> None:
    """Pull and unpack, save and load an image of three layers; stores are new in each round of pull and load."""
    host = run.host
    host.sh("mkdir -p /var/lib/plain")
    host.write("/root/plain.yml", PLAIN.encode())
    serve(host, "plain", 5000)
    run.script(MAKE_LAYERS)
    make_image(host, "bench/real", *(f"{TOP}/layer{number}.tar.gz" for number in range(len(PARTS))))
    host.sh(f"rm {TOP}/layer*.tar.gz")
    store, kept = f"{TOP}/store", f"{TOP}/kept"
    podman = ["podman", "--root", f"{store}/podman", "--runroot", "/run/bench-podman"]
    gear = ["gear", "--state-dir", f"{store}/gear"]
    tools: dict[str, dict[str, list[str]]] = {
        "podman": {
            "pull": [*podman, "pull", "-q", "--tls-verify=false", NAME],
            "save": [*podman, "save", "-q", "-o", f"{kept}/podman.tar", NAME],
            "load": [*podman, "load", "-q", "-i", f"{kept}/podman.tar"],
            "clear": ["rm", "-rf", f"{store}/podman"],
        },
        "gear": {
            "pull": [*gear, "image", "pull", NAME],
            "save": [*gear, "image", "save", NAME, "-o", f"{kept}/gear.tar"],
            "load": [*gear, "image", "load", f"{kept}/gear.tar"],
            "clear": ["rm", "-rf", f"{store}/gear"],
        },
        "docker": {
            "pull": ["docker", "pull", "-q", NAME],
            "save": ["docker", "save", "-o", f"{kept}/docker.tar", NAME],
            "load": ["docker", "load", "-q", "-i", f"{kept}/docker.tar"],
            "clear": ["sh", "-c", f"docker rmi -f {NAME} || :"],
        },
    }
    host.sh(f"mkdir -p {store} {kept}")
    if run.tool("podman"):
        # All load the same archive, whose layers are not compressed, as docker save's are not either.
        for commands in tools.values():
            commands["load"][-1] = f"{kept}/podman.tar"
    rounds = min(run.rounds, rounds)
    chosen = {name: commands for name, commands in tools.items() if run.tool(name)}
    for case in wanted:
        cases: dict[str, list[Step]] = {}
        for name, commands in chosen.items():
            fresh = "rm" if case == "save" else "clear"
            before = ["rm", "-f", f"{kept}/{name}.tar"] if fresh == "rm" else commands["clear"]
            # What docker takes is mostly dockerd's.
            timed: Step = {"argv": commands[case], "metric": case, "memory": name != "docker"}
            cases[name] = [{"argv": before}, timed]
        run.series("images", case, cases, rounds=rounds, warmup=1)
    for commands in chosen.values():
        host.run(*commands["clear"], check=False)
    host.sh(f"systemctl stop plain; rm -rf {store} {kept} /var/lib/plain")
