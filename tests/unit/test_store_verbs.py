"""history, tag, prune, save and load of archives, through the verbs of the command line."""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from archives import OciLayout, config, digest, entry, tar

from gear import cli_image, cli_store, fsck, loading, pruning, saving, store
from gear.command import Context
from gear.errors import GearError, IntegrityError, NotFoundError, UsageError
from gear.model import Layout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers are unpacked with owners")
ONE, TWO = tar(entry("one", b"1")), tar(entry("two", b"22"))
HISTORY = [
    {"created": "2014-03-01T00:00:00Z", "created_by": "ADD one"},
    {"created": "2014-03-02T00:00:00Z", "created_by": "ENV\tA=1", "comment": "\x1b[31m", "empty_layer": True},
]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    source = OciLayout()
    source.image(
        ONE, name="old:1", document={**config(ONE), "created": "2014-03-01T00:00:00Z", "history": HISTORY}
    )
    document = {**config(ONE, TWO, Labels={"team": "a", "keep": ""}), "created": "2026-01-01T00:00:00Z"}
    source.image(ONE, TWO, name="registry.example/new:2", document=document)
    layout = Layout(state=tmp_path / "state", units=tmp_path / "units")
    loading.load(layout, str(source.write(tmp_path / "source")))
    return Context(layout)


def gear(context: Context, verb: str, *arguments: str) -> int:
    """Run a verb like the command line does."""
    chosen = next(each for each in (*cli_store.VERBS, *cli_image.VERBS) if each.name == verb)
    parser = argparse.ArgumentParser()
    chosen.arguments(parser)
    return chosen.run(parser.parse_args(arguments), context)


def names(context: Context) -> list[str]:
    return list(store.references(context.layout))


def test_history(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    assert gear(context, "history", "old:1") == 0
    assert capsys.readouterr().out.splitlines() == [
        "CREATED              SIZE  CREATED BY  COMMENT",
        "2014-03-02T00:00:00  0 B   ENV A=1     ?[31m",
        "2014-03-01T00:00:00  1 B   ADD one",
    ]
    assert gear(context, "history", "registry.example/new:2", "--output", "json") == 0
    steps = json.loads(capsys.readouterr().out)
    assert [step["diffId"] for step in steps] == [digest(TWO), digest(ONE)]
    assert [step["size"] for step in steps] == [2, 1] and steps[0]["created_by"] == ""


def test_history_that_lies(context: Context, tmp_path: Path) -> None:
    for number, wrong in enumerate(({"empty_layer": "yes"}, {"created": 1})):
        made = OciLayout()
        made.image(ONE, name=f"wrong:{number}", document={**config(ONE), "history": [wrong]})
        loading.load(context.layout, str(made.write(tmp_path / f"wrong{number}")))
        with pytest.raises(IntegrityError, match=r"history\[0\]|empty_layer|created"):
            gear(context, "history", f"wrong:{number}")


def test_tag(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    image = store.resolve(context.layout, "old:1")
    assert gear(context, "tag", "old:1", "a/b", "registry.example/new:2") == 0
    assert capsys.readouterr().out == f"a/b:latest {image.digest}\nregistry.example/new:2 {image.digest}\n"
    assert set(store.references(context.layout).values()) == {image.digest}
    with pytest.raises(UsageError, match="can't name an image"):
        gear(context, "tag", "old:1", "good", "../bad")
    with pytest.raises(UsageError, match="can't be called"):
        gear(context, "tag", "old:1", f"x@sha256:{'1' * 64}")
    with pytest.raises(NotFoundError):
        gear(context, "tag", "nowhere", "x")
    assert names(context) == ["a/b:latest", "old:1", "registry.example/new:2"]


def test_prune_takes_what_has_no_reference(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    layout = context.layout
    new = store.resolve(layout, "registry.example/new:2").digest
    store.remove_reference(layout, "registry.example/new:2")
    assert gear(context, "prune", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"would remove {new}\n") and "in 5 files and layers would be freed" in shown
    assert new in store.held(layout)
    expected = pruning.plan(layout)
    assert gear(context, "prune", "--output", "json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done == {"images": [{"digest": new, "references": []}], "bytes": expected.size, "stayed": []}
    assert names(context) == ["old:1"] and len(store.held(layout)) == 1
    assert (store.layer_root(layout, digest(ONE)) / "one").exists()
    assert not list(fsck.fsck(layout))
    assert gear(context, "prune") == 0
    assert capsys.readouterr().out == "0 B freed\n"


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("--all",), []),
        (("--all", "--until", "2020-01-01"), ["registry.example/new:2"]),
        (("--all", "--until", "2014-03-01T00:00:00Z"), ["old:1", "registry.example/new:2"]),
        (("--all", "--until", "1h"), []),
        (("--all", "--label", "team"), ["old:1"]),
        (("--all", "--label", "team=a", "--label", "keep"), ["old:1"]),
        (("--all", "--label", "team=b"), ["old:1", "registry.example/new:2"]),
    ],
)
def test_filters_of_prune(context: Context, arguments: tuple[str, ...], left: list[str]) -> None:
    assert gear(context, "prune", *arguments) == 0
    assert names(context) == left
    assert not list(fsck.fsck(context.layout))


def test_prune_asks_on_a_terminal_only(
    context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, left in (("n\n", 2), ("", 2), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert gear(context, "prune", "--all") == 0
        assert len(names(context)) == left
        assert "Remove this? [y/N]" in capsys.readouterr().out


def test_times_of_prune() -> None:
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    assert pruning.parse_until("24h", now) == datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert pruning.parse_until("2w", now) == datetime.datetime(2025, 12, 19, tzinfo=datetime.UTC)
    assert pruning.parse_until("2026-01-01T00:00:00Z", now).isoformat() == "2026-01-01T00:00:00+00:00"
    for wrong in ("", "soon", "-1h", "99999999d", "1y"):
        with pytest.raises(UsageError, match="is no time"):
            pruning.parse_until(wrong, now)


def saved(context: Context, *wanted: str) -> bytes:
    pieces: list[bytes] = []
    saving.save(context.layout, wanted, pieces.append)
    return b"".join(pieces)


def test_an_archive_has_each_blob_once_and_the_same_bytes(context: Context) -> None:
    data = saved(context, "old:1", "registry.example/new:2", "old:1")
    assert data == saved(context, "old:1", "registry.example/new:2")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getnames()
        assert len(members) == len(set(members)) == 3 + 1 + 2 + 2 + 2
        for name in members:
            if name.startswith("blobs/sha256/"):
                file = archive.extractfile(name)
                assert file is not None
                content = file.read()
                assert digest(content) == f"sha256:{name[13:]}"
                assert content == store.blob_path(context.layout, digest(content)).read_bytes()
        file = archive.extractfile("manifest.json")
        assert file is not None
        assert [item["RepoTags"] for item in json.loads(file.read())] == [
            ["old:1"],
            ["registry.example/new:2"],
        ]


def test_what_was_saved_is_loaded(
    context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.set_reference(context.layout, "third:3", store.resolve(context.layout, "old:1").digest)
    known = store.references(context.layout)
    path = tmp_path / "all.tar"
    assert gear(context, "save", *known, "-o", str(path)) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name} {found}" for name, found in known.items()]
    assert path.stat().st_mode & 0o777 == 0o600
    there = Context(Layout(state=tmp_path / "there", units=tmp_path / "units"))
    assert gear(there, "load", str(path)) == 0
    assert store.references(there.layout) == known
    assert not list(fsck.fsck(there.layout))
    # By digest all names are saved; some of them can be chosen.
    (tmp_path / "one.tar").write_bytes(saved(context, known["old:1"]))
    for wanted in (["third:3"], ["old:1", "third:3"]):
        other = Layout(state=tmp_path / "-".join(wanted).replace(":", ""), units=tmp_path / "units")
        assert [
            image.reference for image in loading.load(other, str(tmp_path / "one.tar"), names=wanted)
        ] == wanted
        assert list(store.references(other)) == wanted
    with pytest.raises(NotFoundError, match="holds no image nowhere:latest") as caught:
        loading.load(there.layout, str(path), names=["old:1", "nowhere"])
    assert caught.value.hint == "It holds old:1, registry.example/new:2, third:3."


def test_a_damaged_blob_is_not_saved(context: Context, tmp_path: Path) -> None:
    blob = store.blob_path(context.layout, digest(TWO))
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    path = tmp_path / "all.tar"
    path.write_bytes(b"before")
    with pytest.raises(IntegrityError, match="is damaged in the image store"):
        gear(context, "save", "registry.example/new:2", "-o", str(path))
    assert path.read_bytes() == b"before"
    assert sorted(item.name for item in tmp_path.iterdir() if "partial" in item.name) == []
    blob.unlink()
    with pytest.raises(IntegrityError, match="lacks the blob"):
        gear(context, "save", "registry.example/new:2", "-o", str(path))
    with pytest.raises(UsageError, match="is a directory"):
        gear(context, "save", "old:1", "-o", str(tmp_path))
    with pytest.raises(GearError, match="Can't write"):
        gear(context, "save", "old:1", "-o", str(tmp_path / "no/where"))


def test_a_terminal_gets_no_archive(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="not written to a terminal"):
        gear(context, "save", "old:1")


def test_verify_says_what_is_wrong(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    assert gear(context, "verify", "old:1", "registry.example/new:2") == 0
    assert capsys.readouterr().out.count("content is as it should be") == 2
    (store.layer_root(context.layout, digest(TWO)) / "two").write_bytes(b"zz")
    assert gear(context, "verify", "old:1", "registry.example/new:2", "nowhere") == 1
    shown = capsys.readouterr()
    assert "'/two' has another content" in shown.out and "There is no image 'nowhere'" in shown.err
    assert gear(context, "verify", "registry.example/new:2", "--output", "json") == 1
    (document,) = json.loads(capsys.readouterr().out)
    assert not document["passed"] and document["checks"][0]["check"] == "content"
