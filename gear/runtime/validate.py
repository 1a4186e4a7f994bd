"""Whether a config.json may be run at all: the specification's MUSTs about values.

Properties that nobody knows are ignored, values that nobody knows are errors (spec.md, "Extensibility", "Valid
values").  Options of mounts and everything else that the kernel judges is the helper's to refuse.
"""

from __future__ import annotations

import os

from gear.helper.bundle import is_bind
from gear.helper.failure import Failure
from gear.runtime import shapes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
PROPAGATIONS = ("shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable")
RLIMITS = (
    "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK"
).split()
POLICIES = "SCHED_OTHER SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_ISO SCHED_IDLE SCHED_DEADLINE".split()
SCHEDULER_FLAGS = (
    "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX"
).split()
IO_CLASSES = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
MEMORY_MODES = (
    "MPOL_DEFAULT MPOL_BIND MPOL_INTERLEAVE MPOL_WEIGHTED_INTERLEAVE MPOL_PREFERRED MPOL_PREFERRED_MANY MPOL_LOCAL"
).split()
MEMORY_FLAGS = ("MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES")
PERSONALITIES = ("LINUX", "LINUX32")
# sysctl(8) names that belong to a namespace, and to which (namespaces(7)).
_IPC_SYSCTLS = tuple(
    f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)


def check(config: dict[str, Any], bundle: str) -> str:
    """Raise Failure for the first thing that can't be; returns the absolute path of the root file system."""
    shapes.check(config, shapes.CONFIG)
    _check_version(config.get("ociVersion"))
    for what in ("windows", "vm", "zos", "solaris"):
        if what in config and "linux" not in config:
            raise Failure(f"config.json is for {what}, and this is a runtime for Linux")
    root = _check_root(config.get("root"), bundle)
    if config.get("process") is not None:
        check_process(config["process"])
    _check_mounts(config.get("mounts") or ())
    _check_hooks(config.get("hooks") or {})
    if "" in (config.get("annotations") or {}):
        raise Failure("an annotation in config.json has no name")
    _check_linux(config.get("linux") or {}, config)
    return root


def _one_of(value: object, allowed: tuple[str, ...] | list[str], what: str) -> None:
    if value not in allowed:
        raise Failure(f"{what} can't be {value}: it is one of {', '.join(allowed)}")


def _no_duplicates(values: list[Any], what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise Failure(f"{what} {value} is given twice in config.json")


def _check_version(version: object) -> None:
    if not isinstance(version, str) or not version:
        raise Failure("config.json has no ociVersion")
    numbers = version.partition("+")[0].partition("-")[0].split(".")
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise Failure(f"the ociVersion {version} is not a version of three numbers (SemVer 2.0.0)")
    if int(numbers[0]) != 1:
        raise Failure(f"the ociVersion {version} is not supported: 1.0.0 to 1.3.0 are")


def _check_root(root: Any, bundle: str) -> str:
    if not root or not root.get("path"):
        raise Failure("config.json has no root.path")
    path = os.path.normpath(os.path.join(bundle, root["path"]))
    if not os.path.isdir(path):
        raise Failure(f"the root file system {path} is not a directory, or does not exist")
    return path


def check_process(process: dict[str, Any]) -> None:
    """The `process` object, of a bundle or of exec."""
    shapes.check(process, shapes.PROCESS, "process")
    if not process.get("args"):
        raise Failure("process.args in config.json must be strings, one at least")
    if not str(process.get("cwd", "")).startswith("/"):
        raise Failure(f"process.cwd must be an absolute path, not '{process.get('cwd', '')}'")
    rlimits = process.get("rlimits") or []
    for limit in rlimits:
        _one_of(str(limit.get("type")).removeprefix("RLIMIT_"), RLIMITS, "the type of a resource limit")
        if not str(limit.get("type")).startswith("RLIMIT_"):
            raise Failure(f"the resource limit {limit.get('type')} must begin with RLIMIT_")
    _no_duplicates([limit["type"] for limit in rlimits], "the resource limit")
    score = process.get("oomScoreAdj")
    if score is not None and not -1000 <= score <= 1000:
        raise Failure(f"process.oomScoreAdj must be from -1000 to 1000, not {score}")
    if process.get("scheduler"):
        _one_of(process["scheduler"].get("policy"), POLICIES, "process.scheduler.policy")
        for flag in process["scheduler"].get("flags") or ():
            _one_of(flag.removeprefix("SCHED_FLAG_"), SCHEDULER_FLAGS, "a flag of process.scheduler")
    if process.get("ioPriority"):
        _one_of(process["ioPriority"].get("class"), IO_CLASSES, "process.ioPriority.class")
    for member, text in (process.get("execCPUAffinity") or {}).items():
        if member in ("initial", "final"):
            _check_list(text, 8192, f"process.execCPUAffinity.{member}")


def _check_mounts(mounts: Iterable[Any]) -> None:
    for mount in mounts:
        if is_bind(mount) and not mount.get("source"):
            raise Failure(f"the bind mount on {mount['destination']} has no source")
        if bool(mount.get("uidMappings")) != bool(mount.get("gidMappings")):
            raise Failure(
                f"the mount on {mount['destination']} needs both uidMappings and gidMappings, or none"
            )


def _check_hooks(hooks: dict[str, Any]) -> None:
    for kind in HOOKS:
        for hook in hooks.get(kind) or ():
            path = hook["path"]
            if not path.startswith("/"):
                raise Failure(f"a {kind} hook needs an absolute path, not {path}")
            timeout = hook.get("timeout")
            if timeout is not None and timeout <= 0:
                raise Failure(f"the timeout of the {kind} hook {path} must be more than zero seconds")


def _check_linux(linux: dict[str, Any], config: dict[str, Any]) -> None:
    owned = _check_namespaces(linux)
    if linux.get("rootfsPropagation"):
        _one_of(linux["rootfsPropagation"], PROPAGATIONS, "linux.rootfsPropagation")
    if linux.get("intelRdt"):
        raise Failure("linux.intelRdt is not supported by this runtime")
    for what, member in (("uts", "hostname"), ("uts", "domainname")):
        if config.get(member) and what not in owned:
            raise Failure(
                f"config.json sets the {member}, which needs a {what} namespace of the container's own"
            )
    for key in linux.get("sysctl") or {}:
        if "/" in key and {"", ".", ".."} & set(key.split("/")):
            raise Failure(f"the sysctl {key} is a path that leads elsewhere")
        _check_sysctl(key.replace("/", "."), owned)
    for device in linux.get("devices") or ():
        _check_device(device)
    personality = linux.get("personality") or {}
    if personality:
        _one_of(personality.get("domain"), PERSONALITIES, "linux.personality.domain")
        if personality.get("flags"):
            raise Failure("linux.personality.flags must be empty: the specification knows none")
    if linux.get("memoryPolicy"):
        _one_of(linux["memoryPolicy"].get("mode"), MEMORY_MODES, "linux.memoryPolicy.mode")
        for flag in linux["memoryPolicy"].get("flags") or ():
            _one_of(flag, MEMORY_FLAGS, "a flag of linux.memoryPolicy")
        _check_list(linux["memoryPolicy"].get("nodes") or "", 1024, "linux.memoryPolicy.nodes")
    if linux.get("timeOffsets") and "time" not in owned:
        raise Failure("linux.timeOffsets need a time namespace of the container's own")
    if linux.get("netDevices") and "network" not in owned:
        raise Failure("linux.netDevices need a network namespace of the container's own")
    _check_cgroups_path(linux.get("cgroupsPath") or "")


def _check_namespaces(linux: dict[str, Any]) -> dict[str, str]:
    """The namespaces that are not the runtime's, and their paths; `` for new ones."""
    owned = {}
    for namespace in linux.get("namespaces") or ():
        _one_of(namespace.get("type"), NAMESPACES, "the type of a namespace")
        path = namespace.get("path") or ""
        if path and not path.startswith("/"):
            raise Failure(f"the path of the {namespace['type']} namespace must be absolute, not {path}")
        if namespace["type"] in owned:
            raise Failure(f"the namespace {namespace['type']} is given twice in config.json")
        owned[namespace["type"]] = path
    if (linux.get("uidMappings") or linux.get("gidMappings")) and "user" not in owned:
        raise Failure("linux.uidMappings need a user namespace of the container's own")
    return owned


def _check_sysctl(name: str, owned: dict[str, str]) -> None:
    """Only what belongs to a namespace that the container does not share with the host."""
    if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
        needed = "ipc"
    elif name.startswith("net."):
        needed = "network"
    elif name == "kernel.hostname":
        raise Failure("the sysctl kernel.hostname is what hostname in config.json is for")
    elif name == "kernel.domainname":
        needed = "uts"
    elif name.startswith("user."):
        needed = "user"
    else:
        raise Failure(f"the sysctl {name} belongs to the whole machine, so a container can't set it")
    if needed not in owned:
        raise Failure(f"the sysctl {name} needs a {needed} namespace of the container's own")


def _check_device(device: dict[str, Any]) -> None:
    _one_of(device.get("type"), ("c", "b", "u", "p"), "the type of a device")
    if not str(device.get("path", "")).startswith("/"):
        raise Failure(f"a device in config.json needs an absolute path, not {device.get('path')}")
    if device["type"] != "p":
        for member in ("major", "minor"):
            if not 0 <= device.get(member, -1) < 1 << 20:
                raise Failure(f"the device {device['path']} needs a {member} number")


def _check_list(text: str, most: int, what: str) -> None:
    """A list of numbers such as 0-3,7."""
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(word.isascii() and word.isdigit() and int(word) < most for word in numbers):
            raise Failure(f"{what} can't be {text}: it is a list such as 0-3,7 of numbers below {most}")


def _check_cgroups_path(path: str) -> None:
    if ".." in path.split("/") or "\0" in path:
        raise Failure(f"linux.cgroupsPath can't be {path}: it leads out of where it begins")
