"""Links of installed containers: changed, made at once in those that run, and where each leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gear import composing, containers, files, install, live, publishing, records, store
from gear.errors import GearError
from gear.helper import links
from gear.helper.failure import Failure
from gear.link import Link
from gear.model import Layout
from gear.systemd import Manager

Change = Callable[[tuple[Link, ...]], tuple[Link, ...]]


@records.dataclass(frozen=True)
class Linked:
    """What became of a container's links: those it has, and whether they are there now, since it runs."""

    links: tuple[Link, ...]
    made: bool


def change(manager: Manager, layout: Layout, name: str, wanted: Change) -> Linked:
    """Let the container *name* have the links that *wanted* makes of those it has, at once if it runs.

    Links that are as they were are made anew: names are resolved again.  Raises GearError.
    """
    with files.locked(layout.lock), store.lease(layout):
        spec = containers.get(layout, name)
        if containers.run_of(layout, name) is not None:
            raise GearError(f"{name} was run once and is not installed, so its links can't be changed.")
        stale = live.is_stale(manager, layout, name)
        network = records.replace(spec.network, links=wanted(spec.network.links))
        done = install.apply(layout, records.replace(spec, network=network), composing.image_of(layout, spec))
        publishing.acquaint(manager, layout, [name])
        pid = live.payload(manager, layout, name)
        if pid is not None:
            try:
                live.make_links(layout, name, pid)
            finally:
                if not stale:
                    live.mark(layout, name)
    return Linked(done.spec.network.links, pid is not None)


def without(links_: tuple[Link, ...], local: list[tuple[str, int]]) -> tuple[Link, ...]:
    """*links_* but those that begin at one of *local* (address and port); raises GearError for one that is not."""
    have = [(link.address, link.port) for link in links_]
    for address, port in local:
        if (address, port) not in have:
            raise GearError(f"There is no link at {address}, port {port}.")
    return tuple(link for link in links_ if (link.address, link.port) not in local)


def listed(layout: Layout, name: str) -> list[dict[str, Any]]:
    """An object for each link of *name*: what it is, and the address it leads to now, or why there is none."""
    spec = containers.get(layout, name)
    member = live.network_member(layout, name)
    found = []
    for link, item in zip(spec.network.links, member.get("links", ()), strict=False):
        to: str | None = None
        problem = None
        try:
            to = links.resolve(item, member, name, str(layout.containers))
        except Failure as failure:
            problem = failure.message
        found.append(
            {
                "name": name,
                "address": link.address,
                "port": link.port,
                "protocol": link.protocol or "all",
                "host": link.host,
                "target": link.target,
                "to": to,
                "problem": problem,
            }
        )
    return found
