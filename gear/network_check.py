"""Whether networks, addresses and published ports on disk are as the specifications of containers say.

Not what the kernel has (gear/network_state.py), and not the rest of a container (gear/container_check.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from gear import allocation, connecting, definitions, files
from gear.definition import Definition
from gear.errors import GearError
from gear.findings import Finding
from gear.model import Layout
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
