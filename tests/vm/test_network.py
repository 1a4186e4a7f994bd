"""Networks by the kernel that a release brings: nested hosts have that of the machine which runs the tests."""

from __future__ import annotations

from gearhost import GearHost


def answers(machine: GearHost, *urls: str) -> None:
    for url in urls:
        machine.wait(lambda url=url: b"It works" in machine.run("curl", "-gs", url, check=False).stdout, url)  # type: ignore[misc]


def test_containers_and_the_machine_reach_each_other(machine: GearHost) -> None:
    machine.gear("install", "hello", "db", "--start")
    machine.gear("install", "hello", "web", "-p", "8081:8080", "-n", "9000:db:8080", "--start")
    pids = machine.pid("db"), machine.pid("web")
    published = ("http://127.0.0.1:8081/", "http://[::1]:8081/")
    answers(machine, *published)
    for inside in ("http://db:8080/", "http://127.0.0.1:9000/"):
        assert "It works" in machine.gear("exec", "web", "wget", "-qO-", inside)
    # Rules that are gone come back with the network, and nobody is restarted.
    machine.sh("nft flush ruleset; systemctl restart gear-network@default")
    answers(machine, *published)
    assert (machine.pid("db"), machine.pid("web")) == pids
    machine.gear("delete", "db", "web")
    machine.gear("network", "rm", "default")
    assert machine.sh("nft list tables; ip -br link show type veth; ip -br link show type bridge") == ""
    assert machine.leftovers() == []
