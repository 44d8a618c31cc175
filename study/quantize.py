"""What 8-bit weights cost: the trained networks with each convolution's weights rounded to int8.

    python -m study.quantize --out-dir results

Takes the weights of the runs that `make frontier` leaves in frontier/.
"""
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from harness import cli, mnist
from harness.loader import TEST_BATCH, Loader, predict
from study.robustness import trained_network
from study.tables import markdown
from study.variants import WIDTHS, by_variant, folder_of, load_runs, sweep_files


@torch.no_grad()
def quantize(model):
    """Round each filter of `model`'s convolutions and linear layers, in place, to 255 steps around 0.

    Returns the bytes that the network then takes: one for each such weight, four for the scale of each
    filter, and four for any other parameter. Batch norm and activations stay float32, as does all arithmetic.
    """
    size = 0
    for weight in model.parameters():
        if weight.dim() == 1:
            size += 4 * len(weight)
            continue
        scale = weight.abs().flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (weight.dim() - 1)) / 127
        weight.copy_((weight / scale).round() * scale)  # what an int8 and its scale stand for
        size += weight.numel() + 4 * len(weight)
    return size


def tested(model, loader):
    """Loss (nats per image) and accuracy (percent) of `model`."""
    log_probabilities = predict(model, loader)
    correct = (log_probabilities.argmax(dim=1) == loader.labels).double().mean().item()
    return F.nll_loss(log_probabilities, loader.labels).item(), 100 * correct


def main():
    parser = cli.out_dir_parser(__doc__, "folder that has the folder frontier/")
    mnist.add_arguments(parser)
    args = parser.parse_args()
    folder = Path(args.out_dir) / "frontier"
    runs, unreadable = load_runs(sweep_files(folder))
    found, _ = by_variant(runs, WIDTHS)
    if not any(found.values()):
        raise cli.UserError(f"no finished run in {folder}: `make frontier` trains them")
    loader = Loader(*mnist.load_test(args.data_dir, args.mirror), TEST_BATCH, split="test")
    rows = [["step", "parameters", "bytes", "int8 bytes", "seeds", "last test", "int8 test", "loss",
             "int8 loss"]]
    for name, runs in found.items():
        before, after, size = [], [], 0
        for seed, run in runs.items():
            model = trained_network(run, folder_of(name, seed, folder) / f"{run['step']}.pt")
            before.append(tested(model, loader))
            size = quantize(model)
            after.append(tested(model, loader))
        if runs:
            columns = zip(*before, strict=True), zip(*after, strict=True)
            (loss, accuracy), (loss8, accuracy8) = (map(statistics.fmean, of) for of in columns)
            parameters = run["parameters"]
            rows.append([run["step"], f"{parameters:,}", f"{4 * parameters:,}", f"{size:,}", str(len(runs)),
                         f"{accuracy:.2f}", f"{accuracy8:.2f}", f"{loss:.4f}", f"{loss8:.4f}"])
    print(markdown(rows))
    sys.exit(1 if unreadable else 0)


if __name__ == "__main__":
    cli.run(main)
