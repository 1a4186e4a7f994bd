"""What the helper asks of this front end while it makes a container: its root, its group, its hooks, its terminal."""

from __future__ import annotations

import os

from gear.helper import hooks, rootfs
from gear.helper.container import Events
from gear.helper.failure import Failure
from gear.runtime import console, placement
from gear.runtime.document import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gear.helper.failure import Step
    from gear.runtime.report import Log
    from gear.runtime.state import Container


class Creation(Events):
    """The events of one `create`."""

    def __init__(self, container: Container, config: dict[str, Any], manager: str, log: Log) -> None:
        self._container = container
        self._config = config
        self._manager = manager
        self._log = log
        self.console_socket = ""
        self.master = -1  # the terminal, when nobody else wants it
        self._network = -1  # the network namespace that devices of the host were moved to
        self._moved: list[tuple[str, str]] = []  # their names on the host, and there

    def root(self, userns_fd: int | None, step: Step) -> int:
        """The bundle's root file system with what is mounted below it."""
        return rootfs.directory_root(self._container.data["rootfs"], step)

    def created(self, pid: int) -> None:
        """The first process is there: note it before anything else, then limit it."""
        container = self._container
        container.remember(pid)
        group = container.data["group"]
        try:
            placement.place(self._manager, container.name, self._config, pid, group, container.save)
        finally:
            container.save()
        if group.get("unified") and not group.get("controllers"):
            from gear.helper import delegation

            if delegation.is_wanted(self._config):
                delegation.delegate(group["unified"], self._config["linux"])
        devices = (self._config.get("linux") or {}).get("netDevices") or {}
        if devices:
            from gear.runtime import netdevices

            self._network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._moved = netdevices.move(devices, pid)

    def undo(self) -> None:
        """The container could not be made: what was the host's is the host's again."""
        if self._moved:
            from gear.runtime import netdevices

            netdevices.give_back(self._moved, self._network, self._log)

    def runtime_hooks(self, pid: int) -> None:
        """prestart and createRuntime."""
        for kind in ("prestart", "createRuntime"):
            hooks.run_all(self._config.get("hooks") or {}, kind, self.state("creating", pid))

    def state(self, status: str, pid: int) -> bytes:
        """The state for hooks, also for those that the helper runs."""
        return dumps(self._container.document(status, pid)).encode()

    def terminal(self, fd: int) -> None:
        """The terminal's master goes to whoever listens, or stays with `run`."""
        if self.console_socket:
            console.send(self.console_socket, fd)
        else:
            self.master = os.dup(fd)

    def listener(self, fd: int) -> None:
        """The descriptor of seccomp_unotify(2) goes to the agent that config.json names."""
        seccomp = self._config["linux"]["seccomp"]
        path = seccomp.get("listenerPath")
        if not path:
            raise Failure("linux.seccomp notifies, and has no listenerPath to say whom")
        document = {
            "ociVersion": self._container.document("")["ociVersion"],
            "fds": ["seccompFd"],
            "pid": self._container.data["pid"],
            "metadata": seccomp.get("listenerMetadata", ""),
            "state": self._container.document("creating"),
        }
        console.send(path, fd, dumps(document).encode())

    def warn(self, message: str) -> None:
        """Something can't be as config.json wants it."""
        self._log.warn(message)
