"""What every step imports: command line, loaders, augmentation, train and test loops, summary, Run.

Nothing here knows which step it serves. What is particular to a step (network, optimizer, schedule,
augmentation) is in the step's own file. What runs behind the scenes (data on disk, log, checkpoint,
pictures, a faster batch norm) is in harness/.
"""
import math
import sys

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from harness import cli, fast, mnist
from harness.cli import angle, positive, positive_int, probability  # noqa: F401  (for steps' options)
from harness.layer_table import summary  # noqa: F401
from harness.loader import TEST_BATCH, Loader, checked, predict
from harness.run import Run  # noqa: F401

HELD_OUT = 10_000  # training images, the last ones, that --validate keeps from training
# For test-time augmentation: the image as it is, and shifted by one pixel (pixels to the right, pixels down).
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def command_line(docstring):
    """A parser with the options that all steps share; a step, whose `docstring` it shows, adds its own."""
    parser = cli.Parser(docstring)
    parser.add_argument("--epochs", type=positive_int, default=15, metavar="N",
                        help="passes over the training set")
    parser.add_argument("--batch-size", type=positive_int, default=128, metavar="N",
                        help="training images per optimizer step")
    parser.add_argument("--seed", type=cli.seed, default=1, metavar="N",
                        help="seed of everything random: weights, order of images, dropout, augmentation")
    parser.add_argument("--device", type=cli.device, default="auto", metavar="{auto,cpu,cuda,cuda:1,mps}",
                        help="where to train; auto takes a GPU if there is one")
    parser.add_argument("--out-dir", type=cli.folder, default="results", metavar="DIR",
                        help="folder for log, JSON, pictures, weights and checkpoint; an earlier run "
                             "of the same step in it is replaced")
    parser.add_argument("--resume", action="store_true",
                        help="resume from the checkpoint in --out-dir, if any; --epochs may be raised")
    parser.add_argument("--validate", action="store_true",
                        help="for choosing a recipe: train on the first 50,000 training images, evaluate on "
                             "the last 10,000, and leave the test images unopened")
    parser.add_argument("--dry-run", action="store_true",
                        help="a single batch per loop, to see that everything works")
    mnist.add_arguments(parser)
    return parser


def loaders(args, augment=None):
    """The training loader of MNIST as the command line `args` wants it, and the loader of what is evaluated.

    The latter holds the test images or, with `--validate`, the last training images, which are then not
    trained on. `augment` is applied in training only. With `--dry-run` each holds a single batch. Raises
    what `mnist.load` raises.
    """
    images, labels = mnist.load_training(args.data_dir, args.mirror)
    if args.validate:
        training = images[:-HELD_OUT], labels[:-HELD_OUT]
        evaluation = images[-HELD_OUT:], labels[-HELD_OUT:]
    else:
        training, evaluation = (images, labels), mnist.load_test(args.data_dir, args.mirror)
    if args.dry_run:
        training = [tensor[:args.batch_size] for tensor in training]
        evaluation = [tensor[:TEST_BATCH] for tensor in evaluation]
    training, evaluation = ([tensor.to(args.device) for tensor in pair] for pair in (training, evaluation))
    return (Loader(*training, args.batch_size, shuffle=True, augment=augment),
            Loader(*evaluation, TEST_BATCH, split="validation" if args.validate else "test"))


class RandomRotation:
    """Rotates each image of a batch by an angle of its own, uniform in [-degrees, degrees].

    Does to a batch what torchvision.transforms.RandomRotation does to one image, with the same nearest-pixel
    sampling and the same black background.
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
    # For each output pixel, where it came from: the inverse of the rotation, with y pointing down.
    inverse = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(inverse, images.shape, align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


class RandomWarp:
    """Rotates, shifts, scales, shears and elastically distorts each image of a batch, by amounts of its own.

    The amounts are drawn uniformly: up to `degrees` of rotation and `shear` degrees of slant either way, up
    to `shift` pixels in each direction, larger or smaller by up to the factor 1 + `scale`. For the elastic
    distortion a grid of 5x5 points is moved by normally distributed amounts of standard deviation `elastic`
    pixels, and what is between them moves along (after Simard, Steinkraus and Platt, "Best practices for
    convolutional neural networks", ICDAR 2003). `progress` is the part of the training that is over; it grows
    by `per_batch` with every batch. Over its last 30 % all amounts fade out, since test images are plain.
    """

    def __init__(self, degrees, shift, scale, shear, elastic):
        self.degrees, self.shift, self.scale, self.shear, self.elastic = degrees, shift, scale, shear, elastic
        self.progress = self.per_batch = 0.0

    def __call__(self, images):
        strength = min(1.0, (1 - self.progress) / 0.3)
        self.progress += self.per_batch

        def draw(most):
            return torch.empty(len(images), device=images.device).uniform_(-most, most) * strength

        turn, slant = torch.deg2rad(draw(self.degrees)), torch.tan(torch.deg2rad(draw(self.shear)))
        size = (draw(1) * math.log1p(self.scale)).exp()
        half = (images.shape[-1] - 1) / 2  # affine_grid measures in half images, from the centre
        x, y = draw(self.shift) / half, draw(self.shift) / half
        # From each point back to where it came from: sheared, rotated, scaled, shifted.
        sin, cos = turn.sin() / size, turn.cos() / size
        inverse = torch.stack([cos, slant * cos - sin, x, sin, slant * sin + cos, y], dim=1).view(-1, 2, 3)
        points = F.affine_grid(inverse, (len(images), 1, 5, 5), align_corners=True)
        points = points + torch.randn_like(points) * (strength * self.elastic / half)
        points = points.permute(0, 3, 1, 2)  # as images with two channels, x and y
        grid = F.interpolate(points, images.shape[2:], mode="bilinear", align_corners=True)
        return F.grid_sample(images, grid.permute(0, 2, 3, 1), mode="bilinear", align_corners=True)


def mean_over_shifts(classify, images, shifts=SHIFTS):
    """Test-time augmentation: what `classify` answers to the images (N, 1, H, W), averaged over `shifts`.

    `classify` takes images and answers with log-probabilities (N, 10); so does this, with their mean,
    normalised again. What a shift pulls in at the edge is what was there before.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    shifted = [padded[..., 1 - down:1 - down + height, 1 - right:1 - right + width] for right, down in shifts]
    answers = classify(torch.cat(shifted)).view(len(shifts), -1, 10)
    return F.log_softmax(answers.mean(dim=0), dim=1)


def train(model, loader, optimizer, scheduler=None):
    """One epoch of training, in place, with a progress bar on a terminal and a line at the end.

    A `scheduler` given here takes a step after each batch; one that steps by the epoch is left to the caller.

    Returns the mean loss (negative log-likelihood, nats per image) and the accuracy in percent, both as the
    notebooks took them: during the epoch, on the images as augmented and dropped out, by weights that are
    still changing.

    Raises cli.UserError if the network does not answer with log-probabilities (B, 10), and cli.Diverged if a
    loss is NaN or infinite: on a CPU before that batch touches the weights, on a GPU at the end of the epoch.
    """
    model.train()
    device = loader.images.device
    losses = torch.zeros(len(loader), device=device)
    total_loss, correct, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0

    def progress():
        return f"Loss={losses[batch_id]:.4f} Batch_id={batch_id} Accuracy={100 * correct.item() / seen:.2f}"

    # Shown on a terminal and in a notebook, and cleared after the epoch; the line printed below stays.
    bar = tqdm(loader, leave=False, disable=None if sys.stdout.isatty() else not hasattr(sys, "ps1"),
               dynamic_ncols=True, bar_format="{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]")
    with fast.layers(model):  # the same numbers to rounding, in less time
        for batch_id, (data, target) in enumerate(bar):
            optimizer.zero_grad()
            log_probabilities = checked(model(data), len(target))
            loss = F.nll_loss(log_probabilities, target)
            losses[batch_id] = loss.detach()
            total_loss += losses[batch_id] * len(target)
            correct += (log_probabilities.detach().argmax(dim=1) == target).sum()
            seen += len(target)
            if device.type == "cpu":  # reading a number from a GPU waits for it: there, once an epoch
                check_finite(losses[batch_id], f"batch {batch_id}: the training loss")
                bar.set_description_str(progress(), refresh=False)
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()

    for i, loss in enumerate(losses.tolist()):
        check_finite(loss, f"batch {i}: the training loss")
    print(progress())
    return total_loss.item() / seen, 100 * correct.item() / seen


def check_finite(loss, what):
    """Raise cli.Diverged, naming `what` it is, if `loss` is NaN or infinite."""
    if not math.isfinite(loss):
        raise cli.Diverged(f"{what} became {float(loss)}; a smaller --lr may help")


def test(model, loader):
    """The mean loss (nats per image) and the accuracy in percent on all of `loader`, printed too.

    Raises cli.UserError if the network does not answer with log-probabilities (B, 10), cli.Diverged if the
    loss is NaN or infinite.
    """
    log_probabilities, labels = predict(model, loader), loader.labels
    loss = F.nll_loss(log_probabilities, labels).item()
    check_finite(loss, f"after the last batch: the {loader.split} loss")
    correct = (log_probabilities.argmax(dim=1) == labels).sum().item()
    accuracy = 100 * correct / len(labels)
    print(f"{loader.split.title()} set: Average loss: {loss:.4f}, "
          f"Accuracy: {correct}/{len(labels)} ({accuracy:.2f}%)\n")
    return loss, accuracy
