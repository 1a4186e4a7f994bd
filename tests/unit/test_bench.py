"""The pure parts of contrib/bench: statistics, tables, results as JSON, bounds; and what its command line refuses."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from benchlib import bounds, check, cli, report, runners
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


def test_a_later_run_of_a_case_replaces_it() -> None:
    made, later = results(), Results()
    made.missing = [Missing("start", "--net none", "gear", "it failed"), runners_missing()]
    later.add("start", "--net none", "gear", {"start": [1.0]})
    later.add("list", "list", "gear", {"list": [9.0]}, 100)
    later.add("list", "list", "gear", {"list": [10.0]}, 1000)
    made.replace(later)
    # What is compared is of one run.
    assert made.find("start", "--net none", "start", "bare") is None
    again = made.find("start", "--net none", "start", "gear")
    assert again is not None and again.median == 1.0
    assert made.missing == [runners_missing()]
    assert made.counts("list", "list", "list", "podman").keys() == {0, 10, 100}
    lists = made.counts("list", "list", "list", "gear")
    assert lists.keys() == {0, 10, 100, 1000} and lists[100].median == 9.0


def test_results_are_read_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    later = Results()
    later.add("start", "--net none", "gear", {"start": [1.0]})
    first.write_text(json.dumps(results().to_mapping()))
    second.write_text(json.dumps(later.to_mapping()))
    assert cli.main(["--read", str(first), str(second), "--json", str(tmp_path / "both")]) == 0
    assert "1000 ms" in capsys.readouterr().out
    both = Results.read(json.loads((tmp_path / "both").read_text()))
    assert both.find("start", "--net none", "start", "bare") is None and both.host == results().host


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
    one_more = Bound("one more", "list", "list", "list", "podman", 1.0, of="each")
    assert judge(one_more, results()).value == pytest.approx(0.5)
    all_of_them = Bound("all", "list", "list", "list", "gear", 2.0, count=100, against_count=0)
    assert judge(all_of_them, results()).value == pytest.approx(3.0)


@pytest.mark.parametrize("last, bend", [(0.5, 1.0), (0.9, 3.0), (0.3, None), (0.2, None)])
def test_a_bound_may_be_about_the_later_ones(last: float, bend: float | None) -> None:
    made = Results()
    for count, seconds in ((0, 0.1), (500, 0.3), (1000, last)):
        made.add("list", "list", "gear", {"list": [seconds]}, count)
    later = Bound("later ones", "list", "list", "list", None, 2.0, of="later")
    assert judge(later, made).value == (None if bend is None else pytest.approx(bend))
    assert judge(later, results()).value == pytest.approx(1.0)
    assert judge(dataclasses.replace(later, case="inspect"), made).value is None


def test_a_bound_may_be_of_two_cases() -> None:
    made = results()
    for count, seconds in ((0, 0.1), (1000, 2.1)):
        made.add("list", "records", "gear", {"list": [seconds]}, count)
    bound = Bound("one more", "list", "records", "list", "podman", 1.0, against_case="list", of="each")
    assert judge(bound, made).value == pytest.approx(0.5)
    # What chance has made less of is no measure.
    made.add("list", "records", "gear", {"list": [0.05]}, 1000)
    assert judge(bound, made).value is None


def test_of_rates_more_is_better() -> None:
    made = Results()
    made.add("network", "", "gear nat", {"throughput": [2e9], "connections-rate": [0.0]})
    made.add("network", "", "podman", {"throughput": [3e9], "connections-rate": [5.0]})
    bound = Bound("sending", "network", "", "throughput", "podman", 1.25, tool="gear nat")
    assert judge(bound, made).value == pytest.approx(1.5)
    assert not judge(dataclasses.replace(bound, metric="connections-rate"), made).met


def test_a_bound_may_be_another_on_debian_12() -> None:
    made = results()
    bound = Bound("a start", "start", "--net none", "start", "bare", 1.9, bookworm=2.1)
    assert not judge(bound, made).met
    made.host["release"] = "bookworm"
    assert judge(bound, made).met


class Scripted:
    """A run whose measures take what they are told to."""

    def __init__(self, *seconds: float) -> None:
        self.results, self.seconds = Results(), list(seconds)
        self.counts = self.bursts = ()

    def measure(self, run: Scripted) -> None:
        self.results.add("exec", "", "podman", {"exec": [1.0]})
        self.results.add("exec", "", "gear", {"exec": [self.seconds.pop(0)]})


@pytest.mark.parametrize(
    "seconds, value, left", [((0.4, 0.1), 0.4, 1), ((0.9, 0.3, 0.1), 0.3, 1), ((0.9, 0.8, 0.85, 0.1), 0.8, 1)]
)
def test_a_missed_bound_is_measured_again_and_its_best_counts(
    seconds: tuple[float, ...], value: float, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Scripted(*seconds)
    monkeypatch.setitem(check.MEASURES, "exec", run.measure)
    checked = check.Checked(run)  # type: ignore[arg-type]
    (bound,) = (bound for bound in bounds.BOUNDS if bound.measure == "exec")
    for _ in range(2):
        verdict = checked.verdict(bound)
        assert verdict.value == pytest.approx(value) and verdict.met == (value <= bound.most)
    assert len(run.seconds) == left


def test_bounds_without_another_are_amounts() -> None:
    made = results()
    made.add("burst", "", "gear", {"burst-bytes": [0.0]}, 20)
    assert judge(Bound("bytes", "burst", "", "burst-bytes", None, 0.0, count=20), made).met
    assert not judge(Bound("bytes", "burst", "", "burst-bytes", None, 0.0, count=50), made).met


def test_what_was_not_measured_meets_no_bound() -> None:
    verdict = judge(Bound("exec", "exec", "", "exec", "podman", 0.5), results())
    assert not verdict.met and "not measured" in str(verdict)


def test_every_bound_is_of_a_measure() -> None:
    assert {bound.measure for bound in bounds.BOUNDS} == set(check.MEASURES) <= set(cli.MEASURES)
    assert len({bound.what for bound in bounds.BOUNDS}) == len(bounds.BOUNDS)
    assert all(bound.goal is None or bound.goal <= bound.most for bound in bounds.BOUNDS)


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
