"""torch's layers, computed faster on a CPU inside a `with` block; the layers are restored after it.

In the block `with fast.layers(model):` convolutions keep their weights channels-last, the memory layout in
which they and pooling are fastest; batch norm and dropout are computed by the functions below. The layers
stay torch's own, class for class. Any other case (another class, device or number format,
autocast, eval mode, ...) is computed by torch.
"""
import contextlib
import ctypes
import functools
import math
import sys

import torch
from torch import nn


@contextlib.contextmanager
def layers(model):
    """In the block, compute batch norm and dropout of `model` faster, its convolutions channels-last."""
    keep_freed_memory()
    found = list(model.modules())
    faster = {layer: function for layer in found if (function := _faster(layer))}
    # Batch norm left to torch keeps the default layout: with channels-last and few channels, torch's
    # threads contend for one cache line.
    all_fast = all(layer in faster for layer in found if isinstance(layer, nn.BatchNorm2d))
    convolutions = [layer for layer in found if all_fast and type(layer) is nn.Conv2d
                    and _plain(layer.weight) and layer.weight.is_contiguous()]
    try:
        for layer, function in faster.items():
            layer.forward = functools.partial(function, layer)  # in front of the method, until it is deleted
        for layer in convolutions:
            layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
        yield
    finally:
        for layer in faster:
            layer.__dict__.pop("forward", None)
        for layer in convolutions:
            layer.weight.data = layer.weight.data.to(memory_format=torch.contiguous_format)


def _faster(layer):
    """The function below that computes `layer` in training, or None if that has to be left to torch."""
    if "forward" in layer.__dict__:  # replaced by somebody else
        return None
    if type(layer) is nn.Dropout and not layer.inplace:
        return dropout
    if (type(layer) is nn.BatchNorm2d and layer.affine and layer.track_running_stats
            and layer.momentum is not None and _plain(layer.weight) and _plain(layer.running_mean)):
        return batch_norm
    return None


def _plain(tensor):
    """Whether `tensor` is float32 on the CPU, and not under autocast, compilation or tracing."""
    return (isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing())


def keep_freed_memory():
    """Tell glibc's allocator to keep what is freed: the next batch will want the same blocks again.

    By default it hands large blocks back to the system, which clears them page by page when they are asked
    for anew: 10,000 page faults, a third of the time, in every batch of step 1. Where the C library is
    another one, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # numbers from malloc.h, sizes in bytes; 32 MB is the most that glibc takes for the second
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        mallopt(M_TRIM_THRESHOLD, 2 ** 30)
        mallopt(M_MMAP_THRESHOLD, 2 ** 25)


def dropout(layer, x):
    """What the nn.Dropout `layer` makes of `x`: the same distribution, a quarter of the time at p = 0.1.

    torch draws a number for every activation. This draws only the places to drop: how many, k ~ Poisson(-n
    ln(1 - p)), then k of the n places with replacement. A place is hit by none of them with probability
    exp(ln(1 - p)) = 1 - p, and independently of all others (the splitting property of the Poisson
    distribution), which is dropout with exactly p (but for torch.randint, which favours some places over
    others by at most n in 2^32). What survives is scaled by 1 / (1 - p).
    """
    if not layer.training or not 0 < layer.p <= 0.5 or not _plain(x) or not x.numel():
        return nn.Dropout.forward(layer, x)
    hits = torch.poisson(torch.tensor(-x.numel() * math.log1p(-layer.p), dtype=torch.float64))
    places = torch.randint(x.numel(), (int(hits),))
    mask = torch.full_like(x, 1 / (1 - layer.p))
    mask.as_strided((x.numel(),), (1,)).index_fill_(0, places, 0)  # in whatever order x lies in memory
    return x * mask


def batch_norm(layer, x):
    """What the nn.BatchNorm2d `layer` makes of `x` (N, C, H, W): the same numbers up to rounding, faster.

    torch goes through channels-last images pixel by pixel. Eight or ten channels are too few for vector
    instructions, and the sums of its threads then lie so close together that they contend for one cache
    line. So sixteen pixels at a time are handed to torch's functions as if they were one pixel with sixteen
    times the channels. Few pixels, and channels that fill whole cache lines, are left to torch's own call.
    """
    if not (layer.training and _plain(x) and x.is_contiguous(memory_format=torch.channels_last)
            and x.shape[1] % 16 and x.numel() > 4096 * x.shape[1]):
        return nn.BatchNorm2d.forward(layer, x)
    return _BatchNorm.apply(x, layer.weight, layer.bias, layer)


class _BatchNorm(torch.autograd.Function):
    """Batch norm as in Ioffe and Szegedy, arXiv:1502.03167, algorithm 1 and the gradients of section 3."""

    @staticmethod
    def forward(ctx, x, weight, bias, layer):
        channels, wide = x.shape[1], _wide(x)
        means, variances = torch.batch_norm_update_stats(wide, None, None, 0)
        means = means.view(-1, channels)
        mean = means.mean(dim=0)
        variance = variances.view(-1, channels).mean(dim=0) + means.var(dim=0, unbiased=False)
        n = x.numel() / channels
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance * (n / (n - 1)), layer.momentum)
        layer.num_batches_tracked += 1
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.eps = layer.eps
        y = torch.empty_like(x, memory_format=torch.channels_last)
        scale = weight * (variance + layer.eps).rsqrt()
        scale, shift = _repeated(wide, scale, bias - scale * mean)[..., None, None]
        torch.addcmul(shift, wide, scale, out=_wide(y))
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, weight, bias, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may be needed: torch's own function has one
            y = nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.eps)
            needed = ctx.needs_input_grad[:3]
            inputs = [t for t, wanted in zip((x, weight, bias), needed, strict=True) if wanted]
            gradients = iter(torch.autograd.grad(y, inputs, gradient, create_graph=True))
            return (*(next(gradients) if wanted else None for wanted in needed), None)
        channels, wide, wide_gradient = x.shape[1], _wide(x), _wide(gradient)
        # As in eval mode, of which only the two sums over all pixels are wanted.
        _, *sums = torch.ops.aten.native_batch_norm_backward(
            wide_gradient, wide, None, *_repeated(wide, mean, variance), None, None, False, ctx.eps,
            (False, True, True))
        weight_gradient, bias_gradient = (each.view(-1, channels).sum(dim=0) for each in sums)
        n = x.numel() / channels
        inverse = (variance + ctx.eps).rsqrt()
        scale = weight * inverse
        slope = -scale * inverse * weight_gradient / n
        shift = -scale * bias_gradient / n - slope * mean
        scale, slope, shift = _repeated(wide, scale, slope, shift)[..., None, None]
        x_gradient = torch.empty_like(x, memory_format=torch.channels_last)
        torch.addcmul(shift, wide_gradient, scale, out=_wide(x_gradient)).addcmul_(wide, slope)
        return x_gradient, weight_gradient, bias_gradient, None


def _wide(x):
    """Images (N, C, H, W), channels-last, as one image of fewer, wider pixels: (1, 16 C, N H W / 16, 1)."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(1, -1, 1, c * math.gcd(n * h * w, 16)).permute(0, 3, 1, 2)


def _repeated(wide, *per_channel):
    """The tensors (C,), as rows of one tensor, each repeated for all channels of `wide`."""
    return torch.stack(per_channel).repeat(1, wide.shape[1] // len(per_channel[0]))
