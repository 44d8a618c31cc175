"""One table and one picture of the runs in a folder, as `make all` ends with.

    python summary.py --out-dir results

Reads every run's JSON file there, prints the table, and writes it to
`summary.md` and the test-accuracy curves, laid over each other, to `summary.png`.
"""
import sys
from pathlib import Path

from matplotlib.figure import Figure

from common import Parser
from files import whole
from pictures import STYLES, accuracy_axis, epoch_axis
from records import best
from runs import load_runs
from tables import markdown

HEADINGS = ["step", "parameters", "best train (epoch)", "last train", "best test (epoch)", "last test",
            "S5 best train", "S5 best test", "epochs", "minutes"]


def row(run):
    """One row of the table as a list of strings, from a run's JSON; accuracies in percent."""
    history, published = run["history"], run["published"]
    cells = [run["step"] + " (validation images)" * run["arguments"]["validate"], f"{run['parameters']:,}"]
    for split in ("train_accuracy", "test_accuracy"):
        top = best(history, split)
        cells += [f"{top[split]:.2f} ({top['epoch']})", f"{history[-1][split]:.2f}"]
    cells += [f"{published[figure]:.2f}" if published else "-" for figure in ("best_train_accuracy", "best_test_accuracy")]
    cells += [              f"{len(history)}{' (dry run)' if run['arguments']['dry_run'] else ''}",
              f"{run['seconds'] / 60:.1f}"]
    return cells


def table(runs):
    """A Markdown table of all `runs`."""
    return markdown([HEADINGS] + [row(run) for run in runs])


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
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out-dir", default="results", metavar="DIR",
                        help="folder with the runs' JSON files (default: results)")
    folder = Path(parser.parse_args().out_dir)
    runs, strangers = load_runs(sorted(folder.glob("*.json")), "summary.py")
    if not runs:
        sys.exit(f"summary.py: error: no finished run in {folder}")
    text = table(runs)
    print(text)
    try:
        with whole(folder / "summary.md") as path:
            path.write_text(text)
        with whole(folder / "summary.png") as path:
            picture(path, runs)
    except OSError as error:
        sys.exit(f"summary.py: error: {error}")
    print(f"Written: {folder / 'summary.md'} {folder / 'summary.png'}")
    sys.exit(1 if strangers else 0)


if __name__ == "__main__":
    main()
