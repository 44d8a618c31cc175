"""What many runs say together: one table and one picture of all runs in a folder.

    python report.py --out-dir results

Reads every run's JSON file there, prints the table, and writes it to
`summary.md` and the test-accuracy curves, laid over each other, to `summary.png`.
"""
import argparse
import json
import re
import sys
from pathlib import Path

from matplotlib.figure import Figure

import checkpoint
from files import whole
from pictures import accuracy_axis, epoch_axis
from records import best

# From light to dark along the ladder, each with a mark of its own: told apart in grey too.
STYLES = [("#e8a33d", "s", ":"), ("#d1603d", "^", "-."), ("#4f7fb5", "D", "--"), ("#14265c", "o", "-")]


RUN = {"step": str, "parameters": int, "arguments": dict, "seconds": float, "published": dict, "history": list}
LARGEST = 2 ** 22  # bytes; a run of 15 epochs has some 10 KB


def load_runs(folder):
    """The runs whose JSON files lie in `folder`, as a list of dicts in the order of their names.

    Returns them, and how many files were no run's: each is left out, with a line on stderr.
    """
    runs, strangers = [], 0
    for path in sorted(Path(folder).glob("*.json")):
        try:
            runs.append(load_run(path))
        except (OSError, checkpoint.Damaged) as error:
            print(f"report.py: {path} is no finished run of a step, left out: {error}", file=sys.stderr)
            strangers += 1
    return runs, strangers


def load_run(path):
    """The dict in a run's JSON file, everything that is used of it checked.

    Raises checkpoint.Damaged if it is another kind of file, OSError if it cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise checkpoint.Damaged("it is far too large")
    try:
        run = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise checkpoint.Damaged("it is not JSON, or cut off") from None
    checkpoint.check(run, RUN)
    checkpoint.check(run["arguments"], {"dry_run": bool})
    checkpoint.check(run["published"], {"best_train_accuracy": float, "best_test_accuracy": float})
    checkpoint.check_history(run["history"])
    if not re.fullmatch(r"\w+", run["step"]) or not 0 <= run["parameters"] < 2 ** 53:
        raise checkpoint.Damaged("its step or its parameters are not what they should be")
    return run


HEADINGS = ["step", "parameters", "best train (epoch)", "last train", "best test (epoch)", "last test",
            "S5 best train", "S5 best test", "epochs", "minutes"]


def row(run):
    """One row of the table as a list of strings, from a run's JSON; accuracies in percent."""
    history, published = run["history"], run["published"]
    cells = [run["step"], f"{run['parameters']:,}"]
    for split in ("train_accuracy", "test_accuracy"):
        top = best(history, split)
        cells += [f"{top[split]:.2f} ({top['epoch']})", f"{history[-1][split]:.2f}"]
    cells += [f"{published['best_train_accuracy']:.2f}", f"{published['best_test_accuracy']:.2f}",
              f"{len(history)}{' (dry run)' if run['arguments']['dry_run'] else ''}",
              f"{run['seconds'] / 60:.1f}"]
    return cells


def table(runs):
    """A Markdown table of all `runs`, its columns aligned so that it reads well unrendered too."""
    rows = [HEADINGS] + [row(run) for run in runs]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(HEADINGS))]

    def line(cells):
        return "| " + " | ".join([cells[0].ljust(widths[0]),
                                  *(c.rjust(w) for c, w in zip(cells[1:], widths[1:]))]) + " |"

    rule = "| " + " | ".join(["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]) + " |"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])]) + "\n"


def picture(path, runs):
    """Draw the test accuracy of each of `runs` against epoch into the PNG file `path`."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for i, run in enumerate(runs):
        color, marker, linestyle = STYLES[i % len(STYLES)]
        axes.plot([e["epoch"] for e in run["history"]], [e["test_accuracy"] for e in run["history"]],
                  color=color, marker=marker, linestyle=linestyle,
                  label=f"{run['step']}, {run['parameters']:,} parameters")
    axes.set_title("Test accuracy of each step")
    epoch_axis(axes)
    accuracy_axis(axes)
    axes.legend()
    figure.savefig(path, format="png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out-dir", default="results", metavar="DIR",
                        help="folder with the runs' JSON files (default: results)")
    folder = Path(parser.parse_args().out_dir)
    runs, strangers = load_runs(folder)
    if not runs:
        sys.exit(f"report.py: error: no finished run in {folder}")
    text = table(runs)
    print(text)
    try:
        with whole(folder / "summary.md") as path:
            path.write_text(text)
        with whole(folder / "summary.png") as path:
            picture(path, runs)
    except OSError as error:
        sys.exit(f"report.py: error: {error}")
    print(f"Written: {folder / 'summary.md'} {folder / 'summary.png'}")
    sys.exit(1 if strangers else 0)


if __name__ == "__main__":
    main()
