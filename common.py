"""What every step imports: command line, loaders, augmentation, train and test loops, summary.

Nothing here knows which step it serves. What makes a step a step (network,
optimizer, schedule, augmentation) stands in the step's own file.
"""
import argparse
import math
import os
import sys

import torch
import torch.nn.functional as F
from tqdm import tqdm

import mnist
from layers import keep_freed_memory
from loader import Loader

TARGET = 99.4  # percent of the test images: the goal of the exercise
HELD_OUT = 10_000  # training images, the last ones, that --validate keeps from training
TEST_BATCH = 125  # images; larger batches are no faster, and would need more memory than training does


# ---------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    """An argparse parser that says what is wrong in one line, without the usage before it."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def command_line(docstring):
    """A parser with the options all steps share; a step adds its own.

    `docstring` is the step's: its first line becomes the description.
    """
    parser = Parser(description=docstring.splitlines()[0],
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=positive_int, default=15, metavar="N",
                        help="passes over the training set")
    parser.add_argument("--batch-size", type=positive_int, default=128, metavar="N",
                        help="training images per optimizer step")
    parser.add_argument("--seed", type=seed, default=1, metavar="N",
                        help="seed of everything random: weights, order of images, dropout, augmentation")
    parser.add_argument("--device", type=device, default="auto", metavar="{auto,cpu,cuda,mps}",
                        help="where to train; auto takes a GPU if there is one")
    parser.add_argument("--out-dir", default="results", metavar="DIR",
                        help="folder for log, JSON, pictures, weights and checkpoint; an earlier run "
                             "of the same step in it is replaced")
    parser.add_argument("--resume", action="store_true",
                        help="go on from the checkpoint in --out-dir if there is one; --epochs may be raised")
    parser.add_argument("--validate", action="store_true",
                        help="for choosing a recipe: train on the first 50,000 training images, evaluate on "
                             "the last 10,000, and leave the test images unopened")
    parser.add_argument("--dry-run", action="store_true",
                        help="a single batch per loop, to see that all works")
    mnist.add_arguments(parser)
    return parser


def positive_int(text):
    """`text` as a whole number above zero; raises argparse.ArgumentTypeError."""
    return _checked(int, text, lambda n: n > 0, "a whole number above 0")


def positive(text):
    """`text` as a finite number above zero; raises argparse.ArgumentTypeError."""
    return _checked(float, text, lambda x: 0 < x < math.inf, "a number above 0")


def probability(text):
    """`text` as a dropout probability in [0, 1); raises argparse.ArgumentTypeError."""
    return _checked(float, text, lambda p: 0 <= p < 1, "a probability from 0 up to, not including, 1")


def degrees(text):
    """`text` as an angle from 0 to 180 degrees; raises argparse.ArgumentTypeError."""
    return _checked(float, text, lambda a: 0 <= a <= 180, "an angle from 0 to 180 degrees")


def seed(text):
    """`text` as a seed that torch takes; raises argparse.ArgumentTypeError."""
    return _checked(int, text, lambda n: 0 <= n < 2 ** 63, "a whole number from 0 to 2^63 - 1")


def _checked(convert, text, holds, wanted):
    try:
        value = convert(text)
    except ValueError:
        value = None
    if value is None or not holds(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def device(name):
    """The torch.device called `name`, which may be auto; raises argparse.ArgumentTypeError if absent."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if name not in present:
        raise argparse.ArgumentTypeError(f"{name!r} is unknown; choose from auto, {', '.join(present)}")
    if not present[name]:
        raise argparse.ArgumentTypeError(f"torch finds no {name} device on this machine")
    return torch.device(name)


# ------------------------------------------------------- loaders, augmentation


def make_repeatable(args):
    """Seed everything random with `args.seed`, and make a GPU add up in the same order every time."""
    torch.manual_seed(args.seed)
    if args.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch asks for
        torch.use_deterministic_algorithms(True, warn_only=True)  # a warning says what cannot be repeated


def loaders(args, augment=None):
    """The training loader of MNIST as the command line `args` wants it, and the loader of what is evaluated.

    The latter holds the test images or, with `--validate`, the last training images, which
    are then not trained on. `augment` is applied in training only. With `--dry-run`
    each holds a single batch. Raises what `mnist.load` raises.
    """
    keep_freed_memory()
    images, labels = mnist.load_training(args.data_dir, args.mirror)
    if args.validate:
        training, evaluation = (images[:-HELD_OUT], labels[:-HELD_OUT]), (images[-HELD_OUT:], labels[-HELD_OUT:])
    else:
        training, evaluation = (images, labels), mnist.load_test(args.data_dir, args.mirror)
    if args.dry_run:
        training = [tensor[:args.batch_size] for tensor in training]
        evaluation = [tensor[:TEST_BATCH] for tensor in evaluation]
    return (Loader(*(tensor.to(args.device) for tensor in training), args.batch_size, shuffle=True, augment=augment),
            Loader(*(tensor.to(args.device) for tensor in evaluation), TEST_BATCH,
                   split="validation" if args.validate else "test"))


class RandomRotation:
    """Rotates each image of a batch by an angle of its own, uniform in [-degrees, degrees].

    For a batch what torchvision.transforms.RandomRotation is for one picture, with
    the same nearest-pixel sampling and the same black where there was no picture.
    """

    def __init__(self, degrees):
        self.degrees = degrees

    def __call__(self, images):
        return rotate(images, torch.empty(len(images), device=images.device).uniform_(
            -self.degrees, self.degrees))


def rotate(images, angles, mode="nearest"):
    """Rotate images (N, 1, H, W) about their centres, counter-clockwise, by `angles` (N,) in degrees.

    `mode` is what grid_sample takes: nearest, the notebooks' choice, or bilinear, which is smoother.
    """
    radians = torch.deg2rad(angles)
    sin, cos, zero = radians.sin(), radians.cos(), torch.zeros_like(radians)
    # Each output pixel asks where it came from: the inverse of the rotation, with y pointing down.
    inverse = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(inverse, images.shape, align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


# ------------------------------------------------------------- train and test


def train(model, loader, optimizer, scheduler=None):
    """One epoch of training, in place, with a progress bar on a terminal and a line at the end.

    A `scheduler` given here takes a step after each batch; one that steps by the epoch is the caller's.

    Returns the mean loss (negative log-likelihood, nats per image) and the
    accuracy in percent, both as the notebooks took them: during the epoch, on the
    images as augmented and dropped out, by weights that are still moving.

    Raises FloatingPointError if a loss is NaN or infinite: on a CPU before that batch
    touches the weights, on a GPU at the end of the epoch.
    """
    model.train()
    device = loader.images.device
    losses = torch.zeros(len(loader), device=device)
    total_loss, correct, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0

    def progress():
        return f"Loss={losses[batch_id]:.4f} Batch_id={batch_id} Accuracy={100 * correct.item() / seen:.2f}"

    # On a terminal only, and gone when the epoch is over: the line below stays instead.
    bar = tqdm(loader, leave=False, disable=None if sys.stdout.isatty() else True)
    for batch_id, (data, target) in enumerate(bar):
        optimizer.zero_grad()
        log_probabilities = model(data)
        loss = F.nll_loss(log_probabilities, target)
        losses[batch_id] = loss.detach()
        total_loss += losses[batch_id] * len(target)
        correct += (log_probabilities.detach().argmax(dim=1) == target).sum()
        seen += len(target)
        if device.type == "cpu":  # to read a number from a GPU is to wait for it: there, once an epoch
            check_finite(losses[batch_id], f"batch {batch_id}: the training loss")
            bar.set_description(progress(), refresh=False)
        loss.backward()
        optimizer.step()
        if scheduler:
            scheduler.step()

    for i, loss in enumerate(losses.tolist()):
        check_finite(loss, f"batch {i}: the training loss")
    print(progress())
    return total_loss.item() / seen, 100 * correct.item() / seen


def check_finite(loss, what):
    """Raise FloatingPointError, naming `what` it is, if `loss` is NaN or infinite."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"{what} became {float(loss)}")


def test(model, loader):
    """The mean loss (nats per image) and the accuracy in percent on all of `loader`, printed too.

    Raises FloatingPointError if the loss is NaN or infinite.
    """
    log_probabilities, labels = predict(model, loader), loader.labels
    loss = F.nll_loss(log_probabilities, labels).item()
    check_finite(loss, f"after the last batch: the {loader.split} loss")
    correct = (log_probabilities.argmax(dim=1) == labels).sum().item()
    accuracy = 100 * correct / len(labels)
    print(f"{loader.split.title()} set: Average loss: {loss:.4f}, Accuracy: {correct}/{len(labels)} ({accuracy:.2f}%)\n")
    return loss, accuracy


@torch.no_grad()
def predict(model, loader):
    """Log-probabilities (N, 10) of every image of an unshuffled `loader`, with the model in eval mode."""
    model.eval()
    return torch.cat([model(data) for data, _ in loader])


# -------------------------------------------------------------------- summary


def outputs(model, input_size=(1, 28, 28)):
    """What each layer of `model` puts out for one image: a list of (layer, shape without the batch)."""
    seen = []
    leaves = [layer for layer in model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(lambda layer, _, output: seen.append((layer, tuple(output.shape[1:]))))
             for layer in leaves]
    training, some = model.training, next(model.parameters())
    model.eval()  # or the one black image would enter the running statistics of batch norm
    with torch.no_grad():
        model(torch.zeros(1, *input_size, device=some.device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return seen


def multiply_adds(model):
    """Multiply-adds of `model` for one image, in its convolutions: one per weight and place it is laid on."""
    return sum(layer.weight.numel() * math.prod(shape[1:])
               for layer, shape in outputs(model) if isinstance(layer, torch.nn.Conv2d))


def summary(model, input_size=(1, 28, 28)):
    """Print the table the notebooks printed: one numbered row per layer, totals, sizes in MB.

    Layout and arithmetic are those of the torchsummary package: the forward/backward
    size is 2 x 4 bytes for every number a listed layer puts out, for one image.
    """
    rows = [(f"{type(layer).__name__}-{number}", [-1, *shape], sum(p.numel() for p in layer.parameters()))
            for number, (layer, shape) in enumerate(outputs(model, input_size), start=1)]
    megabyte = 1024 ** 2
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    input_mb = 4 * math.prod(input_size) / megabyte
    outputs_mb = 2 * 4 * sum(math.prod(shape[1:]) for _, shape, _ in rows) / megabyte
    parameters_mb = 4 * parameters / megabyte

    thin, thick = "-" * 64, "=" * 64
    print(thin, f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}", thick, sep="\n")
    for name, shape, count in rows:
        print(f"{name:>20}  {shape!s:>25} {count:>15,}")
    print(thick, f"Total params: {parameters:,}", f"Trainable params: {trainable:,}",
          f"Non-trainable params: {parameters - trainable:,}", thin,
          f"Input size (MB): {input_mb:.2f}", f"Forward/backward pass size (MB): {outputs_mb:.2f}",
          f"Params size (MB): {parameters_mb:.2f}",
          f"Estimated Total Size (MB): {input_mb + outputs_mb + parameters_mb:.2f}", thin, "", sep="\n")
