"""What is left of a run when it is over: its figures, the table that closes the log, its pictures."""
from harness import cli, layer_table, record
from harness.loader import TEST_BATCH, Loader, predict


def final_figures(model, train_loader, test_loader, log_probabilities):
    """The entries of the JSON on the trained `model`, given its `log_probabilities` of the test images."""
    plain = Loader(train_loader.images, train_loader.labels, TEST_BATCH)  # as they are, nothing dropped
    fitted = predict(model, plain).argmax(dim=1) == plain.labels
    labels, predicted = test_loader.labels.cpu(), log_probabilities.argmax(dim=1)
    return {"parameters": sum(p.numel() for p in model.parameters()),
            "multiply_adds": layer_table.multiply_adds(model, next(iter(test_loader))[0]),
            "train_accuracy_eval": 100 * fitted.sum().item() / len(fitted),
            "mistakes": [[i, labels[i].item(), predicted[i].item()]
                         for i in (predicted != labels).nonzero().flatten().tolist()]}


def closing_table(result, split):
    """The lines at the end of a log: best and last epoch, and the final weights' accuracy."""
    lines = [f"{'':20}{'best (epoch)':>16}{'last (epoch)':>16}"]
    for name, figure in (("train", "train_accuracy"), (split, "test_accuracy")):
        epochs = record.best(result["history"], figure), result["history"][-1]
        lines.append(f"{name.title() + ' accuracy':20}" + "".join(
            f"{e[figure]:8.2f} % ({e['epoch']:2})".rjust(16) for e in epochs))
    lines.append(f"Training images as they are, nothing dropped: {result['train_accuracy_eval']:.2f} %")
    lines.append(f"Parameters: {result['parameters']:,}\nWall time: {result['seconds']:.1f} s\n")
    return "\n".join(lines)


def draw(pictures, title, program):
    """Draw `pictures`, each the path of its file, the name of a function in plots, and what that is to draw.

    Returns the paths of those that could be drawn; each other one costs a line on stderr and nothing else.
    """
    drawn = []
    for path, name, *data in pictures:
        try:
            from harness import plots  # not above: matplotlib would delay the first epoch by a second

            getattr(plots, name)(path, title, *data)
            drawn.append(path)
        except Exception as error:
            cli.warn(f"cannot draw {path}: {cli.one_line(error, 200)}", program)
    return drawn
