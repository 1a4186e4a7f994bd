"""What of a container is looked after: lines of its unit, the prober's part of start.json, the payload's own socket.

Pure.  A container without check whose start waits for nothing has none of it.
"""

from __future__ import annotations

from typing import Any

from gear import durations
from gear.errors import UsageError
from gear.health import START_TIMEOUT, Check, Readiness, check_of, readiness
from gear.journaling import DISCARD
from gear.model import Layout
from gear.oci import Image
from gear.restarts import STEPS
from gear.signals import signal_number
from gear.spec import Spec

# Where systemd itself looks for it in a container (its "Container Interface").
NOTIFY_INSIDE = "/run/host/notify"
# Made by each start beside config.json (gear/helper/watch.py).
NOTIFY_FILE = "notify"


def wanted(spec: Spec, image: Image) -> tuple[Check | None, Readiness]:
    """The check of the container, and what its start waits for; raises UsageError."""
    check = check_of(spec.health, image.config.healthcheck, spec.image.reference)
    asked = spec.health.ready
    if asked is not None and asked.kind == "log" and spec.logging.driver == DISCARD:
        raise UsageError(
            "The log of a container that keeps none can't tell when it is ready.", hint="Leave --log-driver."
        )
    ports = [port.internal for port in spec.network.ports if port.protocol == "tcp"]
    if not ports:
        exposed = (text.partition("/") for text in image.config.exposed_ports)
        ports = [int(number) for number, _, protocol in exposed if protocol == "tcp"]
    return check, readiness(spec.health, check, list(dict.fromkeys(ports)))


def start_member(spec: Spec, image: Image, signal: int) -> dict[str, Any] | None:
    """The member `health` of start.json; None when nobody looks after the container."""
    check, ready = wanted(spec, image)
    if check is None and ready.kind == "started":
        return None
    member: dict[str, Any] = {"unit": spec.unit, "ready": ready.kind}
    if check is not None:
        member["check"] = {**check.to_mapping(), "signal": signal}
    if ready.port is not None:
        member["port"] = ready.port
    if ready.pattern is not None:
        member["pattern"] = ready.pattern
        if spec.logging.namespace is not None:
            member["namespace"] = spec.logging.namespace
    return member


def stop_signal(spec: Spec, image: Image, *, system: bool) -> int:
    """What asks the payload to stop; raises UsageError when what the image says is no signal."""
    if spec.stop_signal or not image.config.stop_signal:
        # systemd shuts down in order on this one (systemd(1), "Signals").
        return signal_number(spec.stop_signal or ("SIGRTMIN+3" if system else "SIGTERM"))
    try:
        return signal_number(image.config.stop_signal)
    except UsageError as error:
        raise UsageError(
            f"The stop signal {image.config.stop_signal[:40]!r} of the image {spec.image.reference} is no signal.",
            hint="Give another one with --stop-signal.",
        ) from error


def notify_mount(spec: Spec, image: Image, layout: Layout) -> list[dict[str, Any]]:
    """The mount by which the payload tells how it goes, if its start waits for that."""
    if wanted(spec, image)[1].kind != "notify":
        return []
    source = str(layout.containers / spec.name / NOTIFY_FILE)
    options = ["bind", "ro", "nosuid", "nodev", "noexec"]
    return [{"destination": NOTIFY_INSIDE, "type": "bind", "source": source, "options": options}]


def unit_settings(spec: Spec, image: Image, signal: int) -> tuple[list[tuple[str, str]], str]:
    """What goes into the section [Service], and who may notify PID 1: `main`, or `all` where there is a prober."""
    check, ready = wanted(spec, image)
    found = []
    timeout = spec.health.start_timeout
    if timeout is None and check is not None and ready.kind == "healthy":
        # The start must not time out before the prober has judged.
        timeout = START_TIMEOUT + check.patience + check.timeout
    if timeout is not None:
        found.append(("TimeoutStartSec", durations.span(timeout) if timeout else "infinity"))
    if check is not None and check.on_failure in ("restart", "kill"):
        # No WatchdogSec=: PID 1 would count on while the container is paused.
        found.append(("WatchdogSignal", str(signal) if check.on_failure == "restart" else "SIGKILL"))
    looked_after = check is not None or ready.kind != "started"
    return found, "all" if looked_after else "main"


def pace(spec: Spec) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What goes into [Unit] and [Service] about how soon and how often it is started again."""
    unit, service = [], []
    if spec.pace.limit is not None and spec.pace.window is not None:
        # The first start counts as well.
        unit += [
            ("StartLimitIntervalSec", durations.span(spec.pace.window)),
            ("StartLimitBurst", str(spec.pace.limit + 1)),
        ]
    if spec.pace.delay is not None:
        service.append(("RestartSec", durations.span(spec.pace.delay)))
    if spec.pace.max_delay is not None:
        # systemd 254; before it the first delay is that of all restarts.
        service += [("RestartSteps", str(STEPS)), ("RestartMaxDelaySec", durations.span(spec.pace.max_delay))]
    return unit, service
