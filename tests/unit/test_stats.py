"""What containers use: reading the kernel's files, rates, and the text for scrapers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser
from strategies import HOSTILE

from gear import groups, metrics, openmetrics, usage, watching
from gear.openmetrics import Family
from gear.usage import Pressure, Usage
from gear.watching import Look

GROUP = "/container.slice/ctr-web.service"
PRESSURE = "some avg10=1.50 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1000\n"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for control groups, empty."""
    monkeypatch.setattr(usage, "_MOUNT", str(tmp_path))
    monkeypatch.setattr(usage, "_UNIFIED", (f"{tmp_path}/unified", str(tmp_path)))
    return tmp_path


def fill(directory: Path, contents: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (directory / name).write_text(text)


def test_version_2(mount: Path) -> None:
    (mount / "cgroup.controllers").write_text("cpu memory io pids\n")
    contents = {
        "cgroup.procs": "7\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 500000\n",
        "cpu.max": "150000 100000\n",
        "memory.current": "4096\n",
        "memory.max": "max\n",
        "memory.peak": "8192\n",
        "memory.swap.current": "0\n",
        "memory.swap.max": "1048576\n",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n",
        "pids.current": "3\n",
        "pids.max": "2048\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2 rios=3 wios=4\n",
        "memory.pressure": PRESSURE,
    }
    fill(mount / GROUP[1:], contents)
    found = usage.read(GROUP, None)
    assert found == Usage(
        at=found.at if found else 0,
        cpu_seconds=2.5,
        cpu_quota=1.5,
        throttled_periods=4,
        throttled_seconds=0.5,
        memory=4096,
        memory_peak=8192,
        swap=0,
        swap_limit=1 << 20,
        oom_kills=1,
        read_bytes=11,
        written_bytes=22,
        reads=4,
        writes=6,
        pids=3,
        pids_limit=2048,
        pressure={("memory", "some"): Pressure(1.5, 2.5), ("memory", "full"): Pressure(0.5, 0.001)},
    )


def test_controllers_of_version_1(mount: Path) -> None:
    fill(mount / "unified" / GROUP[1:], {"cgroup.procs": "7\n", "cpu.stat": "usage_usec 9\n"})
    fill(mount / "cpuacct" / GROUP[1:], {"cpuacct.usage": "2500000000\n"})
    stat = "nr_periods 9\nnr_throttled 4\nthrottled_time 500000000\n"
    fill(
        mount / "cpu" / GROUP[1:],
        {"cpu.stat": stat, "cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
    )
    memory = {
        "usage_in_bytes": "4096\n",
        "limit_in_bytes": "9223372036854771712\n",
        "max_usage_in_bytes": "8192\n",
        "memsw.usage_in_bytes": "5000\n",
        "oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    }
    fill(mount / "memory" / GROUP[1:], {f"memory.{name}": text for name, text in memory.items()})
    services = "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:16 Read 1\nTotal 31\n"
    fill(mount / "blkio" / GROUP[1:], {"blkio.throttle.io_service_bytes_recursive": services})
    found = usage.read(GROUP, None)
    assert found == Usage(
        at=found.at if found else 0,
        cpu_seconds=2.5,
        throttled_periods=4,
        throttled_seconds=0.5,
        memory=4096,
        memory_peak=8192,
        swap=904,
        oom_kills=1,
        read_bytes=11,
        written_bytes=20,
    )


def test_what_is_not_counted_is_none_and_what_is_gone_is_gone(mount: Path) -> None:
    assert usage.read(GROUP, None) is None
    fill(mount / "unified" / GROUP[1:], {"cgroup.procs": "", "cpu.stat": "usage_usec 9\n"})
    found = usage.read(GROUP, 2**22 + 1)
    assert found == Usage(at=found.at if found else 0, cpu_seconds=9e-6)


def test_there_is_no_traffic_without_a_process() -> None:
    assert set(usage._network(None).values()) == {None}
    assert set(usage._network(2**22 + 1).values()) == {None}


def look(**members: float) -> Look:
    counted = Usage(**({"at": 0.0} | members))  # type: ignore[arg-type]
    return Look("web", "ctr-web.service", "active", "nginx:latest", "", counted)


def test_rates_are_by_the_time_between_two_readings() -> None:
    before = look(at=10.0, cpu_seconds=1.0, read_bytes=100, cpu_quota=0.5)
    now = look(at=12.0, cpu_seconds=2.0, read_bytes=300, cpu_quota=0.5, received_bytes=5)
    found = watching.document(now, before, 1e9)
    assert found["cpu"]["percent"] == 50 and found["cpu"]["quota_percent"] == 100
    assert found["io"]["read_rate"] == 100 and found["io"]["write_rate"] is None
    assert found["net"] == {
        "received_bytes": 5,
        "sent_bytes": None,
        "receive_rate": None,
        "send_rate": None,
    }
    assert found["interval"] == 2 and found["running"] is True


@pytest.mark.parametrize("before", [None, look(at=10.0, cpu_seconds=9.0)])
def test_there_is_no_rate_over_a_restart(before: Look | None) -> None:
    found = watching.document(look(at=12.0, cpu_seconds=2.0), before, 1e9)
    assert found["cpu"]["percent"] is None and found["interval"] is None
    assert found["cpu"]["seconds"] == 2


def test_one_that_does_not_run_uses_nothing_that_is_known() -> None:
    found = watching.document(replace(look(), usage=None, state="failed"), look(at=1.0, cpu_seconds=1), 1e9)
    assert found["running"] is False
    leaves = [value for part in ("cpu", "memory", "io", "net", "pids") for value in found[part].values()]
    assert set(leaves) == {None}


# ---- OpenMetrics


def families(text: str) -> list[Any]:
    """What Prometheus' own client reads."""
    return list(parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def test_metrics_are_what_a_scraper_reads() -> None:
    one = look(cpu_seconds=2.5, memory=4096, pids_limit=2048)
    assert one.usage is not None
    pressed = replace(one.usage, pressure={("cpu", "some"): Pressure(1.5, 2.5)})
    idle = Look("idle", "ctr-idle.service", "failed", 'a"b\\c\n', "shop", None)
    text = metrics.text([replace(one, usage=pressed, healthy=True), idle])
    assert text.endswith("# EOF\n")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(text)
        for sample in family.samples
    }
    web = ("container", "web")
    assert found == {
        ("gear_container_info", web, ("image", "nginx:latest")): 1,
        ("gear_container_info", ("app", "shop"), ("container", "idle"), ("image", 'a"b\\c\n')): 1,
        ("gear_container_running", web): 1,
        ("gear_container_running", ("container", "idle")): 0,
        ("gear_container_failed", web): 0,
        ("gear_container_healthy", web): 1,
        ("gear_container_failed", ("container", "idle")): 1,
        ("gear_container_cpu_seconds_total", web): 2.5,
        ("gear_container_memory_bytes", web): 4096,
        ("gear_container_pids_limit", web): 2048,
        (
            "gear_container_pressure_seconds_total",
            web,
            ("resource", "cpu"),
            ("share", "some"),
        ): 2.5,
    }


def test_no_container_is_a_whole_answer_too() -> None:
    assert metrics.text([]) == "# EOF\n"


@given(HOSTILE, st.floats(allow_nan=False, allow_infinity=False))
def test_labels_and_numbers_survive(text: str, value: float) -> None:
    family = Family("gear_test", "gauge", text, samples=[({"a": text}, value)])
    (found,) = families(openmetrics.render([family]))
    assert found.samples[0].labels == {"a": text} and found.samples[0].value == value


# ---- the answer to one request


def ask(request: bytes, *, close: bool = False) -> bytes:
    """What is answered to *request*; the asking end is closed after it if *close*."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(request)
        if close:
            ours.shutdown(socket.SHUT_WR)
        metrics.answer(theirs.fileno(), theirs.fileno(), lambda: "# EOF\n")
        theirs.shutdown(socket.SHUT_WR)
        answer = b""
        while data := ours.recv(65536):
            answer += data
        return answer


def test_a_scraper_is_answered() -> None:
    head, _, body = ask(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0;")
    assert b"Content-Length: 6\r\n" in head and body == b"# EOF\n"
    head, _, body = ask(b"HEAD /metrics HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Length: 6\r\n" in head and body == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n", b"400"),
    ],
)
def test_other_requests_are_refused(request_: bytes, status: bytes) -> None:
    assert ask(request_).startswith(b"HTTP/1.1 " + status)


def test_half_a_request_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(b"GET /met", close=True).startswith(b"HTTP/1.1 400")
    monkeypatch.setattr(metrics, "_PATIENCE_S", 0.01)
    assert ask(b"GET /met").startswith(b"HTTP/1.1 400")


def test_a_process_is_looked_for_again_when_it_has_left_the_group(
    mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    payload: Callable[[str], int] = lambda group: looked.append(group) or 8  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(groups, "payload", payload)
    fill(mount / "unified" / GROUP[1:], {"cgroup.procs": "17\n8\n"})
    assert usage.payload(GROUP, 17) == 17 and looked == []
    assert usage.payload(GROUP, 7) == 8 and looked == [GROUP]
