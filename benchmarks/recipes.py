"""The recipes that both sides of the benchmark follow: what main() of each step uses by default."""

# Learning rate, what Net is given, degrees of rotation, factor of StepLR(step_size=2).
RECIPES = {
    "step1_basic": (0.01, (), 0, 1),
    "step2_dropout": (0.01, (0.1,), 0, 1),
    "step3_gap": (0.01, (0.007,), 0, 1),
    "step4_aug_lr": (0.1, (0.007,), 7, 0.6),
}
