"""How well the trained steps read test images that are shifted, rotated or noisy.

    python robustness.py --out-dir results

Takes the weights that the runs of a sweep left under seed1/, seed2/ and so on, and writes the
accuracies to robustness.json, from which report.py makes a table and a picture.
"""
import importlib
import inspect
import json
import pickle
import statistics
import sys
from pathlib import Path

import torch

import checkpoint
import common
import mnist
from claims import STEPS, by_variant
from files import whole
from loader import Loader
from runs import load_runs, sweep_files
from sweep import folder_of
from tables import markdown

DISTORTIONS = {"as they are": (0,), "shifted (pixels)": (1, 2, 3), "rotated (degrees)": (5, 10, 20),
               "noisy (standard deviation)": (0.1, 0.2, 0.3)}


def distorted(images, kind, strength):
    """Test images (N, 28, 28) of bytes, distorted in the same way at every call.

    Each image is shifted by `strength` pixels up, down, left or right, or rotated by `strength`
    degrees clockwise or counter-clockwise, or each pixel gets normal noise of that standard
    deviation, full ink being 1. Which way is drawn for each image from a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    ink = images.unsqueeze(1).float() / 255
    if kind == "shifted (pixels)":
        ways = torch.randint(4, (len(ink),), generator=generator)
        padded = torch.nn.functional.pad(ink, (strength,) * 4)
        for way, (down, right) in enumerate(((0, 1), (2, 1), (1, 0), (1, 2))):
            y, x = down * strength, right * strength
            ink[ways == way] = padded[ways == way, :, y:y + 28, x:x + 28]
    elif kind == "rotated (degrees)":
        signs = 2 * torch.randint(2, (len(ink),), generator=generator) - 1
        ink = common.rotate(ink, strength * signs.float(), mode="bilinear")
    elif kind == "noisy (standard deviation)":
        ink = (ink + strength * torch.randn(ink.shape, generator=generator)).clamp(0, 1)
    return (255 * ink).round().squeeze(1).byte()


def network(run, path):
    """The trained network of `run`, a dict as load_run returns it, with the weights in the file `path`.

    Raises OSError if it cannot be read, and others if it holds no such weights.
    """
    net = importlib.import_module(run["step"]).Net
    names = inspect.signature(net).parameters.keys() & run["arguments"].keys()
    model = net(**{name: run["arguments"][name] for name in names})
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.to(memory_format=torch.channels_last)


def mean_accuracies(accuracies):
    """Step -> mean over seeds of each accuracy, given step -> seed -> list of accuracies."""
    return {step: [statistics.fmean(column) for column in zip(*seeds.values())] for step, seeds in accuracies.items()}


def columns():
    """The distortions in turn, as (kind, strength)."""
    return [(kind, strength) for kind, strengths in DISTORTIONS.items() for strength in strengths]


def table_rows(accuracies):
    """The rows of a table of the mean accuracies, a column for each step, given step -> seed -> list of accuracies."""
    means = mean_accuracies(accuracies)
    rows = [["test images", "by", *means]]
    before = None
    for i, (kind, strength) in enumerate(columns()):
        rows.append([kind if kind != before else "", f"{strength:g}" if strength else "",
                     *(f"{means[step][i]:.2f}" for step in means)])
        before = kind
    return rows


def load(path):
    """The accuracies that main() has written to `path`: step -> seed -> list of percentages, as `columns` has them.

    Raises checkpoint.Damaged if it is another kind of file, OSError if it cannot be read.
    """
    try:
        accuracies = json.loads(path.read_bytes())
        for step, seeds in accuracies.items():
            if step not in STEPS or not seeds:
                raise ValueError
            for values in seeds.values():
                if len(values) != len(columns()) or not all(type(a) in (int, float) and 0 <= a <= 100 for a in values):
                    raise ValueError
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise checkpoint.Damaged("it is not what robustness.py writes") from None
    return accuracies


def main():
    parser = common.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out-dir", default="results", metavar="DIR", help="folder of the sweep (default: results)")
    mnist.add_arguments(parser)
    args = parser.parse_args()
    folder, accuracies = Path(args.out_dir), {}
    runs, strangers = load_runs(sweep_files(folder), "robustness.py")
    found, _ = by_variant(runs)
    try:
        images, labels = mnist.load_test(args.data_dir, args.mirror)
        loaders = [Loader(distorted(images, *column), labels, common.TEST_BATCH, split="test") for column in columns()]
        for step in STEPS:
            for seed, run in sorted(found[step].items()):
                path = folder_of(step, seed, folder) / f"{step}.pt"
                try:
                    model = network(run, path)
                except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
                    sys.exit(f"robustness.py: error: {path} does not hold the weights of {step}: "
                             f"{str(error).splitlines()[0]}")
                values = [100 * (common.predict(model, loader).argmax(dim=1) == labels).double().mean().item()
                          for loader in loaders]
                accuracies.setdefault(step, {})[str(seed)] = [round(value, 4) for value in values]
                print(f"{step}, seed {seed}: {values[0]:.2f} % as they are, {min(values):.2f} % at worst", flush=True)
        if not accuracies:
            sys.exit(f"robustness.py: error: no finished run of a step in {folder}/seed*")
        with whole(folder / "robustness.json") as path:
            path.write_text(json.dumps(accuracies, indent=1) + "\n")
    except (mnist.DataError, OSError) as error:
        sys.exit(f"robustness.py: error: {error}")
    print(f"\n{markdown(table_rows(accuracies))}\nWritten: {folder / 'robustness.json'}")
    sys.exit(1 if strangers else 0)


if __name__ == "__main__":
    main()
