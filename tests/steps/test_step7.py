"""Step 7: its sizes, how it deskews digits, its augmentation and what it stores."""
import json
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import train

import common
import step7_small
from step7_small import deskew


def parameters(width):
    return sum(p.numel() for p in step7_small.Net(width).parameters())


def moments(images):
    """Of the ink in `images` (N, 1, 28, 28): mean x and y, slant, deviation in width and in height."""
    ink = images.squeeze(1).double()
    ink = ink / ink.sum((1, 2), keepdim=True)
    at = torch.arange(28).double() - 13.5
    x, y = (ink.sum(1) * at).sum(1), (ink.sum(2) * at).sum(1)
    xx, yy = (ink.sum(1) * at ** 2).sum(1) - x ** 2 + 1 / 12, (ink.sum(2) * at ** 2).sum(1) - y ** 2 + 1 / 12
    slant = (torch.einsum("nij,i,j->n", ink, at, at) - x * y) / yy
    return x, y, slant, (xx - slant ** 2 * yy).sqrt(), yy.sqrt()


def test_sizes():
    assert parameters(1) == 810 and parameters(1.9) == 1938  # the limits that were set are 850 and 2,000
    assert parameters(1e-9) > 0  # never without a channel


def test_deskewed_digits_are_upright_in_the_middle_and_scaled(tensors):
    images = tensors[0][:500].unsqueeze(1) / 255
    before, after = moments(images), moments(deskew(images))
    for i, most in ((0, 0.2), (1, 0.2), (2, 0.05)):  # not quite 0, since ink is lost at the edges
        assert before[i].abs().mean() > most and after[i].abs().mean() < most
    for found, expected in ((after[3], (before[3] * 4.9).sqrt()), (after[4], torch.full((500,), 6.5))):
        assert (found / expected - 1).abs().mean() < 0.05


def test_a_sheared_and_shifted_square_becomes_the_square_again():
    square = torch.zeros(1, 1, 28, 28)
    square[..., 8:20, 8:20] = 1
    slanted = torch.zeros_like(square)
    for row in range(8, 20):
        slanted[0, 0, row - 3, 8 + (row - 14) // 2:20 + (row - 14) // 2] = 1
    assert (slanted - square).abs().mean() > 0.1
    assert (deskew(slanted) - deskew(square)).abs().mean() < 0.02


@pytest.mark.parametrize("ink", [(slice(0), slice(0)), (14, 14), (slice(4, 24), 3), (20, slice(4, 24)),
                                 (slice(28), slice(28))])
def test_blank_images_dots_and_lines_stay_finite(ink):
    images = torch.full((2, 1, 28, 28), -0.4242)
    images[:, 0][:, ink[0], ink[1]] = 2.8215
    answer = deskew(images)
    assert answer.isfinite().all() and answer.shape == images.shape
    if ink == (slice(0), slice(0)):
        assert torch.allclose(answer, images)
    assert step7_small.Net().eval()(images).isfinite().all()


def test_the_background_stays_as_it_is_after_normalisation(tensors):
    images = tensors[0][:50].unsqueeze(1) / 255
    normalised = (deskew(images) - 0.1307) / 0.3081
    assert torch.allclose(deskew((images - 0.1307) / 0.3081), normalised, atol=1e-4)


def test_a_trained_network_shifts_digits_after_deskewing_them(tensors):
    torch.manual_seed(0)
    images, model = tensors[0][:40].unsqueeze(1) / 255, step7_small.Net()
    model(images)  # in training: the running statistics become those of these images
    model.eval()
    with torch.no_grad():
        answers = [model.classify(F.pad(deskew(images), (1, 1, 1, 1), mode="replicate")
                                  [..., 1 - down:29 - down, 1 - right:29 - right])
                   for right, down in common.SHIFTS]
        assert torch.allclose(model(images), torch.stack(answers).mean(dim=0).log_softmax(dim=1), atol=1e-5)
        assert (answers[1] - answers[0]).abs().max() > 1e-3  # there was something to average


@pytest.mark.parametrize("width, strength", [(0.5, 0.25), (1, 0.5), (1.9, 0.95), (3, 1.5), (4.67, 2)])
def test_a_smaller_network_gets_a_weaker_warp(width, strength, first_6000, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(common, "RandomWarp", lambda **amounts: made.append(amounts))
    with pytest.raises(AttributeError):  # there is no warp to set `per_batch` of
        train(tmp_path, "step7_small", "--width", width)
    amounts = {"degrees": 10, "shift": 1.5, "scale": 0.1, "shear": 5, "elastic": 0.7}
    assert made[0] == pytest.approx({name: strength * amount for name, amount in amounts.items()})


def test_it_learns_and_stores_what_it_is_without_test_time_augmentation(first_6000, tmp_path):
    history = train(tmp_path, "step7_small", "--epochs", 3, "--batch-size", 32)
    assert history[-1]["test_accuracy"] > 90
    model = step7_small.Net()
    model.load_state_dict(torch.load(tmp_path / "step7_small.pt"))
    model.shifts = common.SHIFTS[:1]
    _, accuracy = common.test(model, common.loaders(step7_small.command_line().parse_args([]))[1])
    stored = json.loads((tmp_path / "step7_small.json").read_text())["test_accuracy_without_tta"]
    log = (tmp_path / "step7_small.log").read_text()
    found = re.search(r"\nWithout test-time augmentation:\nTest set: .* \((.+)%\)\n\n +best", log)
    assert stored == accuracy and found[1] == f"{accuracy:.2f}"
