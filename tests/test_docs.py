"""What README, docstrings and docs/ say is what the runs in docs/runs say."""
import ast
import re
import shutil
import statistics
import sys

import pytest

import claims
import frontier
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


def test_every_variant_ran_over_its_seeds_with_the_code_of_now(found):
    for name, variant in claims.VARIANTS.items():
        seeds = range(1, 6) if variant.step in LADDER else range(21, 31)
        assert sorted(found[name]) == list(seeds), name
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


@pytest.mark.parametrize("step", ("step4_aug_lr", "step5_beyond"))
def test_the_readme_begins_with_the_measured_sentences(step, found):
    intro = " ".join((ROOT / "README.md").read_text().split("\n## ")[0].split())
    values = [MEASURES["test"](one) for one in found[step].values()]
    seeds = {5: "five", 10: "ten"}[len(values)]
    assert re.search(rf"{statistics.fmean(values):.2f} %[^.]*\b{seeds}\b[^.]* {min(values):.2f} to {max(values):.2f}",
                     intro), (step, intro)


def test_what_one_look_reads_is_what_the_logs_say(found):
    last = [re.findall(r"looking once:\n.*\(([\d.]+)%\)", (RUNS / f"seed{seed}" / "step5_beyond.log").read_text())[-1]
            for seed in found["step5_beyond"]]
    once, _ = load_runs(sweep_files(RUNS / "looking_once"), "test_docs.py")
    before = [MEASURES["test"](one) for one in once]
    readme = " ".join((ROOT / "README.md").read_text().split())
    docstring = " ".join(ast.get_docstring(ast.parse((ROOT / "step5_beyond.py").read_text())).split())
    for values, words in ((list(map(float, last)), r"looking once, get"), (before, r"of the same recipe looking once, and they got")):
        figures = f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
        assert len(values) == 10 and f"{words} {figures}" in readme
    assert f"looking once {statistics.fmean(map(float, last)):.2f} ± {statistics.stdev(map(float, last)):.2f}" in docstring


def test_the_readme_has_the_frontier_of_the_runs():
    runs, strangers = load_runs(sweep_files(RUNS / "frontier"), "test_docs.py")
    assert not strangers and len(runs) == 3 * len(frontier.VARIANTS)
    assert {one["recipe"] for one in runs} == {frontier.VARIANTS["width_1"].recipe()}
    assert {len(one["history"]) for one in runs} == {15}
    sizes, text = frontier.by_size(runs), (ROOT / "README.md").read_text()
    assert all(len(accuracies) == 3 for accuracies in sizes.values())
    assert markdown(frontier.table_rows(sizes)) in text and frontier.smallest(sizes) in " ".join(text.split())


def test_the_readme_has_the_ladder_and_the_verdicts_of_the_report(found):
    text = (ROOT / "README.md").read_text()
    assert markdown(verdict_rows(claims.CLAIMS, found)) in text
    ladder = {step: [one for _, one in sorted(found[step].items())] for step in STEPS if found[step]}
    assert markdown(report.ladder_rows(ladder)) in text


@pytest.mark.parametrize("step", STEPS)
def test_a_docstring_quotes_the_figures_of_its_runs(step, found):
    words = " ".join(ast.get_docstring(ast.parse((ROOT / f"{step}.py").read_text())).split())
    some = found[step].values()
    assert f"{len(some)} seeds" in words
    for measure in ("best training", "best test", "test"):
        values = [MEASURES[measure](one) for one in some]
        assert f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}" in words, measure
