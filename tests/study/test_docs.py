"""The tables and figures of README, docs/ and docstrings are those of the runs in docs/runs."""
import ast
import json
import re
import shutil
import statistics
import sys

import pytest
from conftest import run

from study import frontier, report, robustness
from study.claims import CLAIMS
from study.compare import SAID
from study.evidence import MARGINS, MEASURES, last, simulate
from study.tables import markdown
from study.variants import LADDER, ROOT, VARIANTS, WIDTHS, by_variant, load_runs, sweep_files
from study.verdicts import comparisons, verdict_rows

RUNS = ROOT / "docs" / "runs"
STEPS = (*LADDER, "step5_beyond", "step6_fast", "step7_small")
LOOK = 24  # seeds that open claims have been judged by; what only decided ones need has fewer
SEEDS = {"step5_beyond": range(21, 31), "step6_fast": range(41, 51), "step7_small": range(51, 61),
         "step2_without_batch_norm": range(1, 11), "step4_gamma_1": range(1, 11)}
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def found():
    runs, unreadable = load_runs(sweep_files(RUNS))
    found, others = by_variant(runs)
    assert not unreadable and not others
    return found


@pytest.fixture(scope="module")
def widths():
    """Variant of WIDTHS -> seed -> run."""
    return by_variant(load_runs(sweep_files(RUNS / "frontier"))[0], WIDTHS)[0]


def last_tests(runs):
    return [last(one) for one in runs]


def docstring(step):
    """The docstring of a step's script, as one line."""
    return " ".join(ast.get_docstring(ast.parse((ROOT / f"{step}.py").read_text())).split())


def mean_sd(values, digits=2):
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def rows(text):
    """The cells of every row of every table in `text`, without links."""
    return [[re.sub(r"\[(.+?)\]\(.+?\)", r"\1", cell.strip()) for cell in line.strip("|").split("|")]
            for line in text.splitlines() if line.startswith("|")]


def test_every_variant_ran_over_its_seeds_with_the_code_of_now(found):
    for name in {*STEPS, *(name for name in VARIANTS if found[name])}:
        variant, facts = VARIANTS[name], VARIANTS[name].facts()
        assert sorted(found[name]) == list(SEEDS.get(name, range(1, LOOK + 1))), name
        for seed, one in found[name].items():
            assert one["recipe"] == facts["recipe"], (name, seed)
            assert len(one["history"]) == facts["arguments"]["epochs"], (name, seed)
            assert variant.matches(one, variant.facts("--seed", str(seed)))
    assert {name for claim in CLAIMS for part in claim.parts for name in (part.a, part.b)
            if isinstance(name, str)} <= {name for name in found if found[name]}


@pytest.mark.slow
def test_the_report_in_docs_is_that_of_its_runs(tmp_path):
    copy = shutil.copytree(RUNS, tmp_path / "runs")
    committed = (copy / "report.md").read_text()
    (copy / "report.md").unlink()
    process = run(sys.executable, "-m", "study.report", "--out-dir", copy)
    assert process.returncode == 0, process.stderr
    assert (copy / "report.md").read_text() == committed


def test_the_readme_has_the_figures_of_the_steps(found):
    table = {row[0]: row for row in rows(README)}
    for number, step in enumerate(STEPS, start=1):
        runs = list(found[step].values())
        _, _, parameters, accuracy, seeds, _ = table[str(number)]
        assert parameters == f"{runs[0]['parameters']:,}" and seeds == str(len(runs))
        assert accuracy == mean_sd(last_tests(runs)), step


def test_the_readme_has_the_verdicts(found):
    numbers = {}
    for number, _, verdict in verdict_rows(CLAIMS, found)[1:]:
        numbers.setdefault(verdict, []).append(number)
    start = next(i for i, row in enumerate(rows(README)) if row == ["verdict", "claims"])
    table = rows(README)[start + 2:][:len(numbers)]
    assert table == [[verdict, ", ".join(n)] for verdict, n in numbers.items()]


def test_the_ladder_and_the_verdicts_in_docs(found):
    text = (ROOT / "docs" / "reproduce.md").read_text()
    ladder = {step: [one for _, one in sorted(found[step].items())] for step in STEPS}
    assert markdown(report.ladder_rows(ladder)) in text
    assert markdown(verdict_rows(CLAIMS, found)) in text


@pytest.mark.slow
def test_what_to_expect_of_a_comparison():
    rows = [["measure", "true difference", "better", "worse", "no difference that matters", "undecided",
             "pairs (median)"]]
    for measure, (_, unit, _, spread) in SAID.items():
        for difference in (0, 0.02, 0.05, 0.1, 0.2) if unit == "points" else ():
            shares, pairs = simulate(difference, spread, MARGINS[measure])
            rows.append([measure, f"{difference:.2f}", *(f"{share:.1%}" for share in shares.values()),
                         f"{pairs:g}"])
    assert markdown(rows) in (ROOT / "docs" / "reproduce.md").read_text()


def test_step_5_in_docs(found):
    text = (ROOT / "docs" / "beyond.md").read_text()
    logs = [(RUNS / f"seed{seed}" / "step5_beyond.log").read_text() for seed in range(21, 31)]
    # As the logs of that day called it.
    without = [float(re.findall(r"looking once:\n.*\(([\d.]+)%\)", log)[-1]) for log in logs]
    before, _ = load_runs(sweep_files(RUNS / "looking_once"))
    for seeds, augmented, values in (("11 to 20", "no", last_tests(before)), ("21 to 30", "no", without),
                                     ("21 to 30", "yes", last_tests(found["step5_beyond"].values()))):
        assert len(values) == 10
        assert [seeds, augmented, mean_sd(values), f"{min(values):.2f}", f"{max(values):.2f}"] in rows(text)
    assert f"without test-time augmentation {mean_sd(without)}" in docstring("step5_beyond")


def test_step_6_in_docs(found):
    runs = found["step6_fast"].values()
    assert {one["threads"] for one in runs} == {2}
    logs = [(RUNS / f"seed{seed}" / "step6_fast.log").read_text() for seed in SEEDS["step6_fast"]]
    seconds = [float(re.findall(r"Training took ([\d.]+) s for 3 epochs", log)[0]) for log in logs]
    assert statistics.fmean(last_tests(runs)) >= 99.4 and statistics.fmean(seconds) <= 12
    took = f"{statistics.fmean(seconds):.1f} seconds", f"({min(seconds)} to {max(seconds)})"
    assert " ".join(took) in docstring("step6_fast")
    text = " ".join((ROOT / "docs" / "beyond.md").read_text().split())
    for figure in (f"{statistics.fmean(last_tests(runs)):.3f} %", *took):
        assert figure in text


def test_the_same_experiment_as_in_the_notebooks(found):
    text = (ROOT / "docs" / "speed.md").read_text()
    notebook = [json.loads(path.read_text()) for path in (RUNS / "notebook").glob("*.json")]
    assert {one["seed"] for one in notebook} == set(range(1, 6))
    ours = [found["step4_aug_lr"][seed] for seed in range(1, 6)]
    for what, of in (("last test", lambda history: history[-1]["test_accuracy"]),
                     ("best test", lambda history: max(epoch["test_accuracy"] for epoch in history)),
                     ("last train", lambda history: history[-1]["train_accuracy"])):
        values = [[of(one["history"]) for one in runs] for runs in (ours, notebook)]
        cells = [f"{statistics.fmean(a):.3f} ± {statistics.stdev(a) / 5 ** 0.5:.3f}" for a in values]
        assert f"| {what} accuracy | {' | '.join(cells)} |" in text


def test_the_frontier_in_docs(found):
    runs, unreadable = load_runs(sweep_files(RUNS / "frontier"))
    assert not unreadable
    assert {(one["step"], one["recipe"]) for one in runs} == {
        (step, VARIANTS[step].facts()["recipe"]) for step in ("step5_beyond", "step7_small")}
    assert {len(one["history"]) for one in runs} == {15}
    sizes = frontier.by_size([*runs, *found["step5_beyond"].values(), *found["step7_small"].values()])
    for step in ("step5_beyond", "step7_small"):
        assert len(sizes[step]) == sum(variant.step == step for variant in WIDTHS.values())
        assert min(map(len, sizes[step].values())) == 5
    text = (ROOT / "docs" / "beyond.md").read_text()
    assert markdown(frontier.table_rows(sizes)) in text
    for goal in frontier.GOALS:
        assert frontier.smallest(sizes, goal) in " ".join(text.split())  # one sentence of a paragraph
    for parameters, accuracy, kind, whose in frontier.PUBLIC:
        assert [f"{parameters:,}", f"{accuracy:.2f}", f"{kind} ({whose})"] in rows(text)


def test_step_7_in_docs(found, widths):
    runs, words = list(found["step7_small"].values()), docstring("step7_small")
    medium = widths["step7_width_1.9"]
    assert sorted(medium) == list(SEEDS["step7_small"])
    text = " ".join((ROOT / "docs" / "beyond.md").read_text().split())
    for of_size, goal in ((runs, 99.0), (list(medium.values()), 99.4)):
        values, without = last_tests(of_size), [one["test_accuracy_without_tta"] for one in of_size]
        assert statistics.fmean(values) >= goal
        assert mean_sd(values) in words and mean_sd(without) in words
        assert f"{of_size[0]['parameters']:,} parameters" in words
        assert f"{statistics.fmean(values):.3f} % ({min(values):.2f} to {max(values):.2f})" in text


def test_step_7_in_the_size_of_step_5_in_docs(widths):
    text, words = (ROOT / "docs" / "beyond.md").read_text(), docstring("step7_small")
    wide = widths["step7_width_4.67"]
    assert sorted(wide) == list(range(31, 41))
    runs = wide.values()
    values, without = last_tests(runs), [one["test_accuracy_without_tta"] for one in runs]
    losses = [one["history"][-1]["test_loss"] for one in runs]
    assert ["step 7, seeds 31 to 40", "7,938", mean_sd(values, 3), f"{min(values):.2f}", f"{max(values):.2f}",
            mean_sd(without, 3), mean_sd(losses, 4)] in rows(text)
    assert mean_sd(values) in words and f"7,938 parameters {mean_sd(without)}" in words
    wrong = [{image for image, *_ in one["mistakes"]} for one in runs]
    always, ever = len(set.intersection(*wrong)), len(set.union(*wrong))
    assert f"{always} images are wrong in all ten runs, and {ever} in at least" in " ".join(text.split())


def test_robustness_in_docs():
    accuracies = robustness.load(RUNS / robustness.FILE)
    assert markdown(robustness.table_rows(accuracies)) in (ROOT / "docs" / "beyond.md").read_text()


@pytest.mark.parametrize("step", STEPS)
def test_a_docstring_quotes_the_figures_of_its_runs(step, found):
    words, runs = docstring(step), found[step].values()
    assert f"{len(runs)} seeds" in words
    for measure in ("best training", "best test", "last"):
        assert mean_sd([MEASURES[measure](one) for one in runs]) in words, measure


def test_an_analysis_quotes_what_came_of_its_claims(found):
    differences = {label.split("  ")[0]: (abs(difference), *bounds, (bounds[1] - bounds[0]) / 2)
                   for label, difference, bounds, *_ in comparisons(CLAIMS, found)}

    def mean(name, measure):
        return statistics.fmean(map(MEASURES.get(measure, measure), found[name].values()))

    def eval_accuracy(one):
        return one["train_accuracy_eval"]

    step4 = found["step4_aug_lr"].values()
    quoted = {
        "step1_basic": [
            f"training accuracy is {mean('step1_basic', report.last_gap):.2f} points above test",
            f"changes by {mean('step1_lr_0.00333', 'fluctuation'):.2f} points with a third of that rate, "
            f"and by {mean('step1_basic', 'fluctuation'):.2f} with all of it",
            f"it is {mean('step1_basic', 'last5') - mean('step1_lr_0.00333', 'last5'):.2f} lower"],
        "step2_dropout": [
            f"ends {-mean('step2_dropout', report.last_gap):.2f} points below test",
            f"it would end {mean('step2_dropout_0', report.last_gap):.2f} above",
            f"reach {mean('step2_dropout', eval_accuracy):.2f} on the same images, "
            f"{mean('step2_dropout', 'gap, eval'):.2f} above test",
            "it is {:.3f} higher, and the 99 % interval, from {:.3f} to {:.3f}".format(*differences["5"]),
            f"without it test accuracy is {differences['3'][0]:.2f} lower",
            f"Pooling in its place costs {differences['6'][0]:.2f} points"],
        "step3_gap": [
            f"to {mean('step3_gap', 'best training'):.2f}, against "
            f"{mean('step3_dropout_0.1', 'best training'):.2f} with 0.1",
            f"{mean('step3_dropout_0.1', 'last5'):.2f} over the last five epochs, {differences['7a'][0]:.2f} "
            f"above that without the added capacity, and {differences['7b'][0]:.2f} below step 2",
            f"{mean('step3_gap', 'gap, eval'):.2f} points above test",
            "the difference is {0:.2f}, with a 99 % interval of ± {3:.2f}".format(*differences["9b"])],
        "step4_aug_lr": [
            f"by {sum(map(MEASURES['last epoch at the target'], step4))} of {len(step4)} seeds "
            f"({min(map(last, step4)):.2f} to {max(map(last, step4)):.2f}); "
            f"{sum(map(MEASURES['last three epochs at the target'], step4))} hold it for the last three",
            f"changes by {mean('step4_aug_lr', 'fluctuation'):.2f} points, against "
            f"{mean('step4_gamma_1', 'fluctuation'):.2f} with the rate held",
            f"the same schedule from 0.01 is {differences['12c'][0]:.2f} lower",
            "it is {0:.2f} higher, with a 99 % interval of ± {3:.2f}".format(*differences["11"]),
            f"reach {mean('step4_aug_lr', eval_accuracy):.2f} on the plain training images, "
            f"{mean('step4_aug_lr', 'gap, eval'):.2f} above test"]}
    for step, quotes in quoted.items():
        for quote in quotes:
            assert quote in docstring(step), step


def test_the_readme_is_one_page_and_its_links_lead_somewhere():
    assert len(README) <= 9000
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), RUNS / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
