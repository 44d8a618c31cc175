"""The pictures of one run: its four curves, the test images it got wrong. And of many: the ladder and what is behind it.

Drawn with matplotlib's figures alone, without pyplot, so no display is needed.
"""
import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter,
                               NullLocator)

from common import TARGET

DARK, LIGHT, GREY = "#1f3f8c", "#e08214", "0.4"  # told apart by brightness, so in grey too
# From light to dark along the ladder, each with a mark of its own: told apart in grey too.
STYLES = [("#e8a33d", "s", ":"), ("#d1603d", "^", "-."), ("#4f7fb5", "D", "--"), ("#14265c", "o", "-"),
          ("#000000", "v", (0, (6, 2)))]


def curves(path, title, history, split="test"):
    """Draw training and test loss, training and test accuracy against epoch into the PNG file `path`.

    `history` is a list of dicts with `epoch`, `train_loss`, `test_loss` (nats) and
    `train_accuracy`, `test_accuracy` (percent). `split` is what the images of the
    latter two are called: test or validation.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    epochs = [e["epoch"] for e in history]
    for axes, what in ((left, "loss"), (right, "accuracy")):
        axes.plot(epochs, [e[f"train_{what}"] for e in history], color=LIGHT, linestyle="--",
                  marker="s", markerfacecolor="white", label=f"training {what}")
        axes.plot(epochs, [e[f"test_{what}"] for e in history], color=DARK, marker="o", label=f"{split} {what}")
        epoch_axis(axes)
    left.set_ylabel("negative log-likelihood (nats per image)")
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    left.yaxis.set_minor_formatter(NullFormatter())
    accuracy_axis(right)
    for axes in (left, right):
        axes.legend()
    figure.savefig(path, format="png", dpi=110)


def epoch_axis(axes):
    """Make the horizontal axis one of epochs, whole numbers only, over a light grid."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9")


def accuracy_axis(axes):
    """Make the vertical axis one of accuracies in percent, spaced by the logarithm of the errors, with the target.

    From 98 to 99 % halves the errors as from 99 to 99.5 % does, and both get the same
    room: a linear axis shows the first epoch and squeezes all others into a line.
    """
    # A perfect score has no logarithm; it is drawn where one error in 10,000 would be.
    axes.set_yscale("function", functions=(lambda y: -np.log10(np.maximum(100 - y, 0.01)),
                                           lambda z: 100 - 10.0 ** -z))
    axes.yaxis.set_major_locator(FixedLocator([10, 50, 80, 90, 95, 97, 98, 98.5, 99, 99.2, 99.4, 99.6, 99.8, 99.9]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.axhline(TARGET, color=GREY, linestyle=":", linewidth=1.5, label=f"target {TARGET} %")
    axes.set_ylabel("accuracy (%), spaced by the logarithm of the errors")


def mistakes(path, title, images, labels, probabilities, split="test", most=100):
    """Draw the images that were classified wrongly, most confident first, into the PNG file `path`.

    `images` (N, 28, 28) in 0..255, `labels` (N,) the true digits, `probabilities`
    (N, 10). At most `most` are drawn; the heading says how many there are, and of which `split`.
    """
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    shown = wrong[:most].tolist()

    # All on one canvas: a hundred axes of matplotlib's would take seconds to lay out.
    columns, step_x, step_y, label_height = 10, 36, 40, 9  # pixels of MNIST's
    rows = max(1, math.ceil(len(shown) / columns))
    canvas = np.zeros((rows * step_y, columns * step_x))
    figure = Figure(figsize=(11, 1 + 1.2 * rows), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    for n, i in enumerate(shown):
        x, y = n % columns * step_x + 4, n // columns * step_y + label_height
        canvas[y:y + 28, x:x + 28] = images[i].numpy()
        axes.text(x + 14, y - 1, f"{labels[i]} → {predicted[i]}  {100 * confidence[i]:.0f} %",
                  ha="center", va="bottom", fontsize=9)
    axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=255)
    heading = f"{title}: {len(wrong):,} of {len(labels):,} {split} images wrong"
    if len(wrong) > most:
        heading += f", the {most} most confident shown"
    figure.suptitle(f"{heading}\ntrue digit → predicted digit, and the model's confidence in it")
    figure.savefig(path, format="png", dpi=80)


def ladder(path, steps):
    """Draw each step's test accuracies over seeds into the PNG file `path`, S5's figure and the target beside them.

    `steps` is a list of dicts with `step`, `last` and `best` (percent, a value per seed) and
    `published` (percent, or None where S5 has nothing).
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
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
            axes.plot(place + 0.12, step["published"], marker="D", linestyle="", color=LIGHT, markersize=9,
                      label="S5, best of one run" if not place else None, zorder=1)
    axes.axhline(TARGET, color=GREY, linestyle=":", linewidth=1.5, label=f"target {TARGET} %")
    axes.set_xticks(range(len(steps)), [step["step"] for step in steps])
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(axis="y", color="0.9")
    axes.set_title("The ladder over seeds: test accuracy of each run")
    axes.legend(loc="upper left")
    figure.savefig(path, format="png", dpi=110)


def bands(path, steps):
    """Draw test accuracy against epoch into the PNG file `path`: the mean over seeds, and a band from lowest to highest.

    `steps` maps a step's name to its histories, one per seed, of the same length.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for (step, histories), (color, marker, linestyle) in zip(steps.items(), STYLES):
        accuracies = np.array([[epoch["test_accuracy"] for epoch in history] for history in histories])
        epochs = np.arange(accuracies.shape[1])
        axes.fill_between(epochs, accuracies.min(axis=0), accuracies.max(axis=0), color=color, alpha=0.2, linewidth=0)
        axes.plot(epochs, accuracies.mean(axis=0), color=color, marker=marker, linestyle=linestyle, label=step)
    epoch_axis(axes)
    accuracy_axis(axes)
    axes.set_title("Test accuracy over seeds: mean, and from lowest to highest")
    axes.legend()
    figure.savefig(path, format="png", dpi=110)


def robustness(path, distortions, means):
    """Draw accuracy against the strength of each distortion into the PNG file `path`, a line for each step.

    `distortions` maps a kind to its strengths, the first kind being none at all; `means` maps a step to
    its accuracies (percent) for all of them in turn.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    kinds = list(distortions)[1:]
    panels = figure.subplots(1, len(kinds), sharey=True)
    first = 1
    for axes, kind in zip(panels, kinds):
        strengths = distortions[kind]
        for (step, accuracies), (color, marker, linestyle) in zip(means.items(), STYLES):
            axes.plot([0, *strengths], [accuracies[0], *accuracies[first:first + len(strengths)]],
                      color=color, marker=marker, linestyle=linestyle, label=step)
        first += len(strengths)
        accuracy_axis(axes)
        axes.set_xlabel(kind)
        axes.set_xticks([0, *strengths])
        axes.grid(color="0.9")
        if axes is not panels[0]:
            axes.set_ylabel("")
    panels[0].legend(loc="lower left")
    figure.suptitle("Test images unlike those trained on: mean accuracy over seeds")
    figure.savefig(path, format="png", dpi=110)


def frontier(path, sizes, steps):
    """Draw test accuracy against the number of parameters into the PNG file `path`: mean over seeds, lowest to highest.

    `sizes` maps a number of parameters of step 5 to its accuracies (percent, a value per seed); `steps`
    maps the name of another step to (parameters, such accuracies, the accuracy that S5 publishes).
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()

    def points(parameters, accuracies, **style):
        means = [sum(a) / len(a) for a in accuracies]
        axes.errorbar(parameters, means, capsize=3, **style, yerr=[[m - min(a) for m, a in zip(means, accuracies)],
                                                                    [max(a) - m for m, a in zip(means, accuracies)]])

    points(list(sizes), list(sizes.values()), color=DARK, marker="o", label="step 5, wider and narrower")
    for (step, (parameters, accuracies, published)), (color, marker, _) in zip(steps.items(), STYLES):
        points([parameters], [accuracies], color=color, marker=marker, markersize=8, linestyle="", label=step)
        axes.plot(parameters, published, color=color, marker=marker, markersize=8, markerfacecolor="white", linestyle="")
    axes.plot([], [], color=GREY, marker="s", markerfacecolor="white", linestyle="", label="the same in S5, best of one run")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([1000, 2000, 3000, 5000, 7000, 10000]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel("parameters")
    accuracy_axis(axes)
    axes.grid(color="0.9")
    axes.set_title("How small: last-epoch test accuracy, mean over seeds, lowest to highest")
    axes.legend(loc="upper left")
    figure.savefig(path, format="png", dpi=110)


def confusion(path, title, mistakes):
    """Draw how often which digit was taken for which into the PNG file `path`; `mistakes` lists (true, predicted)."""
    counts = np.zeros((10, 10), dtype=int)
    for true, predicted in mistakes:
        counts[true, predicted] += 1
    figure = Figure(figsize=(7, 6.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues", vmax=max(1, counts.max()))
    for true, predicted in zip(*counts.nonzero()):
        axes.text(predicted, true, counts[true, predicted], ha="center", va="center",
                  color="white" if counts[true, predicted] > 0.6 * counts.max() else "black")
    axes.set_xticks(range(10))
    axes.set_yticks(range(10))
    axes.set_xlabel("predicted digit")
    axes.set_ylabel("true digit")
    axes.set_title(title)
    figure.savefig(path, format="png", dpi=90)
