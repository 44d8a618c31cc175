"""The table of a network's layers that the notebooks printed, and how many multiply-adds it needs."""
import math

import torch


def outputs(model, images):
    """What each layer of `model` puts out for `images`: a list of (layer, shape without the batch)."""
    seen = []
    leaves = [layer for layer in model.modules() if not list(layer.children())]

    def note(layer, _, output):
        tensor = first_tensor(output)
        seen.append((layer, () if tensor is None else tuple(tensor.shape[1:])))

    hooks = [layer.register_forward_hook(note) for layer in leaves]
    training, device = model.training, next(model.parameters(), torch.empty(0)).device
    model.eval()  # or these images would enter the running statistics of batch norm
    with torch.no_grad():
        model(images.to(device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return seen


def first_tensor(output):
    """The first tensor in what a layer puts out: itself, or one in a tuple, list or dict; else None."""
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((tensor for tensor in map(first_tensor, output) if tensor is not None), None)
    return output if isinstance(output, torch.Tensor) else None


def multiply_adds(model, images):
    """Multiply-adds of the convolutions of `model` for each of `images`: one for each weight and place."""
    return sum(layer.weight.numel() * math.prod(shape[1:])
               for layer, shape in outputs(model, images) if isinstance(layer, torch.nn.Conv2d))


def summary(model, input_size=(1, 28, 28)):
    """Print the table of `model` that the notebooks printed: one numbered row per layer, totals, sizes in
    MB.

    Layout and arithmetic are those of the torchsummary package: the forward/backward size is 2 x 4 bytes for
    every number that a listed layer puts out, for one image.
    """
    rows = [(f"{type(layer).__name__}-{number}", [-1, *shape], sum(p.numel() for p in layer.parameters()))
            for number, (layer, shape) in enumerate(outputs(model, torch.zeros(1, *input_size)), 1)]
    megabyte = 1024 ** 2
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    input_mb = 4 * math.prod(input_size) / megabyte
    outputs_mb = 2 * 4 * sum(math.prod(shape[1:]) for _, shape, _ in rows) / megabyte
    parameters_mb = 4 * parameters / megabyte

    thin, thick = "-" * 64, "=" * 64
    print(thin, f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}", thick, sep="\n")
    for name, shape, count in rows:
        print(f"{name:>20}  {shape!s:>25} {count:>15,}")
    print(thick, f"Total params: {parameters:,}", f"Trainable params: {trainable:,}",
          f"Non-trainable params: {parameters - trainable:,}", thin,
          f"Input size (MB): {input_mb:.2f}", f"Forward/backward pass size (MB): {outputs_mb:.2f}",
          f"Params size (MB): {parameters_mb:.2f}",
          f"Estimated Total Size (MB): {input_mb + outputs_mb + parameters_mb:.2f}", thin, "", sep="\n")
