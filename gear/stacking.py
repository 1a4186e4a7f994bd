"""The file system of a container that does not run, for one process only: its layers, volumes and binds.

Not the start of a container (gear/helper).  It is done in a mount namespace of the calling process, which has to
be a child made for it; it goes away with the process, and nothing of it shows on the host.
"""

from __future__ import annotations

import os
from pathlib import Path

from gear.errors import GearError
from gear.helper import idmaps, resolver, rootfs, syscalls
from gear.helper.bundle import is_bind, load_json
from gear.helper.channel import pair
from gear.helper.failure import Step
from gear.helper.mounts import Root


def stack(bundle: Path, *, writes: bool) -> tuple[int, int]:
    """The root directory and the user namespace of the container in *bundle*, as descriptors."""
    config, start = load_json(str(bundle / "config.json")), load_json(str(bundle / "start.json"))
    if writes and start["root"].get("ephemeral"):
        raise GearError(
            f"Nothing can be written to {bundle.name}: it does not run, and it keeps no files.",
            hint=f"gear start {bundle.name}",
        )
    step = Step()
    try:
        if start.get("network") and not (bundle / "resolv.conf").exists():
            # Its first start would write it.
            resolver.write(str(bundle), start["network"]["resolver"])
        userns = _user_namespace(config["linux"], step)
        rootfs.own_mount_namespace(step)
        sources = rootfs.bind_sources(config, userns, step)
        root = rootfs.assemble_root(str(bundle), start["root"], userns, step)
        step.doing = "attach the root file system"
        syscalls.move_mount_to(root, "/run")
        place = Root(root, pair()[0], step, config)
        binds = [mount for mount in config.get("mounts", ()) if is_bind(mount)]
        for mount, source in zip(binds, sources, strict=True):
            if not mount["destination"].startswith("/sys"):
                place.bind(mount, source)
        if config["root"].get("readonly", False) and writes:
            raise GearError(f"The root of {bundle.name} is read-only.")
    except OSError as error:
        raise step.failure(error) from error
    return root, userns


def _user_namespace(linux: dict, step: Step) -> int:  # type: ignore[type-arg]
    """A user namespace with the container's ids, as a descriptor; the process that made it is gone."""
    step.doing = "map the container's user ids"
    if not linux.get("uidMappings"):
        return os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    mount = {"uidMappings": linux["uidMappings"], "gidMappings": linux["gidMappings"]}
    return idmaps.mapping_namespace(mount, [], linux, step)
