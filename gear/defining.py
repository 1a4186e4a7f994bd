"""The network that a request means, beside what there is of that name.

Nothing is written; gear/networks.py makes it so.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from gear import definitions, records
from gear.definition import Definition, Subnet, checked, interface_name
from gear.errors import UsageError
from gear.model import Layout
from gear.network import network_name
from gear.underlay import BRIDGE, MACVLAN, OVERHEAD, PORT, VXLAN, Underlay


def define(
    layout: Layout,
    name: str,
    subnets: tuple[Subnet, ...],
    *,
    without: Collection[int] = (),
    internal: bool | None = None,
    isolate: bool | None = None,
    mtu: int | Literal["auto"] | None = None,
    driver: str | None = None,
    underlay: Underlay | None = None,
) -> Definition:
    """The network that a request means: what is not given is what the network has, or for a new one free subnets of a
    bridge and gear's defaults.  Only peers and a local address are those that are given.

    *without* are the families (4, 6) that it is to have no subnet of; an *mtu* of "auto" is the default again.  Raises
    UsageError.
    """
    old = definitions.find(layout, network_name(name))
    driver = driver or driver_of(layout, name)
    laid = underlay or Underlay()
    if old is not None and old.driver != driver:
        raise UsageError(
            f"{name} has the driver {old.driver}, and can't get another.", hint=f"gear network rm {name}"
        )
    if driver == MACVLAN:
        have = old.underlay if old is not None else Underlay(mode=BRIDGE)
        laid = records.replace(laid, parent=laid.parent or have.parent, mode=laid.mode or have.mode)
    elif driver == VXLAN:
        have = old.underlay if old is not None else Underlay()
        laid = records.replace(
            laid,
            parent=laid.parent or have.parent,
            vni=laid.vni or have.vni,
            port=laid.port or have.port or PORT,
        )
    return checked(
        Definition(
            name,
            interface_name(name),
            _subnets(layout, old, subnets, without, driver),
            (old is not None and old.internal) if internal is None else internal,
            (old is None or old.isolate) if isolate is None else isolate,
            _mtu(old, mtu, driver, laid),
            driver,
            laid,
        )
    )


def _subnets(
    layout: Layout,
    old: Definition | None,
    given: tuple[Subnet, ...],
    without: Collection[int],
    driver: str,
) -> tuple[Subnet, ...]:
    """Those that are *given*, and of another family that of *old*; for a new network, if none is given, free ones."""
    if refused := next((item for item in given if item.version in without), None):
        raise UsageError(f"--subnet {refused.subnet} and --no-ipv{refused.version} exclude each other.")
    if old is not None:
        have = old.subnets
    elif given:
        have = ()
    elif driver == BRIDGE:
        have = definitions.free_subnets(layout)
    else:
        raise UsageError(
            f"A {driver} network needs the subnet that it has with others.",
            hint="For example --subnet 10.1.0.0/24 --ip-range 10.1.0.128/25",
        )
    versions = {*without, *(item.version for item in given)}
    found = (*given, *(item for item in have if item.version not in versions))
    return tuple(sorted(found, key=lambda item: item.version))


def _mtu(
    old: Definition | None, mtu: int | Literal["auto"] | None, driver: str, underlay: Underlay
) -> int | None:
    """The largest packet; None leaves it to the kernel."""
    # That of a VXLAN which was never given one follows what is between the hosts.
    if mtu is None and old is not None and old.mtu != _usual_mtu(driver, old.underlay):
        return old.mtu
    return mtu if isinstance(mtu, int) else _usual_mtu(driver, underlay)


def _usual_mtu(driver: str, underlay: Underlay) -> int | None:
    # As much as the usual 1500 leave.
    return 1500 - OVERHEAD[underlay.version] if driver == VXLAN else None


def driver_of(layout: Layout, name: str) -> str:
    """The driver of the network *name*, a bridge if there is none yet."""
    old = definitions.find(layout, network_name(name))
    return BRIDGE if old is None else old.driver
