"""gear stats and gear metrics where control groups of version 2 count processor time and pressure, and little else."""

from __future__ import annotations

import json
import time

from gearhost import GearHost
from prometheus_client.openmetrics import parser

BUSY = "while :; do :; done"
# Asks the socket of units/, as a scraper does.
SCRAPE = """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen("http://127.0.0.1:9763" + sys.argv[1]) as answer:
        print(answer.status, answer.headers["Content-Type"])
        print(answer.read().decode(), end="")
except urllib.error.HTTPError as error:
    print(error.code)
"""

SILENT = 'import socket; socket.create_connection(("127.0.0.1", 9763)).recv(100)'


def test_what_containers_use_is_measured_live_and_for_scrapers(host: GearHost) -> None:
    # A slice of an administrator's choice: where the group is, PID 1 says.
    host.write("/etc/systemd/system/ctr-obs-busy.service.d/slice.conf", b"[Service]\nSlice=obs-odd.slice\n")
    host.gear("install", "hello", "obs-busy", "--net", "none", "-l", "gear.app=obs", "--start",
              "--", "/bin/sh", "-c", BUSY)  # fmt: skip
    host.gear("install", "hello", "obs-web", "--start")
    host.gear("install", "hello", "obs-idle")
    lines = host.gear("stats", "--no-stream", "--interval", "0.5", "--output", "json").splitlines()
    found = {item["name"]: item for item in map(json.loads, lines)}
    assert set(found) == {"obs-busy", "obs-web"}
    busy, web = found["obs-busy"], found["obs-web"]
    assert busy["cpu"]["percent"] > web["cpu"]["percent"] >= 0 and busy["cpu"]["quota"] is None
    assert 0.4 < busy["interval"] and busy["running"] is True
    # A request from the host is counted, and what there is no controller for is not there, rather than 0.
    before = web["net"]["received_bytes"]
    address = host.json("status", "obs-web")[0]["address"]
    host.sh(f"python3 -c 'import urllib.request as r; r.urlopen(\"http://{address}:8080/\").read()'")
    (web,) = map(json.loads, host.gear("stats", "--no-stream", "--output", "json", "obs-web").splitlines())
    assert web["net"]["received_bytes"] > before
    if host.host.cgroup == "v1":
        assert web["memory"]["current"] is None and web["pids"]["current"] is None
    table = host.gear("stats", "--no-stream", "--all").splitlines()
    assert table[0].split()[:3] == ["NAME", "CPU", "QUOTA"]
    assert [line.split()[0] for line in table[1:]] == ["obs-busy", "obs-idle", "obs-web"]
    # One that is named is shown also when it does not run.
    idle = json.loads(host.gear("stats", "--no-stream", "--output", "json", "obs-idle"))
    assert idle["running"] is False and idle["cpu"]["seconds"] is None
    assert "There is no container obs-none" in host.fails(1, "stats", "obs-none")
    assert "no interval" in host.fails(2, "stats", "--interval", "0")

    text = host.gear("metrics")
    samples = {
        (sample.name, sample.labels["container"]): sample
        for family in parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    assert samples["gear_container_info", "obs-busy"].labels["app"] == "obs"
    assert samples["gear_container_running", "obs-idle"].value == 0
    assert samples["gear_container_cpu_seconds_total", "obs-busy"].value > 0
    assert ("gear_container_network_sent_bytes_total", "obs-web") in samples
    host.gear("metrics", "--file", "/root/obs.prom")
    assert host.sh("ls /root/obs.prom* /root/.partial* 2>/dev/null || :") == "/root/obs.prom"
    assert host.read("/root/obs.prom").endswith(b"# EOF\n")

    # The same over HTTP, by a service that is there for one request.
    host.sh("systemctl start gear-metrics.socket")
    status, _, body = host.out("python3", "-c", SCRAPE, "/metrics").partition("\n")
    assert status == "200 application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert 'gear_container_network_sent_bytes_total{container="obs-web"}' in body and body.endswith("# EOF")
    assert host.out("python3", "-c", SCRAPE, "/") == "404"
    # One that does not ask is not waited for, and does not keep others off.
    host.sh(f"setsid python3 -c '{SILENT}' > /dev/null 2>&1 &")
    assert host.out("python3", "-c", SCRAPE, "/metrics").startswith("200")
    gone = "systemctl list-units --no-legend 'gear-metrics@*'"
    host.wait(lambda: host.sh(gone) == "", "the answers to be over")
    host.sh(
        "systemctl stop gear-metrics.socket; rm -r /etc/systemd/system/ctr-obs-busy.service.d /root/obs.prom"
    )


def test_a_live_table_survives_containers_that_come_and_go(host: GearHost) -> None:
    host.gear("install", "hello", "obs-one", "--net", "none", "--restart", "no", "--start",
              "--", "/bin/sleep", "1000")  # fmt: skip
    host.write("/root/obs-follow.py", b"""
import json, subprocess, sys, time
done = subprocess.Popen(["gear", "stats", "--interval", "0.2", "--output", "json"], stdout=subprocess.PIPE)
seen = []
def until(condition):
    for line in done.stdout:
        seen.append(json.loads(line))
        if condition(seen[-1]):
            return
until(lambda item: item["name"] == "obs-one")
subprocess.run(["gear", "install", "hello", "obs-two", "--net", "none", "--start"], check=True, stdout=2)
until(lambda item: item["name"] == "obs-two" and item["interval"])
subprocess.run(["gear", "delete", "obs-one"], check=True, stdout=2)
subprocess.run(["gear", "restart", "obs-two"], check=True, stdout=2)
now = time.time()
until(lambda item: item["time"] > now and item["name"] == "obs-two" and item["interval"])
until(lambda item: item["name"] == "obs-two")
assert seen[-1]["running"] and "obs-one" not in {item["name"] for item in seen[-2:]}
done.send_signal(2)
assert done.wait() == 0
print("done")
""")  # fmt: skip
    assert host.out("timeout", "120", "python3", "/root/obs-follow.py") == "done"
    screen = host.typed([["obs-two", "\x03"]], "stats", "--interval", "0.2")
    assert "\x1b[" in screen and "THROTTLED" not in screen.split("\n")[0] and "status 0" in screen, screen


def test_the_time_of_a_measurement_is_told(host: GearHost) -> None:
    before = time.time()
    host.gear("install", "hello", "obs-when", "--net", "none", "--start", "--", "/bin/sleep", "1000")
    item = json.loads(host.gear("stats", "--no-stream", "--interval", "0.1", "--output", "json", "obs-when"))
    assert before <= item["time"] <= time.time()
