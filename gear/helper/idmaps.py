"""User namespaces that exist only to carry an id mapping: for a mount with `uidMappings` and `gidMappings` of its own.

mount_setattr(2) takes the mapping from a namespace's descriptor; once it has that, nobody has to live in it.
"""

from __future__ import annotations

import posix as os
from _signal import SIGKILL, pause

from gear.helper import syscalls
from gear.helper.failure import Failure, Step


def write_maps(pid: int, uids: list, gids: list) -> None:  # type: ignore[type-arg]
    """Write the id maps of the user namespace that *pid* is in (user_namespaces(7))."""
    for file, mappings in (("uid_map", uids), ("gid_map", gids)):
        lines = "".join(f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in mappings)
        descriptor = os.open(f"/proc/{pid}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, lines.encode())
        finally:
            os.close(descriptor)


def mapping_namespace(mount: dict, data: list[str], linux: dict, step: Step) -> int:  # type: ignore[type-arg]
    """A descriptor of a user namespace with the mapping that a `mounts` entry asks for."""
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    for option in data:
        if option.startswith("idmap="):
            uids, gids = _parse(option.removeprefix("idmap="), linux)
    if not uids or not gids:
        raise Failure(f"can't {step.doing}: uidMappings and gidMappings go together")
    pid = syscalls.clone(syscalls.CLONE_NEWUSER | syscalls.SIGCHLD)
    if pid == 0:
        pause()
        os._exit(0)
    try:
        write_maps(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)


def _parse(text: str, linux: dict) -> tuple[list, list]:  # type: ignore[type-arg]
    """`uids=ON_DISK-SHOWN-COUNT#...;gids=...`, crun's option; with an @, SHOWN is an id of the container."""
    maps: dict[str, list[dict[str, int]]] = {"uids": [], "gids": []}
    for part in text.split(";"):
        kind, _, entries = part.partition("=")
        if kind not in maps:
            raise Failure(f"can't map ids: {part!r} is no mapping")
        for entry in entries.split("#"):
            relative = entry.startswith("@")
            numbers = entry.removeprefix("@").split("-")
            if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
                raise Failure(f"can't map ids: {entry!r} is no mapping")
            first, shown, size = map(int, numbers)
            if relative:
                for known in linux.get("uidMappings" if kind == "uids" else "gidMappings", ()):
                    if known["containerID"] <= shown < known["containerID"] + known["size"]:
                        shown += known["hostID"] - known["containerID"]
                        break
            maps[kind].append({"containerID": first, "hostID": shown, "size": size})
    return maps["uids"], maps["gids"]
