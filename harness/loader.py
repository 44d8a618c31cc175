"""Mini-batches of images that lie in memory, and a model's predictions for them."""
import math

import torch

from harness import fast
from harness.cli import UserError

TEST_BATCH = 125  # images; larger batches are no faster, and would need more memory than training does
MEAN, STD = 0.1307, 0.3081  # of all training pixels, scaled to 0..1


class Loader:
    """Mini-batches of a data set that lies in memory as bytes, on the device that trains.

    Iterating yields `(data, target)`: normalised images (B, 1, 28, 28) and int64 labels (B,), in a fresh
    random order each time if `shuffle`, the last batch smaller if need be. `images` is uint8 (N, 28, 28),
    `labels` int64 (N,); `augment` maps images (B, 1, 28, 28) in 0..1 to others of that shape, before
    normalisation. `split` is what the images are called: train, validation or test.
    """

    def __init__(self, images, labels, batch_size, shuffle=False, augment=None, split="train"):
        self.images, self.labels = images, labels
        self.batch_size = min(batch_size, len(images))
        self.shuffle, self.augment, self.split = shuffle, augment, split

    def __len__(self):
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self):
        # Drawn on the CPU, so that one seed gives one order on every device.
        order = torch.randperm(len(self.images)) if self.shuffle else torch.arange(len(self.images))
        for chosen in order.to(self.images.device).split(self.batch_size):
            # Batch by batch: as floats, the training set would take 188 MB instead of 47.
            data = self.images[chosen].unsqueeze(1).float() / 255
            if self.augment:
                data = self.augment(data)
            yield (data - MEAN) / STD, self.labels[chosen]


@torch.no_grad()
def predict(model, loader):
    """Log-probabilities (N, 10) of every image of an unshuffled `loader`, with the model in eval mode.

    Raises UserError if the model does not answer with such.
    """
    model.eval()
    with fast.layers(model):
        return torch.cat([checked(model(data), len(data)) for data, _ in loader])


def checked(answer, images):
    """The network's `answer` to so many images; raises UserError unless its shape is (images, 10)."""
    shape = getattr(answer, "shape", None)
    if shape != (images, 10):
        found = f"the shape {tuple(shape)}" if shape else f"a {type(answer).__name__}"
        raise UserError(f"the network answers a batch of {images} images with {found}; "
                        f"it should be log-probabilities of shape ({images}, 10)")
    return answer
