"""Step 2: fewer channels, and dropout against overfitting.

S5 is a short write-up of a course exercise: four steps, each with a layer table. Steps 1 to 4 reproduce it.

Target
    Close the gap between training and test accuracy, with fewer than 10,000 parameters.
    So there are at most 16 channels, and dropout with p = 0.1 before the ReLU from the
    third convolution on.

Result (15 epochs; accuracies in percent, mean ± standard deviation over seeds)
                      parameters    best train     best test    last train     last test
    S5, one run            6,864         99.02         99.28             -             -
    ours, 24 seeds         6,864  99.03 ± 0.03  99.26 ± 0.08  99.02 ± 0.05  99.22 ± 0.10

Analysis
    The gap is closed: the printed training accuracy ends 0.20 points below test accuracy.
    Dropout closes it; without dropout it would end 0.42 above. Part of this is how
    training accuracy is measured, with dropout switched on: with nothing dropped, the
    final weights reach 99.41 on the same images, 0.19 above test.
    Dropout also raises test accuracy: over the last five epochs it is 0.061 higher, and the
    99 % interval, from 0.008 to 0.114, leaves out 0, though not by much. Batch norm raises
    it more: without it test accuracy is 0.25 lower.
    S5's heading for this step mentions global average pooling, but its table has none:
    the last convolution still reads the whole 5x5 map, with 2,500 of the 6,864
    parameters. Pooling in its place costs 0.21 points. Step 3 pools all the same, and
    spends those parameters elsewhere.
"""
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim

import common

S5 = {"best_train_accuracy": 99.02, "best_test_accuracy": 99.28}  # in a copy of your own: {}


class Net(nn.Module):
    """6,864 parameters: 3x3 convolutions alone, and a 5x5 kernel that reads the whole last map."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False),    # 28x28 -> 26x26, receptive field 3
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False),    # -> 24x24, receptive field 5
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False),    # -> 22x22, receptive field 7
            nn.BatchNorm2d(8),
            nn.Dropout(dropout),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(2)            # -> 11x11, receptive field 8
        self.block2 = nn.Sequential(
            nn.Conv2d(8, 16, 3, bias=False),   # -> 9x9, receptive field 12
            nn.BatchNorm2d(16),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3, bias=False),   # -> 7x7, receptive field 16
            nn.BatchNorm2d(8),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(8, 10, 3, bias=False),   # -> 5x5, receptive field 20
            nn.BatchNorm2d(10),
            nn.Dropout(dropout),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(10, 10, 5, bias=False)  # 5x5 -> 1x1, receptive field 28: one score per digit

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


def main(argv=None):
    args = command_line().parse_args(argv)
    with common.Run(Net, args, S5) as run:  # seeds, logs what is printed, saves after every epoch
        train_loader, test_loader = common.loaders(args)
        model = Net(args.dropout).to(args.device)
        common.summary(model)
        optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)

        for epoch in run.epochs(model, optimizer):  # from 0, or from where --resume resumes
            train_result = common.train(model, train_loader, optimizer)
            test_result = common.test(model, test_loader)
            run.log(train_result, test_result)
        run.finish(model, train_loader, test_loader)


if __name__ == "__main__":
    main()
