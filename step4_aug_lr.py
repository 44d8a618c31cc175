"""Step 4: rotated training images, and a learning rate that starts high and decays.

S5 is a short write-up of a course exercise: four steps, each with a layer table. Steps 1 to 4 reproduce it.

Target
    Classify 99.4 % of the test images correctly, in the last epoch and not by luck. Digits
    are written at a slant that differs from hand to hand, so each training image is rotated
    by up to 7 degrees, by a new angle every epoch. The learning rate starts at 0.1 and is multiplied
    by 0.6 every second epoch: large steps first, small ones last.

Result (15 epochs; accuracies in percent, mean ± standard deviation over seeds)
                      parameters    best train     best test    last train     last test
    S5, one run            7,852         99.32         99.46             -             -
    ours, 24 seeds         7,852  99.38 ± 0.03  99.45 ± 0.05  99.37 ± 0.03  99.42 ± 0.05

Analysis
    The target is met on average, and in the last epoch by 17 of 24 seeds (99.34 to 99.52);
    15 hold it for the last three epochs. Whether more than half of all seeds would, which
    is what we call consistent, is undecided.
    The schedule steadies the end: from one epoch to the next test accuracy changes by 0.04
    points, against 0.11 with the rate held at 0.1. The high start pays: over the last five
    epochs the same schedule from 0.01 is 0.20 lower.
    Rotation raises test accuracy a little: it is 0.04 higher, with a 99 % interval of
    ± 0.04, which just leaves out 0.
    Training accuracy is below test accuracy, from which S5 concludes that the network
    underfits. The cause is how training accuracy is measured: on rotated images, while the
    weights are still changing. The final weights reach 99.65 on the plain training images,
    0.23 above test.
    S5 names two changes, rotation and schedule. Its table shows a third: the network
    differs from step 3's (narrower in the middle, 50 channels at the end, dropout after the first
    two convolutions as well). So step 4 against step 3 does not compare augmentation alone.
"""
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.optim.lr_scheduler import StepLR

import common

S5 = {"best_train_accuracy": 99.32, "best_test_accuracy": 99.46}  # in a copy of your own: {}


class Net(nn.Module):
    """7,852 parameters: step 3's plan, narrower in the middle, wider at the end, dropout everywhere."""

    def __init__(self, dropout=0.007):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False),    # 28x28 -> 26x26, receptive field 3
            nn.BatchNorm2d(8),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False),    # -> 24x24, receptive field 5
            nn.BatchNorm2d(8),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False),    # -> 22x22, receptive field 7
            nn.BatchNorm2d(8),
            nn.Dropout(dropout),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(2)            # -> 11x11, receptive field 8
        self.block2 = nn.Sequential(
            nn.Conv2d(8, 13, 3, bias=False),   # -> 9x9, receptive field 12
            nn.BatchNorm2d(13),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(13, 14, 3, bias=False),  # -> 7x7, receptive field 16
            nn.BatchNorm2d(14),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(14, 8, 1, bias=False),   # 1x1: 14 channels mixed down to 8
            nn.BatchNorm2d(8),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(8, 26, 3, bias=False),   # -> 5x5, receptive field 20
            nn.BatchNorm2d(26),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(26, 50, 1, bias=False),  # 1x1: up to 50 channels
            nn.BatchNorm2d(50),
            nn.Dropout(dropout),
            nn.ReLU(),
        )
        self.gap = nn.AvgPool2d(5)             # 5x5 -> 1x1, receptive field 28: the whole image
        self.last = nn.Conv2d(50, 10, 1, bias=False)  # one score per digit

    def forward(self, x):
        x = self.block1(x)
        x = self.pool(x)
        x = self.block2(x)
        x = self.gap(x)
        x = self.last(x)
        return F.log_softmax(x.flatten(1), dim=1)


def command_line():
    parser = common.command_line(__doc__)
    parser.add_argument("--lr", type=common.positive, default=0.1, help="learning rate of the first epoch")
    parser.add_argument("--step-size", type=common.positive_int, default=2, metavar="N",
                        help="multiply the learning rate by --gamma every N epochs")
    parser.add_argument("--gamma", type=common.positive, default=0.6, help="factor for the learning rate")
    parser.add_argument("--dropout", type=common.probability, default=0.007,
                        help="probability of dropping an activation")
    parser.add_argument("--rotation", type=common.angle, default=7.0,
                        help="largest rotation of a training image, in degrees either way")
    return parser


def main(argv=None):
    args = command_line().parse_args(argv)
    with common.Run(Net, args, S5) as run:  # seeds, logs what is printed, saves after every epoch
        train_loader, test_loader = common.loaders(args, augment=common.RandomRotation(args.rotation))
        model = Net(args.dropout).to(args.device)
        common.summary(model)
        optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
        scheduler = StepLR(optimizer, step_size=args.step_size, gamma=args.gamma)

        for epoch in run.epochs(model, optimizer, scheduler):  # from 0, or from where --resume resumes
            train_result = common.train(model, train_loader, optimizer)
            test_result = common.test(model, test_loader)
            scheduler.step()
            run.log(train_result, test_result)
        run.finish(model, train_loader, test_loader)


if __name__ == "__main__":
    main()
