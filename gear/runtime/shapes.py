"""What config.json is made of: the types of all properties that the runtime looks at (the specification's schema).

Checked before anything else, so that whoever reads a property may rely on its type.  What the values mean is
gear/runtime/validate.py's to judge.  A property that is null counts as not given, and is dropped.
"""

from __future__ import annotations

from gear.helper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A shape is str, bool, a range of whole numbers, [shape of each], or {name: shape}; `!name` must be there, and `*`
# stands for any name.
U16, U32, U64 = (0, (1 << 16) - 1), (0, (1 << 32) - 1), (0, (1 << 64) - 1)
I32, I64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
TEXTS = [str]
_MAPPINGS = [{"!containerID": U32, "!hostID": U32, "!size": U32}]
_HOOKS = [{"!path": str, "args": TEXTS, "env": TEXTS, "timeout": I32}]

PROCESS = {
    "terminal": bool, "args": TEXTS, "env": TEXTS, "cwd": str, "consoleSize": {"height": U16, "width": U16},
    "user": {"uid": U32, "gid": U32, "umask": (0, 0o7777), "additionalGids": [U32]},
    "capabilities": {"*": TEXTS},
    "rlimits": [{"!type": str, "!soft": U64, "!hard": U64}],
    "noNewPrivileges": bool, "oomScoreAdj": I32, "apparmorProfile": str, "selinuxLabel": str,
    "scheduler": {"!policy": str, "nice": I32, "priority": (0, 99), "flags": TEXTS, "runtime": U64, "deadline": U64,
                  "period": U64},
    "ioPriority": {"!class": str, "priority": (0, 7)},
    "execCPUAffinity": {"initial": str, "final": str},
}  # fmt: skip
_NUMBERS = {"!major": U32, "!minor": U32}
_RATES = [{**_NUMBERS, "!rate": U64}]
RESOURCES = {
    "memory": {"limit": I64, "reservation": I64, "swap": I64, "kernel": I64, "kernelTCP": I64, "swappiness": U64,
               "disableOOMKiller": bool, "useHierarchy": bool, "checkBeforeUpdate": bool},
    "cpu": {"shares": U64, "quota": I64, "burst": U64, "period": U64, "realtimeRuntime": I64, "realtimePeriod": U64,
            "cpus": str, "mems": str, "idle": I64},
    "pids": {"limit": I64},
    "blockIO": {"weight": U16, "leafWeight": U16, "weightDevice": [{**_NUMBERS, "weight": U16, "leafWeight": U16}],
                **dict.fromkeys(("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice",
                                 "throttleWriteIOPSDevice"), _RATES)},
    "hugepageLimits": [{"!pageSize": str, "!limit": U64}],
    "network": {"classID": U32, "priorities": [{"!name": str, "!priority": U32}]},
    "rdma": {"*": {"hcaHandles": U32, "hcaObjects": U32}},
    "devices": [{"allow": bool, "type": str, "major": I64, "minor": I64, "access": str}],
    "unified": {"*": str},
}  # fmt: skip
_LINUX = {
    "namespaces": [{"!type": str, "path": str}], "uidMappings": _MAPPINGS, "gidMappings": _MAPPINGS,
    "timeOffsets": {"*": {"secs": I64, "nanosecs": U32}},
    "devices": [{"!path": str, "!type": str, "major": I64, "minor": I64, "fileMode": U32, "uid": U32, "gid": U32}],
    "netDevices": {"*": {"name": str}},
    "cgroupsPath": str, "resources": RESOURCES, "rootfsPropagation": str, "sysctl": {"*": str}, "mountLabel": str,
    "maskedPaths": TEXTS, "readonlyPaths": TEXTS, "personality": {"!domain": str, "flags": TEXTS},
    "memoryPolicy": {"!mode": str, "nodes": str, "flags": TEXTS}, "intelRdt": {},
    "seccomp": {"!defaultAction": str, "defaultErrnoRet": U32, "architectures": TEXTS, "flags": TEXTS,
                "listenerPath": str, "listenerMetadata": str,
                "syscalls": [{"!names": TEXTS, "!action": str, "errnoRet": U32,
                              "args": [{"!index": U32, "!value": U64, "valueTwo": U64, "!op": str}]}]},
}  # fmt: skip
CONFIG = {
    "ociVersion": str, "hostname": str, "domainname": str, "annotations": {"*": str},
    "root": {"path": str, "readonly": bool}, "process": {}, "linux": _LINUX,
    "mounts": [{"!destination": str, "type": str, "source": str, "options": TEXTS, "uidMappings": _MAPPINGS,
                "gidMappings": _MAPPINGS}],
    "hooks": dict.fromkeys(("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
                           _HOOKS),
}  # fmt: skip


def check(value: Any, shape: Any, where: str = "") -> None:
    """Raise Failure for the first property whose type is another; drops those that are null."""
    if isinstance(shape, dict):
        _check_object(value, shape, where)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _wrong(where, "an array")
        for position, item in enumerate(value):
            check(item, shape[0], f"{where}[{position}]")
    elif isinstance(shape, tuple):
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(where, "a whole number")
        if not shape[0] <= value <= shape[1]:
            raise _wrong(where, f"from {shape[0]} to {shape[1]}, not {value}")
    elif shape is bool:
        if not isinstance(value, bool):
            raise _wrong(where, "true or false")
    elif not isinstance(value, str):
        raise _wrong(where, "a string")
    elif "\0" in value:
        raise Failure(f"{where} holds a NUL character")


def _check_object(value: Any, shape: dict[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(where, "an object")
    for name in [name for name, item in value.items() if item is None]:
        del value[name]
    for name in shape:
        if name[:1] == "!" and name[1:] not in value:
            raise Failure(f"{where} has no {name[1:]}")
    for name, item in value.items():
        inner = shape.get(name, shape.get(f"!{name}", shape.get("*")))
        if inner is not None:
            check(item, inner, f"{where}.{name}" if where else name)


def _wrong(where: str, what: str) -> Failure:
    return Failure(f"{where or 'config.json'} must be {what}")
