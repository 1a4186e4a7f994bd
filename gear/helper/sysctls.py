"""The kernel's network variables (/proc/sys/net), those of the network namespace of whoever looks."""

from __future__ import annotations

import posix as os

# br_netfilter's, which is rarely loaded.
_BRIDGED = "bridge/bridge-nf-call-iptables"
_BRIDGED6 = "bridge/bridge-nf-call-ip6tables"


def read(name: str) -> str:
    """The variable *name*; empty when there is none."""
    try:
        with open(f"/proc/sys/net/{name}", "rb", buffering=0) as file:
            return file.read(64).decode().strip()
    except FileNotFoundError:
        return ""


def write(name: str, value: str) -> None:
    """Set the variable *name*, unless it has the value."""
    if read(name) == value:
        return
    descriptor = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def has_ipv6() -> bool:
    """Whether the kernel has IPv6; it may have been booted without."""
    return bool(read("ipv6/conf/all/forwarding"))


def usable(addresses: list[str]) -> list[str]:
    """Those of *addresses* that the kernel has a protocol for."""
    if not any(":" in address for address in addresses) or has_ipv6():
        return addresses
    return [address for address in addresses if ":" not in address]


def wants_hairpin() -> bool:
    """Whether bridged frames pass the rules for IP (br_netfilter): then a container that calls itself by a published
    port gets its packets back by the port of the bridge that they came from."""
    return "1" in (read(_BRIDGED), read(_BRIDGED6))


def translates_loopback6() -> bool:
    """Whether ::1 can be translated: with br_netfilter answers have that address when they come from the bridge, and
    the kernel drops them (ip6_rcv_core())."""
    return read(_BRIDGED6) != "1"
