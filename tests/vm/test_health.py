"""Health on a whole machine: a real database that others wait for at boot, nginx, the freezer, limits."""

from __future__ import annotations

import json
import time

from gearhost import RELEASE, GearHost
from testhostlib import build_image

DATABASE = r"""
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -e /var/lib/postgresql/data/PG_VERSION ]; then
    $bin/initdb -D /var/lib/postgresql/data -A trust >/dev/null
fi
exec $bin/postgres -D /var/lib/postgresql/data -c listen_addresses= -c unix_socket_directories=/tmp
"""
# Says when it was, and whether the database answered then.
CLIENT = b"""[Unit]
Requires=ctr-hcv-db.service
After=ctr-hcv-db.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/bin/gear exec hcv-db psql -h /tmp -U postgres -tAc "select 6 * 7"
[Install]
WantedBy=multi-user.target
"""


def test_who_needs_a_database_waits_until_it_is_healthy_at_boot_too(machine: GearHost) -> None:
    machine.host.copy(build_image("postgresql", release=RELEASE), "/root/postgresql.tar")
    machine.gear("image", "import", "/root/postgresql.tar", "hcvpg", "--user", "postgres", "--volume",
                 "/var/lib/postgresql")  # fmt: skip
    machine.sh("rm /root/postgresql.tar")
    machine.write("/etc/systemd/system/hcv-client.service", CLIENT)
    machine.gear("install", "hcvpg", "hcv-db", "--entrypoint", "/bin/sh", "--health-cmd",
                 "psql -h /tmp -U postgres -tAc 'select 1'", "--health-start-period", "10m", "--health-interval", "1m",
                 "--health-timeout", "1m", "--start", "--", "-c", DATABASE)  # fmt: skip
    machine.sh("systemctl daemon-reload; systemctl enable -q hcv-client; systemctl start hcv-client")
    machine.host.reboot(hard=True)
    machine.wait(
        lambda: machine.show("hcv-client", "ActiveState") in ("active", "failed"), "the client after the boot"
    )
    # It asked once, without a second try, and was answered.
    assert machine.show("hcv-client", "Result") == "success"
    assert machine.out("journalctl", "-b", "-u", "hcv-client", "-o", "cat", "_TRANSPORT=stdout") == "42"
    machine.sh("systemctl disable -q --now hcv-client; rm /etc/systemd/system/hcv-client.service")
    machine.gear("delete", "--volumes", "hcv-db")
    machine.gear("image", "rm", "hcvpg")


def test_nginx_that_hangs_is_restarted_and_one_that_is_paused_is_not(machine: GearHost) -> None:
    machine.host.copy(build_image("nginx", release=RELEASE), "/root/nginx.tar")
    machine.gear("image", "import", "/root/nginx.tar", "hcvnginx", "--cmd", '["nginx", "-g", "daemon off;"]',
                 "--stop-signal", "SIGQUIT", "--expose", "80")  # fmt: skip
    probe = (
        "exec 3<>/dev/tcp/127.0.0.1/80; printf 'HEAD / HTTP/1.0\r\n\r\n' >&3; head -n 1 <&3 | grep '200 OK'"
    )
    check = (
        "--health-cmd",
        json.dumps(["bash", "-c", probe]),
        "--health-interval",
        "2s",
        "--health-timeout",
        "10s",
    )
    machine.gear("install", "hcvnginx", "hcv-web", "--net", "none", *check, "--health-retries", "2",
                 "--health-start-period", "10m", "--start")  # fmt: skip
    unit, pid = "ctr-hcv-web.service", machine.pid("hcv-web")
    # Paused for longer than two probes may take: all of it stands still, the prober as well.
    machine.gear("pause", "hcv-web")
    begin = time.monotonic()
    machine.wait(lambda: time.monotonic() > begin + 30, "time to pass")
    machine.gear("resume", "hcv-web")
    machine.gear("wait", "--healthy", "hcv-web", "--timeout", "5m")
    assert machine.pid("hcv-web") == pid and machine.show(unit, "NRestarts") == "0"
    # Its processes stand still, and the kernel goes on to take connections for them.
    machine.sh(f"kill -STOP {pid} $(pgrep -P {pid})")
    machine.wait(lambda: machine.pid("hcv-web") not in (0, pid), "PID 1 to start it again")
    machine.gear("wait", "--healthy", "hcv-web", "--timeout", "10m")
    told = machine.out("journalctl", "-b", "-u", unit, "-o", "cat", "GEAR_EVENT=health").splitlines()
    assert told[0] == told[2] == "hcv-web is healthy" and "took longer than 10 s" in told[1], told
    assert len(told) == 3
    assert "hcv-web" not in machine.out("systemctl", "list-units", "--all", "--type", "timer")
    machine.gear("delete", "hcv-web")
    machine.gear("image", "rm", "hcvnginx")


def test_a_probe_that_is_a_fork_bomb_fails_within_the_containers_limit(machine: GearHost) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 1000"
    machine.gear("install", "hello", "hcv-bomb", "--user", "0", "--pids-limit", "40", "--health-cmd", bomb,
                 "--health-timeout", "5s", "--health-interval", "10m", "--health-start-interval", "10m",
                 "--ready-when", "started", "--entrypoint", "/bin/sh", "--start", "--", "-c",
                 "trap 'exit 0' TERM; while :; do read -t 1 x; done")  # fmt: skip
    machine.wait(lambda: machine.json("status", "hcv-bomb")[0]["health"]["failing"] > 0, "the probe to fail")
    assert machine.show("ctr-hcv-bomb", "ActiveState") == "active"
    machine.wait(lambda: int(machine.show("ctr-hcv-bomb", "TasksCurrent")) <= 3, "the end of all it has made")
    # Nobody would notice if the kernel ended the prober when memory runs out.
    assert machine.sh("cat /proc/$(pgrep -P 1 -f 'current/health.*/hcv-bomb ')/oom_score_adj") == "-999"
    machine.gear("delete", "hcv-bomb")
