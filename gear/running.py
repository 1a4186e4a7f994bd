"""Ad hoc containers: gear run, in the caller's terminal as a scope, or in the background as a transient service.

Both are made of the same files as an installed container (gear/install.py), with the same engine.  What differs is
who is the parent: gear for a scope, so that it gets the exit status, PID 1 for a service.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from gear import (
    confinement,
    connecting,
    containers,
    credentials,
    install,
    leftovers,
    lifecycle,
    publishing,
    terminal,
    units,
)
from gear.errors import GearError, UsageError
from gear.helper import (  # those that the engine imports later, when the container's files are in the way
    cgroups1,
    conntrack,
    container,
    copyup,
    delegation,
    devices,
    hooks,
    hugepages,
    idmaps,
    interpreter,
    lowports,
    network,
    nft,
    payload,
    resolver,
    rootfs,
    ruleset,
    shaping,
    start,
    supplies,
    tasks,
)
from gear.helper import terminal as _terminal
from gear.helper.bundle import Start, claim, load_json
from gear.helper.failure import EXIT_CHDIR, EXIT_EXEC, Failure, Step
from gear.inroot import opened
from gear.joining import CANNOT_RUN, NOT_FOUND, no_imports
from gear.model import Layout
from gear.network import unit_name
from gear.oci import Image
from gear.spec import Spec
from gear.systemd import Manager, UnitError
from gear.terminal import Streams

_LOADED = (
    cgroups1,
    conntrack,
    copyup,
    devices,
    hooks,
    hugepages,
    idmaps,
    lowports,
    nft,
    payload,
    resolver,
    ruleset,
    shaping,
    supplies,
    tasks,
    _terminal,
)
_WORDS = (
    "amber brave calm clever cosy crisp daring eager fair gentle golden happy jolly keen kind lively lucky mellow "
    "merry neat noble proud quick quiet rapid silver sunny swift tidy vivid warm witty",
    "acorn badger beacon birch brook cedar comet coral crane dune falcon fern finch fjord garnet harbor heron island "
    "juniper lagoon lark maple meadow otter pebble pine raven river sparrow spruce tern willow",
)


def free_name(layout: Layout) -> str:
    """A readable name that no container has."""
    import random

    for _ in range(64):
        name = "-".join(random.choice(words.split()) for words in _WORDS)
        if not containers.exists(layout, name):
            return name
    return f"run-{os.getpid()}"


def protect(options: Mapping[str, Any]) -> None:
    """Keep the interpreter from a payload whose root is the host's; may start this program again."""
    if options["isolation"].userns == "host":
        interpreter.protect()


def in_background(
    manager: Manager, layout: Layout, name: str, image: str, options: Mapping[str, Any], *, remove_it: bool
) -> Spec:
    """Start a transient service and return when its payload runs; raises GearError."""
    run = containers.Run("service", remove_it)
    spec, _, owner = install.prepare_run(layout, name, image, options, run)
    with opened(owner):  # `gear clean` leaves it alone
        publishing.publish_static_units(layout)
        manager.load(spec.unit)
        result = manager.start([spec.unit])[spec.unit]
        if result != "done":
            error = lifecycle.why(manager, spec, result)
            leftovers.remove_run(layout, name)
            raise error
    return spec


def in_terminal(
    manager: Manager,
    layout: Layout,
    name: str,
    image: str,
    options: Mapping[str, Any],
    streams: Streams,
    keys: bytes,
    *,
    remove_it: bool,
) -> int:
    """Run a container as a scope and copy its streams; returns its exit status, or raises GearError."""
    limits = options["network"].limits
    if limits.allow or limits.deny:
        raise UsageError(
            "What runs in the terminal can't be limited by --ip-allow and --ip-deny.",
            hint="Add --detach, or use gear install.",
        )
    if options["resources"].oom_policy is not None:
        raise UsageError(
            "What runs in the terminal can't have an --oom-policy: that is a word for services.",
            hint="Add --detach, or use gear install.",
        )
    run = containers.Run("scope", remove_it)
    for number in (
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # as SIGINT, so that nothing is left of what has not started yet
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    spec, found, owner = install.prepare_run(layout, name, image, options, run)
    with opened(owner):  # `gear clean` leaves it alone
        try:
            publishing.publish_static_units(layout)
            # The network is to be held: its sockets keep the ports from others for as long as this runs.
            pid, held = _create(manager, layout, spec, found, streams)
        except BaseException:
            _end_all(manager, containers.unit_of(layout, name))
            leftovers.remove_run(layout, name)  # nobody has had anything of it yet
            raise
        try:
            status = streams.relay(pid, keys)
        except GearError:
            if remove_it:
                leftovers.remove_run(layout, name)
            raise
        if status is not None and held is not None:
            connecting.unpublish(layout, name)
        if status is not None and spec.isolation.pid == "host":
            # They don't end with the first one here, and have user ids that somebody else may get now.
            _end_all(manager, containers.unit_of(layout, name))
    if status is None:
        terminal.drain(streams.master)
        raise Detached(name)
    if remove_it:
        leftovers.remove_run(layout, name)
    return terminal.exit_status(status)


def _end_all(manager: Manager, scope: str) -> None:
    """Kill what is in *scope*, and wait until it is gone; there may be nothing."""
    with suppress(UnitError):
        manager.kill(scope, signal.SIGKILL, "all")
    manager.stop([scope])


class Detached(Exception):
    """The detach keys were typed; the container goes on."""


class _Scope(container.Events):
    """A container in a scope of systemd's, a child of this process."""

    def __init__(
        self,
        bundle: str,
        config: dict[str, Any],
        root: dict[str, Any],
        start_scope: Callable[[int], None],
        streams: Streams,
        connection: network.Network | None,
        pages: dict[str, int],
    ) -> None:
        self._hugepages = pages
        self._bundle, self._config, self._root, self._network = bundle, config, root, connection
        self._start_scope, self._streams = start_scope, streams

    def root(self, userns_fd: int | None, step: Step) -> int:
        def stack() -> list[int]:
            claim(self._bundle, step)
            return [rootfs.assemble_root(self._bundle, self._root, userns_fd, step)]

        (root,) = rootfs.in_private_namespace(stack, 1, step)
        return int(root)

    def created(self, pid: int) -> None:
        try:
            self._start_scope(pid)
        except UnitError as error:
            raise Failure(error.message.rstrip(".")) from error
        if self._hugepages:
            hugepages.limit(delegation.group_of(pid), self._hugepages)
        if delegation.is_wanted(self._config):
            delegation.delegate(delegation.group_of(pid), self._config["linux"])
        if not any(entry["type"] == "network" for entry in self._config["linux"]["namespaces"]):
            with suppress(OSError):  # then ports below 1024 are not for this container
                lowports.allow(pid)
        if self._network is not None:
            self._network.connect(pid)
            self._network.link(pid)

    def under_way(self) -> None:
        if self._network is not None:
            self._network.publish()

    def terminal(self, master: int) -> None:
        self._streams.take_master(master)


def _create(
    manager: Manager, layout: Layout, spec: Spec, image: Image, streams: Streams
) -> tuple[int, network.Network | None]:
    """Make the container; returns the pid of its payload, a child of this process, and its network."""
    unit, wanted_of_scope = containers.unit_of(layout, spec.name), units.scope(spec, image)

    def start_scope(pid: int) -> None:
        manager.start_transient(unit, [("PIDs", [pid]), *wanted_of_scope])

    bundle = str(layout.containers / spec.name)
    try:
        config, extra = load_json(f"{bundle}/config.json"), load_json(f"{bundle}/start.json")
        config["process"] |= {"terminal": streams.terminal, **confinement.scope_process(spec)}
        if streams.terminal:
            config["process"]["consoleSize"] = terminal.console_size()
            config["process"]["env"] = [*config["process"].get("env", ()), "TERM=xterm"]
        wanted = Start(filter_=start.read_filter(extra, Step()), cgroup2=start.has_cgroup2())
        _bring_up(manager, spec)
        held = start.reserved(bundle, extra["network"], wanted) if extra.get("network") else None
        start.provide(config, extra, lambda secret: credentials.decrypt(layout, secret))
        if extra.get("join"):
            start.join(config, bundle, extra["join"])
        pages = extra.get("hugepages") or {}
        events = _Scope(bundle, config, extra["root"], start_scope, streams, held, pages)
        owner = config["process"]["user"]
        streams.give_to(spec.uid_base + owner["uid"], spec.uid_base + owner["gid"])
        with streams.in_place(), no_imports(terminal=streams.terminal):
            return container.create(config, events, wanted), held
    except OSError as error:
        raise GearError(f"{spec.name} can't be run: {error.strerror}.") from error
    except Failure as failure:
        refusal = GearError(f"{spec.name} did not start: {failure.message}.")
        if failure.status == EXIT_EXEC:
            missing = "no such program" in failure.message or "there is no such file" in failure.message
            refusal.exit_status = NOT_FOUND if missing else CANNOT_RUN
        elif failure.status == EXIT_CHDIR:
            refusal.exit_status = CANNOT_RUN
        raise refusal from failure


def _bring_up(manager: Manager, spec: Spec) -> None:
    """Start the networks of *spec*: a scope waits for nothing, so what units say with After= is done here.

    Raises Failure.
    """
    for unit, result in manager.start([unit_name(name) for name in spec.network.networks]).items():
        if result != "done":
            raise Failure(f"{unit} could not be started: {result.rstrip('.')}")
