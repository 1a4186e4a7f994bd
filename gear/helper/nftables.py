"""Elements of nftables maps over nfnetlink: what publishes a container's ports.

Not the rules that use the maps; see gear/helper/ruleset.py, which gives the maps the types that the bytes here are
of.  `nft` would take as long as half of a container's start to load its library and read the text.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from gear.helper import netlink
from gear.helper.netlink import CREATE, EXCL, Netlink, attribute, message, nest, text

# linux/netfilter/nfnetlink.h
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN = 0x10
_BATCH_END = 0x11
# linux/netfilter/nf_tables.h
_GETTABLE = _SUBSYSTEM << 8 | 1
_DELTABLE = _SUBSYSTEM << 8 | 2
_NEWSETELEM = _SUBSYSTEM << 8 | 12
_GETSETELEM = _SUBSYSTEM << 8 | 13
_DELSETELEM = _SUBSYSTEM << 8 | 14
_TABLE = 1  # NFTA_TABLE_NAME and NFTA_SET_ELEM_LIST_TABLE
_SET = 2
_ELEMENTS = 3
_ELEMENT = 1  # NFTA_LIST_ELEM
_KEY = 1
_DATA = 2
_USERDATA = 6
_VALUE = 1  # NFTA_DATA_VALUE
_COMMENT = 0  # NFTNL_UDATA_SET_ELEM_COMMENT of libnftnl
_INET = 1  # NFPROTO_INET

ENOENT = 2
EBUSY = 16  # there is an element with this key, and it leads elsewhere
EEXIST = 17

MAPS = ("any4", "any6", "one4", "one6")
PROTOCOLS = {"tcp": 6, "udp": 17}


class Element:
    """One line of a map: a port of the host, on one address or ("") on all, leads to a container's address and port.

    *owner* is the container's name, which `nft list` shows as a comment.
    """

    def __init__(self, table: str, port: dict, to: str, owner: str) -> None:  # type: ignore[type-arg]
        self.table = table
        self.protocol: str = port["protocol"]
        self.address: str = "" if port["address"] in ("0.0.0.0", "::") else port["address"]
        self.port: int = port["port"]
        self.to = to
        self.target: int = port["target"]
        self.owner = owner
        self.map = ("one" if self.address else "any") + ("6" if ":" in to else "4")

    def key(self) -> bytes:
        """What is looked up: each part is padded to 32 bits."""
        number = bytes([PROTOCOLS[self.protocol], 0, 0, 0]) + self.port.to_bytes(2, "big") + bytes(2)
        return (_packed(self.address) if self.address else b"") + number

    def value(self) -> bytes:
        """Where it leads."""
        return _packed(self.to) + self.target.to_bytes(2, "big") + bytes(2)


def _packed(address: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)


def elements(port: dict, owner: str) -> list[Element]:  # type: ignore[type-arg]
    """The elements of one entry of start.json's `ports`: one for each family of addresses that it is for."""
    listening = port["address"]
    families = "46" if not listening else "6" if ":" in listening else "4"
    return [
        Element(port["table"], port, to, owner)
        for to in port["to"]
        if ("6" if ":" in to else "4") in families
    ]


def _body(element: Element, *, whole: bool) -> bytes:
    """The body of a message about *element*: with *whole* also where it leads."""
    parts = [nest(_KEY, attribute(_VALUE, element.key()))]
    if whole:
        parts.append(nest(_DATA, attribute(_VALUE, element.value())))
        parts.append(attribute(_USERDATA, _comment(element.owner)))
    return _of_map(element.table, element.map) + nest(_ELEMENTS, nest(_ELEMENT, *parts))


def _comment(owner: str) -> bytes:
    """What nft(8) shows as an element's comment."""
    words = owner.encode() + b"\0"
    return bytes([_COMMENT, len(words)]) + words


def _owner(data: bytes) -> str:
    """The comment in what _comment() makes; empty where there is none."""
    if len(data) < 2 or data[0] != _COMMENT:
        return ""
    return data[2 : 2 + data[1]].rstrip(b"\0").decode(errors="replace")


def _of_map(table: str, name: str) -> bytes:
    """How a message about elements begins."""
    return _family(_INET) + text(_TABLE, table) + text(_SET, name)


def _family(family: int, resource: int = 0) -> bytes:
    """struct nfgenmsg: family, version, and a number in network order."""
    return bytes([family, 0]) + resource.to_bytes(2, "big")


class Maps:
    """A socket of nftables, in the network namespace of the process that makes it."""

    def __init__(self) -> None:
        self._netlink = Netlink(netlink.NETFILTER)

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def _commit(self, requests: list[tuple[int, int, bytes]]) -> None:
        # The batch is one transaction: all or nothing, and nobody sees half of it.
        begin = message(_BATCH_BEGIN, 0, _family(0, _SUBSYSTEM))
        self._netlink.batch(begin, requests, message(_BATCH_END, 0, _family(0, _SUBSYSTEM)))

    def add(self, wanted: list[Element]) -> None:
        """Add elements, all or none; raises Refused with EEXIST or EBUSY when a key is there, and `index` says
        which."""
        if wanted:
            self._commit([(_NEWSETELEM, CREATE | EXCL, _body(item, whole=True)) for item in wanted])

    def replace(self, wanted: list[Element]) -> None:
        """Add elements in place of those with their keys, all at once."""
        gone = [(_DELSETELEM, 0, _body(item, whole=False)) for item in wanted if self.find(item) is not None]
        self._commit(gone + [(_NEWSETELEM, CREATE | EXCL, _body(item, whole=True)) for item in wanted])

    def remove_of(self, table: str, owner: str) -> None:
        """Remove every element of the container *owner*, wherever it leads; there may be no such table."""
        gone = []
        for name in MAPS:
            for key, parts in self._elements(table, name).items():
                if parts.get(_USERDATA) == _comment(owner):
                    element = nest(_ELEMENTS, nest(_ELEMENT, nest(_KEY, attribute(_VALUE, key))))
                    gone.append((_DELSETELEM, 0, _of_map(table, name) + element))
        if gone:
            self._commit(gone)

    def _elements(self, table: str, name: str) -> dict[bytes, dict[int, bytes]]:
        """The attributes of each element of a map by its key; there may be no such table."""
        return netlink.settled(lambda: self._attempt(table, name))

    def _attempt(self, table: str, name: str) -> dict[bytes, dict[int, bytes]] | None:
        """As _elements(); None when some may be missing.

        From packet to packet the kernel counts how many it has told of, and others come and go: which each packet says
        by the number of the ruleset's generation.  And when its hash table has become too large or too small it moves
        to another and begins again, or goes on where others are: then some come twice.
        """
        try:
            answers = self._netlink.ask(_GETSETELEM, netlink.DUMP, _of_map(table, name))
        except OSError as error:
            if error.errno != ENOENT:
                raise
            return {}
        lists = [netlink.attributes(answer[4:]).get(_ELEMENTS, b"") for answer in answers]
        every = [netlink.attributes(found) for listed in lists for _, found in netlink.each(listed)]
        keyed = {netlink.attributes(parts[_KEY])[_VALUE]: parts for parts in every}
        generations = {answer[2:4] for answer in answers}  # struct nfgenmsg
        return keyed if len(keyed) == len(every) and len(generations) < 2 else None

    def published(self, table: str) -> dict[tuple[str, bytes], tuple[bytes, str]]:
        """Every element of a network's table: where it leads and whose it is, by map and key."""
        found = {}
        for name in MAPS:
            for key, parts in self._elements(table, name).items():
                found[name, key] = netlink.attributes(parts[_DATA])[_VALUE], _owner(parts.get(_USERDATA, b""))
        return found

    def content(self, table: str, name: str) -> dict[bytes, bytes]:
        """Keys and values of a map as Element has them; empty if there is no such table."""
        return {
            key: netlink.attributes(parts[_DATA])[_VALUE]
            for key, parts in self._elements(table, name).items()
        }

    def find(self, element: Element) -> bytes | None:
        """Where the element with this key leads; None when there is none, or no such map."""
        try:
            (answer,) = self._netlink.ask(_GETSETELEM, 0, _body(element, whole=False))
        except OSError as error:
            if error.errno != ENOENT:
                raise
            return None
        listed = netlink.attributes(netlink.attributes(answer[4:]).get(_ELEMENTS, b""))
        found = netlink.attributes(listed.get(_ELEMENT, b""))
        return netlink.attributes(found.get(_DATA, b"")).get(_VALUE, b"")

    def has_table(self, table: str) -> bool:
        """Whether there is such a table."""
        try:
            self._netlink.ask(_GETTABLE, 0, _family(_INET) + text(_TABLE, table))
        except OSError as error:
            if error.errno != ENOENT:
                raise
            return False
        return True

    def delete_table(self, table: str) -> None:
        """Remove a table and all that is in it, if it is there."""
        if not self.has_table(table):  # a deletion that fails takes as long as one that does not
            return
        try:
            self._commit([(_DELTABLE, 0, _family(_INET) + text(_TABLE, table))])
        except OSError as error:
            if error.errno != ENOENT:
                raise
