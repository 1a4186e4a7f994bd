"""The network that a request means, beside what there is of that name.

Nothing is written; gear/networks.py makes it so.
"""

from __future__ import annotations

import dataclasses

from gear import definitions
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
    internal: bool = False,
    isolate: bool = True,
    mtu: int | None = None,
    driver: str | None = None,
    underlay: Underlay | None = None,
) -> Definition:
    """The network that a request means: without *subnets*, *driver*, parent of a macvlan or number of a VXLAN what it
    has, or free subnets of a bridge; raises UsageError."""
    old = definitions.find(layout, network_name(name))
    driver = driver or driver_of(layout, name)
    laid = underlay or Underlay()
    if old is not None and old.driver != driver:
        raise UsageError(
            f"{name} has the driver {old.driver}, and can't get another.", hint=f"gear network rm {name}"
        )
    if driver == MACVLAN:
        have = old.underlay if old is not None else Underlay(mode=BRIDGE)
        laid = dataclasses.replace(laid, parent=laid.parent or have.parent, mode=laid.mode or have.mode)
    elif driver == VXLAN:
        have = old.underlay if old is not None else Underlay()
        laid = dataclasses.replace(laid, vni=laid.vni or have.vni, port=laid.port or PORT)
        # As much as the usual 1500 leave.
        mtu = mtu or 1500 - OVERHEAD[laid.version]
    if not subnets and old is None and driver != BRIDGE:
        raise UsageError(
            f"A {driver} network needs the subnet that it has with others.",
            hint="For example --subnet 10.1.0.0/24 --ip-range 10.1.0.128/25",
        )
    if not subnets:
        subnets = old.subnets if old is not None else definitions.free_subnets(layout)
    return checked(Definition(name, interface_name(name), subnets, internal, isolate, mtu, driver, laid))


def driver_of(layout: Layout, name: str) -> str:
    """The driver of the network *name*, a bridge if there is none yet."""
    old = definitions.find(layout, network_name(name))
    return BRIDGE if old is None else old.driver
