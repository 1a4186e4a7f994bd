"""What people see of a transfer."""

from __future__ import annotations

import io

import pytest

from gear import progress


def test_lines_have_name_size_and_outcome() -> None:
    out = io.StringIO()
    with progress.Lines(out) as shown:
        shown.begin("sha256:0123456789abcdef", 1_500_000)
        shown.advance("sha256:0123456789abcdef", 1_500_000)
        assert out.getvalue() == ""
        shown.end("sha256:0123456789abcdef", "done")
    assert out.getvalue() == "0123456789ab    1.5 MB  done\n"


@pytest.mark.parametrize("columns", [1, 20, 40, 80, 300])
@pytest.mark.parametrize(("done", "size"), [(0, 0), (1, 2), (999_999_999_999, 999_999_999_999)])
def test_a_bar_fits_its_line(columns: int, done: int, size: int) -> None:
    text = progress.line("sha256:" + "0" * 64, done, size, "already here", columns)
    assert len(text) <= max(0, columns - 1)
    if columns == 80 and size == 2:
        assert text.startswith("000000000000 [===") and "1 B/2 B" in text


def test_bars_show_bytes_and_rate_and_are_redrawn_in_place() -> None:
    out = io.StringIO()
    with progress.Bars(out) as shown:
        for name in ("sha256:aa", "sha256:bb"):
            shown.begin(name, 1000)
        shown.advance("sha256:aa", 500)
        shown.end("sha256:bb", "already here")
    last = out.getvalue().split("\x1b[J")[-2]
    assert "500 B/1.0 kB" in last and "already here" in last and "total" in last and "B/s" in last
    assert last.count("\n") == 3
