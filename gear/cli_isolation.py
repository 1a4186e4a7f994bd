"""The options that say how far a container is kept apart from the host, and what they mean.

Part of those of gear/cli_spec.py.  What an option needs of the machine (a device's numbers, a reaper, a profile's text)
is looked up here, once: the specification that comes of it renders to the same on any machine.
"""

from __future__ import annotations

import argparse
from typing import Any

from gear import host, isolation, seccomp, tunables
from gear.budget import parse_size
from gear.errors import UsageError
from gear.isolation import Isolation


def isolation_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument

    def repeated(*names: str, metavar: str, help: str) -> None:
        add(*names, metavar=metavar, action="append", default=[], help=help)

    add("--privileged", action="store_true", help="every capability, no filter, nothing masked")
    repeated("--cap-add", metavar="CAPABILITY", help="give root of the container this right as well, or ALL")
    repeated("--cap-drop", metavar="CAPABILITY", help="take this right from root of the container, or ALL")
    repeated("--device", metavar="HOST[:CONTAINER[:ACCESS]]", help="let it use a device of the host")
    repeated(
        "--security-opt", metavar="OPTION", help="seccomp=FILE, no-new-privileges, unmask=PATH and others"
    )
    add(
        "--userns",
        metavar="RANGE",
        default="auto",
        help="its user ids: auto (default), host, BASE or BASE:SIZE",
    )
    for name in ("pid", "ipc", "uts", "cgroupns"):
        add(
            f"--{name}",
            metavar="MODE",
            default="private",
            help=f"its {_SHOWN[name]}: private (default) or host",
        )
    repeated("--sysctl", metavar="NAME=VALUE", help="set a kernel parameter of its namespaces")
    repeated(
        "--ulimit", metavar="NAME=SOFT[:HARD]", help="limit a resource of each process, for example nofile"
    )
    add("--init", action="store_true", help="put a reaper of orphans before the payload as process 1")
    add("--shm-size", metavar="SIZE", help="how large /dev/shm may be (64m)")
    repeated("--group-add", metavar="GROUP", help="run also as this group of the image, by name or number")
    add("--umask", metavar="MASK", help="the payload's file mode creation mask, in octal (0022)")
    add("--timezone", "--tz", metavar="ZONE", help="its time zone, for example Europe/Vienna, or local")
    add(
        "--systemd",
        metavar="MODE",
        default="auto",
        help="whether it is a whole system: auto (default), always, false",
    )
    add("--oom-score-adj", metavar="NUMBER", help="how soon it is killed when memory runs out, -1000 to 1000")


_SHOWN = {
    "pid": "processes",
    "ipc": "shared memory and queues",
    "uts": "host name",
    "cgroupns": "view of cgroups",
}


def isolation_of(args: argparse.Namespace) -> Isolation:
    """The isolation that a command line asks for; raises UsageError, and HostError for what is not here."""
    security: dict[str, Any] = isolation.security_options(args.security_opt)
    if security.get("seccomp", "unconfined") != "unconfined":
        security["seccomp"] = seccomp.load_profile(security["seccomp"])
    sysctl = {}
    for text in args.sysctl:
        name, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"{text!r} sets no kernel parameter.", hint="Write NAME=VALUE.")
        sysctl[tunables.sysctl_name(name)] = value
    if args.timezone is not None:
        isolation.timezone(args.timezone)
    return Isolation(
        **security,
        privileged=args.privileged,
        cap_add=_capabilities(args.cap_add),
        cap_drop=_capabilities(args.cap_drop),
        devices=tuple(
            device for text in args.device for device in host.devices(*isolation.parse_device(text))
        ),
        userns=isolation.user_namespace(args.userns),
        pid=isolation.namespace_mode(args.pid, "--pid"),
        ipc=isolation.namespace_mode(args.ipc, "--ipc"),
        uts=isolation.namespace_mode(args.uts, "--uts"),
        cgroupns=isolation.namespace_mode(args.cgroupns, "--cgroupns"),
        sysctl=sysctl,
        ulimits=dict(tunables.parse_ulimit(text) for text in args.ulimit),
        init=host.find_reaper() if args.init else None,
        shm_size=None if args.shm_size is None else tunables.shm_size(parse_size(args.shm_size)),
        group_add=tuple(args.group_add),
        umask=None if args.umask is None else isolation.umask(args.umask),
        timezone=args.timezone,
        systemd=isolation.systemd_mode(args.systemd),
        oom_score_adj=None if args.oom_score_adj is None else tunables.oom_score(_number(args.oom_score_adj)),
    )


def _capabilities(items: list[str]) -> tuple[str, ...]:
    """Their full names; several may be in one word, separated by commas."""
    return tuple(dict.fromkeys(isolation.capability(name) for item in items for name in item.split(",")))


def _number(text: str) -> int | str:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else text
