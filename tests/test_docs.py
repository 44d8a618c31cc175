"""What README, docstrings and docs/ say is what the runs in docs/runs say."""
import ast
import shutil
import statistics
import sys

import pytest

import claims
import report
from conftest import LADDER, ROOT, STEPS, run
from evidence import MEASURES, verdict_rows
from runs import load_runs, sweep_files
from tables import markdown

RUNS = ROOT / "docs" / "runs"


@pytest.fixture(scope="module")
def found():
    runs, strangers = load_runs(sweep_files(RUNS), "test_docs.py")
    found, others = claims.by_variant(runs)
    assert not strangers and not others
    return found


def test_every_variant_ran_over_the_five_seeds_with_the_code_of_now(found):
    for name, variant in claims.VARIANTS.items():
        if variant.step in LADDER:
            assert sorted(found[name]) == [1, 2, 3, 4, 5], name
        for seed, one in found[name].items():
            assert one["recipe"] == variant.recipe() and len(one["history"]) == 15, (name, seed)
            assert variant.matches(one, variant.arguments("--seed", str(seed)))


def test_the_report_in_docs_is_that_of_its_runs(tmp_path):
    copy = shutil.copytree(RUNS, tmp_path / "runs")
    committed = (copy / "report.md").read_text()
    (copy / "report.md").unlink()
    process = run(sys.executable, ROOT / "report.py", "--out-dir", copy)
    assert process.returncode == 0, process.stderr
    assert (copy / "report.md").read_text() == committed


def test_the_readme_has_the_ladder_and_the_verdicts_of_the_report(found):
    text = (ROOT / "README.md").read_text()
    assert markdown(verdict_rows(claims.CLAIMS, found)) in text
    ladder = {step: [one for _, one in sorted(found[step].items())] for step in STEPS if found[step]}
    assert markdown(report.ladder_rows(ladder)) in text


@pytest.mark.parametrize("step", LADDER)
def test_a_docstring_quotes_the_figures_of_its_runs(step, found):
    words = " ".join(ast.get_docstring(ast.parse((ROOT / f"{step}.py").read_text())).split())
    some = found[step].values()
    assert f"{len(some)} seeds" in words
    for measure in ("best training", "best test", "test"):
        values = [MEASURES[measure](one) for one in some]
        assert f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}" in words, measure
