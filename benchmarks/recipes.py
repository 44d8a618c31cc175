"""The recipes that both sides of the benchmark follow: what main() of each step uses by default."""

# Learning rate, what Net is given, degrees of rotation, factor of StepLR(step_size=2).
RECIPES = {
    "step1_basic": (0.01, (), 0, 1),
    "step2_dropout": (0.01, (0.1,), 0, 1),
    "step3_gap": (0.01, (0.007,), 0, 1),
    "step4_aug_lr": (0.1, (0.007,), 7, 0.6),
}

# The fewest epochs after which the last one's test accuracy is at least 99.40 % on average over seeds, by
# the runs in docs/runs. Step 4's schedule does not depend on their number, so its first epochs are those of
# 15; step 5's does, so docs/runs/fast has runs of 2, 3 and 4.
TO_TARGET = {
    "step 4, notebook pipeline": ("benchmarks/notebook_era.py", "step4_aug_lr", "--epochs", "11"),
    "step 4": ("step4_aug_lr.py", "--epochs", "10"),
    "step 5": ("step5_beyond.py", "--epochs", "3", "--batch-size", "64"),
}
