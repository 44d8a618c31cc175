"""The results of all runs of a sweep: the ladder over seeds, the claims, the mistakes.

    python -m study.report --out-dir results

Writes report.md with its pictures, and report.html, one file with the pictures inside.
"""
import base64
import collections
import html
import statistics
import sys

from harness import cli
from harness.files import atomic_write
from harness.mnist import DISPUTED
from study import plots, robustness
from study.claims import CLAIMS
from study.evidence import MEASURES, last
from study.tables import markdown, numeric
from study.variants import LADDER, STEPS, by_variant, load_runs, sweep_files
from study.verdicts import RULE, comparisons, table_rows, verdict_rows

TITLE = "MNIST in four steps, over seeds"
MOST = 40  # digits in the table of those that most seeds get wrong
LADDER_NOTE = """\
Accuracies in percent: mean ± standard deviation over seeds (lowest to highest). "Last" is the last epoch;
"best" picks the best epoch by the test images themselves, which is too optimistic. "Training - test" is that
of the last epoch: as printed during the epoch, and (eval) by the final weights on the plain training images.
Multiply-adds are those of the convolutions, for one image."""
DISTORTIONS_NOTE = """\
Accuracy in percent of the final weights, mean over seeds ({}), on the test images each shifted up, down,
left or right, or rotated either way, or with normal noise on every pixel (full ink is 1), the same for every
step."""
DISPUTED_NOTE = """\
The labels of {} test images are wrong, or annotators disagree on them (Northcutt, Athalye and Mueller 2021,
"Pervasive label errors in test sets", arXiv:2103.14749): they are marked as disputed. Of the images here that
at least one run gets wrong, {} of {} are among them. Last test accuracy is {:.2f} % on average; without the
disputed images it would be {:.2f} %."""
REPEAT = """\
make sweep JOBS=2      # the steps, seeds 1 to 5, two at a time; stop and start it as you like
make claims JOBS=2     # what the claims need, up to 24 seeds
make robustness        # the trained steps on distorted test images
make report"""


def content(runs, folder):
    """The report on `runs` as a list of blocks. Draws the pictures into `folder`.

    A block is ("heading" or "text" or "fixed", text), ("table", rows) or ("picture", file name, caption).
    """
    found, others = by_variant(runs)
    ladder = {step: [run for _, run in sorted(found[step].items())] for step in STEPS if found[step]}
    blocks = [("text", provenance(runs))]
    if others:
        blocks.append(("text", f"{len(others)} further runs are left out: their recipe is not in "
                               "study/variants.py, or their seed occurs twice."))
    if ladder:
        plots.ladder(folder / "report_ladder.png", [
            {"step": step, "parameters": runs[0]["parameters"], "last": [last(run) for run in runs],
             "best": [MEASURES["best test"](run) for run in runs],
             "published": runs[0]["published"].get("best_test_accuracy")} for step, runs in ladder.items()])
        histories = {step: [run["history"] for run in runs] for step, runs in ladder.items()}
        plots.bands(folder / "report_epochs.png", histories)
        blocks += [("heading", "The ladder"), ("table", ladder_rows(ladder)), ("text", LADDER_NOTE),
                   *(("text", sentence) for sentence in outside(ladder)),
                   ("picture", "report_ladder.png",
                    "Test accuracy of each step, a dot for each seed, with S5's figures"),
                   ("picture", "report_epochs.png",
                    "Test accuracy against epoch, a band over seeds for each step")]
    blocks.append(("heading", "The claims"))
    if forest := list(comparisons(CLAIMS, found)):
        plots.forest(folder / "report_claims.png", forest)
        blocks.append(("picture", "report_claims.png",
                       "What each claim compares: the difference, its interval, and the verdict"))
    blocks += [("table", verdict_rows(CLAIMS, found)),
               ("heading", "What was compared"), ("table", table_rows(CLAIMS, found)), ("fixed", RULE)]
    if (folder / robustness.FILE).exists():
        blocks += distortions(robustness.load(folder / robustness.FILE), folder)
    if LADDER[-1] in ladder:
        blocks += mistakes(ladder[LADDER[-1]], folder)
    return blocks + [("heading", "To repeat this"), ("fixed", REPEAT)]


def provenance(runs):
    """How many runs, of how many epochs, on what, when."""
    def ranges(numbers):
        """As in "1 to 5, 11 to 20"."""
        numbers = sorted(set(numbers))
        starts = [n for n in numbers if n - 1 not in numbers]
        ends = [n for n in numbers if n + 1 not in numbers]
        return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True))

    def kinds(values):
        return ", ".join(f"{value} ({n} runs)" if n < len(runs) else str(value)
                         for value, n in collections.Counter(values).most_common())

    started = [run["started"][:16] for run in runs]
    machine, device, threads = (kinds(run[key] for run in runs) for key in ("machine", "device", "threads"))
    return (f"{len(runs)} runs of {ranges(len(run['history']) for run in runs)} epochs, seeds "
            f"{ranges(run['arguments']['seed'] for run in runs)}, made from {min(started)} to {max(started)} "
            f"on {machine}; device {device}, threads {threads}, torch "
            f"{kinds(run['versions']['torch'] for run in runs)}.")


def mean_sd_range(values, digits=2):
    """The mean of `values` ± their standard deviation, and the range, as text; one value as it is."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return (f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f} "
            f"({min(values):.{digits}f} to {max(values):.{digits}f})")


def last_gap(run):
    """Training minus test accuracy of the last epoch, as printed."""
    return run["history"][-1]["train_accuracy"] - last(run)


def ladder_rows(ladder):
    """The rows of the ladder's table; `ladder` maps a step to its runs."""
    rows = [["step", "parameters", "multiply-adds", "seeds", "last test", "best test", "S5 best test",
             "training - test, as printed", "eval"]]
    for step, runs in ladder.items():
        figures = last, MEASURES["best test"], last_gap, MEASURES["gap, eval"]
        last_test, top, gap, gap_eval = (mean_sd_range(list(map(figure, runs))) for figure in figures)
        published = runs[0]["published"]
        rows.append([step, f"{runs[0]['parameters']:,}", f"{runs[0]['multiply_adds']:,}", str(len(runs)),
                     last_test, top, f"{published['best_test_accuracy']:.2f}" if published else "-", gap,
                     gap_eval])
    return rows


def outside(ladder):
    """A sentence for each figure of S5's that none of our seeds reaches, or all of them pass."""
    for step, runs in ladder.items():
        for split, figure, measure in (("training", "best_train_accuracy", "best training"),
                                       ("test", "best_test_accuracy", "best test")):
            published = runs[0]["published"].get(figure)
            values = [round(MEASURES[measure](run), 2) for run in runs]
            if published and not min(values) <= published <= max(values):
                yield (f"S5's best {split} accuracy of {step}, {published:.2f}, lies "
                       f"{'above' if published > max(values) else 'below'} ours, {min(values):.2f} to "
                       f"{max(values):.2f} (seeds: {len(values)}).")


def mistakes(runs, folder):
    """The blocks on what the `runs` of one step get wrong: the hardest digits, and the confusion matrix."""
    step, n = runs[0]["step"], len(runs)
    wrong = collections.defaultdict(list)
    for run in runs:
        for image, true, predicted in run["mistakes"]:
            wrong[image, true].append(predicted)
    worst = sorted(wrong.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:MOST]
    rows = [["test image", "digit", "wrong in", "taken for", "label"]]
    for (image, true), predicted in worst:
        taken_for = (f"{digit} ({count})" for digit, count in collections.Counter(predicted).most_common())
        rows.append([str(image), str(true), f"{len(predicted)} of {n} seeds", ", ".join(taken_for),
                     "disputed" * (image in DISPUTED)])
    all_of_them = sum(len(predicted) == n for predicted in wrong.values())
    disputed = [image for image, _ in wrong if image in DISPUTED]
    usual = statistics.fmean(100 - len(run["mistakes"]) / 100 for run in runs)
    without = statistics.fmean(100 - 100 * sum(image not in DISPUTED for image, *_ in run["mistakes"])
                               / (10_000 - len(DISPUTED)) for run in runs)
    pairs = [(true, predicted) for run in runs for _, true, predicted in run["mistakes"]]
    plots.confusion(folder / "report_confusion.png", f"{step}: mistakes of {n} seeds added up", pairs)
    return [("heading", "The mistakes"),
            ("text", f"{len(wrong)} of the 10,000 test images are wrong in at least one of {n} runs of "
                     f"{step}, {all_of_them} in every one. Those that most seeds get wrong, at most {MOST} "
                     "of them (images counted from 0):"),
            ("table", rows),
            ("text", DISPUTED_NOTE.format(len(DISPUTED), len(disputed), len(wrong), usual, without)),
            ("picture", "report_confusion.png", f"Which digit {step} takes for which, over all seeds")]


def distortions(accuracies, folder):
    """The blocks on what study.robustness has measured: step -> seed -> accuracies."""
    means = robustness.mean_accuracies(accuracies)
    plots.robustness(folder / "report_robustness.png", robustness.DISTORTIONS, means)
    seeds = ", ".join(f"{step}: {len(seeds)}" for step, seeds in accuracies.items())
    return [("heading", "Distorted test images"), ("table", robustness.table_rows(accuracies)),
            ("text", DISTORTIONS_NOTE.format(seeds)),
            ("picture", "report_robustness.png",
             "Accuracy of each step on shifted, rotated and noisy test images")]


def as_markdown(blocks):
    """The blocks as Markdown, pictures by name."""
    forms = {"heading": "## {}\n".format, "text": "{}\n".format, "fixed": "```\n{}\n```\n".format,
             "table": markdown, "picture": lambda name, says: f"![{says}]({name})\n"}
    return "\n".join([f"# {TITLE}\n", *(forms[kind](*what) for kind, *what in blocks)])


STYLE = """body { font: 16px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 14px } img { max-width: 100% }
td, th { border-bottom: 1px solid #ccc; padding: .3em .6em; text-align: left; vertical-align: top }
.n { text-align: right; white-space: nowrap }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto } .wide { overflow-x: auto }"""


def as_html(blocks, folder):
    """The blocks as one HTML page that needs no other file: the pictures in `folder` are inside."""
    def table(rows):
        lines, right = [], numeric(rows)
        for i, row in enumerate(rows):
            tag = "td" if i else "th"
            cells = (html.escape(cell) for cell in row)
            cells = (f"<b>{cell[2:-2]}</b>" if cell.startswith("**") else cell for cell in cells)
            lines.append("<tr>" + "".join(f"<{tag}{' class=n' if number else ''}>{cell}</{tag}>"
                                          for cell, number in zip(cells, right, strict=True)) + "</tr>")
        return "<div class=wide><table>\n" + "\n".join(lines) + "\n</table></div>"

    def picture(name, says):
        data = base64.b64encode((folder / name).read_bytes()).decode()
        return f'<p><img alt="{html.escape(says)}" src="data:image/png;base64,{data}"></p>'

    def element(tag):
        return lambda text: f"<{tag}>{html.escape(text)}</{tag}>"

    forms = {"heading": element("h2"), "text": element("p"), "fixed": element("pre"),
             "table": table, "picture": picture}
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">',
        f"<title>{TITLE}</title>\n<style>{STYLE}</style>\n<h1>{TITLE}</h1>",
        *(forms[kind](*what) for kind, *what in blocks), "</html>\n"])


def main():
    folder = cli.out_dir(__doc__, "folder of the sweep, where the report goes too")
    runs, unreadable = load_runs(sweep_files(folder))
    if not runs:
        raise cli.UserError(f"no finished run in {folder}/seed*")
    blocks = content(runs, folder)
    with atomic_write(folder / "report.md") as path:
        path.write_text(as_markdown(blocks), encoding="utf-8")
    with atomic_write(folder / "report.html") as path:
        path.write_text(as_html(blocks, folder), encoding="utf-8")
    print(f"Written: {folder / 'report.md'} {folder / 'report.html'} and {folder}/report_*.png")
    sys.exit(1 if unreadable else 0)


if __name__ == "__main__":
    cli.run(main)
