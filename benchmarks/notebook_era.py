"""The yardstick: steps 1 to 4 trained the way notebooks trained them.

torchvision's MNIST dataset hands out one PIL image at a time, transforms turn it
into a tensor, a DataLoader collects 128 of them, dropout is torch's own, and
every batch waits for its loss. Networks and recipes are those of the steps.

    python benchmarks/notebook_era.py step4_aug_lr --epochs 15 --seed 1 --out notebook.json
"""
import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # where the steps are


def recipe(step):
    """The defaults of the command line of `step`: learning rate, degrees of rotation, factor of StepLR."""
    defaults = vars(importlib.import_module(step).command_line().parse_args([]))
    return defaults["lr"], defaults.get("rotation", 0), defaults.get("gamma", 1)


def loaders(step, data_dir):
    """The training and test DataLoader of `step`, over MNIST in `data_dir`."""
    _, rotation, _ = recipe(step)
    plain = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    rotated = [transforms.RandomRotation(rotation), *plain] if rotation else plain
    train_set = datasets.MNIST(data_dir, train=True, download=True, transform=transforms.Compose(rotated))
    test_set = datasets.MNIST(data_dir, train=False, download=True, transform=transforms.Compose(plain))
    return (DataLoader(train_set, batch_size=128, shuffle=True),
            DataLoader(test_set, batch_size=128, shuffle=False))


def network(step):
    """A freshly initialised network of `step`, its optimizer and its scheduler."""
    lr, _, gamma = recipe(step)
    model = importlib.import_module(step).Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=gamma)


def train(model, loader, optimizer):
    """One epoch, or as many batches as `loader` yields; returns the training accuracy in percent."""
    model.train()
    correct = processed = 0
    bar = tqdm(loader, disable=None)
    for batch_id, (data, target) in enumerate(bar):
        optimizer.zero_grad()
        prediction = model(data)
        loss = F.nll_loss(prediction, target)
        loss.backward()
        optimizer.step()
        correct += prediction.argmax(dim=1).eq(target).sum().item()
        processed += len(data)
        accuracy = 100 * correct / processed
        bar.set_description(f"Loss={loss.item()} Batch_id={batch_id} Accuracy={accuracy:.2f}")
    return 100 * correct / processed


def test(model, loader):
    """Mean loss (nats per image) and accuracy in percent over `loader`."""
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for data, target in loader:
            output = model(data)
            loss += F.nll_loss(output, target, reduction="sum").item()
            correct += output.argmax(dim=1).eq(target).sum().item()
    return loss / len(loader.dataset), 100 * correct / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("step", choices=sorted(path.stem for path in ROOT.glob("step*_*.py")))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-dir", type=os.path.expanduser, default="data")
    parser.add_argument("--out", type=os.path.expanduser, help="JSON file for the accuracies of every epoch")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train_loader, test_loader = loaders(args.step, args.data_dir)
    model, optimizer, scheduler = network(args.step)
    history = []
    for epoch in range(args.epochs):
        start = time.perf_counter()
        train_accuracy = train(model, train_loader, optimizer)
        test_loss, test_accuracy = test(model, test_loader)
        scheduler.step()
        history.append({"epoch": epoch, "train_accuracy": train_accuracy, "test_loss": test_loss,
                        "test_accuracy": test_accuracy, "seconds": time.perf_counter() - start})
        print(history[-1], flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps({"step": args.step, "seed": args.seed, "history": history}),
                                  encoding="utf-8")


if __name__ == "__main__":
    main()
