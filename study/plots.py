"""The pictures of many runs: the ladder and what is behind it."""
import itertools

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.plots import DARK, GREY, LIGHT, accuracy_axis, drawing, epoch_axis
from harness.record import TARGET
from study.evidence import FAILS, HOLDS, NO_DIFFERENCE, UNDECIDED, last, without_tta

# From light to dark along the ladder up to step 5, each with a mark of its own, for greyscale too.
STYLES = [("#e8a33d", "s", ":"), ("#d1603d", "^", "-."), ("#4f7fb5", "D", "--"), ("#14265c", "o", "-"),
          ("#000000", "v", (0, (6, 2))), ("#3a9d6e", "P", (0, (4, 1, 1, 1))),
          ("#8a5a9e", "X", (0, (1, 1)))]


def styled(names):
    """Each of `names` with keywords for its line; from the eighth on the styles repeat."""
    return ((name, {"color": color, "marker": marker, "linestyle": linestyle})
            for name, (color, marker, linestyle) in zip(names, itertools.cycle(STYLES)))  # noqa: B905


def summary(path, runs):
    """Draw the test accuracy of each of `runs` against epoch into the PNG file `path`."""
    with drawing(path, (9, 6)) as (_, axes):
        for run, style in styled(runs):
            axes.plot([e["epoch"] for e in run["history"]], [e["test_accuracy"] for e in run["history"]],
                      **style, label=f"{run['step']}, {run['parameters']:,} parameters")
        axes.set_title("Test accuracy of each step")
        epoch_axis(axes)
        accuracy_axis(axes)
        axes.legend()


def ladder(path, steps):
    """Draw each step's test accuracies over seeds into the PNG file `path`, with S5's figure and the target.

    `steps` is a list of dicts with `step`, `parameters`, `last` and `best` (percent, a value per seed) and
    `published` (percent, or None where S5 has nothing).
    """
    with drawing(path, (9, 5.5)) as (_, axes):
        for place, step in enumerate(steps):
            for side, values, face, label in ((-0.12, step["last"], DARK, "last epoch, one seed"),
                                              (0.12, step["best"], "white", "best of the epochs, one seed")):
                # Side by side where seeds agree, or equal ones would look like one.
                spots = [place + side + 0.03 * (values[:i].count(value) - (values.count(value) - 1) / 2)
                         for i, value in enumerate(values)]
                axes.plot(spots, values, "o", color=DARK, markerfacecolor=face, markersize=6, alpha=0.8,
                          label=label if not place else None)
                mean = sum(values) / len(values)
                axes.plot([place + side - 0.1, place + side + 0.1], [mean, mean], color=DARK, linewidth=2.5,
                          label="mean over seeds" if not place and side < 0 else None)
            if step["published"] is not None:
                axes.plot(place + 0.3, step["published"], "D", color=LIGHT, markersize=8,
                          label="S5, best of one run" if not place else None)
        axes.axhline(TARGET, color=GREY, linestyle=":", linewidth=1.5, label=f"target {TARGET} %")
        axes.set_xticks(range(len(steps)),
                        [f"{step['step']}\n{step['parameters']:,} parameters" for step in steps], fontsize=8)
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.set_ylabel("test accuracy (%)")
        axes.grid(axis="y", color="0.9")
        axes.set_title("The ladder over seeds: test accuracy of each run")
        axes.legend(loc="upper left")


def bands(path, steps):
    """Draw test accuracy (step -> histories over seeds) against epoch into the PNG file `path`, as bands."""
    with drawing(path, (9, 6)) as (_, axes):
        for (step, histories), style in styled(steps.items()):
            epochs = range(min(map(len, histories)))
            accuracies = np.array([[history[i]["test_accuracy"] for i in epochs] for history in histories])
            axes.fill_between(epochs, accuracies.min(axis=0), accuracies.max(axis=0), color=style["color"],
                              alpha=0.2, linewidth=0)
            axes.plot(epochs, accuracies.mean(axis=0), **style, label=step)
        epoch_axis(axes)
        accuracy_axis(axes)
        axes.set_title("Test accuracy over seeds: mean, and from lowest to highest")
        axes.legend()


def robustness(path, distortions, means):
    """Draw accuracy against the strength of each distortion into the PNG file `path`, a line for each step.

    `distortions` maps a kind to its strengths, the first kind being none at all; `means` maps a step to its
    accuracies (percent) for all of them in turn.
    """
    kinds, first = list(distortions)[1:], 1
    with drawing(path, (12, 5), ncols=len(kinds), sharey=True) as (figure, panels):
        for axes, kind in zip(panels, kinds, strict=True):
            strengths = distortions[kind]
            for (step, accuracies), style in styled(means.items()):
                axes.plot([0, *strengths], [accuracies[0], *accuracies[first:first + len(strengths)]],
                          **style, label=step)
            first += len(strengths)
            accuracy_axis(axes)
            axes.set_xlabel(kind)
            axes.set_xticks([0, *strengths])
            axes.grid(color="0.9")
            if axes is not panels[0]:
                axes.set_ylabel("")
        panels[0].legend(loc="lower left")
        figure.suptitle("Distorted test images: mean accuracy over seeds (at 0, images as they are)")


def compare(path, pairs, looks, margin, what, unit):
    """Draw a comparison into the PNG file `path`: its pairs as lines, and the difference at each look.

    `pairs` is a list of (A, B), `looks` one of (number of pairs, difference, its interval (low, high)). What
    lies within `margin` of 0 does not matter. `what` is measured, in `unit`.
    """
    with drawing(path, (11, 5), ncols=2) as (figure, (left, right)):
        for a, b in pairs:
            left.plot([0, 1], [a, b], "o-", color=DARK, alpha=0.5, markersize=4)
        if pairs:
            left.plot([0, 1], np.mean(pairs, axis=0), "s-", color=LIGHT, linewidth=3, label="mean")
            left.legend()
        left.set_xticks([0, 1], ["A", "B"])
        left.set_xlim(-0.2, 1.2)
        left.set_ylabel("%" if unit == "points" else unit)
        left.set_title("Each line a pair with the same seed")
        left.grid(axis="y", color="0.9")
        right.axhspan(-margin, margin, color="0.92", label="would not matter")
        right.axhline(0, color=GREY, linewidth=1)
        counts, differences, bounds = zip(*looks, strict=True)
        errors = np.abs(np.transpose(bounds) - np.array(differences))
        right.errorbar(range(len(looks)), differences, yerr=errors, fmt="o", color=DARK, capsize=4,
                       label="B - A with its 99 % interval")
        right.set_xticks(range(len(looks)), counts)
        right.set_xlim(-0.5, len(looks) - 0.5)
        right.set_xlabel("pairs")
        right.set_ylabel(unit)
        right.set_title("The difference at each look")
        right.legend()
        figure.suptitle(what[0].upper() + what[1:])


VERDICTS = {HOLDS: ("#3a9d6e", "o"), FAILS: ("#d1603d", "X"), NO_DIFFERENCE: ("#4f7fb5", "s"),
            UNDECIDED: ("0.5", "D")}


def forest(path, comparisons):
    """Draw what came of each comparison of the claims into the PNG file `path`, a line for each.

    `comparisons` is a list of (label, difference, its interval (low, high), the threshold, margin, verdict),
    the numbers in points; for a share of seeds the margin is None, and a panel of its own shows it.
    """
    points = [one for one in comparisons if one[4] is not None]
    shares = [one for one in comparisons if one[4] is None]
    heights = [len(rows) + 2 for rows in (points, shares)]
    with drawing(path, (12, 0.3 * sum(heights) + 1), nrows=2, height_ratios=heights) as (figure, panels):
        for axes, rows in zip(panels, (points, shares), strict=True):
            for y, (_, difference, (low, high), than, margin, verdict) in enumerate(rows):
                if margin is None:
                    axes.plot([than, than], [y - 0.4, y + 0.4], color=GREY)
                else:
                    axes.barh(y, 2 * margin, left=than - margin, height=0.8, color="0.88")
                    axes.plot([than, than], [y - 0.4, y + 0.4], color=GREY, linewidth=1)
                color, marker = VERDICTS[verdict]
                axes.errorbar(difference, y, xerr=[[difference - low], [high - difference]], color=color,
                              marker=marker, capsize=3)
            axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="x", color="0.9")
        panels[0].set_xlim(max(-1, panels[0].get_xlim()[0]), min(1, panels[0].get_xlim()[1]))
        panels[0].set_xlabel("points; for S5's own figures, what we got minus them")
        panels[1].set_xlabel("share of seeds")
        for verdict, (color, marker) in VERDICTS.items():
            panels[0].plot([], [], color=color, marker=marker, label=verdict)
        panels[0].barh(0, 0, color="0.88", label="would not matter")
        panels[0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle("The claims: each difference, its 99 % interval, and the threshold (upright line)")


def frontier(path, families, steps, public):
    """Draw test accuracy against the number of parameters into the PNG file `path`: mean, lowest to highest.

    `families` maps the name of a step to its runs by number of parameters, `steps` the name of a step of S5
    to its runs. `public` is a list of (parameters, accuracy in percent, what it is, whose it is).
    """
    with drawing(path, (12, 6)) as (_, axes):
        def points(by_parameters, **style):
            accuracies = [[last(run) for run in runs] for runs in by_parameters.values()]
            means = [sum(values) / len(values) for values in accuracies]
            errors = [[mean - min(values) for mean, values in zip(means, accuracies, strict=True)],
                      [max(values) - mean for mean, values in zip(means, accuracies, strict=True)]]
            axes.errorbar(list(by_parameters), means, capsize=3, yerr=errors, **style)

        # The legend lists error bars after lines. All are error bars here, and keep their order.
        for (step, by_parameters), color in zip(families.items(), (DARK, LIGHT), strict=False):
            points(by_parameters, color=color, marker="o", label=f"{step}, wider and narrower")
            without = {parameters: values for parameters, runs in by_parameters.items()
                       if (values := without_tta(runs))}
            if without:
                axes.errorbar(list(without), list(map(np.mean, without.values())), fmt=":", color=color,
                              label=f"{step} without test-time augmentation")
        for (step, runs), style in styled(steps.items()):
            style |= {"markersize": 8, "linestyle": ""}
            points({runs[0]["parameters"]: runs}, **style, label=step)
            axes.plot(runs[0]["parameters"], runs[0]["published"]["best_test_accuracy"], **style,
                      markerfacecolor="white")
        hollow = {"color": GREY, "markerfacecolor": "white", "linestyle": "", "zorder": 3}
        axes.errorbar([], [], marker="s", **hollow, label="steps 1 to 4 in S5: best epoch of one run")
        for marker, (parameters, accuracy, kind, whose) in zip("*Xphd", public, strict=True):
            axes.errorbar(parameters, accuracy, marker=marker, markersize=9, **hollow,
                          label=f"{whose.split('/')[0]}: {kind}")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([500, 700, 1000, 2000, 3000, 5000, 7000, 10000]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.set_xlabel("parameters")
        accuracy_axis(axes)
        axes.grid(color="0.9")
        axes.set_title("How small: last-epoch test accuracy, mean over seeds, lowest to highest")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)


def confusion(path, title, mistakes):
    """Draw how often which digit was taken for which into the PNG file `path`, from (true, predicted)."""
    counts = np.zeros((10, 10), dtype=int)
    for true, predicted in mistakes:
        counts[true, predicted] += 1
    with drawing(path, (7, 6.6), dpi=90) as (_, axes):
        axes.imshow(counts, cmap="Blues", vmax=max(1, counts.max()))
        for true, predicted in zip(*counts.nonzero(), strict=True):
            axes.text(predicted, true, counts[true, predicted], ha="center", va="center",
                      color="white" if counts[true, predicted] > 0.6 * counts.max() else "black")
        axes.set_xticks(range(10))
        axes.set_yticks(range(10))
        axes.set_xlabel("predicted digit")
        axes.set_ylabel("true digit")
        axes.set_title(title)
