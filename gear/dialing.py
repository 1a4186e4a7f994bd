"""Connections to a registry before anything is said: names, proxies, TLS.

Not HTTP (gear/transport.py).  Every step has a time limit, the resolver's too, which has none of its own that suits:
glibc asks each server of resolv.conf(5) several times, for many seconds each.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from gear import registries
from gear.addresses import Address, proxy_for
from gear.errors import RemoteError, UsageError
from gear.netfailure import explained
from gear.registries import Endpoint

# What getaddrinfo(3) finds: family, type, protocol, canonical name, address.
Found = tuple[int, int, int, str, Any]


def resolve(host: str, port: int, timeout: float) -> Sequence[Found]:
    """The addresses of *host*; raises RemoteError when they are not known within *timeout* seconds.

    A call of the resolver can't be stopped, so a thread makes it, and is left behind when it takes too long.
    """
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: list[Found] = []
    failure: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failure.append(error)
        done.set()

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    if not done.wait(timeout):
        raise RemoteError(
            f"The name {host} could not be resolved within {timeout:g} seconds.",
            hint="The name servers of /etc/resolv.conf do not answer.",
        )
    if failure and isinstance(failure[0], OSError):
        raise failure[0]
    if failure:  # a label of more than 63 characters, for one
        raise RemoteError(f"The name {host[:100]} can't be resolved: it is no name of a host.")
    return found


def dial(address: Address, timeout: float) -> socket.socket:
    """Connect to the first address of a host that answers; all of them together have *timeout* seconds."""
    deadline = time.monotonic() + timeout
    found = resolve(address.host, address.port, timeout)
    failure: OSError | None = None
    for number, (family, kind, protocol, _, place) in enumerate(found):
        left = max(0.001, deadline - time.monotonic())
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # the kernel has no IPv6, for one
            failure = error
            continue
        try:
            sock.settimeout(left / (len(found) - number))
            sock.connect(place)
            sock.settimeout(timeout)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure or OSError(f"{address.host} has no address")


class Connector:
    """How to get to a registry and to the hosts it redirects to, for any number of threads."""

    def __init__(self, endpoint: Endpoint, environ: Mapping[str, str]) -> None:
        self._endpoint, self._environ = endpoint, environ
        parts = urlsplit(f"//{endpoint.host}")
        self.host, self.port = parts.hostname or "", parts.port
        self._lock = threading.Lock()
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def proxy(self, address: Address) -> tuple[Address, dict[str, str]] | None:
        """The proxy on the way to *address*, and the headers it wants."""
        return proxy_for(address, self._environ)

    def prepared(
        self, address: Address, timeout: float, check: Callable[[], None]
    ) -> http.client.HTTPConnection:
        """A connection to *address*, by way of its proxy; its connect() dials, asks the proxy, and shakes hands."""
        proxy = self.proxy(address)
        where = proxy[0] if proxy else address
        connection: http.client.HTTPConnection
        if address.secure:
            own = (address.host, address.port) == (self.host, self.port or 443)
            connection = http.client.HTTPSConnection(
                where.host, where.port, timeout=timeout, context=self._context(own), blocksize=1 << 18
            )
            if proxy:
                connection.set_tunnel(address.host, address.port, headers=proxy[1])
        else:
            connection = http.client.HTTPConnection(
                where.host, where.port, timeout=timeout, blocksize=1 << 18
            )

        def create(*_: object) -> socket.socket:
            # What fails here is the proxy's matter, if there is one; what fails later is the registry's.
            with explained(where, timeout, check):
                connection.dialled = dial(where, timeout)  # type: ignore[attr-defined]
            return connection.dialled  # type: ignore[attr-defined, no-any-return]

        # The one way to have http.client use a socket that is not socket.create_connection()'s (Python 2.7 to 3.14).
        connection._create_connection = create  # type: ignore[attr-defined]
        return connection

    def _context(self, own: bool) -> ssl.SSLContext:
        """TLS for the registry itself, which may have certificates of its own, or for others."""
        with self._lock:
            if own not in self._contexts:
                context = ssl.create_default_context()
                if own:
                    self._dress(context)
                self._contexts[own] = context
            return self._contexts[own]

    def _dress(self, context: ssl.SSLContext) -> None:
        """Give *context* what is configured for the registry."""
        rule = self._endpoint.rule
        authorities, certificate, key = registries.certificates(self._endpoint.registry, rule)
        try:
            for path in authorities:
                context.load_verify_locations(path)
            if certificate:
                context.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"The certificates for {self._endpoint.registry} can't be used: "
                f"{getattr(error, 'reason', None) or error}.",
                hint=", ".join([*authorities, *filter(None, (certificate, key))]),
            ) from error
        if rule.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
