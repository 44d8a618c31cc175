"""Accuracy against size: steps 5 and 7 with fewer and with more channels, as a table and as frontier.png.

    python -m study.frontier --out-dir results

Reads the runs that `make frontier` leaves in frontier/, and those of the steps beside it.
"""
import statistics
import sys

from harness import cli
from study import plots
from study.evidence import last, without_tta
from study.tables import markdown
from study.variants import LADDER, WIDTHS, by_variant, load_runs, sweep_files

GOALS = (99.0, 99.4, 99.5)  # percent, for the smallest network whose mean is there
# What others publish on networks this small: parameters, test accuracy (percent), what it is, where.
PUBLIC = [
    (697, 99.03, "best epoch of the best of about 700 runs", "JoshWarn/Parameter-Efficient-MNIST"),
    (997, 98.76, "mean of 223 runs, best epochs", "JoshWarn/Parameter-Efficient-MNIST"),
    (997, 99.06, "best epoch of the best of 223 runs", "JoshWarn/Parameter-Efficient-MNIST"),
    (1936, 99.10, "one run, 75 epochs", "ruslangrimov/mnist-minimal-model"),
    (7918, 99.52, "best of 15 epochs, one run", "snehanshu-raj/ERA"),
]


def by_size(runs):
    """Step -> parameters -> those of `runs` that are of WIDTHS, smallest networks first."""
    sizes = {}
    for name, seeds in by_variant(runs, WIDTHS)[0].items():
        for run in seeds.values():
            sizes.setdefault(WIDTHS[name].step, {}).setdefault(run["parameters"], []).append(run)
    return {step: dict(sorted(of_step.items())) for step, of_step in sizes.items()}


def table_rows(sizes):
    """The rows of a table of `sizes`, as by_size gives them."""
    rows = [["step", "parameters", "bytes", "seeds", "last test", "lowest", "highest", "without TTA"]]
    for step, of_step in sizes.items():
        for parameters, runs in of_step.items():
            accuracies = [last(run) for run in runs]
            without = without_tta(runs)
            rows.append([step, f"{parameters:,}", f"{4 * parameters:,}", str(len(runs)),
                         *(f"{f(accuracies):.2f}" for f in (statistics.fmean, min, max)),
                         f"{statistics.fmean(without):.2f}" if without else ""])
    return rows


def smallest(sizes, goal):
    """A sentence on the smallest network whose mean is at `goal`, in percent."""
    means = {(parameters, step): (statistics.fmean(map(last, runs)), len(runs))
             for step, of_step in sizes.items() for parameters, runs in of_step.items()}
    for (parameters, step), (mean, seeds) in sorted(means.items()):
        if mean >= goal:
            return (f"The smallest whose mean is at or above {goal:.1f} % has {parameters:,} parameters, "
                    f"{4 * parameters:,} bytes at 4 a parameter ({step}): {mean:.2f} % over {seeds} seeds.")
    return f"No size reaches {goal:.1f} % on average."


def main():
    folder = cli.out_dir(__doc__, "folder of the sweep, where the picture goes too")
    widths, unreadable = load_runs(sweep_files(folder / "frontier"))
    if not by_size(widths):
        raise cli.UserError(f"no finished run in {folder}/frontier: `make frontier` trains them")
    runs, more = load_runs(sweep_files(folder))
    sizes, (found, _) = by_size([*widths, *runs]), by_variant(runs)
    ladder = {step: list(found[step].values()) for step in LADDER if found[step]}
    print(markdown(table_rows(sizes)), *(smallest(sizes, goal) for goal in GOALS), sep="\n")
    plots.frontier(folder / "frontier.png", sizes, ladder, PUBLIC)
    print(f"Written: {folder / 'frontier.png'}")
    sys.exit(1 if unreadable or more else 0)


if __name__ == "__main__":
    cli.run(main)
