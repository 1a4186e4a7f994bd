"""The payload's process, from its creation to execve(2).

Runs as the first process of the container's namespaces.  It gets detached mounts from the helper over the channel,
builds the file system, takes the identity and rights that config.json gives it, and becomes the payload.
"""

from __future__ import annotations

import posix as os
import sys
from _socket import AF_INET, SOCK_DGRAM, socket
from fcntl import ioctl

from gear.helper import execute, rights, syscalls
from gear.helper.bundle import is_bind
from gear.helper.channel import CREATED, EXEC, FAILED, HOOKS, LISTENER, Channel
from gear.helper.failure import EXIT_NAMESPACE, Failure, Step
from gear.helper.mounts import Root

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from typing import NoReturn

    from gear.helper.bundle import Filter, Start

# ioctl(2) requests of netdevice(7).
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def run(config: dict, channel: Channel, start: Start) -> NoReturn:  # type: ignore[type-arg]
    """Set the container up and become its payload; on failure say so over *channel* and end."""
    payload = _Payload(config, channel, start)
    try:
        try:
            payload.set_up()
            if start.start_socket is not None:
                payload.wait()
            payload.execute()
        except OSError as error:
            raise payload.step.failure(error) from error
    except Failure as failure:
        message = f"{failure.status} {failure.message}".encode(errors="surrogateescape")
        payload.channel.send(FAILED + message)
    except BaseException as error:  # a bug in gear: still told, since nobody else sees this process
        message = f"{EXIT_NAMESPACE} the helper failed: {error!r}".encode(errors="replace")
        payload.channel.send(FAILED + message)
    finally:
        os._exit(1)  # never back into the caller, which runs in the helper as well


def import_ahead(config: dict, start: Start) -> None:  # type: ignore[type-arg]
    """Import what the first process would import as the container's root, who may not be able to read where gear is:
    in root's home, say.  Not needed for units: their helper has all in memory, or is where everybody may read."""
    linux, mounts = config["linux"], config.get("mounts", ())
    if any("tmpcopyup" in mount.get("options", ()) for mount in mounts):
        from gear.helper import copyup  # noqa: F401
    if not start.cgroup2 and any(mount.get("type") == "cgroup" for mount in mounts):
        from gear.helper import cgroups1  # noqa: F401
    if linux.get("devices"):
        from gear.helper import devices  # noqa: F401
    if start.interfaces:
        from gear.helper import network  # noqa: F401
    if (config.get("process") or {}).get("terminal"):
        from gear.helper import terminal  # noqa: F401
    _import_of_few(config)
    if linux.get("timeOffsets"):
        from gear.helper import tasks  # noqa: F401


def _import_of_few(config: dict) -> None:  # type: ignore[type-arg]
    """Import what is used after the root has changed, and only for what few containers have."""
    hooks_inside = config.get("hooks") or {}
    if hooks_inside.get("createContainer") or hooks_inside.get("startContainer"):
        import json  # noqa: F401
        import select  # noqa: F401
        import time  # noqa: F401

        from gear.helper import hooks  # noqa: F401
    linux = config["linux"]
    if linux.get("personality") or linux.get("memoryPolicy") or config.get("domainname"):
        from gear.helper import tasks  # noqa: F401


class _Payload:
    def __init__(self, config: dict, channel: Channel, start: Start) -> None:  # type: ignore[type-arg]
        self.step = Step()
        self.channel = channel
        self._config = config
        self._linux = config["linux"]
        self._process: dict = config.get("process") or {}  # type: ignore[type-arg]
        self._start = start
        namespaces = self._linux.get("namespaces", ())
        self._made = {entry["type"] for entry in namespaces if not entry.get("path")}
        self._user_namespace = any(entry["type"] == "user" for entry in namespaces)
        self._terminal = -1
        self._procfs = -1

    def set_up(self) -> None:
        """Everything up to the change of the root, and what comes right after it."""
        step, linux = self.step, self._linux
        step.doing = "get the root file system from the helper"
        mounts, devices = self._config.get("mounts", ()), linux.get("devices", ())
        binds = sum(map(is_bind, mounts))
        made = len(devices) if self._user_namespace else 0
        root_fd, *sources = self.channel.receive_descriptors(1 + binds + made)
        self._isolate()
        if self._start.interfaces:
            from gear.helper import network

            network.configure(self._start.interfaces, step)
        step.doing = "attach the root file system"
        # Any directory will do, it goes away with the old root.
        syscalls.move_mount_to(root_fd, "/run")
        root = Root(root_fd, self.channel, step, self._config)
        source = iter(sources)
        for mount in mounts:
            if is_bind(mount):
                root.bind(mount, next(source))
            else:
                root.mount(mount, self._start.cgroup2)
        self._provide_devices(root, devices, list(source))
        if self._process.get("terminal"):
            self._make_terminal(root)
        self._hooks()
        for key, value in linux.get("sysctl", {}).items():
            root.write_sysctl(key, value)
        for path in linux.get("maskedPaths", ()):
            root.mask(path)
        for path in linux.get("readonlyPaths", ()):
            root.make_readonly(path)
        if self._process:
            root.make_directory(self._process["cwd"])
        root.protect()
        self._import_the_rest()
        readonly = self._config["root"].get("readonly", False)
        root.enter(readonly=readonly, propagation=linux.get("rootfsPropagation"))
        self._name()

    def _isolate(self) -> None:
        step = self.step
        step.doing = "take the identity of the container's root"
        if self._user_namespace:
            os.setresgid(0, 0, 0)
            os.setgroups([])
            os.setresuid(0, 0, 0)
        os.setsid()
        # Nobody but the host's root may look into this process while it still holds anything of the host.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        os.umask(0)  # modes below are meant as written
        if self._start.keyring:
            step.doing = "make a session keyring"
            try:
                syscalls.new_session_keyring()
            except syscalls.Unsupported:
                pass  # a kernel without keyrings shares none
        # The host's, for labels: nobody inside has made it.
        self._procfs = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if "time" in self._made:
            self._enter_time_namespace()
        if "cgroup" in self._made:
            step.doing = "make a control group namespace"
            # Not at the creation: only now is this process in the group that is to be the namespace's root.
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        if not self._user_namespace:
            # In a user namespace's mount namespace they are so from the beginning.
            step.doing = "make the mounts private"
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)

    def _enter_time_namespace(self) -> None:
        self.step.doing = "make a time namespace"
        syscalls.unshare(syscalls.CLONE_NEWTIME)
        if self._linux.get("timeOffsets"):
            from gear.helper.tasks import set_time_offsets

            set_time_offsets(self._linux["timeOffsets"])
        mine = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(mine, syscalls.CLONE_NEWTIME)
        os.close(mine)

    def _provide_devices(self, root: Root, devices: list, sources: list[int]) -> None:  # type: ignore[type-arg]
        if not devices:
            root.populate_dev(frozenset())
            return
        from gear.helper.devices import names_in_dev, provide

        root.populate_dev(names_in_dev(devices))
        provide(root, devices, sources, self.step)

    def _import_the_rest(self) -> None:
        """What is used after the root has changed.  A module would be looked for below the container's root then, and
        what is found there be executed with rights that the container does not have."""
        _import_of_few(self._config)
        import_nothing_more()

    def _make_terminal(self, root: Root) -> None:
        from gear.helper import terminal

        self.step.doing = "open the container's /dev/pts/ptmx"
        ptmx = terminal.open_ptmx(root.descriptor, "dev/pts/ptmx")
        self._terminal = terminal.make(ptmx, self._process, self.channel, self.step)
        os.close(ptmx)
        root.provide_console(self._terminal)

    def _hooks(self) -> None:
        hooks = self._config.get("hooks") or {}
        if hooks.get("prestart") or hooks.get("createRuntime"):
            self.step.doing = "run the hooks"
            self.channel.send(HOOKS)
            if not self.channel.receive()[0]:
                raise ConnectionResetError(104, "the helper has died")
        if hooks.get("createContainer"):
            self._run_hooks("createContainer", "creating")

    def _run_hooks(self, kind: str, status: str) -> None:
        import json

        from gear.helper import hooks

        self.step.doing = f"run the hooks of {kind}"
        state = {**(self._start.state or {}), "status": status, "pid": os.getpid()}
        hooks.run_all(self._config["hooks"], kind, json.dumps(state).encode())

    def _name(self) -> None:
        step, made = self.step, self._made
        if self._config.get("hostname") and "uts" in made:
            step.doing = "set the host name"
            syscalls.sethostname(self._config["hostname"])
        if self._config.get("domainname") and "uts" in made:
            from gear.helper.tasks import set_domain_name

            step.doing = "set the domain name"
            set_domain_name(self._config["domainname"])
        if "network" in made:
            step.doing = "bring up the loopback interface"
            _loopback_up()
        if self._linux.get("personality"):
            from gear.helper.tasks import set_personality

            step.doing = "set the personality"
            set_personality(self._linux["personality"])
        if self._linux.get("memoryPolicy"):
            from gear.helper.tasks import set_memory_policy

            step.doing = "set the memory policy"
            set_memory_policy(self._linux["memoryPolicy"])

    def wait(self) -> None:
        """Say that the container is created, and wait until somebody starts it."""
        if self._process:
            # What can be known to fail is better told now.
            execute.change_directory(self._process["cwd"])
            execute.require_program(self._process, execute.variables(self._process))
        self.step.doing = "wait for the start"
        waiting = socket(fileno=self._start.start_socket)
        self.channel.send(CREATED)
        self.channel.close()
        # _accept() is what socket.accept() is made of: a bare descriptor.
        descriptor, _ = waiting._accept()  # type: ignore[attr-defined]
        waiting.close()
        self.channel = Channel(socket(fileno=descriptor))
        if not self._process:
            raise Failure("can't start: the bundle names no process")
        if (self._config.get("hooks") or {}).get("startContainer"):
            self._run_hooks("startContainer", "created")

    def execute(self) -> NoReturn:
        """Become the payload."""
        process = self._process
        if self._terminal >= 0:
            from gear.helper import terminal

            self.step.doing = "take the terminal"
            terminal.control(self._terminal)
        execute.own_null()
        environment = execute.variables(process)
        rights.label(process, self.step, self._procfs)
        keep = self._start.keep
        if self._start.passed:
            from gear.helper.activation import hand_over  # loaded already: here nothing more can be

            self.step.doing = "pass the sockets of its ports to the payload"
            hand_over(self._start.passed, environment)
            keep = len(self._start.passed)
        rights.prepare_exec(self.step, keep, self.channel.fileno())
        become(process, environment, self.step, self._start.filter, self.channel)


def import_nothing_more() -> None:
    """From here on no module can be imported that is not there already: for a process that enters a container."""
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.path.clear()


def become(
    process: dict,  # type: ignore[type-arg]
    environment: dict[bytes, bytes],
    step: Step,
    filter_: Filter | None,
    channel: Channel,
) -> NoReturn:
    """Take the rights of *process* and execute its program; raises Failure and OSError."""
    entered = False
    try:
        execute.change_directory(process["cwd"])
        entered = True
    except Failure:
        pass  # perhaps its user may enter what root of the namespace may not
    # Before the filter, which may refuse to send anything; a failure from here on is told all the same, if it can be.
    channel.send(EXEC)
    rights.take(process, step, filter_, lambda fd: channel.send(LISTENER, [fd]))
    if not entered:
        execute.change_directory(process["cwd"])
    execute.execute(process, environment)


def _loopback_up() -> None:
    control = socket(AF_INET, SOCK_DGRAM)
    # struct ifreq: 16 bytes of name, then the flags; 40 bytes in all.
    request = bytearray(b"lo".ljust(40, b"\0"))
    ioctl(control.fileno(), _SIOCGIFFLAGS, request)
    request[16] |= _IFF_UP
    ioctl(control.fileno(), _SIOCSIFFLAGS, request)
    control.close()
