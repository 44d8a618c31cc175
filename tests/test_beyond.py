"""Step 5: its network's limits, its augmentation, its schedule; and what frontier.py and robustness.py make of it."""
import json
import re
import sys

import matplotlib.image
import pytest
import torch
from torchvision.transforms.functional import InterpolationMode, affine

import claims
import common
import frontier
import robustness
import step5_beyond
from conftest import LADDER, ROOT, a_run, assert_one_line, run, run_step
from test_training import train


def parameters(width):
    return sum(p.numel() for p in step5_beyond.Net(width).parameters())


def test_fewer_than_8000_parameters_and_a_width_for_each_size():
    assert parameters(1) < 8000
    sizes = [parameters(float(variant.options[1])) for variant in frontier.VARIANTS.values()]
    assert sizes == sorted(set(sizes)) and sizes[0] <= 1000 and 9000 < sizes[-1] < 10000
    assert parameters(1e-9) > 0  # never without a channel


def test_a_trained_network_answers_with_the_mean_of_five_looks(tensors):
    torch.manual_seed(0)
    model = step5_beyond.Net()
    images = tensors[0][:40].unsqueeze(1) / 255
    images[:, :, 13, 27] = 1  # ink at the edge, which not every look keeps
    model(images)  # in training: the running statistics become those of these images
    model.eval()
    with torch.no_grad():
        answer, looks = model(images), []
        padded = torch.cat([images[..., :1], images, images[..., -1:]], dim=3)
        padded = torch.cat([padded[..., :1, :], padded, padded[..., -1:, :]], dim=2)
        for y, x in ((1, 1), (1, 0), (1, 2), (0, 1), (2, 1)):
            looks.append(model.look(padded[..., y:y + 28, x:x + 28]).softmax(dim=1))
        product = torch.stack(looks).prod(dim=0) ** (1 / 5)
        assert torch.allclose(answer.exp(), product / product.sum(dim=1, keepdim=True), atol=1e-5)
        assert (looks[1] - looks[0]).abs().max() > 1e-3  # there was something to average
        model.looks = step5_beyond.LOOKS[:1]
        assert torch.allclose(model(images).exp(), looks[0], atol=1e-6)


def test_in_training_it_looks_once(tensors):
    model, seen = step5_beyond.Net(), []
    model.block1.register_forward_pre_hook(lambda layer, x: seen.append(len(x[0])))
    model.train()(tensors[0][:7].unsqueeze(1) / 255)
    model.eval()(tensors[0][:7].unsqueeze(1) / 255)
    assert seen == [7, 35]


def test_the_log_ends_with_what_one_look_reads(first_6000, monkeypatch, tmp_path):
    train(monkeypatch, tmp_path, "step5_beyond", "--epochs", 1, "--batch-size", 32)
    model = step5_beyond.Net()
    model.load_state_dict(torch.load(tmp_path / "step5_beyond.pt"))
    model.looks = step5_beyond.LOOKS[:1]
    args = step5_beyond.command_line().parse_args([])
    loss, accuracy = common.test(model, common.loaders(args)[1])
    log = (tmp_path / "step5_beyond.log").read_text()
    assert re.search(r"looking once:\nTest set: .* \(([\d.]+)%\)\n\n$", log).group(1) == f"{accuracy:.2f}"
    assert loss > json.loads((tmp_path / "step5_beyond.json").read_text())["history"][-1]["test_loss"]


def test_learning_rate_rises_for_a_fifth_of_all_batches_and_falls_to_zero(first_6000, monkeypatch, tmp_path):
    used = []

    def spy(model, loader, optimizer, scheduler):
        optimizer.register_step_post_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
        return common_train(model, loader, optimizer, scheduler)

    common_train = common.train
    monkeypatch.setattr(common, "train", spy)
    history = train(monkeypatch, tmp_path, "step5_beyond", "--epochs", 1, "--batch-size", 60, "--lr", 0.2)
    assert len(used) == 100 and max(used) == pytest.approx(0.2)
    rises = [a < b for a, b in zip(used, used[1:])]
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
    monkeypatch.setattr(step5_beyond.F, "affine_grid", lambda inverse, shape, align_corners: grids.append(inverse)
                        or torch.zeros(*shape[:1], *shape[2:], 2))
    torch.manual_seed(0)
    step5_beyond.RandomWarp(*amounts, 0)(torch.zeros(5000, 1, 28, 28))
    (a, b, x), (c, d, y) = grids[0].permute(1, 2, 0)
    found = {"degrees": torch.rad2deg(torch.atan2(c, a)), "shift": x * 14, "scale": 1 / (a * d - b * c).sqrt(),
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


def test_crumpling_moves_points_by_as_much_as_it_says(monkeypatch):
    torch.manual_seed(0)
    grids = []
    monkeypatch.setattr(step5_beyond.F, "grid_sample", lambda images, grid, **_: grids.append(grid))
    plain = torch.zeros(2000, 1, 28, 28)
    step5_beyond.RandomWarp(0, 0, 0, 0, 0)(plain)
    step5_beyond.RandomWarp(0, 0, 0, 0, 0.7)(plain)
    moved = (grids[1] - grids[0]) * 14  # pixels
    assert moved[:, ::27, ::27].std() == pytest.approx(0.7, rel=0.05)  # the corners are points of the grid
    assert (moved[:, 1:] - moved[:, :-1]).abs().max() < 1.5  # smooth: neighbours go together


def test_the_warp_fades_over_the_last_three_tenths(first_6000, monkeypatch, tmp_path):
    strengths = []
    monkeypatch.setattr(step5_beyond.RandomWarp, "__call__",
                        lambda self, images: strengths.append(self.strength) or images)
    train(monkeypatch, tmp_path, "step5_beyond", "--epochs", 10, "--dry-run")
    assert strengths == pytest.approx([1] * 7 + [2.5 / 3, 1.5 / 3, 0.5 / 3])


# -------------------------------------------------------------------- frontier


def test_frontier_draws_what_is_there_and_names_the_smallest(tmp_path):
    for seed in (1, 2, 3):
        for channels in (5, 8, 16):
            folder = tmp_path / "frontier" / f"seed{seed}" / f"width_{channels}"
            folder.mkdir(parents=True)
            some = a_run("step5_beyond", seed, test=[98.0, 99.0 + channels / 20 + seed / 100], width=channels / 16)
            some["parameters"] = channels * 100
            (folder / "step5_beyond.json").write_text(json.dumps(some))
    for step in LADDER:
        (tmp_path / "seed1").mkdir(exist_ok=True)
        (tmp_path / "seed1" / f"{step}.json").write_text(json.dumps(a_run(step)))
    process = run(sys.executable, ROOT / "frontier.py", "--out-dir", tmp_path)
    assert process.returncode == 0, process.stderr
    assert "smallest whose mean is at or above 99.4 % has 800 parameters, 3,200 bytes" in process.stdout
    assert "| 500 | 2,000 | 3 | 99.27 | 99.26 | 99.28 |" in " ".join(process.stdout.split())
    pixels = matplotlib.image.imread(tmp_path / "frontier.png")[..., :3]
    assert (pixels < 0.5).any(axis=2).mean() > 0.005


def test_frontier_without_runs(tmp_path):
    assert_one_line(run(sys.executable, ROOT / "frontier.py", "--out-dir", tmp_path), "no finished run", tmp_path)


def test_frontier_commands(tmp_path):
    process = run(sys.executable, "sweep.py", "--frontier", "--seeds", "1 2 3", "--out-dir", tmp_path)
    commands = process.stdout.splitlines()
    assert len(set(commands)) == 24 and all("step5_beyond.py --width" in line for line in commands)


# ------------------------------------------------------------------ robustness


def test_distortions_are_what_they_say(tensors):
    images = tensors[2][:300]
    assert torch.equal(robustness.distorted(images, "as they are", 0), images)
    shifted = robustness.distorted(images, "shifted (pixels)", 3)
    ways = [torch.roll(images, by, dims=(1, 2)) for by in ((3, 0), (-3, 0), (0, 3), (0, -3))]
    core = slice(4, 24)  # away from the edge, where roll and shift differ
    matches = torch.stack([(shifted[:, core, core] == way[:, core, core]).all(dim=2).all(dim=1) for way in ways])
    assert matches.any(dim=0).all() and (matches.sum(dim=1) > 40).all()
    assert torch.equal(shifted, robustness.distorted(images, "shifted (pixels)", 3))

    turned = robustness.distorted(images, "rotated (degrees)", 20)
    both = [common.rotate(images.unsqueeze(1) / 255, torch.full((300,), a), mode="bilinear").squeeze(1) * 255
            for a in (20.0, -20.0)]
    near = torch.stack([(turned - way).abs().amax(dim=(1, 2)) < 1 for way in both])
    assert near.any(dim=0).all() and (near.sum(dim=1) > 100).all()

    noisy = robustness.distorted(images, "noisy (standard deviation)", 0.2).float() / 255
    grey = (images > 127) & (images < 129)
    assert abs((noisy[grey] - 128 / 255).std() - 0.2) < 0.03


def test_robustness_of_trained_weights_reaches_the_report(data_dir, tmp_path):
    for step in ("step1_basic", "step5_beyond"):
        process = run_step(step, "--epochs", 1, "--dry-run", "--data-dir", data_dir, "--out-dir", tmp_path / "seed1")
        assert process.returncode == 0, process.stderr
    process = run(sys.executable, ROOT / "robustness.py", "--data-dir", data_dir, "--out-dir", tmp_path)
    assert process.returncode == 0, process.stderr
    stored = json.loads((tmp_path / "robustness.json").read_text())
    assert {step: list(seeds) for step, seeds in stored.items()} == {"step1_basic": ["1"], "step5_beyond": ["1"]}
    assert run(sys.executable, ROOT / "report.py", "--out-dir", tmp_path).returncode == 0
    text = (tmp_path / "report.md").read_text()
    assert f"| as they are | | {stored['step1_basic']['1'][0]:.2f} |" in " ".join(text.split())
    assert "report_robustness.png" in text and (tmp_path / "report_robustness.png").exists()

    (tmp_path / "robustness.json").write_text('{"step1_basic": {"1": [99]}}')
    assert_one_line(run(sys.executable, ROOT / "report.py", "--out-dir", tmp_path), "report.py: error", "robustness")
    (tmp_path / "seed1" / "step1_basic.pt").write_bytes(b"no weights")
    assert_one_line(run(sys.executable, ROOT / "robustness.py", "--data-dir", data_dir, "--out-dir", tmp_path),
                    "robustness.py: error", "step1_basic.pt")


def test_robustness_without_runs(data_dir, tmp_path):
    assert_one_line(run(sys.executable, ROOT / "robustness.py", "--data-dir", data_dir, "--out-dir", tmp_path),
                    "no finished run", tmp_path)


def test_widths_are_no_strangers_to_their_own_list_only():
    plain, wide = a_run("step5_beyond", 1), a_run("step5_beyond", 2, width=0.5)
    found, others = claims.by_variant([plain, wide])
    assert found["step5_beyond"] == {1: plain} and others == [wide]
    assert frontier.by_size([plain, wide, a_run("step4_aug_lr")]) == {7852: [99.0, 99.0]}
