"""The pure parts of contrib/bench: statistics, tables, results as JSON, bounds; and what its command line refuses."""

from __future__ import annotations

import json
import shlex

import pytest
from benchlib import bounds, cli, report, runners
from benchlib.bounds import Bound, judge
from benchlib.samples import Missing, Results, each, exponent, spread, unit_of


def results() -> Results:
    made = Results(host={"release": "trixie", "kind": "nested", "versions": {"crun": "crun version 1.21"}})
    made.add("start", "--net none", "bare", {"start": [0.010, 0.012, 0.011], "stop": [0.01]})
    made.add("start", "--net none", "gear", {"start": [0.022, 0.020, 0.080], "stop": [0.02]})
    for count, seconds in ((0, 0.1), (10, 0.12), (100, 0.3)):
        made.add("list", "list", "gear", {"list": [seconds]}, count)
        made.add("list", "list", "podman", {"list": [seconds * 2]}, count)
    return made


def test_spread_is_quartiles() -> None:
    assert spread([5.0]) == (5.0, 5.0, 5.0)
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    "metric, unit",
    [("start", "s"), ("start-first", "s"), ("burst-bytes", "B"), ("burst-processes", ""), ("throughput", "B/s"),
     ("connections-rate", "1/s"), ("lines-loss", "")],
)  # fmt: skip
def test_units_are_told_by_the_metric(metric: str, unit: str) -> None:
    assert unit_of(metric) == unit


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_is_that_of_the_growth(power: float) -> None:
    assert exponent((n, 3 * n**power) for n in (1, 10, 100)) == pytest.approx(power)


def test_exponent_of_too_little_is_none() -> None:
    assert exponent([]) is None
    assert exponent([(10, 1.0)]) is None
    assert exponent([(10, 1.0), (10, 2.0)]) is None
    assert exponent([(10, 1.0), (100, -1.0)]) is None


def test_each_is_what_one_more_costs() -> None:
    found = each(results(), "list", "list", "list", "gear")
    assert found == {10: pytest.approx(0.002), 100: pytest.approx(0.002)}


def test_results_survive_json() -> None:
    made = results()
    assert Results.read(json.loads(json.dumps(made.to_mapping()))) == made


def test_results_of_another_version_are_refused() -> None:
    with pytest.raises(ValueError, match="version 9 of results is not known"):
        Results.read({"version": 9})


def test_a_later_run_of_a_measure_replaces_it() -> None:
    made, later = results(), Results()
    later.add("start", "--net none", "gear", {"start": [1.0]})
    made.replace(later)
    assert made.find("start", "--net none", "start", "bare") is None
    again = made.find("start", "--net none", "start", "gear")
    assert again is not None and again.median == 1.0
    assert made.counts("list", "list", "list", "gear").keys() == {0, 10, 100}


def test_tables_tell_ratios_growth_and_what_is_missing() -> None:
    made = results()
    made.missing = [runners_missing()]
    text = report.tables(made)
    assert "| bare | 11.0 ms [10.5..11.5]" in text
    assert "| gear | 22.0 ms [21.0..51.0] 2.00x bare | 20.0 ms [20.0..20.0] 2.00x bare |" in text
    assert "| gear       | 100 ms | 120 ms | 300 ms | 2.0 ms       | 1.00        |" in text
    assert "runc can't do without control groups" in text
    assert "crun 1.21" in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def runners_missing() -> Missing:
    (runc,) = runners.peers(("runc",), "trixie", nested=True)
    return Missing("start", "--net none", "runc", runc.lacks("start"))


def test_tables_take_their_place_in_a_document() -> None:
    words = "bench nested trixie"
    document = f"a\n<!-- {words}: begin -->\nold\n<!-- {words}: end -->\nz\n"
    placed = report.placed(document, results())
    assert placed.startswith(f"a\n<!-- {words}: begin -->\n\n") and placed.endswith(
        f"<!-- {words}: end -->\nz\n"
    )
    assert "old" not in placed and report.placed(placed, results()) == placed
    with pytest.raises(ValueError, match="has no lines <!-- bench nested trixie: begin -->"):
        report.placed("nothing", results())


def test_bounds_are_ratios() -> None:
    bound = Bound("a start", "start", "--net none", "start", "bare", 2.0)
    assert str(judge(bound, results())) == "ok: a start: 2.00, at most 2.00"
    worse = Bound("a stop", "start", "--net none", "stop", "bare", 1.9, goal=1.5)
    assert str(judge(worse, results())) == "WORSE: a stop: 2.00, at most 1.90 (the goal is 1.50)"
    one_more = Bound("one more", "list", "list", "list", "podman", 1.0, each=True)
    assert judge(one_more, results()).value == pytest.approx(0.5)


def test_bounds_without_another_are_amounts() -> None:
    made = results()
    made.add("burst", "", "gear", {"burst-bytes": [0.0]}, 20)
    assert judge(Bound("bytes", "burst", "", "burst-bytes", None, 0.0, count=20), made).met
    assert not judge(Bound("bytes", "burst", "", "burst-bytes", None, 0.0, count=50), made).met


def test_what_was_not_measured_meets_no_bound() -> None:
    verdict = judge(Bound("exec", "exec", "", "exec", "podman", 0.5), results())
    assert not verdict.met and "not measured" in str(verdict)


def test_every_bound_is_of_a_measure() -> None:
    assert {bound.measure for bound in bounds.BOUNDS} <= set(cli.MEASURES)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_every_tool_says_how_it_is_run(release: str, nested: bool) -> None:
    made = runners.peers(runners.NAMES, release, nested=nested)
    assert tuple(tool.name for tool in made) == runners.NAMES
    for tool in made:
        assert f"{tool.name}-x" in tool.make([f"{tool.name}-x"])
        assert tool.name == "bare" or tool.note or tool.name == "gear"
        for argv in (tool.start("x"), tool.restart("x"), tool.stop("x")):
            assert shlex.join(argv) and "" not in argv
    quadlet = "/etc/containers/systemd/x.container" in runners.peers(("podman",), release, nested=nested)[
        0
    ].make(["x"])
    assert quadlet == (release != "bookworm")


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["speed"], "no measure 'speed'"),
        (["--tools", "rkt"], "no tool 'rkt'"),
        (["--rounds", "0"], "1 at least"),
        (["--counts", "10,5"], "invalid numbers value"),
    ],
)
def test_wrong_requests_are_refused(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


def test_help_names_every_measure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in cli.MEASURES)
