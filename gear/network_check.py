"""Whether networks, addresses and published ports on disk are as the specifications of containers say.

Not what the kernel has (gear/network_state.py), and not the rest of a container (gear/container_check.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from gear import allocation, connecting, containers, definitions, files
from gear.definition import Definition
from gear.errors import GearError
from gear.findings import Finding
from gear.model import Layout
from gear.network import Port
from gear.spec import Spec


def check(layout: Layout, specs: Mapping[str, Spec], names: Sequence[str] = ()) -> Iterator[Finding]:
    """The faults of networks, of *names* or of all, and of what *specs* have of them.  The caller holds the lock."""
    for name in names or definitions.names(layout):
        try:
            definition = definitions.get(layout, name)
        except GearError as error:
            where = definitions.path(layout, name)
            hint = f"gear network create {name} with all its options writes it again"
            yield Finding(where, f"can't be read: {error.message}", hint=hint)
            continue
        for path, content in connecting.rendered(layout, definition).items():
            if files.read_bytes(path) != content:
                yield Finding(path, f"is not that of the network {name}", mend=_publisher(layout, definition))
    for spec in specs.values():
        yield from _links(layout, spec)
    yield from _ports(layout, specs)


def _publisher(layout: Layout, definition: Definition) -> Callable[[], None]:
    return lambda: connecting.publish(layout, definition)


def _links(layout: Layout, spec: Spec) -> Iterator[Finding]:
    """What the container has is taken in its name."""

    def take() -> None:
        connecting.take(layout, spec.name, spec.network)

    for path in sorted(allocation.wanted(layout, spec.network)):
        if not os.path.lexists(path):
            yield Finding(path, f"is missing: it is not taken for {spec.name}", mend=take)
        elif (owner := os.readlink(path)) != spec.name:
            yield Finding(
                path,
                f"belongs to {owner}, but {spec.name} has it as well",
                hint=f"gear install {spec.name} again gives it another one",
            )


def _ports(layout: Layout, specs: Mapping[str, Spec]) -> Iterator[Finding]:
    """No two containers publish one port, be it on other addresses of which one is every address."""
    seen: dict[tuple[str, int], list[tuple[str, Port]]] = {}
    for name, spec in specs.items():
        for port in spec.network.ports:
            others = seen.setdefault((port.protocol, port.external), [])
            for other, beside in others:
                # Of those that are the same one has the link, which tells of the other.
                if other != name and port.overlaps(beside) and port.address != beside.address:
                    what = f"publishes {port.external}/{port.protocol}, which {other} publishes as well"
                    hint = f"gear install {name} again with another port"
                    yield Finding(containers.spec_path(layout, name), what, hint=hint)
            others.append((name, port))
