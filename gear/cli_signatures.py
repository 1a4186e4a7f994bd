"""The verbs of `gear image` about signatures."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import TYPE_CHECKING

from gear import host
from gear.command import Context, Verb
from gear.errors import UsageError

if TYPE_CHECKING:
    from gear.cosign import PrivateKey


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
)
