"""Step 3: global average pooling instead of the big last kernel, and more capacity before it.

S5 is a short write-up of a course exercise: four steps, each with a layer table. Steps 1 to 4 reproduce it.

Target
    Spend the parameters where they help. Averaging each channel over the last 5x5 map
    needs none; what the big kernel cost pays for more and wider layers before it. There
    is hardly any dropout, p = 0.007: with 0.1, S5 reports, training accuracy did not get
    beyond 99.01.

Result (15 epochs; accuracies in percent, mean ± standard deviation over seeds)
                      parameters    best train     best test    last train     last test
    S5, one run            8,008         99.40         99.37             -             -
    ours, 24 seeds         8,008  99.39 ± 0.03  99.28 ± 0.06  99.39 ± 0.04  99.22 ± 0.09

Analysis
    After the average the receptive field is 28 pixels: every score sees the whole image,
    at 160 parameters instead of 2,500.
    Training accuracy does rise with less dropout, as S5 says: to 99.39, against 98.89 with
    0.1. Test accuracy ends where step 2 had it. The added capacity wins back only a part of
    what pooling costs: with dropout 0.1, as in step 2, test accuracy is 99.04 over the last
    five epochs, 0.09 above that without the added capacity, and 0.12 below step 2. Having
    less dropout makes up for the rest.
    S5 found no overfitting. The final weights on the plain training images say otherwise:
    0.36 points above test. Dropout of 0.007 could as well be left out, as S5 says: the
    difference is 0.00, with a 99 % interval of ± 0.04.
"""
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim

import common

S5 = {"best_train_accuracy": 99.40, "best_test_accuracy": 99.37}  # in a copy of your own: {}


class Net(nn.Module):
    """8,008 parameters: what the big kernel cost now pays for wider layers before the pooling."""

    def __init__(self, dropout=0.007):
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
            nn.Conv2d(16, 16, 3, bias=False),  # -> 7x7, receptive field 16
            nn.BatchNorm2d(16),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(16, 8, 1, bias=False),   # 1x1: 16 channels mixed down to 8
            nn.BatchNorm2d(8),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(8, 32, 3, bias=False),   # -> 5x5, receptive field 20
            nn.BatchNorm2d(32),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Conv2d(32, 16, 1, bias=False),  # 1x1: 32 channels mixed down to 16
            nn.BatchNorm2d(16),
            nn.Dropout(dropout),
            nn.ReLU(),
        )
        self.gap = nn.AvgPool2d(5)             # 5x5 -> 1x1, receptive field 28: the whole image
        self.last = nn.Conv2d(16, 10, 1, bias=False)  # one score per digit

    def forward(self, x):
        x = self.block1(x)
        x = self.pool(x)
        x = self.block2(x)
        x = self.gap(x)
        x = self.last(x)
        return F.log_softmax(x.flatten(1), dim=1)


def command_line():
    parser = common.command_line(__doc__)
    parser.add_argument("--lr", type=common.positive, default=0.01, help="learning rate")
    parser.add_argument("--dropout", type=common.probability, default=0.007,
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
