"""The verbs of `gear image` about signatures."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import TYPE_CHECKING

from gear import host, store
from gear.command import Context, Verb, for_each, printable
from gear.errors import UsageError

if TYPE_CHECKING:
    from gear.cosign import PrivateKey


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a reference, or 8 or more digits of a digest"
    )


def _verify(args: argparse.Namespace, context: Context) -> int:
    from gear import signatures

    host.require_root("verify images")

    def one(name: str) -> None:
        image = store.resolve(context.layout, name)
        verdict = signatures.check(context.layout, image)
        said = f"signed by {', '.join(verdict.signers)}" if verdict.signers else "no signature is asked for"
        why = f"; {verdict.where}" if verdict.where else ", since there is no policy"
        context.report(printable(f"{image.reference} {image.digest}: {said}{why}"))

    return for_each(args.images, one, context)


def private_key(path: str, passphrase_file: str | None) -> PrivateKey:
    """The key in *path*; the passphrase, if it has one, is asked for on the terminal where no file has it."""
    from gear.cosign import PrivateKey
    from gear.signing import read_secret

    def passphrase() -> bytes:
        if passphrase_file is not None:
            return read_secret(passphrase_file).split(b"\n")[0]
        if not sys.stdin.isatty():
            raise UsageError(
                f"{path} has a passphrase, and there is no terminal to ask for it on.",
                hint="Name a file with it: --passphrase-file.",
            )
        return getpass.getpass(f"Passphrase of {path}: ").encode()

    return PrivateKey(read_secret(path), path, passphrase)


def _sign_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", metavar="IMAGE", help="a reference; the registry in it has to have the image"
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        required=True,
        help="a private key: PEM, or as cosign generate-key-pair writes it",
    )
    parser.add_argument("--passphrase-file", metavar="FILE", help="its passphrase; asked for if not given")


def _sign(args: argparse.Namespace, context: Context) -> int:
    from gear import signing

    host.require_root("sign images")
    key = private_key(args.key, args.passphrase_file)
    name, digest = signing.sign(context.layout, args.image, key)
    context.report(f"{name} {digest} is signed")
    return 0


VERBS: tuple[Verb, ...] = (
    Verb(
        "sign",
        "sign an image with a key",
        "Sign an image of this host under its name and put the signature beside it in its registry, as cosign and "
        "skopeo do it; the store keeps it, too. Whoever has the public key can verify it.",
        _sign_arguments,
        _sign,
    ),
    Verb(
        "verify",
        "check the signatures of images",
        "Check images of this host against the policy about signatures, by the signatures that were kept when they "
        "came. Prints for each the keys that signed it, and the part of the policy that wants that. Exit status 1 if "
        "one is not signed as it has to be.",
        _verify_arguments,
        _verify,
    ),
)
