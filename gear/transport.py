"""HTTP to one registry: time limits, attempts and redirects.

Not what is said (gear/registry.py), nor how a connection comes to be (gear/dialing.py).  It is http.client with
what that leaves to its caller.  Whatever goes wrong is a RemoteError; a Lost says that trying again may help.
Authorization is for the registry's own host and never follows a redirect to another one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable
from urllib.parse import urljoin

from gear import __version__
from gear.addresses import Address, is_loopback, split_url
from gear.dialing import Connector
from gear.document import DOCUMENT_LIMIT
from gear.errors import GearError, IntegrityError, RemoteError
from gear.netfailure import Cancelled, Lost, explained, hanging, overloaded, retry_after, speaks_no_tls
from gear.registries import Endpoint, Registries

REDIRECTS = 5
BACKOFF_S = 0.5
# The longest that is waited because a registry says so.
RETRY_AFTER_S = 60.0
_TRY_AGAIN = (429, 500, 502, 503, 504)


@runtime_checkable
class Body(Protocol):
    """What a request brings and bytes are too small for."""

    def read(self, size: int = -1, /) -> bytes: ...

    def rewind(self) -> None: ...


class Response:
    """The answer to one request; the connection is kept for the next one if the body was read to its end."""

    def __init__(
        self, transport: Transport, address: Address, connection: http.client.HTTPConnection, url: str
    ) -> None:
        self._transport, self._address, self._connection = transport, address, connection
        self.url = url
        self.at_home = True
        self._inner = connection.response  # type: ignore[attr-defined]
        self.status: int = self._inner.status
        self.headers: http.client.HTTPMessage = self._inner.headers

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    @property
    def length(self) -> int | None:
        """What Content-Length promises."""
        text = self.headers.get("Content-Length") or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int) -> bytes:
        """Some bytes; empty at the end, and also where the connection was cut in the middle."""
        with self._transport.explained(self._address):
            data: bytes = self._inner.read1(size)
        self._transport.check()
        return data

    def document(self, limit: int = DOCUMENT_LIMIT) -> bytes:
        """The whole body, which has to come within the time limit."""
        if (self.length or 0) > limit:
            raise IntegrityError(f"{self._address} sends a document of more than {limit} bytes.")
        data = bytearray()
        with self._transport.watched(self._connection, self._transport.timeout):
            while piece := self.read(1 << 16):
                data += piece
                if len(data) > limit:
                    raise IntegrityError(f"{self._address} sends a document of more than {limit} bytes.")
        if self.length is not None and self._inner.length not in (0, None):
            raise Lost(f"{self._address} ended the connection in the middle of a document.")
        return bytes(data)

    def close(self) -> None:
        if self._connection is None:
            return
        connection, self._connection = self._connection, None  # type: ignore[assignment]
        whole = self._inner.isclosed() or self._inner.length == 0
        will_close = self._inner.will_close
        self._inner.close()
        if not whole or will_close:
            self._transport.drop(connection)
        else:
            self._transport.keep(self._address, connection)


class Transport:
    """Connections to one registry, for any number of threads."""

    def __init__(
        self, endpoint: Endpoint, settings: Registries, environ: Mapping[str, str] | None = None
    ) -> None:
        self.endpoint, self.timeout = endpoint, settings.timeout
        self.retries = settings.retries
        self._connector = Connector(endpoint, os.environ if environ is None else environ)
        self._plain_allowed = endpoint.rule.insecure or is_loopback(self._connector.host)
        # Which protocol it speaks is found out by the first connection.
        self._home: Address | None = None
        self._lock = threading.Lock()
        self._finding = threading.Lock()
        self._idle: dict[Address, list[http.client.HTTPConnection]] = {}
        self._open: set[http.client.HTTPConnection] = set()
        self.cancelled = threading.Event()

    # -- for responses ---------------------------------------------------------------------------------------

    def keep(self, address: Address, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.setdefault(address, []).append(connection)

    def drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._open.discard(connection)
        _close(connection)

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("The transfer was stopped.")

    @contextlib.contextmanager
    def watched(self, connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
        """End the connection when the block takes longer: a time limit of a socket is for each piece only."""
        late = threading.Event()

        def end() -> None:
            late.set()
            _shut(connection)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except GearError as error:
            if late.is_set():
                raise hanging(self.endpoint.host, seconds) from error
            raise
        finally:
            timer.cancel()
        if late.is_set():
            raise hanging(self.endpoint.host, seconds)

    @contextlib.contextmanager
    def explained(self, address: Address) -> Iterator[None]:
        """Failures of sockets, TLS and http.client as sentences."""
        with explained(address, self.timeout, self.check):
            yield

    def stop(self) -> None:
        """Make every thread that uses this transport end soon."""
        self.cancelled.set()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _shut(connection)

    def close(self) -> None:
        """End all connections; no thread uses them any more."""
        with self._lock:
            connections, self._open, self._idle = list(self._open), set(), {}
        for connection in connections:
            _close(connection)

    # -- connecting ------------------------------------------------------------------------------------------

    def home(self) -> Address:
        """The registry's own address; the first call connects to find out whether it speaks TLS."""
        with self._finding:
            if self._home is None:
                host, port = self._connector.host, self._connector.port
                secure = Address(True, host, port or 443)
                try:
                    connection = self._connect(secure)
                except RemoteError as error:
                    plain = Address(False, host, port or 80)
                    if not (self._plain_allowed and speaks_no_tls(error, port is None)):
                        if speaks_no_tls(error, False) and not self._plain_allowed:
                            raise RemoteError(
                                f"{secure} speaks no TLS.",
                                hint=f"If that is meant to be, set `insecure: true` for {secure} in registries.yaml.",
                            ) from error
                        raise
                    secure, connection = plain, self._connect(plain)
                self._home = secure
                self.keep(secure, connection)
            return self._home

    def base(self) -> str:
        """The beginning of all URLs of the registry."""
        home = self.home()
        host = f"[{home.host}]" if ":" in home.host else home.host
        return f"{'https' if home.secure else 'http'}://{host}:{home.port}"

    def _connect(self, address: Address) -> http.client.HTTPConnection:
        self.check()
        connection = self._connector.prepared(address, self.timeout, self.check)
        with self._lock:
            self._open.add(connection)
        try:
            # connect() of HTTPSConnection shakes hands, too; the whole has to be done in time.
            with self.watched(connection, 2 * self.timeout), self.explained(address):
                connection.connect()
        except BaseException:
            self.drop(connection)
            # Until Python 3.12 what was read of a proxy's answer keeps the socket open as long as the traceback lives.
            sock = getattr(connection, "dialled", None)
            if sock is not None and (number := sock.detach()) >= 0:
                os.close(number)
            raise
        return connection

    # -- asking ----------------------------------------------------------------------------------------------

    def once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        patience: float | None = None,
    ) -> Response:
        """Send one request; a connection that was kept and turns out to be dead is replaced once."""
        address, target = split_url(url)
        for fresh in (False, True):
            with self._lock:
                kept = self._idle.get(address)
                connection = kept.pop() if kept and not fresh else None
            reused = connection is not None
            connection = connection or self._connect(address)
            try:
                return self._send(connection, address, method, target, url, headers, body, patience)
            except Lost:
                self.drop(connection)
                if not reused or (body is not None and not isinstance(body, bytes)):
                    raise
            except BaseException:
                self.drop(connection)
                raise
        raise AssertionError("unreachable")

    def _send(
        self,
        connection: http.client.HTTPConnection,
        address: Address,
        method: str,
        target: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None,
        patience: float | None,
    ) -> Response:
        proxy = None if address.secure else self._connector.proxy(address)
        words = {
            "Host": str(address),
            "User-Agent": f"gear/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        }
        if proxy:
            target, words = url, {**words, **proxy[1]}
        with self.explained(address):
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in words.items():
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
        with self.watched(connection, patience or self.timeout), self.explained(address):
            connection.response = connection.getresponse()  # type: ignore[attr-defined]
        return Response(self, address, connection, url)

    def follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        patience: float | None = None,
    ) -> Response:
        """Send a request and go where the answer points; Authorization stays with the registry's own host."""
        home = self.home()
        for _ in range(REDIRECTS + 1):
            at_home = split_url(url)[0] == home
            own = headers if at_home else {n: v for n, v in headers.items() if n.lower() != "authorization"}
            response = self.once(method, url, own, body, patience)
            response.at_home = at_home
            if response.status not in (301, 302, 303, 307, 308) or method not in ("GET", "HEAD"):
                return response
            target = urljoin(url, response.headers.get("Location") or "")
            response.close()
            if url.startswith("https:") and not target.startswith("https:"):
                raise RemoteError(
                    f"{home} redirects to {ascii(target[:200])}, which is not protected by TLS."
                )
            url = target
        raise RemoteError(f"{home} redirects more than {REDIRECTS} times.")

    def persist(self, attempt: Callable[[], Response], *, idempotent: bool = True) -> Response:
        """Repeat *attempt* while trying again may help; an answer that asks for it counts as a failure."""
        for number in range(self.retries + 1):
            last = number == self.retries or not idempotent
            try:
                response = attempt()
                if response.status not in _TRY_AGAIN:
                    return response
                delay = retry_after(response.headers.get("Retry-After") or "")
                if last or (delay or 0) > RETRY_AFTER_S:
                    response.close()
                    raise overloaded(self.endpoint.host, response.status, delay)
                response.close()
                self.pause(number, delay)
            except Lost as error:
                if last:  # no longer a Lost, or callers would try again what was tried often enough
                    raise RemoteError(error.message, hint=error.hint) from error
                self.pause(number, None)
        raise AssertionError("unreachable")

    def pause(self, number: int, delay: float | None) -> None:
        """Wait before attempt *number* + 2: as long as the registry says, else longer each time."""
        if delay is None:
            delay = BACKOFF_S * 2**number * (0.75 + random.random() / 2)
        self.cancelled.wait(delay)
        self.check()


def _close(connection: http.client.HTTPConnection) -> None:
    """Close a connection with its answer, which may have taken the socket over (HTTPConnection.getresponse())."""
    answer = getattr(connection, "response", None)
    if answer is not None:
        answer.close()
    connection.close()


def _shut(connection: http.client.HTTPConnection) -> None:
    """Wake whoever reads or writes; closing the socket in another thread would not."""
    sock = connection.sock
    with contextlib.suppress(OSError, AttributeError):
        sock.shutdown(socket.SHUT_RDWR)
