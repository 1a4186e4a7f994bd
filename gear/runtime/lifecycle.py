"""The operations of the specification on one container: create, start, kill, delete; and run, which is all of them.

The kernel's part of it is gear/helper's.  Everything here happens under the container's lock, and whatever fails
in create leaves nothing behind.
"""

from __future__ import annotations

import os
from _signal import SIGKILL
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket

from gear.helper import hooks, interpreter
from gear.helper.bundle import is_bind
from gear.helper.failure import Failure
from gear.runtime import cgroups, notify, placement, shapes, validate
from gear.runtime.document import dumps, load_json
from gear.runtime.state import Container, Lock, load, now, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gear.helper.bundle import Filter
    from gear.runtime.report import Log

_IDENTITY = [{"containerID": 0, "hostID": 0, "size": (1 << 32) - 1}]


class Request:
    """What `create` and `run` are asked for."""

    def __init__(self, root: str, name: str, bundle: str, log: Log) -> None:
        self.root, self.name, self.bundle, self.log = root, name, os.path.abspath(bundle), log
        self.config = ""  # another file than the bundle's config.json
        self.manager = "cgroupfs"
        self.pid_file = ""
        self.console_socket = ""
        self.keep_fds = 0
        self.new_keyring = True
        self.detached = True
        self.notify = ""  # the socket of whoever waits for the container to be ready


def _config(request: Request) -> dict[str, Any]:
    path = os.path.join(request.bundle, request.config or "config.json")
    try:
        config = load_json(path)
    except OSError as error:
        raise Failure(f"can't read {path}: {error.strerror}") from error
    shapes.check(config, shapes.CONFIG)
    return config


def shares_ids(request: Request) -> bool:
    """Whether root of the container that is asked for may be the host's."""
    return interpreter.shares_ids(_config(request))


def create(request: Request) -> tuple[Container, int]:
    """Make a container up to the point where it waits for start(); returns it and its terminal, or -1."""
    config = _config(request)
    _check_terminal(config, request)
    rootfs = validate.check(config, request.bundle)
    _complete(config, request.bundle)
    container = Container(request.root, request.name)
    container.make()
    with Lock(container):
        container.data = {
            "status": "creating", "bundle": request.bundle, "rootfs": rootfs, "created": now(), "group": {},
            "owner": "root" if os.getuid() == 0 else str(os.getuid()), "manager": request.manager,
            "annotations": config.get("annotations") or {},
            "resources": (config.get("linux") or {}).get("resources") or {},
        }  # fmt: skip
        container.save()
        try:
            replace(f"{container.directory}/config.json", dumps(config).encode())
            if request.notify:
                notify.provide(container, config, request.notify)
            return container, _create(container, config, request)
        except BaseException as error:
            _undo(container, config, request.log)
            if isinstance(error, OSError):
                raise Failure(f"can't create the container {request.name}: {error}") from error
            raise


def _complete(config: dict[str, Any], bundle: str) -> None:
    """Fill in what config.json may leave out, so that the helper finds it."""
    linux = config.get("linux") or {}
    config["linux"] = linux
    for namespace in linux.get("namespaces") or ():
        if namespace["type"] == "user" and not namespace.get("path"):
            # Without maps every id would be nobody's; crun and clients of it take the ids as they are.
            linux["uidMappings"] = linux.get("uidMappings") or _IDENTITY
            linux["gidMappings"] = linux.get("gidMappings") or _IDENTITY
    for device in linux.get("devices") or ():
        device["path"] = os.path.normpath(device["path"])
    for mount in config.get("mounts") or ():
        mount["destination"] = os.path.join("/", mount["destination"])
        if is_bind(mount):
            mount["source"] = os.path.join(bundle, mount["source"])
    process = config.get("process")
    if process:
        process["user"] = {"uid": 0, "gid": 0, **(process.get("user") or {})}
    if process and os.environ.get("LISTEN_FDS", "").isdigit():  # sd_listen_fds(3)
        listening = ["LISTEN_FDS=" + os.environ["LISTEN_FDS"], "LISTEN_PID=1"]
        process["env"] = [*(process.get("env") or ()), *listening]


def _check_terminal(config: dict[str, Any], request: Request) -> None:
    process = config.get("process")
    if not isinstance(process, dict):
        process = {}
    terminal = process.get("terminal")
    if terminal and request.detached and not request.console_socket:
        raise Failure("nobody would have the terminal that process.terminal asks for: use --console-socket")
    if terminal and not request.console_socket:
        from gear.runtime import console

        # Before the payload can ask for it; later changes are the proxy's to follow.
        process["consoleSize"] = console.size() or process.get("consoleSize")
    if request.console_socket and not terminal:
        raise Failure("--console-socket is for a container with process.terminal")


def _create(container: Container, config: dict[str, Any], request: Request) -> int:
    from gear.helper import container as engine
    from gear.helper.bundle import Start
    from gear.runtime.events import Creation

    events = Creation(container, config, request.manager, request.log)
    events.console_socket = request.console_socket
    start = Start(
        filter_=seccomp(config, request.root),
        keep=request.keep_fds,
        cgroup2=not cgroups.Hierarchies().controllers,
        keyring=request.new_keyring,
        state=container.document("creating"),
    )
    listener = _listen(container)
    start.start_socket = listener.fileno()
    try:
        pid = engine.create(config, events, start)
    except BaseException:
        events.undo()
        raise
    finally:
        listener.close()
    container.data["status"] = "created"
    container.save()
    if request.pid_file:
        replace(os.path.abspath(request.pid_file), str(pid).encode())
        os.chmod(request.pid_file, 0o644)
    return events.master


def _listen(container: Container) -> socket:
    """The socket that the first process waits on; by descriptor, since a path may be longer than an address."""
    directory = os.open(container.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        listener.bind(f"/proc/self/fd/{directory}/start")
        listener.listen(1)
    finally:
        os.close(directory)
    return listener


def seccomp(config: dict[str, Any], root: str) -> Filter | None:
    """The compiled filter of a bundle; compiling takes as long as everything else together, so the result is kept by
    content."""
    profile = (config.get("linux") or {}).get("seccomp")
    if not profile:
        return None
    from gear.runtime import filters

    return filters.compiled(profile, f"{root}/.cache")


def _undo(container: Container, config: dict[str, Any], log: Log) -> None:
    """Leave nothing of a container that could not be made; nothing of it was ever visible as created."""
    existed = bool(container.data.get("pid"))
    _end(container)
    try:
        placement.remove(container.data.get("group") or {})
    except Failure as failure:
        log.warn(failure.message)
    container.forget()
    if existed:
        _poststop(container, config, log)


def _end(container: Container) -> None:
    """Kill the first process and wait until it has gone; with its pid namespace goes everything inside."""
    try:
        descriptor = container.pidfd()
    except Failure:
        return
    import select
    from _signal import pidfd_send_signal

    try:
        pidfd_send_signal(descriptor, SIGKILL)
        _unfreeze(container)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(1000):
            # Somebody may have put it into a group of his own and frozen it there: back, and it thaws.
            cgroups.attach(container.data.get("group") or {}, container.data["pid"])
        if not poller.poll(10000):
            raise Failure(
                f"the first process of container {container.name} does not end: Device or resource busy"
            )
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _unfreeze(container: Container) -> None:
    """A process that is frozen by version 1 does not even notice SIGKILL."""
    group = container.data.get("group") or {}
    if cgroups.is_frozen(group):
        cgroups.freeze(group, False)


def _poststop(container: Container, config: dict[str, Any], log: Log) -> None:
    """poststop hooks: each runs, whatever the others do, and a failure is only told."""
    for hook in (config.get("hooks") or {}).get("poststop") or ():
        try:
            hooks.run_all({"poststop": [hook]}, "poststop", dumps(container.document("stopped")).encode())
        except Failure as failure:
            log.warn(failure.message)


def start(container: Container, log: Log) -> notify.Readiness | None:
    """Let a created container's process become what config.json says; returns what notify.forward() waits for, if the
    container tells it.  Nobody else has to wait for that: the lock is not held then."""
    from gear.helper.container import begin
    from gear.runtime.events import Creation

    with Lock(container):
        status = container.status()
        if status != "created":
            raise Failure(f"container {container.name} is {status}, and only a created one can be started")
        config = container.config()
        if not config.get("process"):
            raise Failure(f"the config.json of container {container.name} has no process to start")
        events = Creation(container, config, "", log)
        readiness = notify.listen(container)
        directory = os.open(container.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A path may be longer than an address may be (unix(7)).
            begin(f"/proc/self/fd/{directory}/start", events)
        except OSError as error:
            raise Failure(f"can't start container {container.name}: {error.strerror or error}") from error
        finally:
            os.close(directory)
        container.data["status"] = "running"
        container.save()
        os.unlink(container.socket)
        try:
            hooks.run_all(
                config.get("hooks") or {}, "poststart", dumps(container.document("running")).encode()
            )
        except Failure:
            _end(container)
            raise
    return readiness


def kill(container: Container, number: int, *, everything: bool = False) -> None:
    """Send a signal to the first process, or to every process of the container's group."""
    with Lock(container):
        status = container.status()
        if everything:
            group = container.data.get("group") or {}
            if not cgroups.directories(group):
                raise Failure(f"container {container.name} has no control group to find its processes by")
            cgroups.kill(group, number)
            return
        if status not in ("created", "running"):
            raise Failure(f"container {container.name} is not running: it is {status}")
        from _signal import pidfd_send_signal

        descriptor = container.pidfd()
        try:
            pidfd_send_signal(descriptor, number)
            if number == SIGKILL:
                _unfreeze(container)
        except ProcessLookupError:
            raise Failure(f"container {container.name} is not running: its process has just ended") from None
        finally:
            os.close(descriptor)


def delete(root: str, name: str, log: Log, *, force: bool = False) -> None:
    """Remove a container that is stopped; with *force* it is ended first."""
    try:
        container = load(root, name)
    except Failure:
        if force:
            return
        raise
    with Lock(container):
        status = container.status()
        if status != "stopped":
            if not force:
                raise Failure(f"container {name} is {status}, and only a stopped one can be deleted")
            _end(container)
        placement.remove(container.data.get("group") or {})
        try:
            config = container.config()
        except (OSError, Failure):  # its maker died before the file was there
            config = {}
        container.forget()
    _poststop(container, config, log)


def status(container: Container) -> str:
    """The status, with `paused` for a running container that is frozen."""
    known = container.status()
    if known == "running" and cgroups.is_frozen(container.data.get("group") or {}):
        return "paused"
    return known


def freeze(container: Container, frozen: bool) -> None:
    """Pause a container, or let it go on."""
    with Lock(container):
        known = status(container)
        if known != ("running" if frozen else "paused"):
            raise Failure(
                f"container {container.name} is {known}, so it can't be {'paused' if frozen else 'resumed'}"
            )
        cgroups.freeze(container.data.get("group") or {}, frozen)


def update(container: Container, resources: dict[str, Any]) -> None:
    """Change the limits of a container that is there."""
    with Lock(container):
        if container.status() == "stopped":
            raise Failure(f"container {container.name} is not running, so it has no limits to change")
        known = container.data.get("resources") or {}
        changed = {name: _merged(known.get(name), value) for name, value in resources.items()}
        placement.update(container.data.get("group") or {}, changed)
        container.data["resources"] = {**known, **changed}
        container.save()


def _merged(known: Any, change: Any) -> Any:
    """A quota without its period means little: what is not named stays as it is."""
    return {**known, **change} if isinstance(known, dict) and isinstance(change, dict) else change
