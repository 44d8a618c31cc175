"""What all runs of a sweep say together: the ladder over seeds, the claims, the mistakes.

    python report.py --out-dir results

Reads the JSON files under seed1/, seed2/ and so on, and nothing else. Writes report.md with
its pictures, and report.html, one file with the pictures inside.
"""
import base64
import collections
import html
import statistics
import sys
from pathlib import Path

import checkpoint
import pictures
import robustness
from claims import CLAIMS, LADDER, STEPS, by_variant
from common import Parser
from evidence import MEASURES, RULE, disagreements, table_rows
from files import whole
from runs import load_runs, sweep_files
from tables import markdown, numeric

TITLE = "MNIST in four steps, over seeds"
MOST = 40  # digits in the table of those that most seeds get wrong


# --------------------------------------------------------------------- content


def content(runs, folder):
    """The report on `runs` as a list of blocks: ("heading" or "text" or "fixed", text), ("table", rows),
    ("picture", file name, what it shows). Draws the pictures into `folder`.
    """
    found, others = by_variant(runs)
    ladder = {step: [run for _, run in sorted(found[step].items())] for step in STEPS if found[step]}
    blocks = [("text", provenance(runs))]
    if others:
        blocks.append(("text", f"{len(others)} further runs are of no recipe that claims.py names, or of a seed "
                               "that is there twice, and are left out."))
    if ladder:
        draw(folder, "report_ladder.png", pictures.ladder, [
            {"step": step, "last": [MEASURES["test"](run) for run in some],
             "best": [MEASURES["best test"](run) for run in some],
             "published": some[0]["published"].get("best_test_accuracy")} for step, some in ladder.items()])
        shortest = {step: min(len(run["history"]) for run in some) for step, some in ladder.items()}
        draw(folder, "report_epochs.png", pictures.bands,
             {step: [run["history"][:shortest[step]] for run in some] for step, some in ladder.items()})
        blocks += [("heading", "The ladder"), ("table", ladder_rows(ladder)),
                   ("text", "Accuracies in percent: mean ± standard deviation over seeds (lowest to highest). "
                            "\"Last\" is the last epoch; \"best\" picks the best epoch by the test images themselves, "
                            "which flatters. Training minus test is of the last epoch: as printed, during the epoch; "
                            "eval, by the final weights on the plain training images. Multiply-adds are those of the "
                            "convolutions, for one image."),
                   *(("text", sentence) for sentence in outside(ladder)),
                   ("picture", "report_ladder.png", "Test accuracy of each step, a dot for each seed, with S5's figures"),
                   ("picture", "report_epochs.png", "Test accuracy against epoch, as a band over seeds for each step")]
    blocks += [("heading", "The claims"), ("table", table_rows(CLAIMS, found)), ("fixed", RULE),
               *(("text", sentence) for sentence in disagreements(CLAIMS, found))]
    if (folder / "robustness.json").exists():
        blocks += distortions(robustness.load(folder / "robustness.json"), folder)
    if LADDER[-1] in ladder:
        blocks += mistakes(ladder[LADDER[-1]], folder)
    return blocks + [("heading", "To repeat this"), ("fixed", REPEAT)]


REPEAT = """\
make -j2 claims     # all runs, two at a time; stop it and start it again as you like
make robustness     # the trained steps on distorted test images
make report"""


def provenance(runs):
    """How many runs, of how many epochs, on what, when."""
    def span(values):
        values = sorted(set(values))
        return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"

    def ranges(numbers):
        """As in "1 to 5, 11 to 20"."""
        numbers = sorted(set(numbers))
        starts = [n for n in numbers if n - 1 not in numbers]
        ends = [n for n in numbers if n + 1 not in numbers]
        return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends))

    def kinds(values):
        return ", ".join(f"{value} ({n} runs)" if n < len(runs) else str(value)
                         for value, n in collections.Counter(values).most_common())

    return (f"{len(runs)} runs of {span(len(run['history']) for run in runs)} epochs, "
            f"{'dry, ' if any(run['arguments']['dry_run'] for run in runs) else ''}"
            f"seeds {ranges(run['arguments']['seed'] for run in runs)}, made from {span(run['started'][:16] for run in runs)} "
            f"on {kinds(run['machine'] for run in runs)}; device {kinds(run['device'] for run in runs)}, threads "
            f"{kinds(run['threads'] for run in runs)}, torch {kinds(run['versions']['torch'] for run in runs)}.")


def ladder_rows(ladder):
    """The rows of the ladder's table; `ladder` maps a step to its runs."""
    rows = [["step", "parameters", "multiply-adds", "seeds", "last test", "best test", "S5 best test",
             "training - test, as printed", "eval", "seconds"]]
    for step, some in ladder.items():
        def cell(measure, digits):
            values = [measure(run) for run in some]
            if len(values) == 1:
                return f"{values[0]:.{digits}f}"
            return (f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f} "
                    f"({min(values):.{digits}f} to {max(values):.{digits}f})")

        published = some[0]["published"]
        rows.append([step, f"{some[0]['parameters']:,}", f"{some[0]['multiply_adds']:,}", str(len(some)),
                     cell(MEASURES["test"], 2), cell(MEASURES["best test"], 2),
                     f"{published['best_test_accuracy']:.2f}" if published else "-",
                     cell(MEASURES["gap"], 2), cell(MEASURES["gap, eval"], 2), cell(lambda run: run["seconds"], 0)])
    return rows


def outside(ladder):
    """A sentence for each figure of S5's that none of our seeds reaches, or all of them pass."""
    for step, some in ladder.items():
        if not some[0]["published"]:
            continue
        for split, measure in (("training", "best training"), ("test", "best test")):
            published = some[0]["published"]["best_test_accuracy" if split == "test" else "best_train_accuracy"]
            values = [MEASURES[measure](run) for run in some]
            low, high = round(min(values), 2), round(max(values), 2)
            if not low <= published <= high:
                yield (f"S5's best {split} accuracy of {step}, {published:.2f}, lies "
                       f"{'above' if published > high else 'below'} ours, {low:.2f} to {high:.2f} "
                       f"(seeds: {len(values)}).")


def mistakes(some, folder):
    """The blocks on what the runs `some` of one step get wrong: the digits most of them do, and the confusion matrix."""
    step, n = some[0]["step"], len(some)
    wrong = collections.defaultdict(list)
    for run in some:
        for image, true, predicted in run["mistakes"]:
            wrong[image, true].append(predicted)
    worst = sorted(wrong.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:MOST]
    rows = [["test image", "digit", "wrong in", "taken for"]]
    rows += [[str(image), str(true), f"{len(predicted)} of {n} seeds",
              ", ".join(f"{digit} ({count})" for digit, count in collections.Counter(predicted).most_common())]
             for (image, true), predicted in worst]
    all_of_them = sum(len(predicted) == n for predicted in wrong.values())
    draw(folder, "report_confusion.png", pictures.confusion, f"{step}: mistakes of {n} seeds added up",
         [(true, predicted) for run in some for _, true, predicted in run["mistakes"]])
    return [("heading", "The mistakes"),
            ("text", f"{len(wrong)} of the 10,000 test images are wrong in at least one of {n} runs of {step}, "
                     f"{all_of_them} in every one. Those that most seeds get wrong, at most {MOST} of them "
                     "(images counted from 0):"),
            ("table", rows),
            ("picture", "report_confusion.png", f"Which digit {step} takes for which, over all seeds")]


def distortions(accuracies, folder):
    """The blocks on what robustness.py has measured: step -> seed -> accuracies."""
    draw(folder, "report_robustness.png", pictures.robustness, robustness.DISTORTIONS,
         robustness.mean_accuracies(accuracies))
    return [("heading", "Images unlike those trained on"), ("table", robustness.table_rows(accuracies)),
            ("text", "Accuracy in percent of the final weights, mean over seeds ("
                     + ", ".join(f"{step}: {len(seeds)}" for step, seeds in accuracies.items()) + "), on the test images "
                     "each shifted up, down, left or right, or rotated either way, or with normal noise on every "
                     "pixel (full ink is 1), the same for every step."),
            ("picture", "report_robustness.png", "Accuracy of each step on shifted, rotated and noisy test images")]


def draw(folder, name, picture, *what):
    """Have `picture` draw `what` into the file `name` in `folder`."""
    with whole(folder / name) as path:
        picture(path, *what)


# ------------------------------------------------------------------- two forms


def as_markdown(blocks):
    """The blocks as Markdown, pictures by name."""
    forms = {"heading": "## {}\n".format, "text": "{}\n".format, "fixed": "```\n{}\n```\n".format, "table": markdown,
             "picture": lambda name, says: f"![{says}]({name})\n"}
    return "\n".join([f"# {TITLE}\n", *(forms[kind](*what) for kind, *what in blocks)])


STYLE = """body { font: 16px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 14px } img { max-width: 100% }
td, th { border-bottom: 1px solid #ccc; padding: .3em .6em; text-align: left; vertical-align: top }
.n { text-align: right; white-space: nowrap }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto } .wide { overflow-x: auto }"""


def as_html(blocks, folder):
    """The blocks as one HTML page, the pictures in `folder` inside it, so that it needs no other file and no network."""
    def table(rows):
        lines, right = [], numeric(rows)
        for i, row in enumerate(rows):
            tag = "td" if i else "th"
            cells = (html.escape(cell) for cell in row)
            cells = (f"<b>{cell[2:-2]}</b>" if cell.startswith("**") else cell for cell in cells)
            lines.append("<tr>" + "".join(f"<{tag}{' class=n' if number else ''}>{cell}</{tag}>"
                                          for cell, number in zip(cells, right)) + "</tr>")
        return "<div class=wide><table>\n" + "\n".join(lines) + "\n</table></div>"

    def picture(name, says):
        data = base64.b64encode((folder / name).read_bytes()).decode()
        return f'<p><img alt="{html.escape(says)}" src="data:image/png;base64,{data}"></p>'

    forms = {"heading": lambda text: f"<h2>{html.escape(text)}</h2>", "text": lambda text: f"<p>{html.escape(text)}</p>",
             "fixed": lambda text: f"<pre>{html.escape(text)}</pre>", "table": table, "picture": picture}
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">',
        # Nothing but what is in the file may be loaded, should anything ever ask.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>{TITLE}</title>\n<style>{STYLE}</style>\n<h1>{TITLE}</h1>",
        *(forms[kind](*what) for kind, *what in blocks), "</html>\n"])


def main():
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out-dir", default="results", metavar="DIR",
                        help="folder of the sweep, where the report goes too (default: results)")
    folder = Path(parser.parse_args().out_dir)
    runs, strangers = load_runs(sweep_files(folder), "report.py")
    if not runs:
        sys.exit(f"report.py: error: no finished run in {folder}/seed*")
    try:
        blocks = content(runs, folder)
        with whole(folder / "report.md") as path:
            path.write_text(as_markdown(blocks))
        with whole(folder / "report.html") as path:
            path.write_text(as_html(blocks, folder))
    except (OSError, checkpoint.Damaged) as error:
        sys.exit(f"report.py: error: {error}")
    print(f"Written: {folder / 'report.md'} {folder / 'report.html'} and {folder}/report_*.png")
    sys.exit(1 if strangers else 0)


if __name__ == "__main__":
    main()
