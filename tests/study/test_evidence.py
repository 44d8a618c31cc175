"""The arithmetic of evidence against cases worked by hand, and the claims it judges."""
import math
import sys

import pytest
from conftest import a_run, assert_one_line, run

from study import evidence
from study.claims import CLAIMS
from study.evidence import FAILS, HOLDS, UNDECIDED, Claim, Part
from study.variants import VARIANTS


def seeds(*last_tests):
    return {seed: a_run(seed=seed, test=[99.0] * 4 + [last]) for seed, last in enumerate(last_tests, start=1)}


def test_mean_and_error():
    assert evidence.mean_and_error([1, 2, 3]) == (2, pytest.approx(1 / math.sqrt(3)))
    assert evidence.mean_and_error([4, 4, 4]) == (4, 0)
    assert evidence.mean_and_error([7]) == (7, None)


def test_interval():
    low, high = evidence.interval([1, 2, 3])  # 2 -+ 4.30265 / sqrt(3)
    assert (low, high) == (pytest.approx(-0.48414, abs=1e-5), pytest.approx(4.48414, abs=1e-5))
    # Of five values the mean is 3 and the standard error sqrt(2.5 / 5); the quantile in the tables 2.77645.
    assert evidence.interval([1, 2, 3, 4, 5]) == pytest.approx((3 - 1.96325, 3 + 1.96325), abs=1e-5)
    assert evidence.interval([5, 5]) == (5, 5)
    assert evidence.interval([5]) is None


@pytest.mark.parametrize("hits, n, low, high", [(5, 5, 0.56552, 1), (0, 5, 0, 0.43448),
                                                (3, 5, 0.23072, 0.88238)])
def test_interval_of_a_share(hits, n, low, high):
    assert evidence.share_interval(hits, n) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


@pytest.mark.parametrize("bounds, verdict", [((0.1, 0.2), HOLDS), ((-0.2, -0.1), FAILS),
                                             ((-0.1, 0.2), UNDECIDED),
                                             ((0, 0.2), UNDECIDED), ((0, 0), UNDECIDED),
                                             (None, UNDECIDED)])
def test_more_than_nothing(bounds, verdict):
    assert evidence.judge(bounds, "more", 0) == verdict
    assert evidence.judge(bounds and (-bounds[1], -bounds[0]), "less", 0) == verdict


@pytest.mark.parametrize("bounds, verdict", [((-0.04, 0.03), HOLDS), ((0.06, 0.1), FAILS),
                                             ((-0.2, -0.06), FAILS), ((-0.1, 0.03), UNDECIDED),
                                             ((0, 0), HOLDS), (None, UNDECIDED)])
def test_within_a_margin(bounds, verdict):
    assert evidence.judge(bounds, "within", 0.05) == verdict


def test_a_claim_of_parts():
    assert evidence.all_of([HOLDS, HOLDS]) == HOLDS
    assert evidence.all_of([HOLDS, UNDECIDED]) == UNDECIDED
    assert evidence.all_of([UNDECIDED, FAILS]) == FAILS
    assert evidence.all_of([]) == UNDECIDED


def test_differences_are_paired_by_seed():
    # By seed the differences are 0.1, 0.1, 0.1; unpaired, the spread between seeds would drown them.
    found = {"a": seeds(98.0, 99.0, 99.9), "b": seeds(97.9, 98.9, 99.8)}
    result = Part("test", "a", "b").result(found)
    assert result["n"] == 3 and result["difference"] == pytest.approx(0.1)
    assert result["bounds"] == (pytest.approx(0.1), pytest.approx(0.1)) and result["verdict"] == HOLDS
    assert Part("test", "b", "a").result(found)["verdict"] == FAILS
    assert Part("test", "b", "a", "less").result(found)["verdict"] == HOLDS
    assert Part("test", "a", "b", "more", 0.2).result(found)["verdict"] == FAILS
    assert Part("test", "a", "b", "within", 0.2).result(found)["verdict"] == HOLDS
    assert Part("test", "a", "b", "within", 0.05).result(found)["verdict"] == FAILS


def test_only_seeds_that_both_sides_have():
    found = {"a": seeds(99.0, 99.1, 99.2), "b": {3: seeds(98.0, 98.0, 99.1)[3], 9: a_run(seed=9)}}
    result = Part("test", "a", "b").result(found)
    assert result["n"] == 1 and result["bounds"] is None and result["verdict"] == UNDECIDED
    assert Part("test", "a", "b").result({"a": seeds(99.0), "b": {}}) is None


def test_measures():
    some = a_run(test=[90, 99.5, 99.40, 99.45, 99.41, 99.43, 99.42], train=99.3, eval=99.6)
    expected = {"test": 99.42, "best test": 99.5, "best training": 99.3,
                "gap": 99.3 - 99.42, "gap, eval": 99.6 - 99.42,
                "last three epochs at the target": True, "last epoch at the target": True}
    for name, value in expected.items():
        assert evidence.MEASURES[name](some) == pytest.approx(value), name
    # 99.40, .45, .41, .43, .42: deviations from 99.422 are -22, 28, -12, 8, -2 thousandths; their squares add
    # up to 1480.
    assert evidence.MEASURES["spread"](some) == pytest.approx(math.sqrt(1480e-6 / 4))
    some["history"][-3]["test_accuracy"] = 99.39
    assert evidence.MEASURES["last three epochs at the target"](some) is False


def test_shares():
    found = {"a": seeds(99.4, 99.5, 99.41, 99.45, 99.6)}
    result = Part("last epoch at the target", "a", than=0.5).result(found)
    assert result["verdict"] == HOLDS and result["difference"] == 1
    found = {"a": seeds(99.4, 99.5, 99.39, 99.45, 99.6)}
    assert Part("last epoch at the target", "a", than=0.5).result(found)["verdict"] == UNDECIDED
    claim = Claim("x", [Part("last epoch at the target", "a", than=0.5)])
    assert evidence.table_rows([claim], found)[1][3] == "4 of 5"


def test_two_measures_that_disagree_are_said_to():
    claim = Claim("It overfits.", [Part("gap", "a")], [Part("gap, eval", "a")])
    found = {"a": {seed: a_run(seed=seed, train=98.5 + seed / 100, eval=99.8 + seed / 100)
                   for seed in (1, 2, 3)}}
    assert evidence.verdict_rows([claim], found)[1] == [
        "1", "It overfits.", "does not hold as printed, holds in eval mode"]
    assert evidence.verdict_rows([claim], {"a": {}})[1] == ["1", "It overfits.", "undecided"]


def test_the_table_without_any_run():
    rows = evidence.table_rows(CLAIMS, {name: {} for name in VARIANTS})
    assert {row[-1] for row in rows[1:]} == {"no runs", "**no runs**", "**undecided**"}


def test_every_claim_is_there_and_names_variants():
    assert len(CLAIMS) == 14
    assert [i for i, claim in enumerate(CLAIMS, start=1) if claim.by_eval] == [1, 4, 9, 10]
    used = {name for claim in CLAIMS for part in claim.parts for name in (part.a, part.b)
            if isinstance(name, str)}
    assert used == set(VARIANTS) - {"step5_beyond", "step6_fast"}


def test_no_runs_to_judge(tmp_path):
    assert_one_line(run(sys.executable, "-m", "study.claims", "--out-dir", tmp_path),
                    "study.claims: error: no finished run", tmp_path)
