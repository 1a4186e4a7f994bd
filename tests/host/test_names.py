"""Names inside of containers: of each other, of hosts that were added, and what name servers know."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gearhost import GearHost, start_host
from nethost import ROOT, NetHost

# The addresses of each argument, or what went wrong.
LOOK = """
import socket, sys
for name in sys.argv[1:]:
    try:
        print(*sorted({item[4][0] for item in socket.getaddrinfo(name, None)}))
    except socket.gaierror as error:
        print(error.errno)
"""
# Looks the first argument up for as long as nothing comes in, and prints how often that failed.
WATCH = """
import select, socket, sys
print("ready", flush=True)
tries = lost = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    tries += 1
    try:
        lost += not socket.getaddrinfo(sys.argv[1], None)
    except socket.gaierror:
        lost += 1
print(tries, lost)
"""
# EAI_NONAME, EAI_AGAIN, EAI_NODATA of netdb.h.
UNKNOWN = ("-2", "-3", "-5")
SLEEP = ("--", "/usr/bin/python3", "-c", "import time; time.sleep(1e6)")


def prepare(host: GearHost) -> None:
    NetHost(host)
    host.write(
        f"{ROOT}/etc/host.conf", b"multi on\n"
    )  # as in images of Debian: both families, not the first line
    host.write(f"{ROOT}/look.py", LOOK.encode())
    host.write(f"{ROOT}/watch.py", WATCH.encode())


@pytest.fixture
def net(host: GearHost) -> Iterator[GearHost]:
    prepare(host)
    # Nobody outside is asked: there is none, and waiting for that takes long.
    host.write(f"{ROOT}/etc/nsswitch.conf", b"hosts: files\n")
    yield host
    host.sh(f"rm {ROOT}/etc/nsswitch.conf")
    assert host.leftovers() == []
    host.forget()


def put(host: GearHost, name: str, *options: str) -> None:
    """Install and start a container that sleeps."""
    host.gear("install", f"host:{ROOT}", name, "--start", *options, *SLEEP)


def look(host: GearHost, container: str, *names: str) -> list[str]:
    """What *container* finds for each name: addresses, or the number of an error."""
    return host.gear("exec", container, "/usr/bin/python3", "/look.py", *names).splitlines()


def addresses(host: GearHost, container: str) -> str:
    return " ".join(sorted(host.json("status", container)[0]["addresses"]))


def test_containers_find_each_other(net: GearHost) -> None:
    net.gear("network", "create", "names1")
    net.gear("network", "create", "names2", "--internal")
    put(net, "nx", "--net", "names1", "--network-alias", "shop", "--network-alias", "Shop.Internal")
    put(net, "ny", "--net", "names1:alias=only1", "--net", "names2:alias=only2", "--hostname", "why")
    put(net, "nz", "--net", "names2")
    four, six = addresses(net, "nx").split()
    assert look(net, "nx", "nx", "shop") == [f"{four} {six}"] * 2
    one, two = (
        " ".join(sorted((item["ip"], item["ip6"])))
        for item in net.json("inspect", "ny")[0]["spec"]["network"]["interfaces"]
    )
    # On each network its names there, and nothing of other networks.
    assert look(net, "nx", "ny", "only1") == [one, one]
    assert look(net, "nz", "ny", "only2") == [two, two]
    assert look(net, "ny", "nx", "shop.internal", "nz") == [f"{four} {six}"] * 2 + [addresses(net, "nz")]
    assert set(look(net, "nx", "nz", "only2", "why")) <= set(UNKNOWN)
    assert set(look(net, "nz", "nx", "shop", "only1")) <= set(UNKNOWN)
    assert sorted(look(net, "ny", "why")[0].split()) == sorted([*one.split(), *two.split()])
    # By name from one to the other.
    net.gear("exec", "-d", "nx", "/usr/bin/python3", "/answer.py", "nx", "t80")
    script = "import socket; print(socket.create_connection(('shop', 80)).recv(99).decode())"
    net.wait(
        lambda: net.run(
            "gear", "exec", "ny", "/usr/bin/python3", "-c", script, check=False
        ).stdout.startswith(b"nx "),
        "an answer",
    )


def test_running_containers_see_changes(net: GearHost) -> None:
    net.gear("network", "create", "names1")
    put(net, "nx", "--net", "names1")
    put(net, "own", "--net", "names1", "--add-host", "added:192.0.2.7")
    pids = net.pid("nx"), net.pid("own")

    def seen(*names: str) -> list[str]:
        found = look(net, "nx", *names)
        assert look(net, "own", *names) == found
        return ["unknown" if item in UNKNOWN else item for item in found]

    assert seen("late") == ["unknown"]
    put(net, "late", "--net", "names1", "--network-alias", "cache")
    where = addresses(net, "late")
    assert seen("late", "cache") == [where, where]
    put(net, "late", "--net", "names1", "--network-alias", "store")
    assert seen("late", "cache", "store") == [where, "unknown", where]
    net.gear("network", "create", "names3")
    net.gear("network", "disconnect", "names1", "late")
    assert seen("late", "store") == ["unknown", "unknown"]
    net.gear("network", "connect", "names1", "late", "--ip", "10.89.0.77", "--alias", "again")
    assert all("10.89.0.77" in item for item in seen("late", "again"))
    net.gear("delete", "late")
    assert seen("late", "again") == ["unknown", "unknown"]
    # An ad hoc container, which PID 1 removes when it has ended.
    net.gear("run", "-d", "--rm", "--name", "adhoc", "--net", "names1", f"host:{ROOT}", *SLEEP[1:])
    assert seen("adhoc") == [addresses(net, "adhoc")]
    net.gear("stop", "adhoc")
    net.wait(lambda: "adhoc" not in net.sh("ls /var/lib/gear/containers"), "its removal")
    net.wait(lambda: seen("adhoc") == ["unknown"], "its name to go")
    # Nobody was restarted, and nothing counts as changed.
    assert (net.pid("nx"), net.pid("own")) == pids
    for name in ("nx", "own"):
        (found,) = net.json("inspect", name)
        assert found["altered"] == []
        assert net.gear("plan", name) == f"{name}: nothing would change\n"
        assert net.json("status", name)[0]["restart_needed"] is False
    assert look(net, "own", "added", "nx") == ["192.0.2.7", addresses(net, "nx")]


def test_a_running_container_knows_names_of_networks_that_it_comes_to(net: GearHost) -> None:
    net.gear("network", "create", "names1")
    net.gear("network", "create", "names2")
    put(net, "first", "--net", "names1")
    put(net, "second", "--net", "names2")
    put(net, "mover", "--net", "names1")
    put(net, "hermit", "--net", "none", "--read-only")
    pids = net.pid("mover"), net.pid("hermit")
    one, two = addresses(net, "first"), addresses(net, "second")
    assert look(net, "mover", "first", "second")[0] == one
    net.gear("network", "connect", "names2", "mover")
    assert look(net, "mover", "first", "second") == [one, two]
    net.gear("network", "disconnect", "names1", "mover")
    assert look(net, "mover", "second", "first")[0] == two
    assert look(net, "mover", "first")[0] in UNKNOWN
    # From no network at all, with a root that it may not write to.
    assert look(net, "hermit", "second")[0] in UNKNOWN
    net.gear("network", "connect", "names2", "hermit", "--alias", "cave")
    assert look(net, "hermit", "second", "mover")[0] == two
    assert look(net, "second", "cave", "hermit") == [addresses(net, "hermit")] * 2
    net.gear("network", "disconnect", "names2", "mover")
    net.gear("network", "connect", "names1", "mover")
    assert look(net, "mover", "first")[0] == one
    assert (net.pid("mover"), net.pid("hermit")) == pids
    for name in ("mover", "hermit"):
        assert net.json("status", name)[0]["restart_needed"] is False


def test_a_container_that_has_no_place_for_names_is_told_and_connected(net: GearHost) -> None:
    net.gear("network", "create", "names1")
    script = (
        "import os, time; os.symlink('resolv.conf', '/etc/resolv.conf'); print('do' + 'ne'); time.sleep(1e6)"
    )
    command = ("/usr/bin/python3", "-u", "-c", script)
    net.gear("install", f"host:{ROOT}", "evil", "--net", "none", "--start", "--", *command)
    put(net, "good", "--net", "names1")
    net.wait(lambda: "done" in net.gear("logs", "evil"), "its link")
    error = net.fails(1, "network", "connect", "names1", "evil")
    assert "mount /etc/resolv.conf of evil" in error and "evil has it with its next start" in error
    assert (
        look(net, "evil", "good") == [addresses(net, "good")] and look(net, "good", "evil")[0] not in UNKNOWN
    )
    assert net.json("status", "evil")[0]["restart_needed"] is True
    # It keeps nobody from being mended.
    net.sh("ip link delete $(ip -br link show type veth | cut -d@ -f1 | head -n 1); nft flush ruleset")
    net.gear("network", "check", "--repair")
    assert look(net, "good", "evil")[0] not in UNKNOWN and net.gear("network", "check")


def test_names_are_found_while_others_come_and_go(net: GearHost) -> None:
    """Readers take no lock: whoever looks a name up in the middle of a change still finds it."""
    net.gear("network", "create", "names1")
    put(net, "nx", "--net", "names1")
    # More than one page, which readers get in pieces.
    for number in range(4):
        aliases = [f"--network-alias={'a' * 60}{number}-{part}" for part in range(8)]
        net.gear("install", f"host:{ROOT}", f"fill{number}", "--net", "names1", *aliases, *SLEEP)
    put(net, "ny", "--net", "names1")
    assert len(net.read("/var/lib/gear/networks/names1/hosts")) > 4096
    script = (
        "mkfifo /root/enough; gear exec -i nx /usr/bin/python3 /watch.py ny </root/enough >/root/watched &"
        " exec 3>/root/enough; until grep -q ready /root/watched; do :; done;"
        f" for n in 1 2 3 4 5 6; do gear install host:{ROOT} come$((n % 2)) --net names1 -- /x;"
        f" gear install host:{ROOT} fill2 --net names1 -- /x; gear delete come$((n % 2)); done;"
        " echo >&3; wait; cat /root/watched; rm /root/enough /root/watched"
    )
    tries, lost = net.sh(script).splitlines()[-1].split()
    assert int(tries) > 100 and lost == "0"


def test_names_survive_being_killed_anywhere(net: GearHost) -> None:
    """Whatever a kill has cut off is completed when the command is run again, or by `clean`."""
    net.gear("network", "create", "names1")
    for name, options in (("plain", ()), ("own", ("--hostname", "other"))):
        net.gear("install", f"host:{ROOT}", name, "--net", "names1", *options, *SLEEP)

    def known() -> list[set[str]]:
        texts = [
            net.sh(f"cat /var/lib/gear/{path}") for path in ("networks/names1/hosts", "containers/own/hosts")
        ]
        return [{line.rstrip() for line in text.splitlines() if line[0] != "#"} for text in texts]

    without = known()
    install = ("install", "hello", "kvictim", "--net", "names1", "--network-alias", "k")
    net.gear(*install)
    with_it = known()
    assert all(len(more - less) == 2 for more, less in zip(with_it, without, strict=True))
    net.gear("delete", "kvictim")
    assert known() == without
    steps, kills = net.steps(*install, most=14), 0
    net.gear("delete", "kvictim")
    for number, step in enumerate(steps):
        kills += net.killed(step, *install)
        net.gear(*(install if number % 2 else ("clean",)))
        if "kvictim" in net.gear("list-units", "--all", "--quiet"):
            assert known() == with_it, f"after a kill at step {step}"
            net.gear("clean")
            assert known() == with_it and net.leftovers() == []
        else:
            assert known() == without, f"after a kill at step {step}"
        net.gear("delete", "kvictim")
        assert known() == without
    assert kills > 6
    net.gear(*install)
    steps, kills = net.steps("delete", "kvictim"), 0
    net.gear(*install)
    for number, step in enumerate(steps):
        kills += net.killed(step, "delete", "kvictim")
        net.gear(*(("delete", "kvictim") if number % 2 else ("clean",)))
        if "kvictim" not in net.gear("list-units", "--all", "--quiet"):
            assert known() == without, f"after a kill at step {step}"
        net.gear(*install)
        assert known() == with_it
    assert kills > 3
    net.gear("clean")


def test_many_install_at_once_and_all_are_known(net: GearHost) -> None:
    net.gear("network", "create", "names1")
    put(net, "nx", "--net", "names1")
    net.sh("for n in $(seq 12); do gear install hello crowd$n --net names1 & done; wait")
    names = [f"crowd{number}" for number in range(1, 13)]
    assert look(net, "nx", *names) == [addresses(net, name) for name in names]


@pytest.mark.parametrize(
    ("status", "sentence", "arguments"),
    [
        (2, "--add-host does not go with --net host", ("--net", "host", "--add-host", "a:192.0.2.1")),
        (2, "--dns does not go with --net none", ("--net", "none", "--dns", "192.0.2.1")),
        (2, "--network-alias does not go with --net none", ("--net", "none", "--network-alias", "a")),
        (2, "'a' gives no name an address", ("--net", "default", "--add-host", "a")),
        (
            2,
            "'localhost' can't be the name of a container",
            ("--net", "default", "--network-alias", "localhost"),
        ),
        (2, "'nowhere' is no IP address", ("--net", "default", "--dns", "nowhere")),
        (
            2,
            "4 name servers are too many",
            ("--net", "default", *(f"--dns=192.0.2.{n}" for n in range(1, 5))),
        ),
    ],
)
def test_wrong_requests_of_names(
    net: GearHost, status: int, sentence: str, arguments: tuple[str, ...]
) -> None:
    assert sentence in net.fails(status, "install", "hello", "wrong", *arguments)
    assert net.gear("list-units", "--all", "--quiet") == ""


def test_names_that_others_have(net: GearHost) -> None:
    net.gear("install", "hello", "first", "--net", "default", "--network-alias", "taken")
    error = net.fails(2, "install", "hello", "taken", "--net", "default")
    assert "taken can't be on default: there first has the alias taken." in error
    error = net.fails(2, "install", "hello", "second", "--net", "default", "--network-alias", "first")
    assert "second can't be called first on default: a container has that name." in error


# ---- name servers


@pytest.fixture(scope="module")
def resolving() -> Iterator[GearHost]:
    """A host with systemd-resolved, dnsmasq, and another machine with a name server, which knows up.example."""
    machine = start_host(extra="resolver")
    try:
        prepare(machine)
        NetHost(machine).outside("upstream")
        machine.sh(
            "ip -n upstream route add default via 192.0.2.1; ip -n upstream -6 route add default via 2001:db8::1"
        )
        _dnsmasq(machine, "upstream", "--address=/up.example/192.0.2.77 --address=/up.example/2001:db8::77",
                 inside="ip netns exec upstream")  # fmt: skip
        yield machine
    finally:
        machine.host.stop()


def _dnsmasq(host: GearHost, unit: str, options: str, *, inside: str = "") -> None:
    """Run a name server that asks nobody."""
    host.sh(
        f"systemd-run -q --unit=dns-{unit} {inside} /usr/sbin/dnsmasq --keep-in-foreground --no-resolv --no-hosts"
        f" --conf-file=/dev/null --bind-interfaces --pid-file= --user=root {options}"
    )
    where = inside or ""
    host.wait(lambda: ":53 " in host.sh(f"{where} ss -lnu"), "a name server")


@pytest.fixture
def dns(resolving: GearHost) -> Iterator[GearHost]:
    yield resolving
    resolving.forget()
    resolving.sh(
        "systemctl stop dns-local 2>/dev/null || :; systemctl disable -q --now systemd-resolved; rm -f"
        " /etc/systemd/resolved.conf.d/test.conf /etc/resolv.conf; echo nameserver 192.0.2.9 >/etc/resolv.conf"
    )


UP = ["192.0.2.77 2001:db8::77"]


def test_name_servers_of_a_host_are_asked_and_followed(dns: GearHost) -> None:
    dns.sh("systemctl disable -q --now systemd-resolved; rm -f /etc/resolv.conf")
    dns.write("/etc/resolv.conf", b"nameserver 192.0.2.9\nsearch example\n")
    put(dns, "rx", "--net", "default")
    assert look(dns, "rx", "up.example", "up") == UP * 2
    assert set(look(dns, "rx", "nobody.invalid")) <= set(UNKNOWN)
    # The host's changes are taken over by the next start.
    dns.write("/etc/resolv.conf", b"nameserver 2001:db8::9\n")
    assert look(dns, "rx", "up") == UP
    dns.gear("restart", "rx")
    assert look(dns, "rx", "up.example") == UP
    assert set(look(dns, "rx", "up")) <= set(UNKNOWN)
    assert dns.gear("plan", "rx") == "rx: nothing would change\n"
    assert dns.json("inspect", "rx")[0]["altered"] == []
    # In the terminal as well.
    found = dns.gear(
        "run", "--rm", "--net", "default", f"host:{ROOT}", "/usr/bin/python3", "/look.py", "up.example"
    )
    assert found.split() == UP[0].split()


def test_systemd_resolved(dns: GearHost) -> None:
    dns.write(
        "/etc/systemd/resolved.conf.d/test.conf", b"[Resolve]\nDNS=192.0.2.9\nFallbackDNS=\nDNSSEC=no\n"
    )
    dns.sh("systemctl enable -q systemd-resolved; systemctl restart systemd-resolved")
    dns.sh(
        "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; grep -q 127.0.0.53 /etc/resolv.conf"
    )
    put(dns, "rx", "--net", "default")
    assert look(dns, "rx", "up.example") == UP
    assert b"127.0.0.53" not in dns.read("/var/lib/gear/containers/rx/resolv.conf")


def test_a_name_server_on_loopback(dns: GearHost) -> None:
    """It is asked at the host's address on the network, and where it is not there, the journal says so."""
    dns.sh("systemctl disable -q --now systemd-resolved; rm -f /etc/resolv.conf")
    dns.write("/etc/resolv.conf", b"nameserver 127.0.0.1\n")
    _dnsmasq(dns, "local", "--listen-address=127.0.0.1 --address=/here.example/192.0.2.78")
    put(dns, "rx", "--net", "default")
    assert set(look(dns, "rx", "here.example")) <= set(UNKNOWN)
    gateway = dns.sh("ip -4 -o address show gear-default | sed 's/.*inet \\([0-9.]*\\).*/\\1/'")
    said = dns.out("journalctl", "-u", "ctr-rx", "-o", "cat")
    assert f"let it listen on {gateway} too, or give the container another one (--dns)" in said
    dns.sh("systemctl stop dns-local")
    _dnsmasq(dns, "local", f"--listen-address=127.0.0.1,{gateway} --address=/here.example/192.0.2.78")
    dns.gear("restart", "rx")
    assert look(dns, "rx", "here.example") == ["192.0.2.78"]
    assert dns.out("journalctl", "-u", "ctr-rx", "-o", "cat").count("let it listen") == 1


def test_name_servers_that_are_asked_for(dns: GearHost) -> None:
    dns.sh("systemctl disable -q --now systemd-resolved; rm -f /etc/resolv.conf")
    dns.write("/etc/resolv.conf", b"nameserver 127.0.0.1\nsearch nowhere.invalid\n")
    put(dns, "rx", "--net", "default", "--dns", "192.0.2.9", "--dns-search", "example", "--dns-option", "ndots:2",
        "--add-host", "machine:host-gateway", "--add-host", "up.example:192.0.2.99")  # fmt: skip
    assert dns.sh("cat /var/lib/gear/containers/rx/resolv.conf").split("\n") == [
        "nameserver 192.0.2.9", "search example", "options ndots:2"
    ]  # fmt: skip
    # What was added counts more than what a name server says.
    assert look(dns, "rx", "up", "up.example") == [*UP, "192.0.2.99"]
    definition = dns.json_file("/var/lib/gear/networks/default/network.json")
    assert look(dns, "rx", "machine") == [" ".join(sorted(item["gateway"] for item in definition["subnets"]))]


def test_internal_networks_ask_nobody(dns: GearHost) -> None:
    dns.sh("systemctl disable -q --now systemd-resolved; rm -f /etc/resolv.conf")
    dns.write("/etc/resolv.conf", b"nameserver 192.0.2.9\n")
    dns.gear("network", "create", "inside", "--internal")
    put(dns, "rx", "--net", "inside")
    put(dns, "ry", "--net", "inside", "--dns", "10.1.2.3")
    assert b"nameserver" not in dns.read("/var/lib/gear/containers/rx/resolv.conf")
    assert dns.read("/var/lib/gear/containers/ry/resolv.conf") == b"nameserver 10.1.2.3\n"
    assert look(dns, "rx", "ry") == [addresses(dns, "ry")]
