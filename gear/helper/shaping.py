"""The rates of a container's interfaces, as tc(8) would set them over rtnetlink(7).

What goes to the container waits in a token bucket (tc-tbf(8)) of the host's end of its veth pair.  What comes from it
arrives there and can't wait: all of it is led through a device of its own (ifb), which has such a bucket, and goes on
from there as if nothing had been.  Both are the host's, so nobody inside can take them away, whatever his rights.
Dropping instead what is too much (tc-police(8), or limit of nft(8)) needs no device, but TCP makes 1.2 to 1.5 times the
rate of that.
"""

from __future__ import annotations

from gear.helper import netlink
from gear.helper.failure import Failure, Step
from gear.helper.netlink import CREATE, EXCL, ORDER, REPLACE, Netlink, attribute, nest, text, u32
from gear.helper.rtnetlink import Routes, index_of

# linux/rtnetlink.h
_NEWQDISC = 36
_DELQDISC = 37
_NEWTFILTER = 44
_KIND = 1  # TCA_KIND and TCA_ACT_KIND
_OPTIONS = 2  # TCA_OPTIONS and TCA_ACT_OPTIONS
# linux/pkt_sched.h
_ROOT = 0xFFFFFFFF
_INGRESS = 0xFFFFFFF1
_INGRESS_HANDLE = 0xFFFF0000
_LINKLAYER_ETHERNET = 1  # without it a table of times is wanted
_TBF_PARMS = 1
_TBF_RATE64 = 4
_TBF_BURST = 6
# linux/pkt_cls.h, linux/tc_act/tc_mirred.h
_U32_SEL = 5
_U32_ACT = 7
_U32_TERMINAL = 1
_MIRRED_PARMS = 2
_EGRESS_REDIR = 1
_STOLEN = 4  # TC_ACT_STOLEN
_EVERY_PROTOCOL = bytes([0, 3])  # ETH_P_ALL in network order

# What the names of the devices begin with (gear/attachment.py).
BEGINNING = "gi"
# What they say of themselves, before the container's name.
ALIAS = "gear container "

_EINVAL = 22
_EOPNOTSUPP = 95
_ENOENT = 2

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from collections.abc import Callable


def alias(container: str) -> str:
    """What the devices of a container's rates say of themselves."""
    return f"{ALIAS}{container}"


def shape(item: dict, container: str, step: Step) -> None:  # type: ignore[type-arg]
    """Make the rates of one of start.json's `interfaces`, whose link is there, what they should be; raises Failure and
    OSError."""
    limits = item.get("limits") or {}
    step.doing = f"limit the rate of {item['name']}"
    link, kernel = index_of(item["host"]), Netlink(netlink.ROUTE)
    try:
        if "in" in limits:
            _needing("tbf", step, lambda: kernel.send(_bucket(link, limits["in"])))
        if "out" in limits:
            _needing(
                "ifb, tbf, u32 and mirred",
                step,
                lambda: _lead_through(kernel, link, limits, alias(container)),
            )
    finally:
        kernel.close()


def unshape(item: dict) -> None:  # type: ignore[type-arg]
    """Take the rates of one of `interfaces` away, as far as there are any."""
    limits, link = item.get("limits") or {}, index_of(item["host"])
    kernel = Netlink(netlink.ROUTE)
    for parent, wanted in ((_ROOT, "in" in limits), (_INGRESS, "out" in limits)):
        if link and wanted:
            _delete(kernel, link, parent)
    kernel.close()
    if "device" in limits:
        forget(limits["device"])


def forget(device: str) -> None:
    """Remove the device of a rate, if it is there."""
    if index_of(device):
        routes = Routes()
        routes.delete_link(device)
        routes.close()


def _needing(what: str, step: Step, make: Callable[[], None]) -> None:
    """Run *make*; raises Failure for a kernel that has not *what*: then nothing would be limited."""
    try:
        make()
    except OSError as error:
        if error.errno not in (_ENOENT, _EOPNOTSUPP):
            raise
        raise Failure(
            f"can't {step.doing}: this kernel lacks what it takes ({what}): {error.strerror}"
        ) from error


def _lead_through(kernel: Netlink, link: int, limits: dict, words: str) -> None:  # type: ignore[type-arg]
    """Lead what comes from *link* through the device of *limits*, which gets *words* for an alias."""
    # Of an earlier start, or of this one before a change.
    _delete(kernel, link, _INGRESS)
    forget(limits["device"])
    routes = Routes()
    routes.add_ifb(limits["device"], words)
    routes.close()
    device = index_of(limits["device"])
    ingress = _about(link, _INGRESS_HANDLE, _INGRESS) + text(_KIND, "ingress")
    kernel.send(
        _bucket(device, limits["out"]),
        (_NEWQDISC, CREATE | EXCL, ingress),
        (_NEWTFILTER, CREATE | EXCL, _redirection(link, device)),
    )


def _delete(kernel: Netlink, link: int, parent: int) -> None:
    """Remove the queueing discipline of *link* at *parent*, if there is one."""
    try:
        kernel.send((_DELQDISC, 0, _about(link, 0, parent)))
    except OSError as error:
        if error.errno not in (_ENOENT, _EINVAL):
            raise


def _about(link: int, handle: int, parent: int, information: bytes = bytes(4)) -> bytes:
    """struct tcmsg: family, padding, link, handle, parent, and more about filters."""
    numbers = [number.to_bytes(4, ORDER) for number in (link, handle, parent)]
    return bytes(4) + b"".join(numbers) + information


def _bucket(link: int, limit: dict) -> tuple[int, int, bytes]:  # type: ignore[type-arg]
    """The request for a token bucket: *limit* has bytes per second, bytes at once, and bytes that may wait."""
    rate = limit["rate"]
    # struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
    spec = bytes([0, _LINKLAYER_ETHERNET]) + bytes(6) + min(rate, 0xFFFFFFFF).to_bytes(4, ORDER)
    # struct tc_tbf_qopt: rate, peak rate, limit, and times of burst and packet, which _TBF_BURST takes the place of.
    parameters = spec + bytes(12) + limit["queue"].to_bytes(4, ORDER) + bytes(8)
    options = [attribute(_TBF_PARMS, parameters), u32(_TBF_BURST, limit["burst"])]
    options.append(attribute(_TBF_RATE64, rate.to_bytes(8, ORDER)))
    body = _about(link, 0, _ROOT) + text(_KIND, "tbf") + nest(_OPTIONS, *options)
    return _NEWQDISC, CREATE | REPLACE, body


def _redirection(link: int, device: int) -> bytes:
    """The body of a filter that sends every packet from *link* out by *device*."""
    # struct tc_u32_sel with one key that fits everything: flags, shift, number of keys; the rest is of headers.
    selector = bytes([_U32_TERMINAL, 0, 1]) + bytes(13) + bytes(16)
    # struct tc_mirred: index, capabilities, action, two counts; how, and by which link.
    numbers = (0, 0, _STOLEN, 0, 0, _EGRESS_REDIR, device)
    parameters = b"".join([number.to_bytes(4, ORDER) for number in numbers])
    action = nest(1, text(_KIND, "mirred"), nest(_OPTIONS, attribute(_MIRRED_PARMS, parameters)))
    options = nest(_OPTIONS, attribute(_U32_SEL, selector), nest(_U32_ACT, action))
    # Its priority is 1, in the upper half.
    information = int.from_bytes(_EVERY_PROTOCOL, ORDER) | 1 << 16
    head = _about(link, 0, _INGRESS_HANDLE, information.to_bytes(4, ORDER))
    return head + text(_KIND, "u32") + options
