"""Addresses, ports and names of hosts as people write them, in their usual form; each function raises UsageError."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gear.errors import UsageError
from gear.patterns import pattern

PROTOCOLS = ("tcp", "udp")
# What every container calls itself; nobody else may be called so.
LOOPBACK = ("localhost", "ip6-localhost", "ip6-loopback")
# What a resolver looks up, as far as it is a name of hosts (RFC 1123), and the underscore that some have.
NAME_OF_HOST = pattern(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", re.ASCII)

_MAC = pattern(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


def one_of(text: str, words: tuple[str, ...], what: str) -> str:
    """*text* if it is one of *words*."""
    if text not in words:
        raise UsageError(f"{text[:40]!r} is no {what}.", hint=f"There are {', '.join(words)}.")
    return text


def ip_address(text: str, version: int | None = None) -> str:
    """An address in its usual form, of IPv4 or IPv6 if *version* says so; raises UsageError."""
    import ipaddress  # here: what has no addresses need not pay for it

    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        found = None
    # A zone (RFC 4007) is a matter of one machine's interfaces, and mapped addresses are IPv4 in other clothes.
    mapped = getattr(found, "ipv4_mapped", None)
    if found is None or "%" in text or mapped or version not in (None, found.version):
        family = "IP" if version is None else f"IPv{version}"
        raise UsageError(f"{text[:60]!r} is no {family} address.")
    return str(found)


def mac_address(text: str) -> str:
    """The address of a network card in lower case, no multicast address; raises UsageError."""
    plain = text.lower().replace("-", ":")
    if not _MAC.fullmatch(plain) or int(plain[:2], 16) & 1 or plain == "00:00:00:00:00:00":
        raise UsageError(
            f"{text[:40]!r} is no MAC address of an interface.", hint="For example 02:00:00:00:00:01."
        )
    return plain


def port_number(value: int) -> int:
    """1 to 65535; raises UsageError."""
    if not 1 <= value <= 65535:
        raise UsageError(f"{value} is no port.", hint="Ports are 1 to 65535.")
    return value


def port_range(text: str) -> tuple[int, int]:
    """FIRST-LAST or one port, as (first, last); raises UsageError."""
    first, _, last = text.partition("-")
    if not re.fullmatch("[0-9]{1,5}(-[0-9]{1,5})?", text, re.ASCII):
        raise UsageError(f"{text[:40]!r} is no range of ports.", hint="Write FIRST-LAST.")
    low, high = port_number(int(first)), port_number(int(last or first))
    if low > high:
        raise UsageError(f"{text} is no range of ports: it ends before it begins.")
    return low, high


def unique_aliases(texts: Iterable[str]) -> tuple[str, ...]:
    """Names that a container may have on a network, in lower case and each once; raises UsageError."""
    found = dict.fromkeys(text.lower() for text in texts)
    for text in found:
        if not NAME_OF_HOST.fullmatch(text) or text in LOOPBACK:
            hint = "Use letters, digits, '-', '_' and '.', for example db or db.internal."
            if text in LOOPBACK:
                hint = f"{', '.join(LOOPBACK)} mean the container itself."
            raise UsageError(f"{text[:80]!r} can't be the name of a container on a network.", hint=hint)
    return tuple(found)
