"""Accuracy against size: step 5 with fewer and with more channels, as a table and as frontier.png.

    python -m study.frontier --out-dir results

Reads the runs that `make frontier` leaves in frontier/, and for comparison those of the steps beside it.
"""
import statistics
import sys

from harness import cli
from harness.record import TARGET
from study import plots
from study.evidence import last
from study.tables import markdown
from study.variants import LADDER, WIDTHS, by_variant, load_runs, sweep_files


def by_size(runs):
    """Parameters -> last test accuracies (percent) of those of `runs` that are of WIDTHS, smallest first."""
    sizes = {}
    for seeds in by_variant(runs, WIDTHS)[0].values():
        for run in seeds.values():
            sizes.setdefault(run["parameters"], []).append(last(run))
    return dict(sorted(sizes.items()))


def table_rows(sizes):
    """The rows of a table of `sizes`, as by_size gives them."""
    heading = ["parameters", "bytes", "seeds", "last test", "lowest", "highest"]
    return [heading, *([f"{parameters:,}", f"{4 * parameters:,}", str(len(accuracies)),
                        *(f"{f(accuracies):.2f}" for f in (statistics.fmean, min, max))]
                       for parameters, accuracies in sizes.items())]


def smallest(sizes):
    """A sentence on the smallest network whose mean is at the target."""
    for parameters, accuracies in sizes.items():
        if (mean := statistics.fmean(accuracies)) >= TARGET:
            return (f"The smallest whose mean is at or above {TARGET} % has {parameters:,} parameters, "
                    f"{4 * parameters:,} bytes at 4 a parameter: {mean:.2f} % over {len(accuracies)} seeds.")
    return f"No size reaches {TARGET} % on average."


def main():
    folder = cli.out_dir(__doc__, "folder of the sweep, where the picture goes too")
    runs, unreadable = load_runs(sweep_files(folder / "frontier"))
    sizes = by_size(runs)
    if not sizes:
        raise cli.UserError(f"no finished run in {folder}/frontier/seed*")
    runs, more = load_runs(sweep_files(folder))
    found, _ = by_variant(runs)
    ladder = {step: list(found[step].values()) for step in LADDER if found[step]}
    print(markdown(table_rows(sizes)), smallest(sizes), sep="\n")
    plots.frontier(folder / "frontier.png", sizes, {
        step: (runs[0]["parameters"], [last(run) for run in runs],
               runs[0]["published"]["best_test_accuracy"]) for step, runs in ladder.items()})
    print(f"Written: {folder / 'frontier.png'}")
    sys.exit(1 if unreadable or more else 0)


if __name__ == "__main__":
    cli.run(main)
