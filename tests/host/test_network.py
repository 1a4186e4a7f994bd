"""Networks and published ports from the command line to the wire: made, planned, changed, refused, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from gearhost import GearHost

PAGE = "It works"
LINKS = "cd /var/lib/gear && find networks ports -type l -printf '%p %l\\n' | sort"

# Asks each port that is named for a page, all at once, until it answers; prints the pages in this order.
FETCH = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import ProxyHandler, build_opener

def fetch(port):
    deadline = time.monotonic() + 30
    while True:
        try:
            return opener.open(f"http://127.0.0.1:{port}/", timeout=30).read().decode().strip()
        except OSError as error:
            if time.monotonic() > deadline:
                return repr(error)

opener = build_opener(ProxyHandler({}))
with ThreadPoolExecutor(50) as pool:
    print("\\n".join(pool.map(fetch, sys.argv[1:])))
"""


@pytest.fixture
def net(host: GearHost) -> Iterator[GearHost]:
    """The host; containers and networks go with the test's end, and with them everything on the host."""
    yield host
    host.forget()
    assert (
        host.sh("nft list tables | grep gear || :; ip -o link show | grep -E 'gear-|ve[0-9a-f]{12}' || :")
        == ""
    )
    assert host.sh("cd /var/lib/gear && find networks ports -mindepth 1 2>/dev/null || :") == ""


def page(host: GearHost, url: str) -> bool:
    """Whether the demo image's page comes from *url*."""
    return PAGE in host.sh(f"curl -sS -g -m 5 '{url}' 2>&1 || :")


def address(host: GearHost, name: str, version: int = 4) -> str:
    """The first address of a container."""
    found = host.json("status", name)[0]["addresses"]
    return str(next(item for item in found if (":" in item) == (version == 6)))


def test_published_port_from_the_host_from_a_container_and_after_a_boot(net: GearHost) -> None:
    net.gear("install", "hello", "pweb", "-p", "8080:8080", "--start")
    net.gear("install", "hello", "pclient", "--net", "default", "--start")
    four, six = address(net, "pweb"), address(net, "pweb", 6)
    (gateway,) = (
        item["gateway"] for item in _definition(net, "default")["subnets"] if ":" in item["gateway"]
    )

    def works() -> None:
        for url in (
            "http://127.0.0.1:8080/",
            f"http://{four}:8080/",
            f"http://[{six}]:8080/",
            f"http://[{gateway}]:8080/",
        ):
            assert page(net, url), url
        for url in (f"http://{four}:8080/", f"http://[{six}]:8080/"):
            assert PAGE in net.gear("exec", "pclient", "wget", "-qO-", url)

    works()
    pid = net.pid("pweb")
    net.sh("systemctl restart gear-network@default")
    assert net.pid("pweb") == pid
    works()
    net.gear("stop", "pweb")
    assert not page(net, "http://127.0.0.1:8080/")
    net.gear("start", "pweb")
    net.sh("systemctl kill --signal KILL ctr-pweb")
    net.wait(lambda: net.pid("pweb") not in (0, pid), "a restart")
    net.wait(lambda: page(net, "http://127.0.0.1:8080/"), "the page")
    net.host.reboot()
    net.wait(lambda: page(net, "http://127.0.0.1:8080/"), "the page after a boot")
    assert (address(net, "pweb"), address(net, "pweb", 6)) == (four, six)
    works()


def _definition(host: GearHost, name: str) -> dict[str, list[dict[str, str]]]:
    document: dict[str, list[dict[str, str]]] = json.loads(host.gear("network", "inspect", name))[0][
        "definition"
    ]
    return document


def test_what_is_published_is_what_is_installed(net: GearHost) -> None:
    """Ports that are installed away are closed with the restart, those of another address are opened."""
    net.gear("install", "hello", "cweb", "-p", "8080:8080", "-p", "8081:8080", "--start")
    net.gear("install", "hello", "cweb", "-p", "127.0.0.1:8080:8080", "-p", "8082:8080")
    # Until then it runs with what it had, and nobody else gets that.
    assert page(net, "http://127.0.0.1:8081/")
    assert "cother can't have the port 8081/tcp: cweb has it." in net.fails(
        2, "install", "hello", "cother", "-p", "8081:80"
    )
    net.gear("restart", "cweb")
    assert [page(net, f"http://127.0.0.1:{port}/") for port in (8080, 8081, 8082)] == [True, False, True]
    assert "8081" in json.dumps(net.json("clean"))
    net.gear("install", "hello", "cother", "-p", "8081:8080")
    # Off all networks, it is reached by nobody from now on.
    net.gear("install", "hello", "cweb", "--net", "none")
    assert not page(net, "http://127.0.0.1:8082/")
    net.gear("restart", "cweb")
    net.gear("clean")
    assert net.json("status", "cweb")[0]["addresses"] == []
    assert "cweb" not in net.sh(LINKS)


def test_a_port_of_a_program_is_an_error_that_names_it(net: GearHost) -> None:
    net.sh("systemd-run --unit listener busybox httpd -f -p 20000")
    net.wait(lambda: "20000" in net.sh("ss -ltn"), "a listener")
    try:
        # One that is chosen is another one.
        net.gear("install", "hello", "lweb", "-p", "8080", "--start")
        assert net.json("status", "lweb")[0]["ports"] == ["20001:8080/tcp"]
        net.gear("install", "hello", "ltaken", "-p", "20000:8080")
        error = net.fails(1, "start", "ltaken")
        assert "publish port 20000/tcp: it is taken by busybox (pid " in error
    finally:
        net.sh("systemctl stop listener")
    net.gear("start", "ltaken")
    assert page(net, "http://127.0.0.1:20000/")


def test_installing_many_at_once(net: GearHost) -> None:
    script = "for n in $(seq 20); do gear install hello many$n -p 8080 -p 127.0.0.1::8080 & done; wait"
    net.sh(script)
    states = net.json("status", *[f"many{number}" for number in range(1, 21)])
    assert len({state["address"] for state in states}) == 20
    assert len({address for state in states for address in state["addresses"]}) == 40
    assert len({port for state in states for port in state["ports"]}) == 40
    assert len(net.sh(LINKS).splitlines()) == 80
    net.gear("start", *[state["name"] for state in states])
    ports = [state["ports"][0].partition(":")[0] for state in states]
    for port in ports:
        net.wait(lambda port=port: page(net, f"http://127.0.0.1:{port}/"), f"port {port}")  # type: ignore[misc]


def test_two_hundred_started_at_once_all_answer(net: GearHost) -> None:
    names = [f"xmany{number}" for number in range(200)]
    units = [f"ctr-{name}.service" for name in names]
    serve = ("--tmpfs", "/tmp", "--", "sh", "-c", "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp")
    for begin in range(0, 200, 50):
        net.gear("install", "hello", *names[begin : begin + 50], "-p", "8080", *serve)
    # One transaction of PID 1: none waits for another.
    net.run("systemctl", "start", *units)
    states = net.json("status", *names)
    assert {state["active_state"] for state in states} == {"active"}
    assert len({address for state in states for address in state["addresses"]}) == 400
    published = [state["ports"][0].partition(":")[0] for state in states]
    assert len(set(published)) == 200
    net.write("/root/fetch.py", FETCH.encode())
    assert net.out("python3", "/root/fetch.py", *published).splitlines() == names
    assert {state["restarts"] for state in net.json("status", *names)} == {0}
    net.run("systemctl", "stop", *units)
    # First of all what the helper has said, should anything be left.
    failed = net.sh("systemctl list-units --failed --plain --no-legend 'ctr-xmany*'")
    assert failed == "" and "gear:" not in net.sh("journalctl -b -u 'ctr-xmany*' -o cat")
    assert "elements" not in net.sh("nft list table inet gear-default")
    assert net.sh("ip -br link show type veth") == ""
    # Nobody holds their ports.
    assert set(net.sh("ss -Hatun | awk '{print $5}' | sed 's/.*://'").split()).isdisjoint(published)
    for begin in range(0, 200, 50):
        net.gear("delete", *names[begin : begin + 50])


def test_install_on_a_network_survives_being_killed_anywhere(net: GearHost) -> None:
    """The same command finishes it; and where nobody runs it again, clean frees everything."""
    command = ("install", "hello", "nvictim", "-p", "8080", "-p", "127.0.0.1:8081:8080")
    steps, kills = net.steps(*command, most=14), 0
    expected = net.sh(LINKS)
    files = "cat /var/lib/gear/containers/nvictim/*.json /var/lib/gear/networks/*/network.json"
    content = net.sh(files)
    for number, step in enumerate(steps):
        net.gear("delete", "nvictim")
        net.gear("network", "rm", "default")
        kills += net.killed(step, *command)
        if number % 2:
            if not net.gear("list-units", "--all", "--quiet"):
                net.gear("clean")
                assert "nvictim" not in net.sh(f"{LINKS}; ls uids")
            net.gear("delete", "nvictim")
            assert "nvictim" not in net.sh(LINKS)
        net.gear(*command)
        assert net.sh(LINKS) == expected, f"after a kill at step {step}"
        assert net.sh(files) == content
    net.gear("clean")
    assert net.sh(LINKS) == expected
    assert kills > 4 and kills >= len(steps) - 3, "the kills did not reach install"


FAILS = b"[Service]\nExecStartPre=/bin/sh -c 'echo no luck.; exit 1'\n"


def test_plan_and_change_of_a_network(net: GearHost) -> None:
    net.gear("network", "create", "plan1", "--subnet", "10.61.0.0/24")
    net.gear("install", "hello", "planned", "--net", "plan1", "-p", "8070:8080", "--start")
    pid = net.pid("planned")
    before = net.sh("cat /var/lib/gear/networks/plan1/network.json")
    wanted = ("plan1", "--subnet", "10.62.0.0/24", "--subnet", "fd62::/64", "--mtu", "1400")
    plan = net.gear("network", "plan", *wanted)
    assert '+      "subnet": "10.62.0.0/24"\n' in plan and "planned would be written anew" in plan
    assert net.sh("cat /var/lib/gear/networks/plan1/network.json") == before
    assert net.json("network", "plan", *wanted)["containers"] == ["planned"]
    answer = net.json("network", "create", *wanted)
    assert answer == {
        "name": "plan1",
        "action": "changed",
        "changes": ["subnets", "mtu"],
        "started": False,
        "containers": ["planned"],
        "restart_needed": ["planned"],
    }
    assert net.pid("planned") == pid
    assert "10.62.0.1/24" in net.sh("ip -o address show gear-plan1") and "10.61" not in net.sh(
        "ip -o address"
    )
    net.gear("restart", "planned")
    assert net.json("status", "planned")[0]["addresses"] == ["10.62.0.2", "fd62::2"]
    assert "mtu 1400" in net.inside("planned", "ip link show eth0")
    assert page(net, "http://127.0.0.1:8070/") and page(net, "http://[fd62::2]:8080/")
    assert net.gear("network", "create", *wanted) == "plan1 is as it was\n"
    assert net.gear("network", "plan", *wanted) == "plan1: nothing would change\n"
    assert net.show("gear-network@plan1", "NeedDaemonReload") == "no"
    # What can't be is refused whole, by plan as well.
    for verb in ("plan", "create"):
        error = net.fails(2, "network", verb, "plan1", "--internal")
        assert "planned can't publish the port 8070:8080/tcp: it is on internal networks only." in error
    assert net.gear("network", "plan", "plan1") == "plan1: nothing would change\n"
    # What is not given stays; a network that failed under its containers is made again, or it says why not.
    net.gear("network", "create", "plan1", "--no-isolate")
    answer = net.gear("network", "create", "plan1", "--mtu", "auto", "--no-ipv6")
    assert answer.startswith("plan1 is changed: subnets, mtu; it has 10.62.0.0/24 now; written anew: planned")
    (document,) = json.loads(net.gear("network", "inspect", "plan1"))
    assert (document["definition"]["isolate"], document["definition"]["mtu"]) == (False, None)
    net.write("/run/systemd/system/gear-network@plan1.service.d/fail.conf", FAILS)
    net.sh("systemctl daemon-reload")
    error = net.fails(1, "network", "create", "plan1", "--isolate")
    assert "plan1 is defined, and could not be made anew: no luck." in error
    net.sh("rm -r /run/systemd/system/gear-network@plan1.service.d; systemctl daemon-reload")
    answer = net.gear("network", "create", "plan1")
    assert answer == "plan1 is as it was; it had failed, and is up again\n"
    net.gear("restart", "planned")
    assert page(net, "http://127.0.0.1:8070/")


def test_change_of_a_network_survives_being_killed_anywhere(net: GearHost) -> None:
    net.gear("network", "create", "kill1", "--subnet", "10.63.0.0/24")
    net.gear("install", "hello", "kvictim", "--net", "kill1", "--start")
    subnets, kills = ("10.64.0.0/24", "10.63.0.0/24"), 0
    steps = net.steps("network", "create", "kill1", "--subnet", "10.64.0.0/24")
    for number, step in enumerate(steps, 1):
        subnet = subnets[number % 2]
        kills += net.killed(step, "network", "create", "kill1", "--subnet", subnet)
        net.gear("network", "create", "kill1", "--subnet", subnet)
        plan = net.gear("network", "plan", "kill1", "--subnet", subnet)
        assert plan == "kill1: nothing would change\n"
        prefix = subnet.removesuffix("0/24")
        assert net.json("status", "kvictim")[0]["address"] == f"{prefix}2"
        assert f"{prefix}1/24" in net.sh("ip -o address show gear-kill1")
        (document,) = json.loads(net.gear("network", "inspect", "kill1"))
        assert (document["up"], document["changed"], document["altered"]) == (True, False, [])
    net.gear("clean")
    assert kills > 4 and kills >= len(steps) - 3


def test_connecting_and_disconnecting(net: GearHost) -> None:
    net.gear("network", "create", "conn1", "--internal")
    net.gear("network", "create", "conn2")
    net.gear("install", "hello", "cdb", "--net", "conn1", "--start")
    net.gear("install", "hello", "cweb2", "--net", "conn2", "-p", "8071:8080", "--start")
    pid = net.pid("cweb2")
    out = net.gear("network", "connect", "conn1", "cweb2", "--mac", "02:0A:00:00:00:01")
    assert "cweb2 is connected to conn1" in out and "restart" not in out
    assert "02:0a:00:00:00:01" in net.inside("cweb2", "ip link show eth1")
    assert PAGE in net.gear("exec", "cweb2", "wget", "-qO-", f"http://{address(net, 'cdb')}:8080/")
    # The way out is that of the other network, and an internal one has none.
    assert "dev eth0" in net.inside("cweb2", "ip route show default")
    assert net.inside("cdb", "ip route show default; ip -6 route show default") == ""
    assert "cweb2 is on the network conn1 already." in net.fails(2, "network", "connect", "conn1", "cweb2")
    assert "in use by cdb, cweb2." in net.fails(1, "network", "rm", "conn1")
    assert "so it can't leave its last network" in (
        net.gear("network", "disconnect", "conn1", "cweb2")
        and net.fails(2, "network", "disconnect", "conn2", "cweb2")
    )
    assert net.pid("cweb2") == pid and "eth1" not in net.inside("cweb2", "ip link")
    net.gear("delete", "cdb")
    assert net.gear("network", "rm", "conn1") == "conn1 is removed\n"
    assert net.gear("network", "rm", "conn1") == "conn1 is no network, so nothing was removed\n"


def test_exposure(net: GearHost) -> None:
    net.gear("install", "hello", "eweb", "-p", "8072:8080", "-p", "[::1]:8073:8080/udp", "--start")
    net.gear("install", "hello", "ehost", "--net", "host")
    net.gear("install", "hello", "enone", "--net", "none")
    rows = net.json("ports")
    assert [(row["name"], row["mode"], row["external"], row["reach"], row["active"]) for row in rows] == [
        ("ehost", "host", None, "who reaches what it listens on", False),
        ("eweb", "nat", 8072, "everybody", True),
        ("eweb", "nat", 8073, "this host", True),
        ("eweb", "network", None, "containers of default, this host", True),
    ]
    assert net.json("ports", "enone") == []
    assert "There is no container nobody" in net.fails(1, "ports", "nobody")


def test_ad_hoc_containers_on_networks(net: GearHost) -> None:
    net.sh("systemd-run --unit adhoc gear run --rm --name ascope -p 8074:8080 hello")
    net.wait(lambda: page(net, "http://127.0.0.1:8074/"), "the page of a scope")
    net.gear("stop", "ascope")
    net.wait(lambda: net.gear("list-units", "--all", "--quiet") == "", "the end of a scope")
    assert "ascope" not in net.sh(f"nft list ruleset; {LINKS}")
    net.gear("run", "-d", "--rm", "--name", "aservice", "-p", "8074:8080", "hello")
    net.wait(lambda: page(net, "http://127.0.0.1:8074/"), "the page of a service")
    net.gear("stop", "aservice")
    net.wait(lambda: net.gear("list-units", "--all", "--quiet") == "", "the end of a service")
    assert "aservice" not in net.sh(f"nft list ruleset; {LINKS}")


@pytest.mark.parametrize(
    ("status", "sentence", "arguments"),
    [
        (1, "There is no network 'nowhere'.", ("install", "hello", "x", "--net", "nowhere")),
        (
            2,
            "--net host goes with no other network.",
            ("install", "hello", "x", "--net", "host", "--net", "default"),
        ),
        (
            2,
            "With --net host no port can be published in the mode nat.",
            ("install", "hello", "x", "--net", "host", "-p", "80"),
        ),
        (1, "there is no container y.", ("install", "hello", "x", "--net", "container:y")),
        (
            2,
            "With --net none a container has no links",
            ("install", "hello", "x", "--net", "none", "-n", "1:y:1"),
        ),
        (2, "'1:y' is no link.", ("install", "hello", "x", "-n", "1:y")),
        (1, "There is no container nobody.", ("link", "nobody")),
        (2, "No container is named.", ("link", "--rm")),
        (2, "--list goes with no other option.", ("link", "--list", "--rm")),
        (2, "passes on TCP only.", ("install", "hello", "x", "-p", "80:80/udp,socket")),
        (2, "(--ip): default gives those of ", ("install", "hello", "x", "--ip", "192.0.2.1")),
        (2, "can't name a network.", ("network", "create", "../x")),
        (2, "'host' can't name a network.", ("network", "create", "host")),
        (2, "'10.0.0.0' is no subnet", ("network", "create", "x", "--subnet", "10.0.0.0")),
        (2, "An MTU of 70000 can't work.", ("network", "create", "x", "--mtu", "70000")),
        (1, "There is no network 'nowhere'.", ("network", "inspect", "nowhere")),
        (1, "There is no container nobody.", ("network", "connect", "default", "nobody")),
    ],
)
def test_wrong_requests(net: GearHost, status: int, sentence: str, arguments: tuple[str, ...]) -> None:
    error = net.fails(status, *arguments)
    assert sentence in error and error.startswith("error: ") and error.count("error: ") == 1, error
    assert net.sh(LINKS) == ""


def published(host: GearHost, name: str) -> list[int]:
    """The ports of the host that lead to a container, by its specification."""
    ports = host.json_file(f"/var/lib/gear/containers/{name}/spec.json")["network"]["ports"]
    return [port["external"] for port in ports]


def test_a_clone_has_addresses_and_ports_of_its_own(net: GearHost) -> None:
    net.gear("install", "hello", "ptwin", "-p", "8090:8080", "--start")
    net.gear("clone", "--no-pause", "ptwin", "ptwin2")  # nested hosts can't freeze
    net.gear("start", "ptwin2")
    first, second = net.json("status", "ptwin")[0], net.json("status", "ptwin2")[0]
    assert set(first["addresses"]).isdisjoint(second["addresses"])
    mine, other = published(net, "ptwin"), published(net, "ptwin2")
    assert mine == [8090] and other != mine
    assert page(net, "http://127.0.0.1:8090/") and page(net, f"http://127.0.0.1:{other[0]}/")


def test_a_snapshot_comes_back_with_its_port_or_says_whose_that_is(net: GearHost) -> None:
    net.gear("install", "hello", "psnap", "-p", "8091:8080")
    net.gear("snapshot", "psnap", "before")
    net.gear("install", "hello", "psnap", "-p", "8092:8080")
    net.gear("install", "hello", "ptaker", "-p", "8091:8080")
    error = net.fails(2, "snapshot", "psnap", "--restore", "before")
    assert "psnap can't have the port 8091/tcp: ptaker has it." in error
    assert published(net, "psnap") == [8092]
    net.gear("delete", "ptaker")
    net.gear("snapshot", "psnap", "--restore", "before")
    assert published(net, "psnap") == [8091]
    assert net.sh("ls /var/lib/gear/ports") == "tcp-8091-"
    net.gear("start", "psnap")
    assert page(net, "http://127.0.0.1:8091/")


def test_fsck_knows_what_is_taken(net: GearHost) -> None:
    net.gear("install", "hello", "pchecked", "-p", "8093:8080")
    links = net.sh(LINKS)
    net.sh("rm /var/lib/gear/ports/tcp-8093- /var/lib/gear/networks/default/addresses/*")
    net.sh("echo '# changed' >> /usr/local/lib/systemd/system/gear-network@default.service")
    found = net.run("gear", "fsck", "--quick", check=False).stdout.decode()
    assert "tcp-8093- is missing" in found and "is not that of the network default" in found
    net.gear("fsck", "--quick", "--repair")
    assert net.sh(LINKS) == links
    net.gear("fsck", "--quick")
