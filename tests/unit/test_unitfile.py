"""The syntax of unit files: nothing that is put into one gets out of its place.

Read back by tests/unitsyntax.py, which follows systemd's own reader; systemd itself judges in tests/lint and
tests/host.
"""

from __future__ import annotations

import pytest
import unitsyntax
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import HOSTILE

from gear import unitfile
from gear.errors import UsageError


def embedded(content: str) -> list[tuple[str, str]]:
    """The settings of a file that has *content* as one value, and another setting and section after it."""
    text = unitfile.render(("header",), [("A", [("Key", content), ("Next", "1")]), ("B", [("Last", "2")])])
    sections = unitsyntax.parse(text)
    assert list(sections) == ["A", "B"]
    assert sections["B"] == [("Last", "2")]
    return sections["A"]


@given(HOSTILE)
@example("\\")
@example("a\\ ")
@example("a\\ \\\t\\")
@example(" # no comment")
@example("\n[Service]\nExecStart=/bin/evil")
@example("%n%%H")
@example("-/bin/x")
@example("")
def test_word_is_one_word_and_comes_back(text: str) -> None:
    (key, value), following = embedded(unitfile.word(text))
    assert (key, following) == ("Key", ("Next", "1"))
    assert [unitsyntax.specifiers(word) for word in unitsyntax.words(value)] == [text]


@given(st.lists(HOSTILE, max_size=5))
@example([";"])
@example(["a", ";", " ; ", "b"])
@example(["$HOME", "${HOME}", "$$", "a$b", "$"])
@example(["-x", "@x", "+x", "!x", ":x"])
@example(["a\rb", "\x85", "\u2028"])
def test_command_comes_back_word_for_word(words: list[str]) -> None:
    (key, value), following = embedded(unitfile.command(["/bin/program", *words]))
    assert (key, following) == ("Key", ("Next", "1"))
    assert unitsyntax.command(value) == ["/bin/program", *words]


@given(HOSTILE)
@example("a\\ ")
@example("a \\ \\")
@example("a\\\u2003")
@example("a\\\u2003\\")
@example("\\")
@example("[x]")
def test_value_stays_on_its_line(text: str) -> None:
    try:
        content = unitfile.value(text)
    except UsageError as error:
        assert error.message == f"A unit file can't hold {text!r}: it has control characters."
        assert any(character < " " or character == "\x7f" for character in text)
        return
    (key, value), following = embedded(content)
    assert (key, following) == ("Key", ("Next", "1"))
    # Blanks and backslashes at the ends are all that is lost.
    assert (
        unitsyntax.specifiers(value).strip().strip("\\").split()
        == text.strip("\\ ").strip().strip("\\ ").split()
    )


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\0", "\x1b[31m", "\x7f", "a\tb"])
def test_value_with_control_characters_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        unitfile.value(text)
    assert caught.value.message == f"A unit file can't hold {text!r}: it has control characters."


@pytest.mark.parametrize("put", [unitfile.value, unitfile.word])
def test_what_is_no_text_is_refused(put: object) -> None:
    assert callable(put)
    with pytest.raises(UsageError) as caught:
        put("/srv/\udcff")
    assert caught.value.message == "A unit file can't hold '/srv/\\udcff': it is not valid Unicode."


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("/usr/bin/x-y_z.1", "/usr/bin/x-y_z.1"),
        ("user@host:80,a=b+c", "user@host:80,a=b+c"),
        ("100%", "100%%"),
        ("", '""'),
        ("a b", '"a b"'),
        ('say "x"', '"say \\"x\\""'),
        ("it's", '"it\'s"'),
        ("back\\slash", '"back\\\\slash"'),
        ("a\nb\tc\rd", '"a\\nb\\tc\\rd"'),
        ("\x01\x7f", '"\\x01\\x7f"'),
        ("ä", '"ä"'),
    ],
)
def test_word_is_written_so(text: str, written: str) -> None:
    assert unitfile.word(text) == written


def test_rendered_file() -> None:
    text = unitfile.render(("one", "two"), [("Unit", [("A", "1"), ("A", "2")]), ("Service", [])])
    assert text == "# one\n# two\n\n[Unit]\nA=1\nA=2\n\n[Service]\n"


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("[A]\nx=1 \\\ny=2\n", {"A": [("x", "1  y=2")]}),
        ("[A]\nx=1\\\\\ny=2\n", {"A": [("x", "1\\\\"), ("y", "2")]}),
        ("[A]\nx=1\ry=2\n", {"A": [("x", "1"), ("y", "2")]}),
        ("[A]\nx=1 \\\n# comment\n 2\n", {"A": [("x", "1   2")]}),
        ("# x\n; y\n[A]\n x = 1 \n[B]\n[A]\ny=2", {"A": [("x", "1"), ("y", "2")], "B": []}),
    ],
)
def test_the_reader_of_these_tests_reads_as_systemd_does(
    text: str, sections: dict[str, list[tuple[str, str]]]
) -> None:
    assert unitsyntax.parse(text) == sections


def test_the_reader_of_these_tests_sees_what_systemd_would_expand() -> None:
    for line in ("/bin/x %n", "/bin/x ${HOME}", "-/bin/x", "/bin/x ; /bin/y", '/bin/x "a', "/bin/x \\q"):
        with pytest.raises(unitsyntax.Malformed):
            unitsyntax.command(line)
    assert unitsyntax.command("/bin/x $HOME a$$b") == ["/bin/x", "$HOME", "a$b"]
    assert unitsyntax.words('a "b c" \'d"\' \\x41\\s', escapes=True) == ["a", "b c", 'd"', "A "]
    assert unitsyntax.words('"a\\tb\\"c"', escapes=False) == ['atb"c']
