"""Step 2: fewer channels, and dropout against overfitting.

Target
    Close the gap between training and test accuracy, with a network of less than
    10,000 parameters. So: at most 16 channels, and dropout with p = 0.1 before
    the ReLU from the third convolution on.

Result (15 epochs; accuracies in percent, mean ± standard deviation over seeds)
                      parameters    best train     best test    last train     last test
    S5, one run            6,864         99.02         99.28             -             -
    ours, 5 seeds          6,864  99.02 ± 0.03  99.21 ± 0.04  99.01 ± 0.03  99.20 ± 0.05

Analysis
    The gap is closed: printed training accuracy ends 0.19 points below test accuracy.
    Dropout is what closes it; without, it would be 0.42 above. Part of that is the
    measure, as training accuracy is taken with dropout at work: the final weights
    reach 99.34 on the same images with nothing dropped, 0.15 above test.
    Whether dropout raises test accuracy, five seeds cannot tell (0.09 higher, give or
    take 0.18). Batch norm does: without it test accuracy ends 0.28 lower.
    S5's heading for this step speaks of global average pooling, its table has
    none: the last convolution still reads the whole 5x5 map, with 2,500 of the
    6,864 parameters. Pooling in its place costs 0.16 points. Step 3 pools all the
    same, and spends those parameters elsewhere.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim

import common
import records
from layers import BatchNorm2d, Dropout

S5 = {"best_train_accuracy": 99.02, "best_test_accuracy": 99.28}


class Net(nn.Module):
    """6,864 parameters: 3x3 convolutions alone, and a 5x5 kernel that reads the whole last map."""

    def __init__(self, dropout):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False),    # 28x28 -> 26x26, receptive field 3
            BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False),    # -> 24x24, receptive field 5
            BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False),    # -> 22x22, receptive field 7
            BatchNorm2d(8),
            Dropout(dropout),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(2)            # -> 11x11, receptive field 8
        self.block2 = nn.Sequential(
            nn.Conv2d(8, 16, 3, bias=False),   # -> 9x9, receptive field 12
            BatchNorm2d(16),
            Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3, bias=False),   # -> 7x7, receptive field 16
            BatchNorm2d(8),
            Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(8, 10, 3, bias=False),   # -> 5x5, receptive field 20
            BatchNorm2d(10),
            Dropout(dropout),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(10, 10, 5, bias=False)  # 5x5 -> 1x1: one score per digit

    def forward(self, x):
        x = self.block1(x)
        x = self.pool(x)
        x = self.block2(x)
        x = self.last(x)
        return F.log_softmax(x.flatten(1), dim=1)


def command_line():
    parser = common.command_line(__doc__)
    parser.add_argument("--lr", type=common.positive, default=0.01, help="learning rate")
    parser.add_argument("--dropout", type=common.probability, default=0.1,
                        help="probability of dropping an activation")
    return parser


def main():
    args = command_line().parse_args()

    with records.Run(__file__, Net, args, S5) as run:  # from here on, print() goes to the log too
        common.make_repeatable(args)
        train_loader, test_loader = common.loaders(args)
        model = Net(args.dropout).to(args.device, memory_format=torch.channels_last)
        common.summary(model)
        optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)

        first = run.resume(model, optimizer)  # 0, unless --resume finds a checkpoint
        for epoch in range(first, args.epochs):
            print(f"EPOCH: {epoch}\nLearning rate: {args.lr:g}")
            train = common.train(model, train_loader, optimizer)
            test = common.test(model, test_loader)
            run.epoch(args.lr, train, test)
        run.finish(model, train_loader, test_loader)


if __name__ == "__main__":
    main()
