"""Tables of a network's layers: the one that the notebooks printed, and one with receptive fields.

    python -m harness.layer_table step4_aug_lr     # a step, or a file of your own with a class Net

The second has, for each layer, its part of the parameters and of the multiply-adds, the stride, and the
receptive field: how many pixels of the image, in height and width, a value of its map depends on.
"""
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


@dataclass
class Layer:
    """One row of a table. `layer` is the module, `shape` that of its output for one image."""
    name: str  # as in Conv2d-1
    layer: torch.nn.Module
    shape: tuple
    parameters: int
    # The first and last row of the image that each row of the map depends on, and so the columns.
    rows: list = ()
    columns: list = ()  # both empty if the output is no map

    @property
    def multiply_adds(self):
        """One for each weight and place; 0 for layers other than convolutions and linear ones."""
        places = self.shape[1:] if isinstance(self.layer, torch.nn.Conv2d) else self.shape[:-1]
        return self.layer.weight.numel() * math.prod(places) if isinstance(self.layer, COMPUTING) else 0


def stride(side):
    """How many pixels apart neighbours in a map are in the image, down or to the right; 0 if there are none.

    `side` is the rows or the columns of a Layer.
    """
    steps = [b - a for ends in zip(*side, strict=True) for a, b in itertools.pairwise(ends)]
    return max(steps, default=0)  # where the border of the image cuts a field off, they are less


def receptive_field(side):
    """Its height or width in pixels, as if the image went on beyond its border; `side` as above."""
    # The border cuts off the beginning of the first field at most, and the end of the last.
    return side[0][1] - side[-1][0] + 1 + stride(side) * (len(side) - 1)


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
    with torch.no_grad():
        model(images.to(device))
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
    """The layers of `model` as a list of Layer, with rows and columns.

    These are tried out, not derived, so that they hold for networks of every kind: what depends on a pixel
    that is NaN is NaN itself. The network sees one image for each row and column of pixels, with NaN there.
    (Where it looks at shifted images as well, those of the image as it is must come first.)
    """
    channels, height, width = input_size
    images = torch.zeros(height + width, channels, height, width, dtype=torch.double)
    for row in range(height):
        images[row, :, row] = math.nan
    for column in range(width):
        images[height + column, :, :, column] = math.nan
    # In double precision each value is computed on its own, and not in tiles, through which NaN would spread.
    exact = copy.deepcopy(model).cpu().double()

    def ranges(tensor):
        """The first and last row, and column, that each row and column of the map `tensor` depends on."""
        if tensor.dim() != 4 or len(tensor) < len(images):
            return ()
        depends = tensor[:len(images)].isnan().any(dim=1)
        return [[(hit[0], hit[-1]) for line in lines.T if (hit := line.nonzero().flatten().tolist())]
                for lines in (depends[:height].any(dim=2), depends[height:].any(dim=1))]

    found = layers(model, input_size)
    for layer, (_, sides) in zip(found, outputs(exact, images, ranges), strict=True):
        if sides:
            layer.rows, layer.columns = sides
    return found


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


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("step", help="as in step4_aug_lr, or a file that has a class Net")
    path = Path(parser.parse_args().step)
    path = path.with_name(f"{path.name.removesuffix('.py')}.py")
    if not path.is_file():
        raise cli.UserError(f"there is no file {path}")
    sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    if not hasattr(module, "Net"):
        raise cli.UserError(f"{path} has no class Net")

    def both(measure, layer):
        """As in 24, or 24x12 where height and width differ."""
        sides = [side for side in (layer.rows, layer.columns) if side]
        return "x".join(dict.fromkeys(str(measure(side) or "") for side in sides))

    def count(number):
        return f"{number:,}" if number else ""

    model = module.Net()
    found = layers_with_receptive_fields(model)
    parameters = sum(p.numel() for p in model.parameters())
    line = "{:>18} {:>12} {:>11} {:>7} {:>14} {:>7} {:>16}"
    print(line.format("Layer", "Output", "Parameters", "Share", "Multiply-adds", "Stride", "Receptive field"))
    for layer in found:
        share = f"{layer.parameters / parameters:.1%}" if layer.parameters else ""
        print(line.format(layer.name, "x".join(map(str, layer.shape)), count(layer.parameters), share,
                          count(layer.multiply_adds), both(stride, layer), both(receptive_field, layer)))
    print(f"\n{parameters:,} parameters, {sum(layer.multiply_adds for layer in found):,} multiply-adds.\n"
          "Stride: how far apart, in pixels of the image, neighbours in the map look.\n"
          "Receptive field: the height and width, in pixels, of what each of them looks at.")


if __name__ == "__main__":
    cli.run(main)
