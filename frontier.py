"""Accuracy against size: step 5 with fewer and with more channels.

    python frontier.py --out-dir results

Reads the runs that `make frontier` leaves in frontier/ below the sweep's folder, and for comparison
those of the steps in the sweep's folder itself. Prints a table and draws frontier.png.
"""
import statistics
import sys
from pathlib import Path

from claims import LADDER, Variant, by_variant
from common import TARGET, Parser
from evidence import MEASURES
from files import whole
from runs import load_runs, sweep_files
from tables import markdown

STEP = "step5_beyond"
CHANNELS = (5, 6, 8, 10, 12, 14, 16, 18)  # of 16; 970 to 9,810 parameters
VARIANTS = {f"width_{channels / 16:g}": Variant(STEP, ("--width", f"{channels / 16:g}")) for channels in CHANNELS}


def by_size(runs):
    """Parameters -> test accuracies (percent, last epoch) of those of `runs` that are of VARIANTS, smallest first."""
    expected = {name: variant.arguments() for name, variant in VARIANTS.items()}
    sizes = {}
    for run in runs:
        if any(VARIANTS[name].matches(run, expected[name], but=("seed", "epochs", "dry_run")) for name in VARIANTS):
            sizes.setdefault(run["parameters"], []).append(MEASURES["test"](run))
    return dict(sorted(sizes.items()))


def table_rows(sizes):
    """The rows of a table of `sizes`, as by_size gives them."""
    rows = [["parameters", "bytes", "seeds", "last test", "lowest", "highest"]]
    for parameters, accuracies in sizes.items():
        rows.append([f"{parameters:,}", f"{4 * parameters:,}", str(len(accuracies)),
                     *(f"{f(accuracies):.2f}" for f in (statistics.fmean, min, max))])
    return rows


def smallest(sizes):
    """A sentence on the smallest network whose mean is at the target."""
    reached = [parameters for parameters, accuracies in sizes.items() if statistics.fmean(accuracies) >= TARGET]
    if not reached:
        return f"No size reaches {TARGET} % on average."
    accuracies = sizes[reached[0]]
    return (f"The smallest whose mean is at or above {TARGET} % has {reached[0]:,} parameters, {4 * reached[0]:,} bytes "
            f"at 4 a parameter: {statistics.fmean(accuracies):.2f} % over {len(accuracies)} seeds.")


def main():
    import pictures  # here, not above: sweep.py takes VARIANTS from this file, and needs no matplotlib

    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out-dir", default="results", metavar="DIR",
                        help="folder of the sweep, where the picture goes too (default: results)")
    folder = Path(parser.parse_args().out_dir)
    runs, strangers = load_runs(sweep_files(folder / "frontier"), "frontier.py")
    sizes = by_size(runs)
    if not sizes:
        sys.exit(f"frontier.py: error: no finished run in {folder}/frontier/seed*")
    steps, more = load_runs(sweep_files(folder), "frontier.py")
    found, _ = by_variant(steps)
    ladder = {step: list(found[step].values()) for step in LADDER if found[step]}
    print(markdown(table_rows(sizes)), smallest(sizes), sep="\n")
    try:
        with whole(folder / "frontier.png") as path:
            pictures.frontier(path, sizes, {
                step: (some[0]["parameters"], [MEASURES["test"](run) for run in some],
                       some[0]["published"]["best_test_accuracy"]) for step, some in ladder.items()})
    except OSError as error:
        sys.exit(f"frontier.py: error: {error}")
    print(f"Written: {folder / 'frontier.png'}")
    sys.exit(1 if strangers or more else 0)


if __name__ == "__main__":
    main()
