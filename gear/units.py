"""The service unit of a container, as a pure function of its spec and image.

Not the syntax (gear/unitfile.py), and not what runs inside (gear/bundle.py): the unit holds what systemd decides,
that is lifecycle, control group, log stream and boot.  Of the image only its stop signal reaches a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gear import activation, confinement, durations, limiting, prober, provision, records, unitfile
from gear.budget import Budget
from gear.bundle import effective_mounts, is_system, volume_directory
from gear.journaling import APP_LABEL, DISCARD
from gear.model import Layout
from gear.model import unit_name as container_unit
from gear.network import HOST, NAT, unit_name
from gear.oci import Image
from gear.resources import properties, unit_lines
from gear.spec import Spec

# The system's own interpreter, never a virtual environment's: units outlive those.
PYTHON = "/usr/bin/python3"
# Isolated and without site-packages.
INTERPRETER = (PYTHON, "-I", "-S")
SHELL = "/bin/sh"

# As many as Podman allows by default; a fork bomb ends there.
DEFAULT_PIDS_LIMIT = 2048
# Docker's time to stop; systemd's own default for a system that stops its own services.
STOP_TIMEOUT = 10.0
SYSTEM_STOP_TIMEOUT = 90.0
# The helper's statuses when there is no working directory or no program to execute, which no restart mends.
_HOPELESS = "200 203"


def helper_directory(layout: Layout) -> str:
    """Where units find the helper (published by gear/install.py); a link that an upgrade switches."""
    return str(layout.state / "helper" / "current")


def seconds(value: float) -> str:
    """A time span (systemd.time(7)); 0 would mean no limit, so it becomes the shortest one."""
    return durations.span(max(value, 0.001))


def budget_of(spec: Spec) -> Budget:
    """What a container may use: what was asked for, and that it can't have any number of processes."""
    return records.replace(spec.resources, tasks_max=spec.resources.tasks_max or DEFAULT_PIDS_LIMIT)


def render(
    spec: Spec,
    image: Image,
    layout: Layout,
    *,
    transient: bool = False,
    remove: Sequence[str] | None = None,
) -> bytes:
    """The text of `ctr-NAME.service`; *transient* for gear run, which with *remove* (the volumes that go with it)
    leaves nothing when it ends."""
    directory, helper = layout.containers / spec.name, helper_directory(layout)
    system = is_system(spec, image)
    stop_signal = prober.stop_signal(spec, image, system=system)
    unit = _unit_section(spec, image, layout)
    settings, notifiers = prober.unit_settings(spec, image, stop_signal)
    service = [
        # The helper says READY=1 and MAINPID= once the payload runs, and exits.
        ("Type", "notify"),
        ("NotifyAccess", notifiers),
        # For the helper alone: in the C locale the interpreter takes paths as UTF-8 (PEP 540), and a millisecond
        # sooner than with -X utf8.
        ("Environment", "LC_ALL=C"),
        ("ExecStart", unitfile.command([*INTERPRETER, f"{helper}/start", str(directory)])),
        # PID 1 of a pid namespace never sees a signal that it has no handler for; the script looks first.
        ("ExecStop", unitfile.command([SHELL, f"{helper}/stop", str(stop_signal)])),
        ("KillMode", "mixed"),
        ("KillSignal", str(stop_signal)),
        ("TimeoutStopSec", seconds(_stop_timeout(spec, system=system))),
        *settings,
        *_restart(spec.restart, system=system),
        # 143: the payload caught SIGTERM and says so in the shell's way (128 + 15).
        ("SuccessExitStatus", "143" if spec.restart == "no" else "143 SIGKILL"),
        ("Slice", spec.slice),
        *_logging(spec),
        # Python and systemd ignore SIGPIPE; programs in containers expect the default.
        ("IgnoreSIGPIPE", "no"),
        *_resource_lines(spec),
        *activation.address_filter(spec),
        *confinement.unit_settings(spec, PYTHON, system=system),
        *provision.unit_lines(spec, layout, (SHELL, f"{helper}/reload")),
    ]
    header = (
        f"Rendered by gear from {unitfile.value(str(directory))}/spec.json; the next install overwrites changes here.",
        f"Settings of your own belong into a drop-in: systemctl edit {spec.unit}",
    )
    sections = [("Unit", unit), ("Service", service)]
    for needs, has in (activation.service_settings(spec), prober.pace(spec)):
        unit += needs
        service += has
    # What is started on demand is not wanted by anything else: its sockets are.
    if not transient and not spec.network.on_demand:
        sections.append(("Install", [("WantedBy", _wanted_by(spec))]))
    service += _ports(spec, helper, str(directory))
    if remove is not None:
        service.append(_removal(spec, layout, remove))
        unit.append(("CollectMode", "inactive-or-failed"))
    return unitfile.render(header, sections).encode()


def _ports(spec: Spec, helper: str, directory: str) -> list[tuple[str, str]]:
    """What PID 1 does for published ports."""
    settings = []
    if spec.network.interfaces:
        # Also when the payload was killed, so that its ports are free again.
        unpublish = unitfile.command([*INTERPRETER, f"{helper}/network", "unpublish", directory])
        settings.append(("ExecStopPost", unpublish))
    if published := spec.network.served_by(NAT):
        # The helper has PID 1 hold a socket for each, which keeps others off.
        settings.append(("FileDescriptorStoreMax", str(len(published))))
    return settings


def _logging(spec: Spec) -> list[tuple[str, str]]:
    """What becomes of the output, and what each entry of the journal says of the container: Docker's and Podman's
    fields where they have one."""
    about = {
        "CONTAINER_NAME": spec.name,
        "IMAGE_NAME": spec.image.reference,
        "IMAGE_DIGEST": spec.image.digest,
        "GEAR_APP": spec.labels.get(APP_LABEL, ""),
    }
    words = [unitfile.word(f"{name}={_one_line(text)}") for name, text in about.items() if text]
    wanted = spec.logging
    settings = [("SyslogIdentifier", unitfile.word(spec.name)), ("LogExtraFields", " ".join(words))]
    if wanted.driver == DISCARD:
        settings += [("StandardOutput", "null"), ("StandardError", "null")]
    if wanted.namespace is not None:
        settings.append(("LogNamespace", wanted.namespace))
    if wanted.rate is not None:
        settings.append(("LogRateLimitIntervalSec", durations.span(wanted.rate.interval)))
        settings.append(("LogRateLimitBurst", str(wanted.rate.burst)))
    if wanted.level is not None:
        settings.append(("LogLevelMax", wanted.level))
    return settings


def _one_line(text: str) -> str:
    """*text* for a field of the journal that people read."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _resource_lines(spec: Spec) -> list[tuple[str, str]]:
    devices = unit_lines({"devices": confinement.device_rules(spec)})
    limits = [*limiting.unit_lines(budget_of(spec)), *limiting.service_lines(spec.resources)]
    # All else that `gear stats` shows is counted anyway (systemd-system.conf(5)).
    return [("IOAccounting", "yes"), *limits, *devices]


def _wanted_by(spec: Spec) -> str:
    if spec.network.shared is None:
        return "container-active.target"
    # PID 1 stops it with the other; a restart of the other brings it back.
    return f"container-active.target {container_unit(spec.network.shared)}"


def _unit_section(spec: Spec, image: Image, layout: Layout) -> list[tuple[str, str]]:
    paths = [str(layout.containers / spec.name)]
    if spec.image.directory is not None:
        paths.append(spec.image.directory)
    for mount in effective_mounts(spec, image):
        if mount.kind == "bind":
            paths.append(mount.source)
        elif mount.kind == "volume":
            paths.append(str(volume_directory(layout, mount.source)))
    unit = [
        ("Description", unitfile.value(f"{spec.name} (container of {spec.image.reference})")),
        # No Documentation=man:gear(1): `systemd-analyze verify` refuses it where the manual is not installed.
        # `systemctl stop container.target` stops every container.
        ("PartOf", "container.target"),
        ("RequiresMountsFor", " ".join(unitfile.word(path) for path in paths)),
    ]
    if spec.network.mode == HOST:
        unit.append(("After", "network.target"))
    if spec.network.shared is not None:
        # It lives in the other's network namespace, which goes away with the other.
        other = unitfile.word(container_unit(spec.network.shared))
        unit += [("BindsTo", other), ("After", other)]
    if spec.network.interfaces:
        networks = " ".join(unitfile.word(unit_name(name)) for name in spec.network.networks)
        # Not Requires=: a network that is restarted must leave its containers running.
        unit += [("Wants", networks), ("After", networks)]
        # If anything brings them up: then the machine knows its name servers, which are read at the start.
        unit.append(("After", "network-online.target nss-lookup.target"))
    return unit


def render_network(name: str, layout: Layout, parent: str | None = None) -> bytes:
    """The text of `gear-network@NAME.service`.

    Nothing of the definition is in it but the interface that it waits for: else a network is changed without PID 1
    reading units again.
    """
    directory, program = str(layout.networks / name), f"{helper_directory(layout)}/network"
    up, down = (unitfile.command([*INTERPRETER, program, word, directory]) for word in ("up", "down"))
    unit = [
        ("Description", unitfile.value(f"The network {name} of containers")),
        # What replaces all rules of the machine does so first.
        ("After", "network-pre.target nftables.service firewalld.service ufw.service"),
        # Debian's nftables.conf begins with `flush ruleset`.
        ("ReloadPropagatedFrom", "nftables.service"),
        ("RequiresMountsFor", unitfile.word(directory)),
    ]
    if parent is not None:
        # At boot it may come late.  Not BindsTo=: what it takes along is not brought back by a stop.
        device = unitfile.device_unit(parent)
        unit += [("Wants", device), ("After", device)]
    service = [
        ("Type", "oneshot"),
        ("RemainAfterExit", "yes"),
        ("Environment", "LC_ALL=C"),
        ("ExecStart", up),
        ("ExecReload", up),
        # Not ExecStop=: after a failure to make it, what was made goes as well.
        ("ExecStopPost", down),
        ("SyslogIdentifier", unitfile.word(f"gear-network-{name}")),
    ]
    header = (
        f"Rendered by gear from {unitfile.value(directory)}/network.json; gear network create overwrites changes here.",
        f"Settings of your own belong into a drop-in: systemctl edit {unit_name(name)}",
    )
    return unitfile.render(header, [("Unit", unit), ("Service", service)]).encode()


def render_slice(name: str, budget: Budget, layout: Layout) -> bytes:
    """The text of the slice unit *name*."""
    header = (
        f"Rendered by gear from {unitfile.value(str(layout.slices))}/{name.removesuffix('.slice')}.json; "
        "gear slice create overwrites changes here.",
        f"Settings of your own belong into a drop-in: systemctl edit {name}",
    )
    unit = [("Description", f"Containers of {name}"), ("Before", "slices.target")]
    return unitfile.render(header, [("Unit", unit), ("Slice", limiting.slice_lines(budget))]).encode()


def render_sockets(spec: Spec, layout: Layout) -> dict[str, bytes]:
    """The units by which PID 1 listens for the container, by their names."""
    return activation.render(spec, layout, INTERPRETER, helper_directory(layout))


def _removal(spec: Spec, layout: Layout, volumes: Sequence[str]) -> tuple[str, str]:
    """PID 1 removes the container when it has ended, whatever has become of gear by then."""
    path = str(layout.transient_units / spec.unit)
    program = [SHELL, f"{helper_directory(layout)}/remove", str(layout.state), spec.name, path]
    return ("ExecStopPost", unitfile.command([*program, *volumes]))


def scope(spec: Spec, image: Image) -> list[tuple[str, Any]]:
    """The same for a container that is run as a scope, as properties of StartTransientUnit."""
    system = is_system(spec, image)
    delegated = system or spec.isolation.privileged
    return [
        ("Description", f"{spec.name} (container of {spec.image.reference})"),
        ("Slice", spec.slice),
        ("CollectMode", "inactive-or-failed"),
        ("KillSignal", prober.stop_signal(spec, image, system=system)),
        ("TimeoutStopUSec", max(round(_stop_timeout(spec, system=system) * 1e6), 1000)),
        *((("Delegate", True),) if delegated else ()),
        ("IOAccounting", True),
        *limiting.properties(budget_of(spec)),
        *properties({"devices": confinement.device_rules(spec)}),
    ]


def declared_volumes(spec: Spec, image: Image) -> set[str]:
    """The volumes that *spec* has only because its image declares them."""
    asked = {mount.destination for mount in spec.mounts}
    mounts = effective_mounts(spec, image)
    return {mount.source for mount in mounts if mount.kind == "volume" and mount.destination not in asked}


def _stop_timeout(spec: Spec, *, system: bool) -> float:
    if spec.stop_timeout is not None:
        return spec.stop_timeout
    return SYSTEM_STOP_TIMEOUT if system else STOP_TIMEOUT


def _restart(policy: str, *, system: bool) -> list[tuple[str, str]]:
    if policy == "no":
        return [("Restart", "no")]
    return [
        ("Restart", "always" if policy == "unless-stopped" else policy),
        ("RestartPreventExitStatus", _HOPELESS),
        # SIGKILL counts as a clean end, since it is how a payload that can't hear is stopped; one that is
        # killed by anybody else is restarted all the same.  SIGHUP is how a pid namespace ends by reboot(2).
        ("RestartForceExitStatus", "SIGKILL SIGHUP" if system else "SIGKILL"),
    ]
