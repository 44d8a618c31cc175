"""The arithmetic of evidence against cases worked by hand, and how often it is wrong."""
import math

import numpy as np
import pytest
from conftest import a_run

from study import evidence
from study.evidence import FAILS, HOLDS, NO_DIFFERENCE, UNDECIDED, Part, decide


def seeds(*last_tests, **more):
    return {seed: a_run(seed=seed, test=[99.0] * 4 + [last], **more)
            for seed, last in enumerate(last_tests, start=1)}


def test_mean_and_error():
    assert evidence.mean_and_error([1, 2, 3]) == (2, pytest.approx(1 / math.sqrt(3)))
    assert evidence.mean_and_error([4, 4, 4]) == (4, 0)
    assert evidence.mean_and_error([7]) == (7, None)


def test_interval():
    low, high = evidence.interval([1, 2, 3], 0.05)  # 2 -+ 4.30265 / sqrt(3)
    assert (low, high) == (pytest.approx(-0.48414, abs=1e-5), pytest.approx(4.48414, abs=1e-5))
    # Of five values the mean is 3 and the standard error sqrt(2.5 / 5); the quantile in the tables 4.60409.
    assert evidence.interval([1, 2, 3, 4, 5]) == pytest.approx((3 - 3.25559, 3 + 3.25559), abs=1e-5)
    assert evidence.interval([5, 5]) == (5, 5)
    assert evidence.interval([5]) is None


@pytest.mark.parametrize("hits, low, high", [(5, 0.42974, 1), (0, 0, 0.57026), (3, 0.16867, 0.91729)])
def test_interval_of_a_share_of_five(hits, low, high):
    hit_or_miss = [True] * hits + [False] * (5 - hits)
    assert evidence.interval(hit_or_miss) == (pytest.approx(low, abs=2e-5), pytest.approx(high, abs=2e-5))


@pytest.mark.parametrize("bounds, verdict", [((0.1, 0.2), HOLDS), ((-0.2, -0.1), FAILS),
                                             ((-0.1, 0.2), UNDECIDED), ((-0.04, 0.04), NO_DIFFERENCE),
                                             ((0.01, 0.04), HOLDS), ((-0.04, 0.05), UNDECIDED),
                                             ((0, 0.2), UNDECIDED), ((0, 0), NO_DIFFERENCE),
                                             (None, UNDECIDED)])
def test_more_than_nothing(bounds, verdict):
    assert evidence.judge(bounds, "more", 0, 0.05) == verdict
    assert evidence.judge(bounds and (-bounds[1], -bounds[0]), "less", 0, 0.05) == verdict
    moved = bounds and (bounds[0] + 7, bounds[1] + 7)
    if bounds is None or 0.05 not in bounds:  # rounding
        assert evidence.judge(moved, "more", 7, 0.05) == verdict


@pytest.mark.parametrize("bounds, verdict", [((-0.04, 0.03), HOLDS), ((0.06, 0.1), FAILS),
                                             ((-0.2, -0.06), FAILS), ((-0.1, 0.03), UNDECIDED),
                                             ((0, 0), HOLDS), (None, UNDECIDED)])
def test_within_a_margin(bounds, verdict):
    assert evidence.judge(bounds, "within", 0.05, 0.05) == verdict


def test_there_is_a_verdict_at_the_first_look_that_gives_one_and_it_stays():
    assert decide([0.1] * 3, "more", 0, 0.05) == (3, (pytest.approx(0.1), pytest.approx(0.1)), UNDECIDED)
    apart = [0.1, 0.3, 0.2, 0.2, 0.2, 0.2]
    assert decide(apart[:4], "more", 0, 0.05)[::2] == (4, UNDECIDED)
    n, (low, high), verdict = decide([*apart, -9.0, -9.0], "more", 0, 0.05)
    assert (n, verdict) == (6, HOLDS) and 0 < low < 0.2 < high
    assert decide([*apart, *[-9.0] * 42], "more", 0, 0.05)[::2] == (6, HOLDS)  # later ones change nothing
    # Between looks nothing is judged: five pairs are as good as four.
    assert decide(apart[:5], "more", 0, 0.05)[0] == 4


def test_a_stricter_level_takes_longer():
    values = [0.1, 0.3, 0.2, 0.2] * 12
    looks = [decide(values, "more", 0, 0.05, level)[0] for level in (0.05, 0.01, 0.0001)]
    assert looks == sorted(set(looks))


@pytest.mark.parametrize("spread, most", [(0.08, 24), (0.13, 48)])
def test_all_looks_together_are_wrong_at_most_once_in_twenty(spread, most):
    shares, _ = evidence.simulate(0, spread, 0.05, most=most)  # A against A
    assert 0.01 < shares[HOLDS] + shares[FAILS] <= 0.05
    # Whether decided or not: how often does the interval of some look miss the truth?
    looks, missed = [n for n in evidence.LOOKS if n <= most], 0
    for values in np.random.default_rng(0).normal(0, spread, (2000, most)):
        missed += any(not low <= 0 <= high for low, high in (evidence.interval(values[:n]) for n in looks))
    assert 0.03 < missed / 2000 <= 0.06  # 0.05 and two standard errors
    shares, _ = evidence.simulate(0.05, spread, 0.05, most=most)  # a difference that does matter
    assert shares[NO_DIFFERENCE] + shares[FAILS] <= 0.05


def test_large_differences_take_few_pairs():
    taken = [evidence.simulate(difference, 0.08, 0.05)[1] for difference in (0.05, 0.1, 0.2)]
    assert taken == sorted(taken, reverse=True) and taken[1] <= 9 and taken[2] <= 6


def test_differences_are_paired_by_seed():
    # By seed the differences are 0.1 each; unpaired, the spread between seeds would drown them.
    found = {"a": seeds(98.0, 99.0, 99.9, 97.0), "b": seeds(97.9, 98.9, 99.8, 96.9)}
    result = Part("last", "a", "b").result(found)
    assert result["n"] == 4 and result["difference"] == pytest.approx(0.1)
    assert result["bounds"] == (pytest.approx(0.1), pytest.approx(0.1)) and result["verdict"] == HOLDS
    assert Part("last", "b", "a").result(found)["verdict"] == FAILS
    assert Part("last", "b", "a", "less").result(found)["verdict"] == HOLDS
    assert Part("last", "a", "b", "more", 0.2).result(found)["verdict"] == FAILS
    assert Part("last", "a", "b", "more", 0.12).result(found)["verdict"] == FAILS
    assert Part("last", "a", "b", "within", 0.2).result(found)["verdict"] == HOLDS
    assert Part("last", "a", "b", "within", 0.05).result(found)["verdict"] == FAILS


def test_only_seeds_that_both_sides_have_from_one_machine():
    found = {"a": seeds(99.0, 99.1, 99.2), "b": {3: seeds(98.0, 98.0, 99.1)[3], 9: a_run(seed=9)}}
    result = Part("last", "a", "b").result(found)
    assert result["n"] == 1 and result["bounds"] is None and result["verdict"] == UNDECIDED
    assert Part("last", "a", "b").result({"a": seeds(99.0), "b": {}}) is None
    found["b"][3]["machine"] = "another, 2 cores"
    assert Part("last", "a", "b").result(found) is None
    assert Part("last", "b", 99).result(found)["n"] == 2  # against a figure, any machine will do


def test_measures():
    some = a_run(test=[90, 99.5, 99.40, 99.45, 99.41, 99.43, 99.42], train=99.3, eval=99.6)
    expected = {"last": 99.42, "last5": (99.40 + 99.45 + 99.41 + 99.43 + 99.42) / 5, "loss": 0.1,
                "best test": 99.5, "best training": 99.3, "gap": 99.3 - 99.422, "gap, eval": 99.6 - 99.42,
                "fluctuation": (9.5 + 0.10 + 0.05 + 0.04 + 0.02 + 0.01) / 6,
                "last three epochs at the target": True, "last epoch at the target": True}
    assert expected.keys() == evidence.MEASURES.keys()
    for name, value in expected.items():
        assert evidence.MEASURES[name](some) == pytest.approx(value), name
    some["history"][-3]["test_accuracy"] = 99.39
    assert evidence.MEASURES["last three epochs at the target"](some) is False
    longer = a_run(test=[10, 50, *[99.0, 99.1] * 5, 99.0])  # the last ten changes are all of 0.1
    assert evidence.MEASURES["fluctuation"](longer) == pytest.approx(0.1)


def test_shares():
    def of(*last_tests):
        return {"a": seeds(*last_tests)}

    part = Part("last epoch at the target", "a", than=0.5)
    result = part.result(of(*[99.4, 99.5, 99.41] * 3))
    assert result["verdict"] == HOLDS and result["difference"] == 1 and result["n"] == 9
    assert part.result(of(*[99.4, 99.5, 99.39] * 3))["verdict"] == UNDECIDED
    assert part.result(of(*[99.3] * 9))["verdict"] == FAILS
