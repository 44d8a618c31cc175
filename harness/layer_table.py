"""Tables of a network's layers: that of the log, and one with receptive fields.

    python -m harness.layer_table step4_aug_lr     # a step, or a file of your own with a class Net
"""
import contextlib
import copy
import importlib.util
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from harness import cli

COMPUTING = torch.nn.Conv2d, torch.nn.Linear  # the layers whose multiply-adds are counted
LEGEND = """\
Output: maps x height x width. Multiply-adds: one for each weight at each place.
Stride: how many pixels of the image lie between a place in the map and the next, after all layers so far.
Receptive field: the height and width, in pixels, of what a place in the map depends on, if the image went on
beyond its border; "all" if that is everything, as throughout step 7, which first deskews the image. Where
both are empty, the output is not a map."""


@dataclass
class Layer:
    """One row of a table. `layer` is the module, `shape` that of its output for one image."""
    name: str  # as in Conv2d-1
    layer: torch.nn.Module
    shape: tuple
    parameters: int
    # Of the image: the first and last row that each row of the map depends on, and so the columns.
    rows: list = ()
    columns: list = ()  # both empty if the output is no map
    stride: tuple = ()  # (down, to the right), in pixels from one place of the map to the next
    field: tuple = ()  # (height, width) of the receptive field, in pixels; None stands for all

    @property
    def multiply_adds(self):
        """One for each weight and place; 0 for layers other than convolutions and linear ones."""
        places = self.shape[1:] if isinstance(self.layer, torch.nn.Conv2d) else self.shape[:-1]
        return self.layer.weight.numel() * math.prod(places) if isinstance(self.layer, COMPUTING) else 0


def outputs(model, images, keep=lambda tensor: tuple(tensor.shape[1:])):
    """What each layer of `model` puts out for `images`: a list of (layer, what `keep` makes of the tensor).

    By default that is its shape without the batch; where there is no tensor, ().
    """
    seen = []
    leaves = [layer for layer in model.modules() if not list(layer.children())]

    def note(layer, _, output):
        tensor = first_tensor(output)
        seen.append((layer, () if tensor is None else keep(tensor)))

    hooks = [layer.register_forward_hook(note) for layer in leaves]
    training, device = model.training, next(model.parameters(), torch.empty(0)).device
    model.eval()  # or these images would enter the running statistics of batch norm
    try:
        with torch.no_grad():
            model(images.to(device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return seen


def first_tensor(output):
    """The first tensor in what a layer puts out: itself, or one in a tuple, list or dict; else None."""
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((tensor for tensor in map(first_tensor, output) if tensor is not None), None)
    return output if isinstance(output, torch.Tensor) else None


def layers(model, input_size=(1, 28, 28)):
    """The layers of `model`, in the order in which they compute: a list of Layer without rows and columns."""
    seen = outputs(model, torch.zeros(1, *input_size))
    return [Layer(f"{type(layer).__name__}-{n}", layer, shape, sum(p.numel() for p in layer.parameters()))
            for n, (layer, shape) in enumerate(seen, start=1)]


def layers_with_receptive_fields(model, input_size=(1, 28, 28)):
    """The layers of `model` as a list of Layer with rows, columns, stride and field.

    These are tried out, not derived, so that they hold for networks of every kind: what depends on a pixel
    that is NaN is NaN itself. Stride and field are those in an image three times as high (wide), where the
    border is far away.
    """
    channels, height, width = input_size
    found = layers(model, input_size)
    high, wide = (channels, 3 * height, width), (channels, height, 3 * width)
    sides = [seen_by(model, *what) for what in ((input_size, 2), (input_size, 3), (high, 2), (wide, 3))]
    for layer, rows, columns, *far in itertools.zip_longest(found, *sides, fillvalue=()):
        if rows and columns:
            layer.rows, layer.columns = rows, columns
            layer.stride, layer.field = zip(*map(middle, far, (3 * height, 3 * width)), strict=True)
    return found


def seen_by(model, input_size, dim):
    """For each layer: the first and last line of the image that each line of its map depends on, as a list.

    The lines are rows if `dim` is 2, columns if it is 3. The list is empty if the output is no map; layers
    that do not work with images of this size are missing at the end. (Where a network looks at shifted
    images as well, those of the image as it is must come first in the batch.)
    """
    images = torch.zeros(input_size[dim - 1], *input_size, dtype=torch.double)
    for number, image in enumerate(images):
        image.select(dim - 1, number).fill_(math.nan)
    sides = []

    def keep(tensor):
        ranges = []
        if tensor.dim() == 4 and len(tensor) >= len(images):
            depends = tensor[:len(images)].isnan().any(dim=1).any(dim=4 - dim)
            ranges = [(hit[0], hit[-1]) for line in depends.T if (hit := line.nonzero().flatten().tolist())]
        sides.append(ranges)

    # In double precision each value is computed on its own, and not in tiles, through which NaN would spread.
    with contextlib.suppress(Exception):  # of any kind: it is the network's
        outputs(copy.deepcopy(model).cpu().double(), images, keep)
    return sides


def middle(side, size):
    """Stride and receptive field of a map's middle place, given what seen_by() says of it.

    The stride is None if it is the only place, or all places see the same; the field is None if it is all of
    the image or more.
    """
    if not side:  # the network takes no image but those of its own size
        return None, None
    number = len(side) // 2
    first, last = side[number]
    stride = first - side[number - 1][0] if number else None
    return stride or None, None if first == 0 or last == size - 1 else last - first + 1


def multiply_adds(model, images):
    """Multiply-adds of the convolutions of `model` for each of `images`: one for each weight and place."""
    return sum(layer.multiply_adds for layer in layers(model, images.shape[1:])
               if isinstance(layer.layer, torch.nn.Conv2d))


def summary(model, input_size=(1, 28, 28)):
    """Print the table of `model` that the notebooks printed: one numbered row per layer, totals, sizes in
    MB.

    Layout and arithmetic are those of the torchsummary package: the forward/backward size is 2 x 4 bytes for
    every number that a listed layer puts out, for one image.
    """
    rows = layers(model, input_size)
    megabyte = 1024 ** 2
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    input_mb = 4 * math.prod(input_size) / megabyte
    outputs_mb = 2 * 4 * sum(math.prod(row.shape) for row in rows) / megabyte
    parameters_mb = 4 * parameters / megabyte

    thin, thick = "-" * 64, "=" * 64
    print(thin, f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}", thick, sep="\n")
    for row in rows:
        print(f"{row.name:>20}  {[-1, *row.shape]!s:>25} {row.parameters:>15,}")
    print(thick, f"Total params: {parameters:,}", f"Trainable params: {trainable:,}",
          f"Non-trainable params: {parameters - trainable:,}", thin,
          f"Input size (MB): {input_mb:.2f}", f"Forward/backward pass size (MB): {outputs_mb:.2f}",
          f"Params size (MB): {parameters_mb:.2f}",
          f"Estimated Total Size (MB): {input_mb + outputs_mb + parameters_mb:.2f}", thin, "", sep="\n")


def load(name):
    """The module in the file `name`, with .py or without, or the only one whose name begins so."""
    path = Path(name)
    if path.suffix != ".py":
        candidates = sorted(path.parent.glob(f"{path.name}*.py")) if path.name else []
        exact = Path(f"{name}.py")
        path = exact if exact in candidates or len(candidates) != 1 else candidates[0]
    if not path.is_file():
        raise cli.UserError(f"there is no step or file {name!r}")
    sys.path.insert(0, str(path.parent))  # for its neighbours
    spec = importlib.util.spec_from_file_location("network", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "Net"):
        raise cli.UserError(f"{path} has no class Net")
    return module


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("step", help="as in step4_aug_lr, or a file that has a class Net")
    model = load(parser.parse_args().step).Net()

    def both(numbers):
        """As in 24, or 24x12 where height and width differ."""
        return "x".join(dict.fromkeys("all" if number is None else str(number) for number in numbers))

    def count(number):
        return f"{number:,}" if number else ""

    found = layers_with_receptive_fields(model)
    parameters = sum(p.numel() for p in model.parameters())
    line = "{:>18} {:>12} {:>11} {:>7} {:>14} {:>7} {:>16}"
    print(line.format("Layer", "Output", "Parameters", "Share", "Multiply-adds", "Stride", "Receptive field"))
    for layer in found:
        share = f"{layer.parameters / parameters:.1%}" if layer.parameters else ""
        stride = both(layer.stride) if None not in layer.stride else ""
        print(line.format(layer.name, "x".join(map(str, layer.shape)), count(layer.parameters), share,
                          count(layer.multiply_adds), stride, both(layer.field)))
    multiply_adds = sum(layer.multiply_adds for layer in found)
    print(f"\n{parameters:,} parameters, {multiply_adds:,} multiply-adds.\n{LEGEND}")


if __name__ == "__main__":
    cli.run(main)
