"""Which of the calls of a program are those that the tests kill it at."""

from __future__ import annotations

from gearhost import chosen_steps

TRACE = """\
10 mkdir("/state", 0700) = -1 EEXIST (File exists)
10 mkdir("/state/.partial-ab12", 0700) = 0
10 symlink("x", "/state/.partial-ab12/one") = 0
10 symlink("x", "/state/.partial-ab12/two") = 0
10 symlink("x", "/state/.partial-ab12/three") = 0
10 symlink("x", "/state/.partial-ab12/four") = 0
10 fsync(3</state/.partial-ab12>) = 0
11 mkdir("/other", 0700) = 0
10 mkdir("/state/b" <unfinished ...>
10 <... mkdir resumed>) = 0
10 rename("/state/.partial-ab12", "/state/a") = 0
"""


def test_steps_are_changes_of_different_kinds() -> None:
    assert chosen_steps(TRACE, 16, every=False) == [
        ("mkdir", 2), ("symlink", 1), ("symlink", 2), ("symlink", 4), ("mkdir", 3), ("rename", 1), ("mkdir", 1),
    ]  # fmt: skip


def test_few_of_many_are_an_even_sample_with_the_end() -> None:
    made = "".join(f'10 mkdir("/dir{chr(97 + number)}/x") = 0\n' for number in range(26))
    chosen = [number for _, number in chosen_steps(made, 8, every=False)]
    assert len(chosen) <= 8 and chosen[0] == 1 and chosen[-2:] == [25, 26]
    assert [number for _, number in chosen_steps(made, 8, every=True)] == list(range(1, 27))


def test_every_step_counts_when_asked_for() -> None:
    every = chosen_steps(TRACE, 2, every=True)
    assert ("mkdir", 1) in every and ("fsync", 1) in every and len(every) == 9
