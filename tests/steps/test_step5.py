"""Step 5: its network's limits, its test-time augmentation, its augmentation and schedule in training."""
import itertools
import json
import re

import pytest
import torch
from conftest import train
from torchvision.transforms.functional import InterpolationMode, affine

import common
import step5_beyond


def parameters(width):
    return sum(p.numel() for p in step5_beyond.Net(width).parameters())


def test_fewer_than_8000_parameters_and_never_none():
    assert parameters(1) < 8000
    assert parameters(1e-9) > 0  # never without a channel


def test_a_trained_network_answers_with_the_mean_over_five_shifts(tensors):
    torch.manual_seed(0)
    model = step5_beyond.Net()
    images = tensors[0][:40].unsqueeze(1) / 255
    images[:, :, 13, 27] = 1  # ink at the edge, which not every shift keeps
    model(images)  # in training: the running statistics become those of these images
    model.eval()
    with torch.no_grad():
        answer, answers = model(images), []
        padded = torch.cat([images[..., :1], images, images[..., -1:]], dim=3)
        padded = torch.cat([padded[..., :1, :], padded, padded[..., -1:, :]], dim=2)
        for y, x in ((1, 1), (1, 0), (1, 2), (0, 1), (2, 1)):
            answers.append(model.classify(padded[..., y:y + 28, x:x + 28]).softmax(dim=1))
        product = torch.stack(answers).prod(dim=0) ** (1 / 5)
        assert torch.allclose(answer.exp(), product / product.sum(dim=1, keepdim=True), atol=1e-5)
        assert (answers[1] - answers[0]).abs().max() > 1e-3  # there was something to average
        model.shifts = common.SHIFTS[:1]
        assert torch.allclose(model(images).exp(), answers[0], atol=1e-6)


def test_in_training_it_sees_each_image_once(tensors):
    model, seen = step5_beyond.Net(), []
    model.block1.register_forward_pre_hook(lambda layer, x: seen.append(len(x[0])))
    model.train()(tensors[0][:7].unsqueeze(1) / 255)
    model.eval()(tensors[0][:7].unsqueeze(1) / 255)
    assert seen == [7, 35]


def test_it_logs_and_stores_what_it_is_without_test_time_augmentation(first_6000, tmp_path):
    train(tmp_path, "step5_beyond", "--epochs", 1, "--batch-size", 32)
    model = step5_beyond.Net()
    model.load_state_dict(torch.load(tmp_path / "step5_beyond.pt"))
    model.shifts = common.SHIFTS[:1]
    args = step5_beyond.command_line().parse_args([])
    loss, accuracy = common.test(model, common.loaders(args)[1])
    log = (tmp_path / "step5_beyond.log").read_text()
    found = re.search(r"\nWithout test-time augmentation:\nTest set: .* \((.+)%\)\n\n +best", log)
    stored = json.loads((tmp_path / "step5_beyond.json").read_text())
    assert stored["test_accuracy_without_tta"] == accuracy and found[1] == f"{accuracy:.2f}"
    assert loss > stored["history"][-1]["test_loss"]


def test_learning_rate_rises_for_a_fifth_of_all_batches_and_falls_to_zero(first_6000, monkeypatch, tmp_path):
    used = []

    def spy(model, loader, optimizer, scheduler):
        optimizer.register_step_post_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
        return common_train(model, loader, optimizer, scheduler)

    common_train = common.train
    monkeypatch.setattr(common, "train", spy)
    history = train(tmp_path, "step5_beyond", "--epochs", 1, "--batch-size", 60, "--lr", 0.2)
    assert len(used) == 100 and max(used) == pytest.approx(0.2)
    rises = [a < b for a, b in itertools.pairwise(used)]
    assert rises == [True] * 19 + [False] * 80
    assert used[0] == pytest.approx(0.01) and used[-1] == pytest.approx(0.2 / 80)
    assert history[0]["lr"] == pytest.approx(0.01)  # the first of the epoch


def test_without_amounts_nothing_is_changed(tensors):
    images = tensors[0][:50].unsqueeze(1) / 255
    assert (step5_beyond.RandomWarp(0, 0, 0, 0, 0)(images) - images).abs().max() < 1e-4


@pytest.mark.parametrize("what, amounts", [("degrees", (10, 0, 0, 0)), ("shift", (0, 2, 0, 0)),
                                           ("scale", (0, 0, 0.3, 0)), ("shear", (0, 0, 0, 15))])
def test_each_amount_is_within_its_bounds_and_reaches_them(tensors, monkeypatch, what, amounts):
    grids = []
    monkeypatch.setattr(step5_beyond.F, "affine_grid", lambda inverse, shape, align_corners:
                        grids.append(inverse) or torch.zeros(*shape[:1], *shape[2:], 2))
    torch.manual_seed(0)
    step5_beyond.RandomWarp(*amounts, 0)(torch.zeros(5000, 1, 28, 28))
    (a, b, x), (c, d, y) = grids[0].permute(1, 2, 0)
    found = {"degrees": torch.rad2deg(torch.atan2(c, a)), "shift": x * 14,
             "scale": 1 / (a * d - b * c).sqrt(),
             "shear": torch.rad2deg(torch.atan((a * b + c * d) / (a * a + c * c)))}
    low, high = {"degrees": (-10, 10), "shift": (-2, 2), "scale": (1 / 1.3, 1.3), "shear": (-15, 15)}[what]
    assert low - 1e-3 <= found[what].min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < found[what].max() <= high + 1e-3
    others = {"degrees": 0.0, "shift": 0.0, "scale": 1.0, "shear": 0.0}
    for other in set(others) - {what}:
        assert torch.allclose(found[other], torch.full_like(a, others[other]), atol=1e-3), other
    if what == "shift":
        assert y.abs().max() * 14 > 1.9 and (x - y).abs().max() > 0.2  # each direction on its own


def test_rotation_and_size_are_torchvisions(tensors, monkeypatch):
    images = tensors[0][:20].unsqueeze(1) / 255
    drawn = iter([9.0, 0.0, 1.0, 0.0, 0.0])  # degrees, shear, size, shift in x and in y
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(next(drawn)))
    warped = step5_beyond.RandomWarp(10, 3, 0.2, 5, 0)(images)
    reference = affine(images, angle=-9.0, translate=[0, 0], scale=1.2, shear=[0.0],
                       interpolation=InterpolationMode.BILINEAR)
    assert (warped - reference).abs().max() < 1e-3


def test_elastic_distortion_moves_points_by_as_much_as_it_says(monkeypatch):
    torch.manual_seed(0)
    grids = []
    monkeypatch.setattr(step5_beyond.F, "grid_sample", lambda images, grid, **_: grids.append(grid))
    plain = torch.zeros(2000, 1, 28, 28)
    step5_beyond.RandomWarp(0, 0, 0, 0, 0)(plain)
    step5_beyond.RandomWarp(0, 0, 0, 0, 0.7)(plain)
    moved = (grids[1] - grids[0]) * 14  # pixels
    assert moved[:, ::27, ::27].std() == pytest.approx(0.7, rel=0.05)  # the corners are points of the grid
    assert (moved[:, 1:] - moved[:, :-1]).abs().max() < 1.5  # smooth: neighbours go together


def test_the_augmentation_fades_over_the_last_three_tenths(first_6000, monkeypatch, tmp_path):
    strengths = []
    monkeypatch.setattr(step5_beyond.RandomWarp, "__call__",
                        lambda self, images: strengths.append(self.strength) or images)
    train(tmp_path, "step5_beyond", "--epochs", 10, "--dry-run")
    assert strengths == pytest.approx([1] * 7 + [2.5 / 3, 1.5 / 3, 0.5 / 3])
