"""How well the trained steps classify test images that are shifted, rotated or noisy.

    python -m study.robustness --out-dir results

Takes the weights of a sweep's runs, and writes accuracies to robustness.json, from which the report draws.
"""
import importlib
import inspect
import json
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from common import rotate
from harness import cli, mnist
from harness.files import Damaged, atomic_write
from harness.loader import TEST_BATCH, Loader, predict
from harness.record import read_json
from study.tables import markdown
from study.variants import STEPS, by_variant, folder_of, load_runs, sweep_files

FILE = "robustness.json"
DISTORTIONS = {"as they are": (0,), "shifted (pixels)": (1, 2, 3), "rotated (degrees)": (5, 10, 20),
               "noisy (standard deviation)": (0.1, 0.2, 0.3)}


def distorted(images, kind, strength):
    """Test images (N, 28, 28) of bytes, distorted in the same way at every call.

    Each image is shifted by `strength` pixels up, down, left or right, or rotated by `strength` degrees
    clockwise or counter-clockwise, or each pixel gets normal noise of that standard deviation, full ink
    being 1. The direction is drawn for each image, from a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    ink = images.unsqueeze(1).float() / 255
    if kind == "shifted (pixels)":
        ways = torch.randint(4, (len(ink),), generator=generator)
        padded = F.pad(ink, (strength,) * 4)
        for way, (down, right) in enumerate(((0, 1), (2, 1), (1, 0), (1, 2))):
            y, x = down * strength, right * strength
            ink[ways == way] = padded[ways == way, :, y:y + 28, x:x + 28]
    elif kind == "rotated (degrees)":
        signs = 2 * torch.randint(2, (len(ink),), generator=generator) - 1
        ink = rotate(ink, strength * signs.float(), mode="bilinear")
    elif kind == "noisy (standard deviation)":
        ink = (ink + strength * torch.randn(ink.shape, generator=generator)).clamp(0, 1)
    return (255 * ink).round().squeeze(1).byte()


def trained_network(run, path):
    """The network of `run`, with the weights in the file `path`. Raises UserError if they make none."""
    net = importlib.import_module(run["step"]).Net
    names = inspect.signature(net).parameters.keys() & run["arguments"].keys()
    try:
        model = net(**{name: run["arguments"][name] for name in names})
        model.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:  # any exception: a damaged file can raise anything
        raise cli.UserError(f"{path} has no weights of {run['step']}: {cli.one_line(error, 200)}") from None
    return model


def mean_accuracies(accuracies):
    """Step -> mean over seeds of each accuracy, given step -> seed -> list of accuracies."""
    return {step: [statistics.fmean(column) for column in zip(*seeds.values(), strict=True)]
            for step, seeds in accuracies.items()}


def columns():
    """The distortions in turn, as (kind, strength)."""
    return [(kind, strength) for kind, strengths in DISTORTIONS.items() for strength in strengths]


def table_rows(accuracies):
    """The rows of a table of the mean accuracies, a column for each step; arguments as in mean_accuracies."""
    means = mean_accuracies(accuracies)
    rows = [["test images", "by", *means]]
    before = None
    for i, (kind, strength) in enumerate(columns()):
        rows.append([kind if kind != before else "", f"{strength:g}" if strength else "",
                     *(f"{means[step][i]:.2f}" for step in means)])
        before = kind
    return rows


def load(path):
    """What main() wrote to `path`: step -> seed -> percentages, as `columns` has them. Raises Damaged."""
    try:
        accuracies = read_json(path)
        lengths = {len(row) for seeds in accuracies.values() for row in seeds.values() if sum(row) >= 0}
    except (AttributeError, TypeError):
        lengths = None
    if lengths != {len(columns())}:
        raise Damaged(f"{path} is not what study.robustness writes") from None
    return accuracies


def main():
    parser = cli.out_dir_parser(__doc__, "folder of the sweep")
    mnist.add_arguments(parser)
    args = parser.parse_args()
    folder, accuracies = Path(args.out_dir), {}
    runs, unreadable = load_runs(sweep_files(folder))
    found, _ = by_variant(runs)
    images, labels = mnist.load_test(args.data_dir, args.mirror)
    loaders = [Loader(distorted(images, *column), labels, TEST_BATCH, split="test") for column in columns()]
    for step in STEPS:
        for seed, run in sorted(found[step].items()):
            model = trained_network(run, folder_of(step, seed, folder) / f"{step}.pt")
            values = [100 * (predict(model, loader).argmax(dim=1) == labels).double().mean().item()
                      for loader in loaders]
            accuracies.setdefault(step, {})[str(seed)] = [round(value, 4) for value in values]
            print(f"{step}, seed {seed}: {values[0]:.2f} % as they are, {min(values):.2f} % at worst",
                  flush=True)
    if not accuracies:
        raise cli.UserError(f"no finished run of a step in {folder}/seed*")
    with atomic_write(folder / FILE) as path:
        path.write_text(json.dumps(accuracies, indent=1) + "\n", encoding="utf-8")
    print(f"\n{markdown(table_rows(accuracies))}\nWritten: {folder / FILE}")
    sys.exit(1 if unreadable else 0)


if __name__ == "__main__":
    cli.run(main)
