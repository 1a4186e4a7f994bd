"""Addresses of registries: URLs taken apart, loopback, and the proxies that the environment names.

Nothing is connected to here.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from gear.errors import RemoteError, UsageError
from gear.records import dataclass


@dataclass(frozen=True)
class Address:
    """Whom to connect to."""

    secure: bool
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def split_url(url: str) -> tuple[Address, str]:
    """Address and request target of a URL; raises RemoteError for what is none."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        parts, port, host = None, None, None
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not host
        or parts.username
        or not url.isascii()
    ):
        raise RemoteError(f"A registry names an address that can't be: {ascii(url[:200])}.")
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(secure, host, port or (443 if secure else 80)), target


def is_loopback(host: str) -> bool:
    """Whether *host*, without port, is this machine by its name."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def proxy_for(address: Address, environ: Mapping[str, str]) -> tuple[Address, dict[str, str]] | None:
    """The proxy for *address* by https_proxy and http_proxy, unless no_proxy names it; None for none."""
    name = "https_proxy" if address.secure else "http_proxy"
    # HTTP_PROXY in capitals can be set by a request to a CGI program (CVE-2016-5385), which gear never is.
    value = environ.get(name) or environ.get(name.upper()) or ""
    if not value or is_loopback(address.host):
        return None
    exceptions = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if any(_excepted(address, word.strip().lower()) for word in exceptions.split(",") if word.strip()):
        return None
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = None, None, None
    if parts is None or parts.scheme != "http" or not host:
        raise UsageError(f"The variable {name} is not an address of the form http://HOST:PORT.")
    headers = {}
    if parts.username:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    return Address(False, host, port or 80), headers


def _excepted(address: Address, word: str) -> bool:
    """Whether a word of no_proxy means *address*: *, a host, a domain, with or without port, or a network."""
    host, _, port = word.rpartition(":") if word.count(":") == 1 else (word, "", "")
    if port and port != str(address.port):
        return False
    if host == "*":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address.host) in ipaddress.ip_network(host, strict=False)
    host = host.lstrip("*").lstrip(".")
    return address.host == host or address.host.endswith(f".{host}")
