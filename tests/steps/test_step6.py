"""Step 6: what it sees of an image, its warp, its optimizer, and the seconds that it prints."""
import re

import pytest
import torch
from conftest import train

import common
import step5_beyond
import step6_fast


def test_fewer_than_8000_parameters():
    assert sum(p.numel() for p in step6_fast.Net().parameters()) < 8000


def test_the_border_makes_no_difference(tensors):
    images = tensors[0][:20].unsqueeze(1) / 255
    framed = images.clone()
    framed[..., :2, :] = framed[..., -2:, :] = framed[..., :, :2] = framed[..., :, -2:] = 1
    model = step6_fast.Net().train()
    assert torch.equal(model(images), model(framed))
    assert model.block1[0](images[..., 2:-2, 2:-2]).shape[2:] == (20, 20)


def test_a_trained_network_answers_with_the_mean_over_five_shifts(tensors):
    images = tensors[0][:20].unsqueeze(1) / 255
    model = step6_fast.Net()
    model(images)  # in training: the running statistics become those of these images
    model.eval()
    with torch.no_grad():
        # Nothing but black lies near the edge, so that what a shift pulls in is what rolls in.
        answers = [model.classify(images.roll((down, right), (2, 3))) for right, down in
                   ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
        mean = torch.stack(answers).mean(dim=0).log_softmax(dim=1)
        assert torch.allclose(model(images), mean, atol=1e-5)
        assert (answers[1] - answers[0]).abs().max() > 1e-3  # there was something to average


def test_the_warp_is_step_5s_but_for_the_points_between(tensors):
    images, amounts = tensors[0][:50].unsqueeze(1) / 255, (10, 1.5, 0.1, 5, 0)
    torch.manual_seed(1)
    expected = step5_beyond.RandomWarp(*amounts)(images)
    torch.manual_seed(1)
    assert torch.allclose(common.RandomWarp(*amounts)(images), expected, atol=1e-4)
    assert (expected - images).abs().max() > 0.5
    elastic = common.RandomWarp(0, 0, 0, 0, 0.7)(images)
    assert 0.01 < (elastic - images).abs().mean() < 0.1


def test_the_warp_fades_out_over_the_last_30_percent(tensors):
    images, warp = tensors[0][:200].unsqueeze(1) / 255, common.RandomWarp(10, 1.5, 0.1, 5, 0.7)
    changes = []
    for warp.progress in (0, 0.7, 0.85, 1):
        torch.manual_seed(0)
        changes.append((warp(images) - images).abs().mean().item())
    assert changes[0] == changes[1] > 1.5 * changes[2] > 0 and changes[3] < 1e-5


@pytest.mark.parametrize("shape", [(16, 25), (16, 144), (10, 3), (1, 9)])
def test_orthogonal_keeps_the_directions_and_evens_out_the_lengths(shape):
    torch.manual_seed(0)
    u, lengths, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u * torch.linspace(1, 0.05, len(lengths)) @ v
    inside = u.T @ step6_fast.orthogonal(matrix) @ v.T
    assert ((inside.diagonal() > 0.5) & (inside.diagonal() < 1.3)).all()
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-4


def test_muon_without_orthogonal_groups_is_sgd():
    def train_by(optimizer):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = optimizer(model.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().sum().backward()
            optimizer.step()
        return model.weight

    ours = train_by(lambda weights: step6_fast.Muon(weights, lr=0.01, momentum=0.9))
    sgd = train_by(lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, nesterov=True))
    assert torch.allclose(ours, sgd)


def test_it_learns_and_says_how_long_it_took(first_6000, tmp_path):
    history = train(tmp_path, "step6_fast", "--batch-size", 64)
    assert history[-1]["test_accuracy"] > 95
    seconds, epochs = re.search(r"\nTraining took ([\d.]+) s for (\d) epochs, test passes not counted\n",
                                (tmp_path / "step6_fast.log").read_text()).groups()
    assert epochs == "3" and 0 < float(seconds) <= sum(epoch["seconds"] for epoch in history) + 0.1
