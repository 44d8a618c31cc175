"""The runs in a folder in one table, summary.md, and one picture, summary.png, with which `make all` ends.

    python -m study.summary --out-dir results
"""
import sys

from harness import cli
from harness.files import atomic_write
from harness.record import best
from study import plots
from study.tables import markdown
from study.variants import load_runs

HEADINGS = ["step", "parameters", "best train (epoch)", "last train", "best test (epoch)", "last test",
            "S5 best train", "S5 best test", "epochs", "minutes"]


def row(run):
    """One row of the table as a list of strings, from a run's JSON; accuracies in percent."""
    history, published = run["history"], run["published"]
    cells = [run["step"] + " (validation images)" * run["arguments"]["validate"], f"{run['parameters']:,}"]
    for split in ("train_accuracy", "test_accuracy"):
        top = best(history, split)
        cells += [f"{top[split]:.2f} ({top['epoch']})", f"{history[-1][split]:.2f}"]
    cells += [f"{published[figure]:.2f}" if published else "-"
              for figure in ("best_train_accuracy", "best_test_accuracy")]
    cells += [f"{len(history)}{' (dry run)' if run['arguments']['dry_run'] else ''}",
              f"{run['seconds'] / 60:.1f}"]
    return cells


def table(runs):
    """A Markdown table of all `runs`."""
    return markdown([HEADINGS] + [row(run) for run in runs])


def main():
    folder = cli.out_dir(__doc__, "folder of the runs' JSON files")
    runs, unreadable = load_runs(sorted(folder.glob("step*.json")), for_means=False)
    if not runs:
        raise cli.UserError(f"no finished run in {folder}")
    text = table(runs)
    print(text)
    with atomic_write(folder / "summary.md") as path:
        path.write_text(text, encoding="utf-8")
    plots.summary(folder / "summary.png", runs)
    print(f"Written: {folder / 'summary.md'} {folder / 'summary.png'}")
    sys.exit(1 if unreadable else 0)


if __name__ == "__main__":
    cli.run(main)
