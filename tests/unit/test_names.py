"""Names of containers: hosts files that change under their readers, who is told what, resolv.conf."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rendering
from hypothesis import given
from hypothesis import strategies as st
from nets import define, machine, write

from gear import (
    allocation,
    attachment,
    bundle,
    composing,
    containers,
    files,
    hostsfile,
    inet,
    naming,
    neighbours,
)
from gear.errors import IntegrityError, UsageError
from gear.helper import resolver
from gear.model import Layout
from gear.naming import Naming
from gear.network import Interface, Network
from gear.oci import Identity
from gear.spec import Spec

# ---- hosts files

LINE = st.from_regex(rb"[0-9a-f.:]{3,20}\t[a-z]{1,40}( [a-z]{1,9})?", fullmatch=True)
LINES = st.lists(LINE, max_size=12, unique=True)


def readable(content: bytes) -> set[bytes]:
    """The lines that a resolver finds: it knows comments that begin anywhere."""
    found = {line.partition(b"#")[0].strip() for line in content.split(b"\n")}
    return found - {b""}


@given(st.lists(LINES, min_size=2, max_size=5))
def test_readers_of_hosts_see_whole_lines(states: list[list[bytes]]) -> None:
    """Whatever a file has been through, between any two writes there are lines of before and after, all of those
    that stay, and of a line that changes the old one or the new."""
    content = bytearray(b"".join(line + b"\n" for line in states[0]))
    for wanted in states[1:]:
        before = readable(bytes(content))
        assert before == hostsfile.active(bytes(content))
        places = {line: bytes(content).find(line) for line in before}
        for offset, data in hostsfile.edits(bytes(content), wanted):
            assert offset <= len(content)
            content[offset : offset + len(data)] = data
            now = readable(bytes(content))
            assert before & set(wanted) <= now <= before | set(wanted)
            # A line that is there is where it was: who reads the file in pieces misses none.
            assert all(content.find(line) == places[line] for line in before & now)
        assert readable(bytes(content)) == set(wanted)
        assert list(hostsfile.edits(bytes(content), wanted)) == []


def test_places_are_used_again() -> None:
    content = bytearray()
    for number in range(50):
        wanted = [f"10.0.0.{number}\tname{number}".encode()]
        for offset, data in hostsfile.edits(bytes(content), wanted):
            content[offset : offset + len(data)] = data
    assert content.count(b"\n") == 2


@given(st.binary(max_size=200), LINES)
def test_any_file_becomes_what_is_wanted(content: bytes, wanted: list[bytes]) -> None:
    made = bytearray(content)
    for offset, data in hostsfile.edits(content, wanted):
        made[offset : offset + len(data)] = data
    assert hostsfile.active(bytes(made)) == set(wanted)
    expected = b"".join(line + b"\n" for line in wanted)
    assert hostsfile.tidy(bytes(made), expected) == expected


def test_hosts_keep_their_inode(tmp_path: Path) -> None:
    where = tmp_path / "hosts"
    assert hostsfile.change(where, [b"a\tb"])
    number = where.stat().st_ino
    assert not hostsfile.change(where, [b"a\tb"])
    assert hostsfile.change(where, [b"c\td"])
    assert hostsfile.active(where.read_bytes()) == {b"c\td"} and where.stat().st_ino == number


# ---- who is told


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    found = machine(tmp_path, monkeypatch)
    write(found, define("one"))
    write(found, define("two", "10.2.0.0/24"))
    return found


class Machine:
    """Containers as far as names go: specification, addresses and hosts."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def put(self, name: str, *interfaces: Interface, fail: bool = False, **changes: Any) -> Spec:
        """Install a container; addresses are 10.N.0.X for network number N."""
        on = Network("bridge", interfaces) if interfaces else Network()
        spec = replace(rendering.make_spec(), name=name, network=on, **changes)
        neighbours.require_unambiguous(self.layout, spec)
        had = allocation.held(self.layout, name)
        allocation.take(self.layout, name, on)
        (self.layout.containers / name).mkdir(parents=True, exist_ok=True)
        hosts = composing.hosts(self.layout, spec, {})
        with neighbours.told(self.layout, name, spec):
            if fail:
                raise OSError(28, "No space left on device")
            containers.spec_path(self.layout, name).write_bytes(files.dump_json(spec.to_mapping()))
            if not bundle.shares_hosts(spec):
                hostsfile.change(hostsfile.own_path(self.layout, name), hosts.splitlines())
        allocation.give_back(had - allocation.wanted(self.layout, on))
        return spec

    def delete(self, name: str) -> None:
        with neighbours.told(self.layout, name, None):
            files.remove_tree(self.layout.containers / name)
        allocation.give_back(allocation.held(self.layout, name))

    def known(self, name: str) -> set[str]:
        """What *name* knows about others and itself: ADDRESS NAMES."""
        spec = containers.get(self.layout, name)
        shared = hostsfile.path(self.layout, spec.network.networks[0]) if bundle.shares_hosts(spec) else None
        content = (shared or hostsfile.own_path(self.layout, name)).read_bytes()
        return {line.decode() for line in hostsfile.active(content)} - {
            "127.0.0.1\tlocalhost",
            "::1\tlocalhost ip6-localhost ip6-loopback",
        }


@pytest.fixture
def host(layout: Layout) -> Machine:
    return Machine(layout)


def one(number: int, *aliases: str) -> Interface:
    return Interface("one", "eth0", f"10.89.0.{number}", None, f"02:00:00:00:01:{number:02x}", aliases)


def two(number: int, *aliases: str) -> Interface:
    return Interface("two", "eth1", f"10.2.0.{number}", None, f"02:00:00:00:02:{number:02x}", aliases)


def test_containers_know_those_on_their_networks_only(host: Machine) -> None:
    host.put("a", one(2, "db"))
    host.put("b", one(3), two(3))
    host.put("c", two(4), hostname="sea")
    host.put("d")
    assert host.known("a") == {"10.89.0.2\ta db", "10.89.0.3\tb"}
    assert host.known("b") == {"10.89.0.3\tb", "10.2.0.3\tb", "10.89.0.2\ta db", "10.2.0.4\tc"}
    assert host.known("c") == {"10.2.0.4\tsea c", "10.2.0.3\tb"}
    assert host.known("d") == {"127.0.1.1\td"}
    # Other aliases, another address, off a network, gone.
    host.put("a", one(9, "cache"))
    assert host.known("b") == {"10.89.0.3\tb", "10.2.0.3\tb", "10.89.0.9\ta cache", "10.2.0.4\tc"}
    host.put("b", one(3))
    assert host.known("c") == {"10.2.0.4\tsea c"} and "10.89.0.3\tb" in host.known("a")
    host.delete("a")
    assert host.known("b") == {"10.89.0.3\tb"}
    assert hostsfile.find(host.layout, "one") == {"10.89.0.3": ("b",)}
    assert neighbours.untold(host.layout) == []


def test_who_can_not_be_read_keeps_the_names_that_were_told(host: Machine) -> None:
    """A container runs on when its specification is damaged, and is called by its name."""
    host.put("a", one(2, "db"))
    host.put("b", one(3), two(3))
    containers.spec_path(host.layout, "a").write_bytes(b"{")
    assert neighbours.untold(host.layout) == []
    (hostsfile.path(host.layout, "one").parent / "telling").touch()
    assert neighbours.untold(host.layout) == ["one"]
    neighbours.tell(host.layout, "one")
    assert neighbours.untold(host.layout) == [] and "10.89.0.2\ta db" in host.known("b")
    # But an address that somebody else has is his.
    allocation.give_back(allocation.held(host.layout, "a"))
    host.put("c", one(2))
    assert composing.names_asked_for(host.layout, "one")["10.89.0.2"] == ("c",)


def test_aliases_may_be_shared_and_names_not(host: Machine) -> None:
    host.put("a", one(2, "web"))
    host.put("b", one(3, "web"))
    with pytest.raises(UsageError, match=r"^c can't be called a on one: a container has that name\.$"):
        host.put("c", one(4, "a"))
    with pytest.raises(UsageError, match=r"^web can't be on one: there a has the alias web\.$"):
        host.put("web", one(4))
    with pytest.raises(UsageError, match=r"^A container called localhost can't be on a network"):
        host.put("localhost", one(4))
    host.put("web", two(4, "a"))
    host.put("localhost")


def test_names_of_hosts_ignore_case(host: Machine) -> None:
    host.put("web", one(2))
    with pytest.raises(
        UsageError, match=r"^Web can't be on one: there is web, and names of hosts ignore case\.$"
    ):
        host.put("Web", one(3))
    host.put("Web", two(3))
    host.put("web", one(4))


def test_a_mac_address_is_given_once(host: Machine) -> None:
    host.put("a", one(2))
    same = replace(one(3), mac=one(2).mac)
    with pytest.raises(UsageError, match=r"^b can't have the address 02:00:00:00:01:02 of one: a has it\.$"):
        host.put("b", same)
    host.put("b", replace(two(3), mac=one(2).mac))
    host.put("a", replace(one(2), ip="10.89.0.9"))


def test_a_failure_is_taken_back(host: Machine) -> None:
    host.put("a", one(2))
    with pytest.raises(OSError, match="No space"):
        host.put("b", one(3), fail=True)
    assert host.known("a") == {"10.89.0.2\ta"}
    assert hostsfile.find(host.layout, "one") == {"10.89.0.2": ("a",)}


@pytest.mark.parametrize("repair", ["install", "delete", "clean"])
def test_what_was_cut_off_is_completed(host: Machine, monkeypatch: pytest.MonkeyPatch, repair: str) -> None:
    """SIGKILL after a specification has changed: nobody was told, and `names` is not there."""
    host.put("a", one(2))
    host.put("b", one(3), two(3))
    with monkeypatch.context() as patch:
        patch.setattr(neighbours, "_tell", lambda *_: None)
        host.put("c", one(4), two(4))
    assert "10.89.0.4\tc" not in host.known("a")
    assert neighbours.untold(host.layout) == ["one", "two"]
    if repair == "clean":
        for name in neighbours.untold(host.layout):
            neighbours.tell(host.layout, name)
    elif repair == "install":
        host.put("e", one(5), two(5))
    else:
        host.put("e", one(5), two(5))
        host.delete("e")
    assert neighbours.untold(host.layout) == []
    assert "10.89.0.4\tc" in host.known("a") and {"10.89.0.4\tc", "10.2.0.4\tc"} <= host.known("b")


def test_damaged_names_are_none(host: Machine) -> None:
    host.put("a", one(2))
    hostsfile.path(host.layout, "one").write_bytes(b"\xff\xfe\n10.89.0.2\n")
    assert hostsfile.find(host.layout, "one") is None
    assert composing.names_on(host.layout, "one") == {"10.89.0.2": ("a",)}
    host.put("b", one(3))
    assert host.known("a") == {"10.89.0.2\ta", "10.89.0.3\tb"}


def test_names_that_nobody_asked_for_are_found(host: Machine) -> None:
    host.put("a", one(2))
    assert neighbours.untold(host.layout) == []
    with hostsfile.path(host.layout, "one").open("a") as file:
        file.write("10.89.0.66\tstranger\n")
    assert neighbours.untold(host.layout) == ["one"]
    neighbours.tell(host.layout, "one")
    assert host.known("a") == {"10.89.0.2\ta"} and neighbours.untold(host.layout) == []


def test_one_more_reads_no_specification_and_writes_one_file(
    host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2, 12):
        host.put(f"c{number}", one(number))
    host.put("own", one(12), hostname="else")
    changed: list[Path] = []
    change = hostsfile.change

    def noted(path: Path, lines: list[bytes], *, durable: bool = True) -> bool:
        changed.append(path)
        return change(path, lines, durable=durable)

    monkeypatch.setattr(hostsfile, "change", noted)
    with monkeypatch.context() as patch:
        patch.setattr(containers, "find", lambda *_: pytest.fail("a specification was read"))
        host.put("more", replace(one(20), mac=attachment.mac_address("more", "one")))
    assert changed == [hostsfile.path(host.layout, "one"), hostsfile.own_path(host.layout, "own")]
    assert all("10.89.0.20\tmore" in host.known(name) for name in ("c2", "c11", "own"))


# ---- what is asked for


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example:192.0.2.1", ("a.example", "192.0.2.1")),
        ("a:2001:DB8::1", ("a", "2001:db8::1")),
        ("a:[2001:db8::1]", ("a", "2001:db8::1")),
        ("h:host-gateway", ("h", "host-gateway")),
    ],
)
def test_added_hosts(text: str, expected: tuple[str, str]) -> None:
    assert naming.parse_host(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "a:", ":192.0.2.1", "a b:192.0.2.1", "a\n:::1", "a:gateway", "a:1.2.3", "-a:::1"]
)
def test_wrong_added_hosts(text: str) -> None:
    with pytest.raises(UsageError):
        naming.parse_host(text)


@pytest.mark.parametrize(
    ("what", "member"),
    [
        ({"servers": ["192.0.2.1"] * 4}, "4 name servers are too many"),
        ({"servers": ["fe80::1%eth0"]}, "is no IP address"),
        ({"search": [".", "a"]}, "stands for none"),
        ({"search": ["a b"]}, "no search domain"),
        ({"options": ["ndots:2\nnameserver 1.2.3.4"]}, "no option of a resolver"),
        ({"hosts": [{"name": "a", "address": "x"}]}, "is no IP address"),
        ({"hosts": [{"name": "a\nb", "address": "::1"}]}, "no name an address"),
        ({"more": []}, "no such member: more"),
    ],
)
def test_wrong_naming_in_a_specification(what: dict[str, Any], member: str) -> None:
    with pytest.raises(IntegrityError, match=f"/naming: .*{member}"):
        rendering.make_spec(naming=what)


def test_naming_comes_back_as_it_went() -> None:
    wanted = Naming((("a", "::1"), ("b", "host-gateway")), ("192.0.2.53",), (".",), ("ndots:2", "edns0"))
    assert Naming.read(wanted.to_mapping()) == wanted
    assert rendering.make_spec().naming == Naming()
    interface = one(2, "db", "cache.internal")
    assert Network.read(Network("bridge", (interface,)).to_mapping()).interfaces == (interface,)


@pytest.mark.parametrize("text", ["", "local host", "localhost", "-a", "a\n", "ä", "x" * 254])
def test_wrong_aliases(text: str) -> None:
    with pytest.raises(UsageError):
        inet.unique_aliases([text])


@pytest.mark.parametrize(
    ("mode", "asked", "message"),
    [
        (
            "host",
            Naming((("a", "::1"),)),
            "--add-host does not go with --net host: names are the host's then.",
        ),
        ("host", Naming((), ("::1",)), "--dns does not go with --net host: names are the host's then."),
        (
            "container:db",
            Naming((), ("::1",)),
            "--dns does not go with --net container:db: names are the other container's then.",
        ),
        ("none", Naming((), (), (), ("ndots:1",)), "--dns does not go with --net none: nobody can be asked."),
        ("none", Naming((("a", "host-gateway"),)), "There is no host-gateway with --net none."),
    ],
)
def test_names_that_contradict_the_network(mode: str, asked: Naming, message: str) -> None:
    spec = replace(rendering.make_spec(), network=Network(mode), naming=asked)
    with pytest.raises(UsageError) as caught:
        bundle.render(spec, rendering.make_image(), Identity(0, 0, (), "/"), [], Layout())
    assert caught.value.message == message


def test_own_lines_and_added_ones_stand_before_those_of_others() -> None:
    networks = {"one": define("one"), "two": define("two", internal=True)}
    connected = Network("bridge", (two(3), replace(one(2, "db"), ip6="fd00:1::2")))
    asked = Naming((("up", "host-gateway"), ("db.example", "192.0.2.1")))
    assert attachment.hosts_lines(connected, "sea web", networks, asked).splitlines() == [
        "10.89.0.1 up", "fd00:1::1 up", "192.0.2.1 db.example",
        "10.2.0.3\tsea web", "10.89.0.2\tsea web db", "fd00:1::2\tsea web db",
    ]  # fmt: skip
    assert attachment.hosts_lines(Network(), "web", {}, Naming()) == "127.0.1.1\tweb\n"


# ---- resolv.conf

GATEWAYS = ["10.89.0.1", "fd00:1::1"]
NOTHING: dict[str, list[str]] = {
    "servers": [],
    "search": [],
    "options": [],
    "gateways": GATEWAYS,
    "host": GATEWAYS[:1],
}


def resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, behind: str | None = None, **wanted: list[str]
) -> list[str]:
    """The lines of resolv.conf in a container on a host with these files."""
    (tmp_path / "resolv.conf").write_text(host)
    if behind is not None:
        (tmp_path / "behind").write_text(behind)
    monkeypatch.setattr(resolver, "_HOST", str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(resolver, "_BEHIND_STUB", str(tmp_path / "behind"))
    monkeypatch.setattr(resolver, "_is_answered", lambda address: address == "10.89.0.1")
    if (own := wanted.pop("host_is", None)) is not None:
        wanted["host"] = own
    return resolver.render(NOTHING | wanted).splitlines()


@pytest.mark.parametrize(
    ("host", "behind", "expected"),
    [
        ("nameserver 192.0.2.1\nsearch a b\n", None, ["nameserver 192.0.2.1", "search a b"]),
        ("domain x\nnameserver\t2001:db8::1 \noptions ndots:2 trust-ad\noptions rotate", None,
         ["nameserver 2001:db8::1", "search x", "options ndots:2 rotate"]),
        # systemd-resolved's stub, alone or behind a file of one's own; what it asks itself is asked.
        ("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", "nameserver 192.0.2.7\nsearch z\n",
         ["nameserver 192.0.2.7", "options edns0"]),
        ("nameserver 127.0.0.54\n", "nameserver 127.0.0.1\nnameserver 192.0.2.7\n", ["nameserver 192.0.2.7"]),
        # Loopback addresses are the container's own: others, or the host on the network.
        ("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", None, ["nameserver 192.0.2.1"]),
        ("nameserver 127.0.0.53\n", None, [
            "# The machine's own, at its address on this network.", "nameserver 10.89.0.1"
        ]),
        ("nameserver ::1\n", None, ["# The machine's own, at its address on this network.", "nameserver 10.89.0.1"]),
        ("nameserver 0.0.0.0\n", None, [
            "# The machine's own, at its address on this network.", "nameserver 10.89.0.1"
        ]),
        # Not to be asked from here: links of the host, what is no address.
        ("nameserver fe80::1%eth0\nnameserver x\n", None,
         ["# This machine has no name server that can be asked from here."]),
        ("", None, ["# This machine has no name server that can be asked from here."]),
        ("nameserver 192.0.2.1\n" * 5, None, ["nameserver 192.0.2.1"] * 3),
    ],
)  # fmt: skip
def test_name_servers_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, behind: str | None, expected: list[str]
) -> None:
    assert resolved(tmp_path, monkeypatch, host, behind) == expected


def test_name_servers_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = "nameserver 192.0.2.1\nsearch a b\noptions rotate\n"
    assert resolved(tmp_path, monkeypatch, host, servers=["127.0.0.1"], search=["."]) == [
        "nameserver 127.0.0.1",
        "options rotate",
    ]
    assert resolved(tmp_path, monkeypatch, host, search=["c"], options=["ndots:3"]) == [
        "nameserver 192.0.2.1",
        "search c",
        "options ndots:3",
    ]


def test_name_servers_that_no_route_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    assert resolved(tmp_path, monkeypatch, host, gateways=["fd00:1::1"]) == ["nameserver 2001:db8::1"]
    # By a macvlan the container gets everywhere but to this host.
    lines = resolved(tmp_path, monkeypatch, "nameserver 127.0.0.1\n", host_is=[])
    assert lines == ["# This machine has no name server that can be asked from here."]
    lines = resolved(tmp_path, monkeypatch, host, gateways=[])
    assert lines == ["# The networks of this container lead nowhere."]
    lines = resolved(tmp_path, monkeypatch, host, gateways=[], servers=["10.1.0.9"])
    assert lines == ["nameserver 10.1.0.9"]


def test_a_host_without_name_servers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved(tmp_path, monkeypatch, "nameserver 127.0.0.1\n", host_is=["fd00:1::1"])
    assert "let it listen on fd00:1::1 too" in capsys.readouterr().err
    (tmp_path / "resolv.conf").unlink()
    assert resolver.render(NOTHING) == "# This machine has no name server that can be asked from here.\n"


def test_resolv_conf_is_readable_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_HOST", "/nonexistent")
    (tmp_path / "resolv.conf").write_text("# longer than what comes\n" * 9)
    (tmp_path / "resolv.conf").chmod(0o600)
    resolver.write(str(tmp_path), NOTHING | {"servers": ["192.0.2.1"]})
    assert (tmp_path / "resolv.conf").read_text() == "nameserver 192.0.2.1\n"
    assert (tmp_path / "resolv.conf").stat().st_mode & 0o777 == 0o644
