"""The verbs of `gear image` that talk to registries: pull, push, login, logout, search-tags, referrers."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from typing import TYPE_CHECKING

from gear import durations, host
from gear.command import Context, Verb, add_output_option, for_each, printable, table
from gear.errors import GearError, UsageError
from gear.records import replace

if TYPE_CHECKING:
    from gear.registries import Registries

# The modules that know the network are imported by the verbs: `gear image list` need not pay for them.


def _timeout_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        help="how long a registry may send nothing before that is an error (30)",
    )


def quiet_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")


def every_option(parser: argparse.ArgumentParser, help: str) -> None:
    """--all-platforms, the same wherever images go from one place to another."""
    parser.add_argument("--all-platforms", action="store_true", help=help)


def _settings(args: argparse.Namespace, context: Context) -> Registries:
    from gear import registries

    settings = registries.load(context.layout)
    if args.timeout is None:
        return settings
    return replace(settings, timeout=durations.within(args.timeout, 0.001, 3600, "time limit"))


def _pull_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a reference: [REGISTRY/]NAME[:TAG][@DIGEST]"
    )
    parser.add_argument(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="for another kind of machine than this one"
    )
    every_option(parser, "keep the index, and what it has for other platforms, as well")
    _timeout_option(parser)
    quiet_option(parser)
    add_output_option(parser)


def _pull(args: argparse.Namespace, context: Context) -> int:
    from gear import progress, pulling
    from gear.oci import Platform

    host.require_root("pull images")
    settings = _settings(args, context)
    platform = None
    if args.platform is not None:
        words = args.platform.split("/")
        if not 2 <= len(words) <= 3 or not all(words):
            raise UsageError(
                f"{args.platform!r} is no platform.", hint="Write OS/ARCH[/VARIANT], as in linux/arm64."
            )
        platform = Platform(*words)
    reports = []

    def one(name: str) -> None:
        with progress.shown(quiet=args.quiet) as shown:
            done = pulling.pull(
                context.layout,
                name,
                settings=settings,
                platform=platform,
                every=args.all_platforms,
                progress=shown,
            )
        if args.output == "json":
            reports.append(
                {"reference": done.reference, "digest": done.image.digest, "changed": done.changed}
            )
        else:
            context.report(f"{done.reference} {done.image.digest}")

    status = for_each(args.images, one, context)
    if args.output == "json":
        context.report_json(reports)
    return status


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a reference, or 8 or more digits of a digest")
    parser.add_argument(
        "destination",
        nargs="?",
        metavar="DESTINATION",
        help="where to; the image's own reference if not given",
    )
    every_option(parser, "send the index, and what it has for other platforms, as well")
    parser.add_argument("--sign-by", metavar="FILE", help="sign it there with this private key")
    parser.add_argument(
        "--passphrase-file", metavar="FILE", help="the key's passphrase; asked for if not given"
    )
    _timeout_option(parser)
    quiet_option(parser)
    add_output_option(parser)


def _push(args: argparse.Namespace, context: Context) -> int:
    from gear import progress, pushing

    host.require_root("push images")
    settings = _settings(args, context)
    key = None
    if args.sign_by is not None:
        from gear.cli_signatures import private_key

        key = private_key(args.sign_by, args.passphrase_file)
    elif args.passphrase_file is not None:
        raise UsageError("--passphrase-file needs --sign-by.")
    with progress.shown(quiet=args.quiet) as shown:
        done = pushing.push(
            context.layout,
            args.image,
            args.destination,
            every=args.all_platforms,
            settings=settings,
            progress=shown,
        )
    if key is not None:
        from gear import signing

        signing.sign(context.layout, done.digest, key, reference=done.reference, settings=settings)
    if args.output == "json":
        context.report_json({"reference": done.reference, "digest": done.digest})
    else:
        context.report(f"{done.reference} {done.digest}")
    return 0


def _login_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "registry", nargs="?", default="docker.io", metavar="REGISTRY", help="HOST or HOST:PORT (docker.io)"
    )
    parser.add_argument("-u", "--username", metavar="NAME", help="who to log in as; asked for if not given")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")


def _login(args: argparse.Namespace, context: Context) -> int:
    from gear import pushing
    from gear.reference import registry_host
    from gear.registry_auth import Credentials

    registry = registry_host(args.registry)
    if args.password_stdin and args.username is None:
        raise UsageError("--password-stdin needs --username.")
    if not args.password_stdin and not sys.stdin.isatty():
        raise UsageError("There is no terminal to ask for the password on.", hint="Use --password-stdin.")
    username = args.username if args.username is not None else input("Username: ")
    password = sys.stdin.readline().rstrip("\r\n") if args.password_stdin else getpass.getpass("Password: ")
    if not username or not password or ":" in username:
        raise UsageError("A name, which has no colon, and a password are needed.")
    place = pushing.login(context.layout, registry, Credentials(username, password), os.environ)
    context.report(f"logged in to {registry} as {printable(username)}; kept in {place}")
    return 0


def _logout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "registry", nargs="?", default="docker.io", metavar="REGISTRY", help="HOST or HOST:PORT (docker.io)"
    )


def _logout(args: argparse.Namespace, context: Context) -> int:
    from gear import registry_auth
    from gear.reference import registry_host

    registry = registry_host(args.registry)
    places = registry_auth.forget(registry, os.environ)
    if not places:
        raise GearError(f"Nobody is logged in to {registry}.")
    context.report(f"logged out from {registry}: removed from {', '.join(places)}")
    return 0


def _tags_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repository", metavar="REPOSITORY", help="as in references, without a tag")
    parser.add_argument("--limit", metavar="NUMBER", default="1000", help="the most tags to list (1000)")
    add_output_option(parser)


def _tags(args: argparse.Namespace, context: Context) -> int:
    from gear import pushing

    if not args.limit.isascii() or not args.limit.isdigit() or not 1 <= int(args.limit[:9]) <= 1_000_000:
        raise UsageError(f"{args.limit!r} is no number of tags.", hint="Give a number from 1 to 1000000.")
    name, tags = pushing.search_tags(context.layout, args.repository, int(args.limit))
    if args.output == "json":
        context.report_json({"repository": name, "tags": tags})
    else:
        for tag in tags:
            context.report(f"{name}:{printable(tag)}")
    return 0


def _referrers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a reference: [REGISTRY/]NAME[:TAG][@DIGEST]")
    parser.add_argument("--type", metavar="TYPE", default="", help="only artifacts of this type")
    _timeout_option(parser)
    add_output_option(parser)


def _referrers(args: argparse.Namespace, context: Context) -> int:
    from gear import referrers

    name, found = referrers.referrers(
        context.layout, args.image, kind=args.type, settings=_settings(args, context)
    )
    if args.output == "json":
        context.report_json({"image": name, "referrers": [one.document() for one in found]})
        return 0
    rows = [
        (one.manifest.digest, printable(one.artifact_type[:80]) or "-", str(one.manifest.size))
        for one in found
    ]
    context.report(table(("DIGEST", "TYPE", "SIZE"), rows))
    return 0


VERBS: tuple[Verb, ...] = (
    Verb(
        "pull",
        "get images from a registry",
        "Get images from a registry, by tag or digest. Prints the full reference and the digest of each. Layers "
        "that are here are not fetched again, and a pull that was interrupted goes on where it was. Of an image "
        "for several platforms the one for this machine is taken and unpacked; with --all-platforms the others "
        "are kept as they are, so that push and copy can pass them on. JSON is an "
        "array of objects with reference, digest and changed (whether the reference stood for another image).",
        _pull_arguments,
        _pull,
    ),
    Verb(
        "push",
        "send an image to a registry",
        "Send an image to a registry, byte for byte as it is in the store. Blobs that the registry has are not "
        "sent. Prints the full reference and the digest. JSON is an object with reference and digest.",
        _push_arguments,
        _push,
    ),
    Verb(
        "login",
        "keep a password for a registry",
        "Try a name and a password at a registry, and keep them where docker login does: in "
        "~/.docker/config.json, in the file that REGISTRY_AUTH_FILE names, or with the credential helper that "
        "the file names.",
        _login_arguments,
        _login,
    ),
    Verb(
        "logout",
        "forget the password for a registry",
        "Remove the name and password for a registry from every file and credential helper they are in.",
        _logout_arguments,
        _logout,
    ),
    Verb(
        "search-tags",
        "list the tags of a repository",
        "List the tags that a repository of a registry has. JSON is an object with repository and tags.",
        _tags_arguments,
        _tags,
    ),
    Verb(
        "referrers",
        "list what refers to an image in its registry",
        "List the artifacts that a registry has for an image: signatures, lists of contents, attestations. "
        "Asks for the image that the name stands for there, be it here or not, by the referrers API of OCI "
        "distribution 1.1, or by the tag that stands in for it. JSON is an object with image (repository and "
        "digest) and referrers (each with digest, artifactType, mediaType, size and annotations).",
        _referrers_arguments,
        _referrers,
    ),
)
