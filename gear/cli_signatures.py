"""The verbs of `gear image` about signatures."""

from __future__ import annotations

import argparse

from gear import host, store
from gear.command import Context, Verb, for_each, printable


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


VERBS: tuple[Verb, ...] = (
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
