"""Real services on a network: Debian's nginx with published ports, and PostgreSQL that it reaches by a link."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from gearhost import GearHost
from nethost import bridged_frames_pass, outside

DATABASE = r"""
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -e /var/lib/postgresql/data/PG_VERSION ]; then
    $bin/initdb -D /var/lib/postgresql/data -A trust >/dev/null
    echo 'host all all all trust' >>/var/lib/postgresql/data/pg_hba.conf
fi
exec $bin/postgres -D /var/lib/postgresql/data -c 'listen_addresses=*' -c unix_socket_directories=/tmp
"""
LOG = "/var/log/nginx/access.log"


@pytest.fixture
def served(registry: GearHost, services: Callable[[str], str]) -> Iterator[GearHost]:
    """The host on which `svweb` is nginx on port 8080, with a link to `svdb`, which is PostgreSQL."""
    nginx, database = services("nginx"), services("postgresql")
    bridged_frames_pass(registry, 0)
    registry.gear("install", database, "svdb", "--net", "default", "--user", "postgres", "--start",
                  "--entrypoint", "/bin/sh", "--", "-c", DATABASE)  # fmt: skip
    registry.gear("install", nginx, "svweb", "-p", "8080:80", "-n", "5432:svdb:5432", "--start",
                  "--entrypoint", "nginx", "--", "-g", "daemon off;")  # fmt: skip
    # A client in the network of nginx, as its application would be.
    registry.gear("install", database, "svapp", "--net", "container:svweb", "--user", "postgres", "--start",
                  "--entrypoint", "sleep", "--", "10000")  # fmt: skip
    outside(registry, "svout")
    yield registry
    registry.sh("ip link delete svout; ip netns delete svout; umount /run/netns")
    registry.gear("delete", "--volumes", "svapp", "svweb", "svdb")
    registry.gear("network", "rm", "default")
    registry.gear("image", "rm", nginx, database)
    bridged_frames_pass(registry, 1)
    assert registry.leftovers() == []


def page(host: GearHost, url: str, *inside: str) -> bool:
    return b"Welcome to nginx!" in host.run(*inside, "curl", "-sgm", "5", url, check=False).stdout


def query(host: GearHost, statement: str, to: str = "127.0.0.1") -> str:
    """What the database answers to the client; what went wrong when it does not."""
    psql = ("env", "PGCONNECT_TIMEOUT=5", "psql", "-h", to, "-U", "postgres", "-tAc", statement)
    done = host.run("gear", "exec", "svapp", "--", *psql, check=False)
    return (done.stdout if done.returncode == 0 else done.stderr).decode().strip()


def test_nginx_and_a_database_on_a_network(served: GearHost) -> None:
    host = served
    host.wait(lambda: query(host, "select 6 * 7") == "42", "the database")
    query(host, "create table kept (n int); insert into kept values (7)")
    urls = ("http://127.0.0.1:8080/", "http://[::1]:8080/", "http://192.0.2.1:8080/")
    host.wait(lambda: page(host, urls[0]), "nginx")
    pids = [host.pid(name) for name in ("svweb", "svdb", "svapp")]

    def works() -> None:
        for url in urls:
            assert page(host, url), url
        host.sh(f": > /proc/{host.pid('svweb')}/root{LOG}")
        for url in ("http://192.0.2.1:8080/", "http://[2001:db8::1]:8080/"):
            assert page(host, url, "ip", "netns", "exec", "svout"), url
        # By their own addresses.
        clients = host.gear("exec", "svweb", "--", "cut", "-d", " ", "-f", "1", LOG)
        assert clients.split() == ["192.0.2.9", "2001:db8::9"]
        found = host.json("status", "svdb")[0]["addresses"]
        for to in ("127.0.0.1", *found):
            assert query(host, "select n from kept", to) == "7", to

    works()
    host.sh("systemctl restart gear-network@default")
    works()
    # The database moves: the link leads to where it is, without a restart of anybody.
    assert "links made anew: svweb" in host.gear(
        "network", "connect", "default", "svdb", "--ip", "10.89.0.77"
    )
    assert host.json("status", "svdb")[0]["address"] == "10.89.0.77"
    works()
    assert [host.pid(name) for name in ("svweb", "svdb", "svapp")] == pids
    # And with another address by a restart, after which `gear link` makes the links anew.
    host.gear("network", "connect", "default", "svdb", "--ip", "10.89.0.88")
    host.gear("restart", "svdb")
    host.gear("link", "svweb")
    host.wait(lambda: query(host, "select n from kept") == "7", "the database after its restart")
    works()
