"""One document from a web server, by the rules that hold for registries: TLS, limits of size and time, no passwords."""

from __future__ import annotations

from gear import registries
from gear.addresses import is_loopback, split_url
from gear.errors import RemoteError, UsageError
from gear.model import Layout
from gear.transport import Transport


def document(layout: Layout, url: str, limit: int) -> bytes:
    """What is at *url*, at most *limit* bytes; raises UsageError, IntegrityError, RemoteError.

    Without TLS only from this machine, or where registries.yaml has `insecure: true`: who can change what comes in
    could have any program run.  Nothing of the URL but its host is in a message, as its query may be a secret.
    """
    try:
        address, _ = split_url(url)
    except RemoteError as error:
        raise UsageError(
            "What is given as a URL is none, or has a user name in it.",
            hint="For example https://example.org/app.env",
        ) from error
    settings = registries.load(layout)
    endpoint = settings.endpoint(str(address))
    if not address.secure and not (endpoint.rule.insecure or is_loopback(address.host)):
        raise UsageError(
            f"Variables from {address} would not be protected on their way.",
            hint=f"Use https, or set `insecure: true` for {address} in registries.yaml.",
        )
    transport = Transport(endpoint, settings)
    try:
        with transport.persist(lambda: transport.follow("GET", url, {})) as response:
            if response.status != 200:
                raise RemoteError(f"{address} answers with status {response.status}.")
            return response.document(limit)
    finally:
        transport.close()
