"""The pictures of one run, drawn without pyplot, so that no display is needed."""
import contextlib
import math
import os
import sys

import numpy as np

if not hasattr(sys, "ps1"):  # a notebook hands its backend on to processes where it is not installed
    os.environ.pop("MPLBACKEND", None)
import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from harness.files import atomic_write
from harness.mnist import DISPUTED
from harness.record import TARGET

DARK, LIGHT, GREY = "#1f3f8c", "#e08214", "0.4"  # distinguished by brightness, so also in greyscale


@contextlib.contextmanager
def drawing(path, size, dpi=110, **panels):
    """Yields a figure of `size` (inches) and its axes, then saves it as the PNG file `path`."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a matplotlibrc or a notebook says
        matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is a dollar
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots(**panels)
        with atomic_write(path) as scratch:
            figure.savefig(scratch, format="png", dpi=dpi)


def curves(path, title, history, split="test"):
    """Draw training and test loss, training and test accuracy against epoch into the PNG file `path`.

    `history` is a list of dicts with `epoch`, `train_loss`, `test_loss` (nats) and `train_accuracy`,
    `test_accuracy` (percent). `split` is what the images of the latter two are called: test or validation.
    """
    with drawing(path, (11, 4.8), ncols=2) as (figure, (left, right)):
        figure.suptitle(title)
        epochs = [e["epoch"] for e in history]
        for axes, what in ((left, "loss"), (right, "accuracy")):
            axes.plot(epochs, [e[f"train_{what}"] for e in history], color=LIGHT, linestyle="--",
                      marker="s", markerfacecolor="white", label=f"training {what}")
            axes.plot(epochs, [e[f"test_{what}"] for e in history], color=DARK, marker="o",
                      label=f"{split} {what}")
            epoch_axis(axes)
        left.set_ylabel("negative log-likelihood (nats per image)")
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        left.yaxis.set_minor_formatter(NullFormatter())
        accuracy_axis(right)
        for axes in (left, right):
            axes.legend()


def epoch_axis(axes):
    """Make the horizontal axis one of epochs, whole numbers only, over a light grid."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # one epoch needs no more
    axes.grid(color="0.9")


def accuracy_axis(axes):
    """Make the vertical axis one of accuracies in percent, spaced by the logarithm of the errors, with the
    target.

    From 98 to 99 % halves the errors as from 99 to 99.5 % does, and both get the same room: a linear axis
    shows the first epoch and squeezes all others into a line.
    """
    # A perfect score has no logarithm; it is drawn where one error in 10,000 would be.
    axes.set_yscale("function", functions=(lambda y: -np.log10(np.maximum(100 - y, 0.01)),
                                           lambda z: 100 - 10.0 ** -z))
    axes.yaxis.set_major_locator(FixedLocator([10, 50, 80, 90, 95, 97, 98, 98.5,
                                               99, 99.2, 99.4, 99.6, 99.7, 99.8, 99.9]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.axhline(TARGET, color=GREY, linestyle=":", linewidth=1.5, label=f"target {TARGET} %")
    axes.set_ylabel("accuracy (%), spaced by the logarithm of the errors")


def mistakes(path, title, images, labels, probabilities, split="test", most=100):
    """Draw the images that were classified wrongly, most confident first, into the PNG file `path`.

    `images` (N, 28, 28) in 0..255, `labels` (N,) the true digits, `probabilities` (N, 10). At most `most`
    are drawn; the heading says how many there are, and of which `split`. Test images whose label is disputed
    get a frame.
    """
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    shown = wrong[:most].tolist()

    # All on one canvas: a hundred axes of matplotlib's would take seconds to lay out.
    columns, step_x, step_y, label_height = 10, 36, 40, 9  # pixels of MNIST's
    rows = max(1, math.ceil(len(shown) / columns))
    canvas = np.zeros((rows * step_y, columns * step_x))
    with drawing(path, (11, 1 + 1.2 * rows), dpi=80) as (figure, axes):
        axes.axis("off")
        for n, i in enumerate(shown):
            x, y = n % columns * step_x + 4, n // columns * step_y + label_height
            canvas[y:y + 28, x:x + 28] = images[i].numpy()
            if split == "test" and i in DISPUTED:
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 28, 28, fill=False, edgecolor=LIGHT,
                                         linewidth=2))
            axes.text(x + 14, y - 1, f"{labels[i]} → {predicted[i]}  {100 * confidence[i]:.0f} %",
                      ha="center", va="bottom", fontsize=9)
        axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=255)
        heading = f"{title}: {len(wrong):,} of {len(labels):,} {split} images wrong"
        if len(wrong) > most:
            heading += f", the {most} most confident shown"
        heading += "\ntrue digit → predicted digit, and the model's confidence in it"
        if split == "test" and DISPUTED & set(shown):
            heading += "; framed where the label itself is disputed"
        figure.suptitle(heading)
