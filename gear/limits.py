"""What a container may make of the network: rates, priority, connections, and the addresses it may talk with.

Part of the words of gear/network.py: the member `limits` of `network` in spec.json, and the grammar of the options.
"in" and "out" are as the container sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gear import members
from gear.errors import UsageError
from gear.patterns import pattern
from gear.records import dataclass, fields

DIRECTIONS = IN, OUT = ("in", "out")
# Words of systemd.resource-control(5) for ranges of addresses.
RANGES = ("any", "localhost", "link-local", "multicast")
# Bits per second.  Below the lowest one packet takes many seconds.
LOWEST_RATE = 8_000
HIGHEST_RATE = 1_000_000_000_000
# Bytes: a packet of an ordinary network has to fit, and the kernel counts the time it takes in 32 bits.
LEAST_BURST = 2 << 10
MOST_BURST = 1 << 30
# A burst that nobody names: so much time at the full rate, and at least ten packets.
BURST_S = 0.01
DEFAULT_BURST = 16 << 10

_RATE = pattern(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kmgt]i?)?(bit|bps)?", re.ASCII | re.IGNORECASE)
_SIZE = pattern(r"([0-9]{1,15})([kmg])?b?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_CLASS = pattern(r"([0-9a-f]{1,4}):([0-9a-f]{1,4})", re.ASCII | re.IGNORECASE)
# pfifo_fast and prio have a band for each of these.
_MOST_PRIORITY = 15


@dataclass(frozen=True)
class Limits:
    """None, or nothing, is no limit.  Rates are bits per second, bursts bytes; *priority* is the kernel's number for
    packets, or the class of a queueing discipline in its form (major << 16 | minor)."""

    rate_in: int | None = None
    rate_out: int | None = None
    burst_in: int | None = None
    burst_out: int | None = None
    priority: int | None = None
    connections: int | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def rate(self, direction: str) -> int | None:
        """Bits per second in one of DIRECTIONS."""
        return self.rate_in if direction == IN else self.rate_out

    def burst(self, direction: str) -> int:
        """Bytes that may go at once in one of DIRECTIONS."""
        given = self.burst_in if direction == IN else self.burst_out
        usual = max(DEFAULT_BURST, int((self.rate(direction) or 0) / 8 * BURST_S))
        return given or min(MOST_BURST, usual)

    @property
    def shapes(self) -> bool:
        """Whether it is about interfaces and what nftables leads, and not only about the payload's own sockets."""
        return any(
            value is not None for value in (self.rate_in, self.rate_out, self.priority, self.connections)
        )

    def words(self) -> list[str]:
        """What `gear status` says of it."""
        rates = [f"{shown_rate(rate)} {way}" for way in DIRECTIONS if (rate := self.rate(way)) is not None]
        more = [] if self.priority is None else [f"priority {shown_priority(self.priority)}"]
        if self.connections is not None:
            more.append(f"{self.connections} connections")
        more += [
            f"{word} {' '.join(found)}"
            for word, found in (("allow", self.allow), ("deny", self.deny))
            if found
        ]
        return rates + more

    def to_mapping(self) -> dict[str, Any]:
        """The member of spec.json: what is limited."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value not in (None, ())
        }

    @classmethod
    def read(cls, document: Any) -> Limits:
        """The limits in *document*; raises UsageError, TypeError or ValueError for what is wrong with it."""
        found = members.mapping(document)
        if unknown := sorted(set(found) - set(_READERS)):
            raise ValueError(f"no such limit: {unknown[0]}")
        return checked(cls(**{name: _READERS[name](value) for name, value in found.items()}))


def checked(limits: Limits) -> Limits:
    """*limits* if its parts go together; raises UsageError."""
    for way, rate, burst in ((IN, limits.rate_in, limits.burst_in), (OUT, limits.rate_out, limits.burst_out)):
        if burst is not None and rate is None:
            raise UsageError(
                f"A burst of traffic {way} takes a rate.", hint=f"For example --net-rate {way}=10mbit."
            )
    return limits


def parse_rates(text: str) -> dict[str, int]:
    """`--net-rate`: RATE for both directions, or in=RATE,out=RATE; bits per second by direction.  Raises UsageError."""
    return _by_direction(text, parse_rate, "rate", "10mbit")


def parse_bursts(text: str) -> dict[str, int]:
    """`--net-burst`: SIZE for both directions, or in=SIZE,out=SIZE; bytes by direction.  Raises UsageError."""
    return _by_direction(text, parse_burst, "burst", "64k")


def _by_direction(text: str, parse: Callable[[str], int], what: str, example: str) -> dict[str, int]:
    if "=" not in text:
        return dict.fromkeys(DIRECTIONS, parse(text))
    found: dict[str, int] = {}
    for word in text.split(","):
        way, _, value = word.partition("=")
        if way not in DIRECTIONS or way in found:
            raise UsageError(
                f"{text[:60]!r} is no {what} by direction.",
                hint=f"Write {example}, or in={example},out={example}.",
            )
        found[way] = parse(value)
    return found


def parse_rate(text: str) -> int:
    """A rate in tc(8)'s units, as bits per second: kbit, mbit, gbit; kbps and so on are bytes; raises UsageError."""
    match = _RATE.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text[:40]!r} is no rate.",
            hint="For example 10mbit, 500kbit or 1gbit; 2mbps are two megabytes a second.",
        )
    prefix = (match[2] or "").lower()
    factor = 8 if (match[3] or "").lower() == "bps" else 1
    return net_rate(
        round(float(match[1]) * factor * (1024 if "i" in prefix else 1000) ** _POWERS[prefix[:1]])
    )


def parse_burst(text: str) -> int:
    """A number of bytes with k, m or g (powers of 1024), as tc(8) has them; raises UsageError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise UsageError(f"{text[:40]!r} is no amount of bytes.", hint="For example 64k.")
    return net_burst(int(match[1]) << 10 * _POWERS[(match[2] or "").lower()])


def net_rate(value: int) -> int:
    """Bits per second; raises UsageError."""
    if not LOWEST_RATE <= value <= HIGHEST_RATE:
        raise UsageError(f"{value} bits a second are no rate of a network.", hint="Give 8kbit to 1tbit.")
    return value


def net_burst(value: int) -> int:
    """Bytes; raises UsageError."""
    if not LEAST_BURST <= value <= MOST_BURST:
        raise UsageError(f"{value} bytes are no burst of a network.", hint="Give 2k to 1g.")
    return value


def shown_rate(rate: int) -> str:
    """Bits per second, LOWEST_RATE or more, as people write them."""
    units = ((12, "tbit"), (9, "gbit"), (6, "mbit"), (3, "kbit"))
    power, unit = next(item for item in units if rate >= 10 ** item[0] and rate % 10 ** (item[0] - 3) == 0)
    return f"{rate / 10**power:.3f}".rstrip("0").rstrip(".") + unit


def parse_priority(text: str) -> int:
    """`--net-priority`: 0 to 15, or the class MAJOR:MINOR in tc(8)'s hexadecimal form; raises UsageError."""
    if match := _CLASS.fullmatch(text):
        return net_priority(int(match[1], 16) << 16 | int(match[2], 16))
    if text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= _MOST_PRIORITY:
        return int(text)
    raise UsageError(
        f"{text[:40]!r} is no priority of packets.",
        hint="Give 0 to 15, or the class of a queueing discipline, for example 1:10.",
    )


def shown_priority(value: int) -> str:
    """As parse_priority() reads it."""
    return str(value) if value <= _MOST_PRIORITY else f"{value >> 16:x}:{value & 0xFFFF:x}"


def net_priority(value: int) -> int:
    """The kernel's form, 32 bits but for its word for no class; raises UsageError."""
    if not 0 <= value < 0xFFFFFFFF:
        raise UsageError(f"{value} is no priority of packets.")
    return value


def connection_limit(value: int) -> int:
    """A number of connections at the same time; raises UsageError."""
    if not 1 <= value <= 1_000_000:
        raise UsageError(f"{value} is no limit of connections.", hint="Give 1 to 1000000.")
    return value


def address_range(text: str) -> str:
    """An address, ADDRESS/PREFIX, or one of RANGES, in its usual form; raises UsageError."""
    import ipaddress  # here: most containers have none

    if text in RANGES:
        return text
    try:
        if "%" not in text:
            return str(ipaddress.ip_network(text, strict=False)).removesuffix("/32").removesuffix("/128")
    except ValueError:
        pass
    raise UsageError(
        f"{text[:60]!r} is no range of addresses.",
        hint=f"Write ADDRESS, ADDRESS/PREFIX, or {', '.join(RANGES)}.",
    )


def _number(check: Callable[[int], int]) -> members.Reader:
    return members.optional(lambda value: check(members.integer(value)))


def _ranges(value: Any) -> tuple[str, ...]:
    return tuple(map(address_range, members.texts(value)))


_READERS: dict[str, members.Reader] = {
    "rate_in": _number(net_rate),
    "rate_out": _number(net_rate),
    "burst_in": _number(net_burst),
    "burst_out": _number(net_burst),
    "priority": _number(net_priority),
    "connections": _number(connection_limit),
    "allow": _ranges,
    "deny": _ranges,
}
