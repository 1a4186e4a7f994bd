"""Pulling images: which registry has what a name means, and when it is asked.

Not how an image comes into the store (gear/fetching.py).
"""

from __future__ import annotations

from collections.abc import Callable

from gear import fetching, images, indexes, notices, registries, store
from gear.composing import is_directory
from gear.errors import GearError, NotFoundError, RemoteError, UsageError
from gear.fetching import Progress, Pulled, Silent, Wanted
from gear.model import Layout
from gear.oci import Image, Platform, Reference
from gear.records import dataclass
from gear.reference import Remote, meant
from gear.registries import Registries
from gear.registry import Denied, Repository
from gear.signatures import Gate

POLICIES = ("missing", "always", "never", "newer")


def pull(
    layout: Layout,
    text: str,
    *,
    settings: Registries | None = None,
    platform: Platform | None = None,
    every: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Get what *text* means; a short name is looked for in each registry that is configured for such.

    With *every* the index of an image for several platforms is kept, and what it has for the others.
    """
    settings = settings or registries.load(layout)
    candidates = meant(text, settings.search, settings.aliases)
    failures: list[GearError] = []
    for remote in candidates:
        try:
            wanted = Wanted(remote.wanted, str(remote), platform or images.host_platform(), every)
            done = _pull(layout, remote, settings, wanted, progress or Silent())
            notices.note("pull", IMAGE_NAME=str(remote))
            return done
        except (NotFoundError, Denied) as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise NotFoundError(
        f"No registry has {text}: {', '.join(str(remote) for remote in candidates)}.",
        details=[error.message for error in failures],
    )


def _pull(layout: Layout, remote: Remote, settings: Registries, wanted: Wanted, progress: Progress) -> Pulled:
    reference = str(Reference.parse(str(remote)))  # raises when that is too long for the store
    gate = Gate.of_registry(layout, remote)
    sources = [Repository.opened(endpoint, settings) for endpoint in settings.endpoints(remote)]
    try:
        return fetching.fetch(layout, sources, reference, wanted, progress, gate, settings)
    finally:
        for source in sources:
            source.transport.close()


def ensure(
    layout: Layout,
    text: str,
    policy: str,
    *,
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> str:
    """Have the image *text* here as *policy* wants it, and return what to call it: a reference of the store.

    A directory of the host is no image.  Digits of a digest and what has no name are never pulled.
    """
    if policy not in POLICIES:
        raise UsageError(f"{policy!r} is no policy for pulling.", hint=f"It is one of {', '.join(POLICIES)}.")
    if is_directory(text):
        return text
    here: Image | None = None
    missing: GearError | None = None
    try:
        here = store.resolve(layout, text)
    except NotFoundError as error:
        missing = error
    if here is not None and policy in ("missing", "never"):
        return here.reference
    if missing is not None and policy == "never":
        raise missing
    if here is not None and (here.reference == here.digest or here.digest.partition(":")[2].startswith(text)):
        return here.reference
    try:
        settings = registries.load(layout)
        if here is not None and policy == "newer" and not _is_newer(layout, text, here, settings):
            return here.reference
        return pull(layout, text, settings=settings, progress=progress).reference
    except (RemoteError, NotFoundError) as error:
        if here is not None and policy == "newer" and isinstance(error, RemoteError):
            warn(f"{here.reference} is used as it is here: {error.message}")
            return here.reference
        if missing is not None:
            raise type(error)(
                f"{missing.message.rstrip('.')}, and it can't be pulled: {error.message}",
                hint=error.hint or missing.hint,
                details=error.details,
            ) from error
        raise


def _is_newer(layout: Layout, text: str, here: Image, settings: Registries) -> bool:
    """Whether a registry may have another image than *here* under the name; asks without fetching anything."""
    known = (here.digest, indexes.of_reference(layout, here.reference) or here.digest)
    return available(text, settings) not in known


def available(text: str, settings: Registries) -> str:
    """The digest that a registry has under the name, of an index or of an image; nothing is fetched."""
    remote = meant(text, settings.search, settings.aliases)[0]
    source = Repository.opened(settings.target(remote), settings)
    try:
        return source.head(remote.wanted)
    finally:
        source.transport.close()


@dataclass(frozen=True)
class Newest:
    """What a name stands for now: *digest* is the registry's, or the store's own if that was not asked; *here* the
    image by that name in the store, if it has the same."""

    digest: str
    here: Image | None


def newest(layout: Layout, text: str, settings: Registries | None) -> Newest:
    """What *text* stands for, at its registry if there are *settings*; raises GearError.

    A name that no registry has may be one that was given to an image here; so only RemoteError is a failure.
    """
    try:
        here: Image | None = store.resolve(layout, text)
    except NotFoundError:
        if settings is None:
            raise
        here = None
    if settings is None:
        assert here is not None
        return Newest(here.digest, here)
    try:
        digest = available(text, settings)
    except NotFoundError:
        if here is None:
            raise
        return Newest(here.digest, here)
    if here is not None and digest in (here.digest, indexes.of_reference(layout, here.reference)):
        return Newest(digest, here)
    return Newest(digest, None)
