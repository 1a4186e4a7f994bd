"""Hundreds of mutated layers, unpacked as root among canaries: nothing outside changes, nothing inside surprises.

The layers are GNU tar's, of a tree with everything that layers have; names, targets, types, sizes, owners, headers of
POSIX and GNU, sparse maps and frames of compression are mutated.  The seeds are fixed, so each run does the same.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import resource
import stat
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import zstandard
from archives import EPOCH, tar

from gear import layer
from gear.errors import GearError

Member = tuple[tarfile.TarInfo, bytes]
RUNS = 600
# One layer takes milliseconds; these are for a machine that does much else.
SECONDS = 10.0
GROWTH_KIB = 256 << 10
BOUNDS = layer.Bounds(size=64 << 20, entries=5000, ratio_floor=1 << 20)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The same tree by GNU tar in its formats."""
    assert os.geteuid() == 0, "Layers are unpacked with owners and devices here, so these tests need root."
    tree = tmp_path_factory.mktemp("tree")
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / ("d" * 90) / ("e" * 90)).mkdir(parents=True)
    (tree / ("d" * 90) / ("e" * 90) / ("f" * 90)).write_text("a long name")
    for number in range(4):
        (tree / f"usr/bin/p{number}").write_bytes(os.urandom(number * 300))
    os.chmod(tree / "usr/bin/p1", 0o4755)
    os.link(tree / "usr/bin/p2", tree / "usr/bin/same")
    (tree / "bin").symlink_to("usr/bin")
    (tree / "lib").symlink_to("/usr/lib")
    (tree / "up").symlink_to("..")
    (tree / "away").symlink_to("../../outside")
    os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    os.mkfifo(tree / "fifo")
    (tree / "etc/.wh.gone").write_text("")
    (tree / "etc/.wh..wh..opq").write_text("")
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    os.setxattr(tree / "etc/passwd", "user.note", b"x\0y")
    with open(tree / "sparse", "wb") as file:
        for place in range(6):
            file.seek(place << 16)
            file.write(b"data")
        file.truncate(1 << 20)
    found = []
    for options in (
        ["--format=posix", "--xattrs", "--xattrs-include=*"],
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
    ):
        command = ["tar", "-C", str(tree), "-cS", "--sort=name", *options, "."]
        found.append(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


class Sandbox:
    """A directory with the root of a layer deep in it, and canaries wherever a name may lead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "store/layer/root"
        self.root.mkdir(parents=True)
        for place in (path, path / "store", path / "store/layer", path / "outside"):
            place.mkdir(exist_ok=True)
            for name in ("passwd", "p1", "gone", "x", "usr", "etc"):
                (place / f"{name}.dir").mkdir()
                (place / name).write_text(f"canary {name}")
            os.chmod(place / "p1", 0o4755)
            os.mkfifo(place / "fifo")
            os.mknod(place / "null", 0o20600, os.makedev(1, 3))
            (place / "link").symlink_to("passwd")
            os.setxattr(place / "x", "user.note", b"canary")
        self.before = self.outside()

    def renew(self) -> None:
        """Take away what was unpacked."""
        subprocess.run(["rm", "-r", self.root], check=True)
        self.root.mkdir()
        self.before = self.outside()

    def outside(self) -> dict[str, Any]:
        """All that can be known of what is not below the root; the change time tells of what was changed and back."""
        result: dict[str, Any] = {}
        for top, names, others in os.walk(self.path):
            here = Path(top)
            if here == self.root:
                names.clear()
                continue
            for name in [*names, *others]:
                full = here / name
                status = full.lstat()
                if full == self.root:
                    result[str(full)] = (status.st_dev, status.st_ino)
                    continue
                result[str(full)] = (
                    status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_size, status.st_rdev,
                    status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
                    full.read_bytes() if stat.S_ISREG(status.st_mode) else b"",
                    os.listxattr(full, follow_symlinks=False),
                )  # fmt: skip
        for place in ("/", "/etc", "/etc/passwd", "/etc/shadow", "/usr", "/usr/bin", "/dev/null", "/lib"):
            status = os.lstat(place)
            result[place] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_nlink,
                status.st_ctime_ns,
            )
        return result

    def check_inside(self, *, devices: bool, setuid: bool) -> None:
        """Nothing in the root is shared with what is outside, and nothing has rights that no member asked for."""
        links: dict[int, list[int]] = {}
        for top, names, others in os.walk(self.root):
            for name in [*names, *others]:
                full = Path(top) / name
                status = full.lstat()
                assert status.st_dev == self.root.stat().st_dev
                if not stat.S_ISDIR(status.st_mode):
                    links.setdefault(status.st_ino, [0, status.st_nlink])[0] += 1
                if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
                    assert devices or (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0), full
                if status.st_mode & 0o6000 and not stat.S_ISLNK(status.st_mode):
                    assert setuid, full
                for attribute in os.listxattr(full, follow_symlinks=False):
                    assert layer.kept(attribute) or (
                        attribute == "trusted.overlay.opaque" and os.getxattr(full, attribute) == b"y"
                    ), (full, attribute)
        assert all(names == count for names, count in links.values()), "a hard link leads outside"


# -- mutations ---------------------------------------------------------------------------------------------------

NAMES = (
    "..", "../x", "../../x", "../../../x", "/x", "//x", "./../x", "usr/../../x", "up/x", "away/x", "bin/x", "lib/x",
    "up", "away", "usr", "etc", "etc/passwd", "usr/bin/p1", ".", "", "/", ".wh.x", "etc/.wh.passwd", ".wh..wh..opq",
    "usr/.wh..wh..opq", ".wh...", ".wh..", ".wh.", "up/.wh.x", "away/.wh.passwd", "../.wh.passwd", ".wh.usr",
    ".wh..wh.plnk/1", ".wh.x/y", "x\n", "\udcff\udcfe", "a" * 300, "a/" * 300, "null", "null/x", "fifo", "fifo/x",
    "sparse/x", "proc/self/root/x", "x" * 255, "usr/bin/same", "link", "../link",
)  # fmt: skip
TARGETS = (
    "..", "../..", "../../../outside", "../../passwd", "/etc/passwd", "/etc/shadow", "/proc/self/root", ".",
    "/proc/self/fd", "up", "away", "up/passwd", "away/passwd", "usr/bin/p1", "etc/passwd", "bin", "/", "", "x" * 5000,
    "../passwd", "./../passwd", "null", "fifo", "usr", "loop", "../p1", "etc/.wh.gone", "gone", "etc/gone",
)  # fmt: skip
TYPES = (
    tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
    tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"Z", b"g", b"S",
)  # fmt: skip
NUMBERS = (0, 1, 511, 512, 513, 1 << 20, (1 << 33) - 1, 1 << 40, 1 << 62, (1 << 63) - 1)
RECORDS = (
    ("path", NAMES), ("linkpath", TARGETS), ("size", ("0", "1", "9" * 18, "-1", "x", "9" * 30)),
    ("uid", ("0", "-1", "4294967295", "4294967296", "9" * 25)), ("mtime", ("-1.5", "1e9", "9" * 22, "0.000000001")),
    ("SCHILY.xattr.security.capability", ("\0" * 20, "x")), ("SCHILY.xattr.trusted.overlay.opaque", ("y",)),
    ("SCHILY.xattr.trusted.overlay.redirect", ("/etc",)), ("SCHILY.xattr.user.overlay.whiteout", ("y",)),
    ("SCHILY.xattr.security.selinux", ("x",)), ("SCHILY.xattr.system.posix_acl_access", ("x",)),
    ("GNU.sparse.major", ("1", "0", "7")), ("GNU.sparse.minor", ("0", "1")), ("GNU.sparse.name", NAMES),
    ("GNU.sparse.realsize", ("0", "100", "9" * 18)), ("GNU.sparse.size", ("5", "9" * 15)),
    ("GNU.sparse.map", ("0,1", "0,4,65536,4", "9,1,0,1", "1", ",,", "0,0," * 200)), ("GNU.sparse.numblocks", ("2",)),
)  # fmt: skip


def structured(pick: random.Random, base: bytes) -> tuple[bytes, bool, bool]:
    """*base* with other members; and whether it has devices and set-id programs at all."""
    members: list[Member] = []
    with tarfile.open(fileobj=io.BytesIO(base)) as archive:
        for info in archive:
            content = archive.extractfile(info) if info.isreg() else None
            members.append((info, content.read() if content is not None else b""))
    for info, _ in members:
        info.pax_headers = {
            key: value for key, value in info.pax_headers.items() if not key.startswith("GNU.sparse")
        }
        if info.type in (tarfile.GNUTYPE_SPARSE,):
            info.type = tarfile.REGTYPE
    for _ in range(pick.randint(1, 6)):
        place = pick.randrange(len(members))
        info, data = members[place]
        info = tarfile.TarInfo.frombuf(info.tobuf(tarfile.GNU_FORMAT)[-512:], "utf-8", "surrogateescape")
        info.name, info.linkname = members[place][0].name, members[place][0].linkname
        change = pick.randrange(8)
        if change == 0:
            info.name = pick.choice(NAMES)
        elif change == 1:
            info.linkname = pick.choice(TARGETS)
            info.type = pick.choice((tarfile.SYMTYPE, tarfile.LNKTYPE))
        elif change == 2:
            info.type = pick.choice(TYPES)
        elif change == 3:
            info.size = pick.choice(NUMBERS)
        elif change == 4:
            info.uid, info.gid, info.mode = (
                pick.choice(NUMBERS),
                pick.choice(NUMBERS),
                pick.randrange(1 << 15),
            )
        elif change == 5:
            info.pax_headers = {key: pick.choice(values) for key, values in pick.sample(RECORDS, 3)}
        elif change == 6:
            members.insert(pick.randrange(len(members)), members[pick.randrange(len(members))])
        else:
            pick.shuffle(members)
            continue
        if pick.random() < 0.5:
            info.name = pick.choice(NAMES)
        where = pick.choice((place, pick.randrange(len(members))))
        members.insert(where, (info, data)) if pick.random() < 0.5 else members.__setitem__(
            where, (info, data)
        )
    form: Literal[1, 2] = tarfile.PAX_FORMAT if pick.random() < 0.5 else tarfile.GNU_FORMAT
    made = encoded(members, form)
    devices = any(info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) for info, _ in members)
    return made, devices, any(info.mode & 0o6000 for info, _ in members)


def encoded(members: list[Member], form: Literal[1, 2]) -> bytes:
    """The members as tarfile writes them, each header with the size it states, whatever follows."""
    out = io.BytesIO()
    for info, data in members:
        info.mtime = EPOCH
        try:
            out.write(info.tobuf(form, "utf-8", "surrogateescape"))
        except (ValueError, OverflowError, UnicodeError):
            continue  # what can't be written needs no reading
        out.write(data + bytes(-len(data) % 512))
    return out.getvalue() + bytes(1024)


def bytewise(pick: random.Random, base: bytes) -> bytes:
    """*base* with other bytes in its headers, whose checksums are right again."""
    data = bytearray(base)
    headers = [place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"]
    for _ in range(pick.randint(1, 5)):
        block = pick.choice(headers)
        # Mostly the fields that steer, and the blocks behind, where PAX records and sparse maps are.
        field = pick.choice((0, 100, 108, 116, 124, 136, 156, 157, 257, 329, 345, 386, 483, 512, 520))
        piece = pick.choice(
            (b"\0", b"../", b"/", b"\x80" + b"\xff" * 7, b"7777777", b"9", b".wh.", b"0", b"1", b"2", b"3", b"5", b"L",
             b"K", b"x", b"S", b"30 GNU.sparse.major=1\n", b"\xff" * 12, pick.randbytes(pick.randint(1, 12)))
        )  # fmt: skip
        place = block + field + pick.randrange(8)
        data[place : place + len(piece)] = piece
        data[block + 148 : block + 156] = b" " * 8
        data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    cut = pick.random()
    return bytes(data[: int(len(data) * pick.random())] if cut < 0.1 else data)


def compressed(pick: random.Random, data: bytes) -> tuple[bytes, str]:
    """*data* in frames, some of them damaged, and the media type."""
    kind = pick.choice(("", "", "+gzip", "+zstd"))
    cuts = sorted(pick.randrange(len(data) + 1) for _ in range(pick.randrange(3)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    if kind == "+gzip":
        data = b"".join(gzip.compress(piece, 1) for piece in pieces)
    elif kind == "+zstd":
        skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
        frames = [zstandard.ZstdCompressor(level=1).compress(piece) for piece in pieces]
        data = b"".join(frame + (skipped if pick.random() < 0.3 else b"") for frame in frames)
    if kind and pick.random() < 0.3:
        damaged = bytearray(data)
        for _ in range(pick.randint(1, 4)):
            damaged[pick.randrange(len(damaged))] ^= 1 << pick.randrange(8)
        data = bytes(damaged) + pick.choice((b"", b"\0" * 100, b"rubbish", data[:50]))
    return data, f"application/vnd.oci.image.layer.v1.tar{kind}"


def unpacked(path: Path, data: bytes, kind: str, sandbox: Sandbox) -> str:
    """What unpacking comes to: nothing, or the sentence that it ends with."""
    path.write_bytes(data)
    try:
        with open(path, "rb", buffering=0) as file:
            layer.extract(file, sandbox.root, "The layer X", media_type=kind, bounds=BOUNDS)
    except GearError as error:
        assert error.message.startswith(("The layer X", "Can't unpack")), error.message
        return error.message
    return ""


@pytest.mark.parametrize("way", ["members", "bytes"])
def test_mutated_layers_stay_in_their_place(way: str, bases: list[bytes], tmp_path: Path) -> None:
    outcomes = {"unpacked": 0, "refused": 0}
    sandbox = Sandbox(tmp_path / "sandbox")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(RUNS // 2):
        pick = random.Random(f"{way} {seed}")
        base = pick.choice(bases)
        devices = setuid = True
        if way == "members":
            data, devices, setuid = structured(pick, base)
        else:
            data = bytewise(pick, base)
        data, kind = compressed(pick, data)
        began = time.monotonic()
        message = unpacked(tmp_path / "blob", data, kind, sandbox)
        took = time.monotonic() - began
        assert took < SECONDS, f"seed {seed} took {took:.1f} s"
        assert sandbox.outside() == sandbox.before, f"seed {seed}: {message or 'unpacked'}"
        sandbox.check_inside(devices=devices, setuid=setuid)
        outcomes["refused" if message else "unpacked"] += 1
        sandbox.renew()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < GROWTH_KIB
    # Were all of them refused at once, or none, this test would show nothing.
    assert min(outcomes.values()) > RUNS // 20, outcomes


def test_the_sandbox_notices_an_escape(tmp_path: Path) -> None:
    """What an unpacker that believes names would do is seen, so the test above can fail."""
    sandbox = Sandbox(tmp_path / "linked")
    os.link(sandbox.path / "outside/p1", sandbox.root / "p1")
    with pytest.raises(AssertionError):
        sandbox.check_inside(devices=False, setuid=True)
    assert sandbox.outside() != sandbox.before
    other = Sandbox(tmp_path / "written")
    archive = tar((tarfile.TarInfo("../x"), b""))
    subprocess.run(["tar", "-C", other.root, "-xP"], input=archive, check=True)
    assert other.outside() != other.before
    kind = "application/vnd.oci.image.layer.v1.tar"
    assert "'..' in its name" in unpacked(tmp_path / "blob", archive, kind, Sandbox(tmp_path / "kept"))
