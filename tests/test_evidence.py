"""The arithmetic of evidence against cases worked by hand, and the claims it judges."""
import json
import math
import sys

import pytest
import torch

import claims
import evidence
from conftest import LADDER, STEPS, a_run, assert_one_line, run
from evidence import FAILS, HOLDS, OPEN, Claim, Part


def seeds(*last_tests, **more):
    return {seed: a_run(seed=seed, test=[99.0] * 4 + [last], **more) for seed, last in enumerate(last_tests, start=1)}


def test_mean_and_error():
    assert evidence.mean_and_error([1, 2, 3]) == (2, pytest.approx(1 / math.sqrt(3)))
    assert evidence.mean_and_error([4, 4, 4]) == (4, 0)
    assert evidence.mean_and_error([7]) == (7, None)


@pytest.mark.parametrize("freedom, quantile", [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227),
                                               (1000, 1.96234)])
def test_quantiles_of_student_are_those_of_the_tables(freedom, quantile):
    assert evidence.t_quantile(0.975, freedom) == pytest.approx(quantile, rel=1e-5)


def test_interval():
    low, high = evidence.interval([1, 2, 3])  # 2 -+ 4.30265 / sqrt(3)
    assert (low, high) == (pytest.approx(-0.48414, abs=1e-5), pytest.approx(4.48414, abs=1e-5))
    assert evidence.interval([5, 5]) == (5, 5)
    assert evidence.interval([5]) is None


@pytest.mark.parametrize("hits, n, low, high", [(5, 5, 0.56552, 1), (0, 5, 0, 0.43448), (3, 5, 0.23072, 0.88238)])
def test_interval_of_a_share(hits, n, low, high):
    assert evidence.share_interval(hits, n) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


@pytest.mark.parametrize("bounds, verdict", [((0.1, 0.2), HOLDS), ((-0.2, -0.1), FAILS), ((-0.1, 0.2), OPEN),
                                             ((0, 0.2), OPEN), ((0, 0), OPEN), (None, OPEN)])
def test_more_than_nothing(bounds, verdict):
    assert evidence.more_than(bounds, 0) == verdict


@pytest.mark.parametrize("bounds, verdict", [((-0.04, 0.03), HOLDS), ((0.06, 0.1), FAILS), ((-0.2, -0.06), FAILS),
                                             ((-0.1, 0.03), OPEN), ((0, 0), HOLDS), (None, OPEN)])
def test_within_a_margin(bounds, verdict):
    assert evidence.within(bounds, 0.05) == verdict


def test_a_claim_of_parts():
    assert evidence.all_of([HOLDS, HOLDS]) == HOLDS
    assert evidence.all_of([HOLDS, OPEN]) == OPEN
    assert evidence.all_of([OPEN, FAILS]) == FAILS
    assert evidence.all_of([]) == OPEN


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
    assert result["n"] == 1 and result["bounds"] is None and result["verdict"] == OPEN
    assert Part("test", "a", "b").result({"a": seeds(99.0), "b": {}}) is None


def test_measures():
    some = a_run(test=[90, 99.5, 99.40, 99.45, 99.41, 99.43, 99.42], train=99.3, eval=99.6)
    expected = {"test": 99.42, "best test": 99.5, "best training": 99.3, "gap": 99.3 - 99.42, "gap, eval": 99.6 - 99.42,
                "last three epochs at the target": True, "last epoch at the target": True}
    for name, value in expected.items():
        assert evidence.MEASURES[name](some) == pytest.approx(value), name
    # 99.40, .45, .41, .43, .42: deviations from 99.422 are -22, 28, -12, 8, -2 thousandths; squares add up to 1480.
    assert evidence.MEASURES["spread"](some) == pytest.approx(math.sqrt(1480e-6 / 4))
    some["history"][-3]["test_accuracy"] = 99.39
    assert evidence.MEASURES["last three epochs at the target"](some) is False


def test_shares():
    found = {"a": seeds(99.4, 99.5, 99.41, 99.45, 99.6)}
    result = Part("last epoch at the target", "a", than=0.5).result(found)
    assert result["verdict"] == HOLDS and result["difference"] == 1
    found = {"a": seeds(99.4, 99.5, 99.39, 99.45, 99.6)}
    assert Part("last epoch at the target", "a", than=0.5).result(found)["verdict"] == OPEN
    assert evidence.table_rows([Claim("x", [Part("last epoch at the target", "a", than=0.5)])], found)[1][3] == "4 of 5"


def test_two_measures_that_disagree_are_said_to():
    claim = Claim("It overfits.", [Part("gap", "a")], [Part("gap, eval", "a")])
    found = {"a": {seed: a_run(seed=seed, train=98.5 + seed / 100, eval=99.8 + seed / 100) for seed in (1, 2, 3)}}
    (sentence,) = evidence.disagreements([claim], found)
    assert "Claim 1 does not hold by the training accuracy as printed, and holds by" in sentence
    assert evidence.verdict_rows([claim], found)[1] == ["1", "It overfits.", "does not hold as printed, holds in eval mode"]
    assert evidence.disagreements([claim], {"a": {}}) == []


def test_the_table_without_any_run():
    rows = evidence.table_rows(claims.CLAIMS, {name: {} for name in claims.VARIANTS})
    assert {row[-1] for row in rows[1:]} == {"no runs", "**no runs**", "**cannot be told**"}


def test_every_claim_of_the_issue_is_there_and_names_variants():
    assert len(claims.CLAIMS) == 14
    assert [i for i, claim in enumerate(claims.CLAIMS, start=1) if claim.by_eval] == [1, 4, 9, 10]
    used = {name for claim in claims.CLAIMS for part in claim.parts for name in (part.a, part.b) if isinstance(name, str)}
    assert used == set(claims.VARIANTS) - {"step5_beyond"}


# -------------------------------------------------------------------- variants


def test_networks_of_the_variants():
    torch.manual_seed(1)
    plain = claims.step2_dropout.Net(0.1)
    torch.manual_seed(1)
    without = claims.WithoutBatchNorm(0.1)
    pooled = claims.WithPooling(0.1)
    assert [sum(p.numel() for p in net.parameters()) for net in (plain, without, pooled)] == [6864, 6806, 4464]
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in without.modules())
    assert torch.equal(plain.block2[8].weight, without.block2[8].weight)  # the same start, so that seeds pair
    for net in (without, pooled):
        assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", claims.VARIANTS)
def test_a_run_is_known_by_what_it_is(name):
    variant = claims.VARIANTS[name]
    changed = {"step1_lr_0.00333": {"lr": 0.00333}, "step2_dropout_0": {"dropout": 0.0}, "step3_dropout_0.1": {"dropout": 0.1},
               "step3_dropout_0": {"dropout": 0.0}, "step4_rotation_0": {"rotation": 0.0}, "step4_lr_0.01": {"lr": 0.01},
               "step4_gamma_1": {"gamma": 1.0}}.get(name, {})
    network = variant.net.__name__ if variant.net else "Net"
    found, others = claims.by_variant([a_run(variant.step, 3, network=network, **changed)])
    assert list(found[name]) == [3] and not others
    stranger = a_run(variant.step, 3, network=network, **{**changed, "batch_size": 64})
    twice = a_run(variant.step, 3, network=network, **changed)
    found, others = claims.by_variant([twice, stranger, twice])
    assert list(found[name]) == [3] and others == [stranger, twice]


def test_a_variant_is_trained_by_one_command(data_dir, tmp_path):
    process = run(sys.executable, "claims.py", "step2_with_pooling", "--dry-run", "--epochs", 1, "--seed", 2,
                  "--data-dir", data_dir, "--out-dir", tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("$ python claims.py step2_with_pooling --dry-run") and "AvgPool2d" in process.stdout
    stored = json.loads((tmp_path / "step2_dropout.json").read_text())
    assert stored["network"] == "WithPooling" and stored["parameters"] == 4464
    plain = run(sys.executable, "step2_dropout.py", "--dry-run", "--epochs", 1, "--seed", 2, "--resume",
                "--data-dir", data_dir, "--out-dir", tmp_path)
    assert_one_line(plain, "changed since")  # another network, though the script is the same


def test_no_runs_to_judge(tmp_path):
    assert_one_line(run(sys.executable, "claims.py", "--out-dir", tmp_path), "no finished run", tmp_path)


def test_steps_are_those_of_the_project():
    assert list(claims.STEPS) == STEPS and list(claims.LADDER) == LADDER
