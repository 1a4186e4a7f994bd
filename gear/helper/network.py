"""A container's network at its start and after its end: veth pairs, addresses, published ports.

Not the bridges; see gear/helper/networks.py.  What is made here goes away with the container: veth pairs with its
network namespace, sockets with the unit; and `unpublish` (ExecStopPost=) removes what does not, also after SIGKILL.
Should even that be lost, the next start of the container replaces what has its name.
"""

from __future__ import annotations

import posix as os
import sys
from fcntl import LOCK_SH, flock

from gear.helper import ports
from gear.helper.announcing import announce, announce_from
from gear.helper.failure import Failure, Step
from gear.helper.nftables import EBUSY, EEXIST, ENOENT, Maps, elements
from gear.helper.rtnetlink import Routes, index_of, of_process
from gear.helper.sysctls import has_ipv6, usable, wants_hairpin, write

# br_netfilter's, which is rarely loaded.
_BRIDGED = "bridge/bridge-nf-call-iptables"
_BRIDGED6 = "bridge/bridge-nf-call-ip6tables"
EINVAL = 22
_EXFULL = 54

_LINKS = "/sys/class/net"


class Network:
    """What a container's start does about its network; *wanted* is `network` of start.json."""

    def __init__(self, bundle: str, wanted: dict) -> None:  # type: ignore[type-arg]
        self.ports: list = wanted.get("ports", [])  # type: ignore[type-arg]
        self.interfaces: list = wanted.get("interfaces", [])  # type: ignore[type-arg]
        self.wanted = wanted
        self.reservation = ports.Reservation()
        self._containers, _, self._name = bundle.rstrip("/").rpartition("/")
        self._locks: list[int] = []

    def reserve(self) -> None:
        """Take the ports; raises Failure that names who has one."""
        step = Step()
        try:
            self.reservation.take(self.ports, self._name, self._containers, step)
        except OSError as error:
            raise step.failure(error) from error

    def connect(self, pid: int) -> None:
        """Put a link into the network namespace of *pid* for each interface, on its bridge; raises Failure."""
        step = Step()
        try:
            self._connect(pid, step)
        except OSError as error:
            raise step.failure(error) from error

    def _connect(self, pid: int, step: Step) -> None:
        for network in sorted({item["network"] for item in self.interfaces}):
            step.doing = f"lock the network {network}"
            self._locks.append(_hold(self._containers, network))
        routes = Routes()
        hairpin = wants_hairpin()
        for item in self.interfaces:
            if index_of(item["host"]):
                # Of an earlier start: its namespace is not gone yet, or somebody still holds it.
                step.doing = f"remove the link {item['host']}"
                routes.delete_link(item["host"])
            add_link(routes, item, of_process(pid), step, hairpin=hairpin)
            if item.get("limits"):
                from gear.helper import shaping

                shaping.shape(item, self._name, step)
        step.doing = "announce the addresses"
        self._sender = announce(routes, self.interfaces)
        routes.close()

    def link(self, pid: int) -> None:
        """Make the links in the network namespace of *pid*; one that leads nowhere is told of and left out."""
        if not self.wanted.get("links"):
            return
        from gear.helper import links

        step = Step()
        try:
            step.doing = "make the links"
            place = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            problems = links.make(place, self.wanted, self._name, self._containers, step)
            os.close(place)
        except OSError as error:
            raise step.failure(error) from error
        for problem in problems:
            print(f"gear: {problem}", file=sys.stderr, flush=True)

    def publish(self) -> None:
        """Have nftables lead the ports here; raises Failure when another container's are in the way."""
        step = Step()
        try:
            # Before anybody can come.
            limit(self._name, self.wanted, step)
            if self.ports:
                maps = Maps()
                for port in self.ports:
                    self._publish(maps, port, step)
                maps.close()
        except OSError as error:
            raise step.failure(error) from error
        for lock in self._locks:
            os.close(lock)

    def _publish(self, maps: Maps, port: dict, step: Step) -> None:  # type: ignore[type-arg]
        step.doing = f"publish port {ports.shown(port)}"
        wanted = elements(port, self._name)
        try:
            maps.add(wanted)
        except OSError as error:
            if error.errno == ENOENT:
                unit = f"gear-network@{port['table'].removeprefix('gear-')}.service"
                raise Failure(
                    f"can't {step.doing}: nftables has no table {port['table']}; try systemctl restart {unit}"
                ) from error
            if error.errno not in (EEXIST, EBUSY):
                raise
            owner = ports.container_with(port, self._name, self._containers)
            if owner:
                raise Failure(f"can't {step.doing}: it is taken by the container {owner}") from error
            maps.replace(wanted)  # left by a container that was ended hard, perhaps this one
        if port["protocol"] == "udp":
            from gear.helper import conntrack

            conntrack.forget_port(port["port"])


def limit(name: str, wanted: dict, step: Step) -> None:  # type: ignore[type-arg]
    """Have nftables limit the container *name* as *wanted* says, `network` of start.json; raises Failure."""
    if "priority" in wanted or "connections" in wanted:
        from gear.helper import nft, ruleset

        step.doing = f"limit the traffic of {name}"
        nft.load(ruleset.render_limits(name, wanted), step)


def _hold(containers: str, network: str) -> int:
    """Keep `up` and `down` of *network* from coming between; the descriptor is to be closed."""
    path = f"{containers.rpartition('/')[0]}/networks/{network}"
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flock(lock, LOCK_SH)
    return lock


def add_link(
    routes: Routes,
    item: dict,  # type: ignore[type-arg]
    place: tuple[int, int],
    step: Step,
    *,
    hairpin: bool,
) -> None:
    """Make one of `interfaces` in the namespace *place*, on its bridge or as a macvlan of its parent.

    Raises Failure and OSError.
    """
    step.doing = f"connect {item['name']} to the network {item['network']}"
    bridge = index_of(item["bridge"])
    if not bridge:
        unit = f"gear-network@{item['network']}.service"
        raise Failure(
            f"can't {step.doing}: this host has no link {item['bridge']}; see systemctl status {unit}"
        )
    if "mode" in item:
        try:
            routes.add_macvlan(bridge, item["mode"], item["name"], place, mac=item["mac"], mtu=item["mtu"])
        except OSError as error:
            if error.errno not in (EBUSY, EINVAL):
                raise
            raise Failure(
                f"can't {step.doing}: {item['bridge']} takes no macvlan of the mode {item['mode']}, since it is a port"
                " of a bridge, or has others, of which one is passthru"
            ) from error
        return
    try:
        routes.add_veth(item["host"], bridge, item["name"], place, mac=item["mac"], mtu=item["mtu"])
    except OSError as error:
        if error.errno != EEXIST:
            # The pair may be there and only not on the bridge; in a container that runs it would stay.
            routes.delete_link(item["host"])
        if error.errno != _EXFULL:
            raise
        raise Failure(
            f"can't {step.doing}: {item['bridge']} has as many containers as the kernel lets a bridge have, which is"
            " 1023; make another network for more"
        ) from error
    if hairpin:
        routes.set_port(index_of(item["host"]), bridge, hairpin=True)


def configure(interfaces: list, step: Step) -> None:  # type: ignore[type-arg]
    """In the container's network namespace: addresses and routes, and the links up."""
    routes = Routes()
    for item in interfaces:
        step.doing = f"give {item['name']} its addresses"
        addresses, gateways = usable(item["addresses"]), usable(item["gateways"])
        if any(":" in address for address in addresses):
            # The neighbours may be anybody's: none of them is to become a router by saying so.
            write(f"ipv6/conf/{item['name']}/accept_ra", "0")
        index = index_of(item["name"])
        routes.configure(index, addresses, gateways)
        if "mode" in item:
            announce_from(item["name"], addresses)
        if item.get("loopback6") and has_ipv6():
            routes.route_loopback(index)
    routes.close()


def unpublish(bundle: str) -> None:
    """Remove what may be left of a container that has ended; raises Failure and OSError."""
    from gear.helper import ruleset

    containers, _, name = bundle.rstrip("/").rpartition("/")
    wanted = ports.network_of(name, containers)
    try:
        networks = sorted(os.listdir(f"{containers.rpartition('/')[0]}/networks"))
    except FileNotFoundError:
        networks = []
    maps = Maps()
    # Of every network: what it was started with may be another thing than what is installed now.
    for network in networks:
        try:
            _hold(containers, network)  # to the end of this process
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed meanwhile, or no network
        maps.remove_of(f"gear-{network}", name)
    maps.delete_table(ruleset.table_of_limits(name))
    maps.close()
    _forget_rates(name)
    if wanted.get("interfaces"):
        from gear.helper import conntrack

        routes = Routes()
        for item in wanted["interfaces"]:
            routes.delete_link(item["host"])
        routes.close()
        # Whoever gets an address next is not to get the answers.
        addresses = [address for item in wanted["interfaces"] for address in item["addresses"]]
        conntrack.forget_addresses([address.partition("/")[0] for address in addresses])


def _forget_rates(name: str) -> None:
    """Remove the devices by which the traffic of the container *name* went at a rate: those that say so, since what it
    was started with may be another thing than what is installed now."""
    from gear.helper import shaping

    for device in sorted(os.listdir(_LINKS)):
        if device.startswith(shaping.BEGINNING) and _first_line(
            f"{_LINKS}/{device}/ifalias"
        ) == shaping.alias(name):
            shaping.forget(device)


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\n")
    except OSError:  # it has gone
        return ""
