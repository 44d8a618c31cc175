"""Verdicts on claims of several parts, one by one and all together; and the claims themselves."""
import sys

from conftest import a_run, assert_one_line, run

from study import verdicts
from study.claims import CLAIMS, undecided
from study.evidence import FAILS, HOLDS, NO_DIFFERENCE, UNDECIDED, Part
from study.variants import VARIANTS
from study.verdicts import Claim

AFTER_S5 = {"step5_beyond", "step6_fast", "step7_small"}


def runs(*tests, **more):
    return {seed: a_run(seed=seed, test=[test] * 5, **more) for seed, test in enumerate(tests, start=1)}


def test_a_claim_of_parts():
    assert verdicts.all_of([HOLDS, HOLDS]) == HOLDS
    assert verdicts.all_of([HOLDS, UNDECIDED]) == UNDECIDED
    assert verdicts.all_of([UNDECIDED, FAILS, NO_DIFFERENCE]) == FAILS
    assert verdicts.all_of([HOLDS, UNDECIDED, NO_DIFFERENCE]) == NO_DIFFERENCE
    assert verdicts.all_of([]) == UNDECIDED


def clearly(times):
    """Two variants whose six differences are 0.02 apart, their mean `times` their standard error."""
    spread = (-0.02, 0.02, -0.02, 0.02, -0.02, 0.02)
    error = 0.02 * (6 / 5) ** 0.5 / 6 ** 0.5
    return {"a": runs(*(99 + times * error + x for x in spread)), "b": runs(*[99.0] * 6)}


def test_holms_correction():
    # With five degrees of freedom t is 4.03 at 0.01, 4.77 at 0.005, 5.25 at a third of 0.01.
    def found_of(*times):
        return {f"{side}{i}": pair[side] for i, pair in enumerate(map(clearly, times)) for side in "ab"}

    claims = [Claim(f"claim {i}", [Part("last5", f"a{i}", f"b{i}")]) for i in range(3)]
    questions = [(claim, claim.parts) for claim in claims]
    found = found_of(5.5, 5.0, 4.4)  # each at the level that is left for it
    assert verdicts.corrected(questions, found) == [HOLDS, HOLDS, HOLDS]
    found = found_of(5.5, 4.4, 4.4)  # the second would need 4.77
    assert verdicts.corrected(questions, found) == [HOLDS, UNDECIDED, UNDECIDED]
    assert [claim.verdict(found) for claim in claims] == [HOLDS, HOLDS, HOLDS]
    assert [row[-1] for row in verdicts.verdict_rows(claims, found)[1:]] == [
        "holds", *["holds (undecided with Holm's correction)"] * 2]


def test_two_measures_that_disagree_are_said_to():
    claim = Claim("It overfits.", [Part("gap", "a")], [Part("gap, eval", "a")])
    found = {"a": {seed: a_run(seed=seed, train=98.5 + seed / 1000, eval=99.8 + seed / 1000)
                   for seed in range(1, 7)}}
    assert verdicts.verdict_rows([claim], found)[1] == [
        "1", "It overfits.", "does not hold as printed, holds in eval mode"]
    assert verdicts.verdict_rows([claim], {"a": {}})[1] == ["1", "It overfits.", "undecided"]


def test_the_table_has_what_the_first_decisive_look_saw():
    found = {"a": runs(*[99.4] * 6, *[98.0] * 20), "b": runs(*[99.1] * 26)}
    (row,) = verdicts.table_rows([Claim("x", [Part("last5", "a", "b")])], found)[1:]
    assert row[3:] == ["99.400 ± 0.000", "99.100 ± 0.000", "+0.300 [+0.300, +0.300]", "4", "**holds**"]
    (row,) = verdicts.table_rows([Claim("x", [Part("last epoch at the target", "a", than=0.5)])], found)[1:]
    assert row[3:] == ["6 of 24", "", "0.25 [0.095, 0.513]", "24", "**undecided**"]


def test_the_table_without_any_run():
    rows = verdicts.table_rows(CLAIMS, {name: {} for name in VARIANTS})
    assert {row[-1] for row in rows[1:]} == {"no runs", "**no runs**", "**undecided**"}


def test_every_claim_is_there_and_names_variants():
    assert len(CLAIMS) == 14
    assert [i for i, claim in enumerate(CLAIMS, start=1) if claim.by_eval] == [1, 4, 9, 10]
    used = {name for claim in CLAIMS for part in claim.parts for name in (part.a, part.b)
            if isinstance(name, str)}
    assert used == set(VARIANTS) - AFTER_S5


def test_only_open_claims_need_more_runs():
    nothing = {name: {} for name in VARIANTS}
    assert set(undecided(nothing)) == set(VARIANTS) - AFTER_S5
    # Claim 3 is as clear as can be; step 2 itself is needed for others, its variant is not.
    clear = nothing | {"step2_dropout": runs(*[99.2] * 4), "step2_without_batch_norm": runs(*[98.0] * 4)}
    assert set(undecided(clear)) == set(undecided(nothing)) - {"step2_without_batch_norm"}


def test_no_runs_to_judge(tmp_path):
    assert_one_line(run(sys.executable, "-m", "study.claims", "--out-dir", tmp_path),
                    "study.claims: error: no finished run", tmp_path)
