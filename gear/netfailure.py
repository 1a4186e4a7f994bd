"""What goes wrong between gear and a registry, as sentences.

Not what a registry says in an answer that is one (gear/registry.py).
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from gear.addresses import Address
from gear.errors import RemoteError

# TLS libraries say one of these when the other side speaks HTTP.
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
)
# What http.client says when a proxy answers CONNECT with another status than 200.
_TUNNEL = "Tunnel connection failed: "


class Lost(RemoteError):
    """The connection broke, or the registry asks to come again."""


class Cancelled(RemoteError):
    """Another part of the same work has failed, so this one stopped."""


def hanging(host: str, seconds: float) -> RemoteError:
    """The error for a host that says nothing."""
    return RemoteError(f"{host} did not answer within {seconds:g} seconds.")


@contextlib.contextmanager
def explained(address: Address, timeout: float, check: Callable[[], None]) -> Iterator[None]:
    """What sockets, TLS and http.client raise, as sentences."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise RemoteError(
            f"The certificate of {address} can't be trusted: {error.verify_message}.",
            hint="Name its authority as `ca` in registries.yaml, or put it into /etc/containers/certs.d.",
        ) from error
    except TimeoutError as error:
        check()
        raise hanging(address.host, timeout) from error
    except ssl.SSLError as error:
        check()
        if "ALERT" in (error.reason or ""):
            raise RemoteError(
                f"{address} ends TLS with {str(error.reason).replace('_', ' ').lower()}.",
                hint="Perhaps it wants a client certificate: see `certificate` and `key` in registries.yaml.",
            ) from error
        raise Lost(f"{address} can't be spoken to over TLS: {error.reason or error}.") from error
    except socket.gaierror as error:
        raise RemoteError(f"The name {address.host} can't be resolved: {error.strerror}.") from error
    except (OSError, EOFError) as error:
        check()
        if (text := str(error)).startswith(_TUNNEL):
            raise tunnel_refused(address, text.removeprefix(_TUNNEL)) from error
        raise Lost(
            f"The connection to {address} failed: {getattr(error, 'strerror', None) or error}."
        ) from error
    except http.client.HTTPException as error:
        check()
        raise Lost(f"{address} does not speak HTTP as it should: {type(error).__name__}.") from error


def proxy_wants_login(host: str, status: str = "407") -> RemoteError:
    """The error for a proxy that does not know who asks."""
    return RemoteError(
        f"The proxy on the way to {host} wants a name and a password ({status}).",
        hint="Put them into https_proxy or http_proxy, as NAME:PASSWORD@ in front of the host.",
    )


def tunnel_refused(address: Address, answer: str) -> RemoteError:
    """The error for a proxy that does not connect; *answer* is its status and what it says."""
    if answer.startswith(("407", "401")):  # the latter by tinyproxy, for a wrong password
        return proxy_wants_login(str(address), answer[:3])
    # 502 and the like: it tried.
    kind = Lost if answer.startswith("5") else RemoteError
    return kind(f"The proxy does not connect to {address}: {ascii(answer[:100])[1:-1].rstrip('.')}.")


def speaks_no_tls(error: RemoteError, other_port: bool) -> bool:
    """Whether plain HTTP is worth a try after *error*."""
    cause: Any = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return False
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or "") in _NOT_TLS or isinstance(cause, ssl.SSLEOFError)
    return isinstance(cause, ConnectionResetError) or (other_port and isinstance(cause, ConnectionError))


def retry_after(text: str) -> float | None:
    """Seconds that the header Retry-After asks to wait; a date of HTTP counts from now."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    if text:
        from email.utils import parsedate_to_datetime  # here: nearly every registry sends seconds

        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def overloaded(host: str, status: int, delay: float | None) -> RemoteError:
    if status == 429:
        more = f" It asks to come again in {delay:.0f} seconds." if delay else ""
        return RemoteError(
            f"{host} refuses more requests for now (429).{more}",
            hint="Many registries allow more after a login.",
        )
    return RemoteError(f"{host} failed with status {status}.")
