"""Signing images with a key, as cosign and skopeo do it.

Not verifying (gear/signatures.py).  The signature goes to the registry, beside the image, and into the store.  Other
than cosign's its payload names the tag, so that an image can't be passed off under another one.
"""

from __future__ import annotations

import time
from pathlib import Path

from gear import __version__, cosign, files, registries, signature_record, store
from gear.claims import Name, Signature, payload
from gear.cosign import PrivateKey
from gear.document import parse_document, parse_json
from gear.errors import IntegrityError, NotFoundError, UsageError
from gear.model import Layout
from gear.oci import OCI_MANIFEST, Descriptor
from gear.reference import Remote
from gear.registries import Registries
from gear.upload import Target

KEY_LIMIT = 64 << 10


def read_secret(path: str) -> bytes:
    """A file with a key or passphrase; raises UsageError when there is none."""
    data = files.read_bytes(Path(path), KEY_LIMIT)
    if data is None:
        raise UsageError(f"There is no file {path}.")
    return data


def sign(
    layout: Layout,
    text: str,
    key: PrivateKey,
    *,
    reference: str | None = None,
    settings: Registries | None = None,
) -> tuple[str, str]:
    """Sign the image *text* of the store under its name, or *reference*; returns that and the digest.

    The registry has to have the image.  Raises UsageError for one without a name.
    """
    settings = settings or registries.load(layout)
    with store.lease(layout):
        image = store.resolve(layout, text)
        target = reference or image.reference
        if target == image.digest:
            raise UsageError(f"The image {text} has no name to sign.", hint="Give a reference.")
        remote = Remote.parse(target)
        name = Name(remote.name, remote.tag, None)
        signed = payload(name, image.digest, f"gear {__version__}", int(time.time()))
        signature = Signature("sigstore", key.sign(signed), signed)
        settings.endpoints(remote)  # raises when that is blocked
        repository = Target.opened(settings.target(remote), settings, actions="pull,push")
        try:
            repository.head(image.digest)  # raises when it is not there
            _attach(repository, image.digest, signature)
        finally:
            repository.transport.close()
        signature_record.write(layout, image.digest, [signature], [], [])
    return str(name), image.digest


def _attach(repository: Target, digest: str, signature: Signature) -> None:
    """Put *signature* beside those that the registry has of *digest*."""
    tag = cosign.tag(digest)
    try:
        document = repository.manifest(tag)
    except NotFoundError:
        manifest, blobs = cosign.artifact([signature])
    else:
        what = f"The artifact {document.digest} of {repository.what}"
        node = parse_document(document.data, what)
        config = node.node("config")
        if document.media_type != OCI_MANIFEST or config is None or node.items("layers") is None:
            raise IntegrityError(f"{what} is in the place of the signatures, but holds none.")
        data = repository.small_blob(Descriptor.from_node(config))
        manifest, blobs = cosign.added(node.value, parse_json(data, f"the config of {what}"), signature)
    for blob in blobs.values():
        repository.put_blob(blob)
    repository.put_manifest(tag, manifest, OCI_MANIFEST)
