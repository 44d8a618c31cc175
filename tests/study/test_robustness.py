"""Trained steps on test images that are shifted, rotated or noisy."""
import json
import sys

import pytest
import torch
from conftest import assert_one_line, run, train

import common
import step5_beyond
from harness import cli
from harness.loader import Loader
from study import robustness


def measure(folder, data_dir):
    return run(sys.executable, "-m", "study.robustness", "--data-dir", data_dir, "--out-dir", folder)


def report(folder):
    return run(sys.executable, "-m", "study.report", "--out-dir", folder)


def test_distortions_are_what_they_say(tensors):
    images = tensors[2][:300]
    assert torch.equal(robustness.distorted(images, "as they are", 0), images)
    shifted = robustness.distorted(images, "shifted (pixels)", 3)
    ways = [torch.roll(images, by, dims=(1, 2)) for by in ((3, 0), (-3, 0), (0, 3), (0, -3))]
    core = slice(4, 24)  # away from the edge, where roll and shift differ
    matches = torch.stack([(shifted[:, core, core] == way[:, core, core]).all(dim=2).all(dim=1)
                           for way in ways])
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


@pytest.mark.slow
def test_robustness_of_trained_weights_reaches_the_report(first_6000, data_dir, monkeypatch, tmp_path):
    for step in ("step1_basic", "step5_beyond"):
        train(tmp_path / "seed1", step, "--epochs", 1, "--dry-run")
    monkeypatch.setattr(sys, "argv", ["robustness", "--out-dir", str(tmp_path)])
    with pytest.raises(cli.UserError, match="no finished run"):  # dry runs are not worth a mean
        robustness.main()
    for path in (tmp_path / "seed1").glob("*.json"):
        path.write_text(path.read_text().replace('"dry_run": true', '"dry_run": false'))
    with pytest.raises(SystemExit) as ended:
        robustness.main()
    assert ended.value.code == 0
    stored = json.loads((tmp_path / "robustness.json").read_text())
    assert {step: list(seeds) for step, seeds in stored.items()} == {"step1_basic": ["1"],
                                                                     "step5_beyond": ["1"]}
    model = step5_beyond.Net()
    model.load_state_dict(torch.load(tmp_path / "seed1" / "step5_beyond.pt"))
    plain = common.test(model, Loader(*first_6000[2:], 125))[1]
    assert stored["step5_beyond"]["1"][0] == pytest.approx(plain, abs=1e-3)

    assert report(tmp_path).returncode == 0
    text = (tmp_path / "report.md").read_text()
    assert f"| as they are | | {stored['step1_basic']['1'][0]:.2f} | {plain:.2f} |" in " ".join(text.split())
    assert "report_robustness.png" in text and (tmp_path / "report_robustness.png").exists()

    (tmp_path / "robustness.json").write_text('{"step1_basic": {"1": [99]}}')
    assert_one_line(report(tmp_path), "study.report: error", "robustness.json")
    (tmp_path / "seed1" / "step1_basic.pt").write_bytes(b"")
    assert_one_line(measure(tmp_path, data_dir), "study.robustness: error", "step1_basic.pt")


def test_robustness_without_runs(data_dir, tmp_path):
    assert_one_line(measure(tmp_path, data_dir), "study.robustness: error: no finished run", tmp_path)
