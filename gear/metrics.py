"""What containers use, for scrapers: the metrics, and the answer to one HTTP request.

No server: PID 1 listens (units/gear-metrics.socket) and starts gear for each connection.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable

from gear import files, openmetrics
from gear.openmetrics import Family
from gear.usage import Usage
from gear.watching import Look

# A scraper's request has some hundred bytes.
_REQUEST_LIMIT = 8 << 10
_PATIENCE_S = 5.0
_PREFIX = "gear_container_"
# Attribute of Usage: name, type, unit, help.
_FAMILIES = {
    "cpu_seconds": ("cpu_seconds", "counter", "seconds", "Processor time spent."),
    "cpu_quota": ("cpu_quota", "gauge", "", "Processors that it may use at once."),
    "throttled_periods": (
        "cpu_throttled_periods",
        "counter",
        "",
        "Periods in which its processor time ran out.",
    ),
    "throttled_seconds": (
        "cpu_throttled_seconds",
        "counter",
        "seconds",
        "Time for which it was kept from running.",
    ),
    "memory": ("memory_bytes", "gauge", "bytes", "Memory in use, with the page cache."),
    "memory_limit": ("memory_limit_bytes", "gauge", "bytes", "Memory that it may use."),
    "memory_peak": ("memory_peak_bytes", "gauge", "bytes", "The most memory it has used."),
    "swap": ("swap_bytes", "gauge", "bytes", "Swap in use."),
    "swap_limit": ("swap_limit_bytes", "gauge", "bytes", "Swap that it may use."),
    "oom_kills": ("oom_kills", "counter", "", "Processes killed because memory ran out."),
    "read_bytes": ("io_read_bytes", "counter", "bytes", "Bytes read from block devices."),
    "written_bytes": ("io_written_bytes", "counter", "bytes", "Bytes written to block devices."),
    "reads": ("io_reads", "counter", "", "Reads from block devices."),
    "writes": ("io_writes", "counter", "", "Writes to block devices."),
    "received_bytes": ("network_received_bytes", "counter", "bytes", "Bytes received by its interfaces."),
    "sent_bytes": ("network_sent_bytes", "counter", "bytes", "Bytes sent by its interfaces."),
    "received_packets": ("network_received_packets", "counter", "", "Packets received by its interfaces."),
    "sent_packets": ("network_sent_packets", "counter", "", "Packets sent by its interfaces."),
    "pids": ("pids", "gauge", "", "Processes and threads."),
    "pids_limit": ("pids_limit", "gauge", "", "Processes and threads that it may have."),
}


def families(looks: Iterable[Look]) -> list[Family]:
    """The metrics of containers."""
    about = Family("gear_container", "info", "The container and what it is of.")
    running = Family(f"{_PREFIX}running", "gauge", "Whether it runs.")
    failed = Family(f"{_PREFIX}failed", "gauge", "Whether systemd has given up on it.")
    healthy = Family(f"{_PREFIX}healthy", "gauge", "Whether its health check finds it well.")
    counted = {
        name: Family(_PREFIX + ending, kind, text, unit)
        for name, (ending, kind, unit, text) in _FAMILIES.items()
    }
    waits = Family(f"{_PREFIX}pressure_seconds", "counter", "Time for which its tasks waited.", "seconds")
    for look in looks:
        labels = {"container": look.name}
        app = {"app": look.app} if look.app else {}
        about.samples.append(({**labels, "image": look.image, **app}, 1))
        running.samples.append((labels, look.usage is not None))
        failed.samples.append((labels, look.state == "failed"))
        if look.healthy is not None:
            healthy.samples.append((labels, look.healthy))
        found = look.usage or Usage(0.0)
        for name, family in counted.items():
            if (value := getattr(found, name)) is not None:
                family.samples.append((labels, value))
        for (resource, kind), pressure in found.pressure.items():
            waits.samples.append(({**labels, "resource": resource, "share": kind}, pressure.seconds))
    return [about, running, failed, healthy, *counted.values(), waits]


def text(looks: Iterable[Look]) -> str:
    """The metrics as a scraper reads them."""
    return openmetrics.render(families(looks))


def answer(source: int, target: int, measure: Callable[[], str]) -> None:
    """Read one HTTP request from the descriptor *source*, write the answer to *target*.

    Only GET and HEAD of /metrics; a request that is too long or does not come in time is refused.
    """
    request = _request(source)
    words = (request or b"").split(b"\r\n", 1)[0].split(b" ")
    if request is None or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        files.write_all(target, _response("400 Bad Request", "text/plain", "That is no request.\n"))
        return
    method, path = words[0], words[1].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        reply = _response(
            "405 Method Not Allowed", "text/plain", "Only GET is known here.\n", "Allow: GET, HEAD"
        )
    elif path != b"/metrics":
        reply = _response("404 Not Found", "text/plain", "Metrics are at /metrics.\n")
    else:
        reply = _response("200 OK", openmetrics.CONTENT_TYPE, measure())
    files.write_all(target, reply.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == b"HEAD" else reply)


def _request(source: int) -> bytes | None:
    """The head of a request; None when none comes in time, or it is too long."""
    deadline, data = time.monotonic() + _PATIENCE_S, b""
    while b"\r\n\r\n" not in data and len(data) <= _REQUEST_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([source], [], [], left)[0]:
            return None
        piece = os.read(source, _REQUEST_LIMIT)
        if not piece:
            return None
        data += piece
    return data if len(data) <= _REQUEST_LIMIT else None


def _response(status: str, kind: str, body: str, *more: str) -> bytes:
    content = body.encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, *more, "", ""]).encode() + content
