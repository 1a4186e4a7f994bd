"""Which addresses a container may talk with: systemd filters them by BPF, which takes cgroup v2."""

from __future__ import annotations

from gearhost import GearHost

PAGE = "It works"


def ask(machine: GearHost, host: str, port: int, seconds: int) -> str:
    return machine.sh(f"curl -sS -m {seconds} http://{host}:{port}/ 2>&1 || :")


def test_addresses_are_filtered_for_payload_and_sockets(machine: GearHost) -> None:
    ports = ("-p", "8095:8080", "-p", "8096:8080,socket")
    ranges = ("--ip-deny", "any", "--ip-allow", "localhost,10.89.0.0/16,fd00::/8")
    machine.gear("install", "hello", "filtered", *ports, *ranges, "--start")
    machine.sh(
        "ip link add elsewhere type bridge; ip addr add 198.51.100.1/24 dev elsewhere; ip link set elsewhere up"
    )
    try:
        # Who comes from a loopback address is seen as the bridge; the proxy's clients are its socket's.
        for port in (8095, 8096):
            assert PAGE in ask(machine, "127.0.0.1", port, 100)
        assert PAGE in machine.gear("exec", "filtered", "wget", "-qO-", "http://127.0.0.1:8080/")
        # The host from another address: its packets are dropped.
        for port in (8095, 8096):
            assert "timed out" in ask(machine, "198.51.100.1", port, 10)
        assert "denied any" in machine.gear("ports", "filtered")
    finally:
        machine.sh("ip link del elsewhere")
        machine.gear("delete", "filtered")
        machine.gear("network", "rm", "default")
