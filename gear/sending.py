"""Images from one host to another over ssh, with gear on both.

One side offers (gear/offering.py), the other asks for what it lacks as it would pull (gear/fetching.py), so whatever
arrives is verified before it can be seen.  Who starts ssh may be either.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import socket

from gear import fetching, files, images, leases, offering, process, registries, store
from gear.document import parse_document
from gear.errors import GearError, IntegrityError, RemoteError, UsageError
from gear.fetching import Progress, Pulled, Wanted
from gear.model import Layout
from gear.oci import Reference
from gear.offering import VERSION, Item, Result
from gear.patterns import pattern
from gear.piping import PipeTransport, standard_streams
from gear.records import dataclass, replace
from gear.reference import full_names
from gear.registry import Repository
from gear.signatures import PeerGate

# For ssh to connect and for a person to type a password, before the other side says anything.
PATIENCE_S = 300.0
# As for registries: how long the other side may say nothing.
TIMEOUT_S = 60.0
COUNT_LIMIT = 1000
_USER = r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?"
_HOST = pattern(
    rf"{_USER}([A-Za-z0-9_][A-Za-z0-9._-]*)"
    rf"|ssh://{_USER}([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?",
    re.ASCII,
)


@dataclass(frozen=True)
class Peer:
    """Another host: what ssh calls it, and how to run gear there."""

    destination: str
    command: str = "gear"

    @property
    def name(self) -> str:
        match = _HOST.fullmatch(self.destination)
        if match is None:
            raise UsageError(
                f"{self.destination[:100]!r} can't be a host.",
                hint="Write [USER@]HOST, or ssh://[USER@]HOST:PORT.",
            )
        return str(match[1] or match[2]).strip("[]")

    def arguments(self, *words: str) -> list[str]:
        """The command that runs `gear image WORDS` there, with nothing forwarded."""
        assert self.name, "checked, or ssh might take it for an option"
        remote = " ".join([self.command, "image", *(shlex.quote(word) for word in words)])
        return ["ssh", "-T", "-a", "-x", "-o", "ClearAllForwardings=yes", self.destination, remote]


def send(
    layout: Layout,
    names: Sequence[str],
    peer: Peer,
    *,
    every: bool,
    progress: Progress,
    tell: Callable[[str], None],
) -> Result:
    """Have the images *names* of this host on *peer*; *tell* gets what is said there on standard error."""
    arguments = peer.arguments("receive", "--quiet")
    store.prepare(layout)
    with leases.pinning(layout):
        offer = offering.make(layout, names, every=every)
        with process.conversing(arguments, tell) as (sock, end):
            with sock.makefile("rb") as source, sock.makefile("wb") as sink:
                result = offering.serve(layout, offer, source, sink, progress)
            status = end()
    if result is None:
        raise _ended(peer, status)
    return result


def take(
    layout: Layout,
    names: Sequence[str],
    peer: Peer,
    *,
    every: bool,
    progress: Progress,
    tell: Callable[[str], None],
) -> Result:
    """Have the images *names* of *peer* on this host, and nothing that it offers instead."""
    words = ["serve", *(["--all-platforms"] if every else []), *names]
    wanted = [Reference.parse(name) for name in names]
    with process.conversing(peer.arguments(*words), tell) as (sock, end):
        try:
            result = _receive(layout, peer.name, sock, progress, wanted)
        except RemoteError as error:
            if (status := end()) not in (0, -9):
                raise _ended(peer, status) from error
            raise RemoteError(error.message, hint=error.hint or _hint(peer)) from error
        end()
    return result


def _ended(peer: Peer, status: int) -> RemoteError:
    """The error for an end before all was done, by ssh's status."""
    if status == 255:
        return RemoteError(f"ssh can't connect to {peer.destination}.")
    if status == 127:
        return RemoteError(
            f"There is no program {peer.command} on {peer.name}.",
            hint="Say where it is with --remote-command.",
        )
    return RemoteError(
        f"gear on {peer.name} ended with status {status} before all was done.", hint=_hint(peer)
    )


def _hint(peer: Peer) -> str:
    return f"`ssh {peer.destination} true` must print nothing; what a login shell prints is in the way."


def serve(layout: Layout, names: Sequence[str], *, every: bool, progress: Progress) -> None:
    """Offer the images *names* to whoever is at standard input and output."""
    store.prepare(layout)
    with leases.pinning(layout):
        offer = offering.make(layout, names, every=every)
        offering.serve(layout, offer, sys.stdin.buffer, sys.stdout.buffer, progress)


def receive(layout: Layout, progress: Progress) -> Result:
    """Get what is offered at standard input and output."""
    with standard_streams() as sock:
        return _receive(layout, "sender", sock, progress, None)


def _receive(
    layout: Layout, name: str, sock: socket, progress: Progress, wanted: Sequence[Reference] | None
) -> Result:
    """Ask for the offer, get each image of it, and tell what came of it."""
    transport = PipeTransport(name, sock, TIMEOUT_S)
    repository = Repository(transport, lambda: None)
    try:
        sock.settimeout(PATIENCE_S)
        items = _offered(repository, name)
        sock.settimeout(TIMEOUT_S)
        if wanted is not None:
            _compare(items, wanted, name)
        result = Result()
        for item in items:
            try:
                done = _fetch(layout, repository, item, progress)
            except RemoteError:
                raise  # there will be no answer to anything else
            except GearError as error:
                result = Result(result.images, result.changed, (*result.errors, error.message))
            else:
                image = Item(done.reference, done.image.digest, item.every)
                result = Result((*result.images, image), (*result.changed, done.changed), result.errors)
        with suppress(RemoteError):  # who is gone needs no telling, and all is done
            _tell(repository, result)
        return result
    finally:
        transport.close()


def _offered(repository: Repository, name: str) -> list[Item]:
    transport = repository.transport
    with transport.once("GET", f"{transport.base()}/offer", {}, patience=PATIENCE_S) as response:
        repository.expect(response, 200)
        node = parse_document(response.document(), f"The offer of {name}")
    if node.value.get("version") != VERSION:
        raise IntegrityError(
            f"gear on {name} copies images in another way than this one.",
            hint="Use the same version on both hosts.",
        )
    images = node.nodes("images")
    if len(images) > COUNT_LIMIT:
        raise IntegrityError(f"{node.what} has more than {COUNT_LIMIT} images.")
    return [
        Item(
            str(Reference.parse(one.text("reference", None))),
            one.digest("digest"),
            one.value.get("every") is True,
        )
        for one in images
    ]


def _compare(items: Sequence[Item], wanted: Sequence[Reference], name: str) -> None:
    """Raise IntegrityError unless what is offered is what was asked for."""
    for number, reference in enumerate(wanted):
        item = items[number] if number < len(items) else None
        if (
            item is None
            or item.reference not in (str(reference), *full_names(reference))
            or reference.digest not in (None, item.digest)
        ):
            raise IntegrityError(
                f"{name} offers {'nothing' if item is None else item.reference} instead of {reference}."
            )
    if len(items) > len(wanted):
        raise IntegrityError(f"{name} offers more than was asked for.")


def _fetch(layout: Layout, repository: Repository, item: Item, progress: Progress) -> Pulled:
    wanted = Wanted(item.digest, item.reference, images.host_platform(), item.every)
    gate = PeerGate.of_peer(layout, item.reference)
    # One connection is one request at a time.
    settings = replace(registries.load(layout), parallel=1)
    return fetching.fetch(layout, [repository], item.reference, wanted, progress, gate, settings)


def _tell(repository: Repository, result: Result) -> None:
    document = {
        "images": [
            {"reference": image.reference, "digest": image.digest, "changed": changed}
            for image, changed in zip(result.images, result.changed, strict=True)
        ],
        "errors": list(result.errors),
    }
    transport = repository.transport
    body = files.dump_json(document)
    with transport.once("PUT", f"{transport.base()}/result", {}, body) as response:
        repository.expect(response, 200)
