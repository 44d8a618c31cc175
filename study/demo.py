"""A page to draw a digit on, and to look inside the trained networks: results/demo.html.

    python -m study.demo --out-dir results

The page is one file that needs no other and no network. It holds the weights of every finished step in the
folder, and computes with them itself. A step of your own is in it if the page has the operations that its
network is made of.
"""
import base64
import collections
import json
from pathlib import Path

import numpy as np
import torch

from harness import cli, mnist
from harness.files import atomic_write
from harness.layer_table import layers_with_receptive_fields
from harness.loader import MEAN, STD, Loader, predict
from study.robustness import trained_network
from study.variants import STEPS, VARIANTS, load_runs

# torch's operations that the page can compute, and what study/page/compute.js calls them.
OPERATIONS = {
    **{f"{kind}.default": kind for kind in (
        "conv2d", "batch_norm", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "pad", "cat",
        "relu", "leaky_relu", "elu", "silu", "gelu", "hardtanh", "sigmoid", "tanh", "dropout", "amin", "amax",
        "arange", "grid_sampler", "sqrt")},
    **{f"{kind}.Tensor": kind for kind in ("add", "sub", "mul", "div", "slice")},
    "conv2d.padding": "conv2d", "stack.default": "cat", "feature_dropout.default": "dropout",
    "mean.dim": "mean", "sum.dim_IntList": "sum", "pow.Tensor_Scalar": "pow", "expand.default": "expand",
    "expand_as.default": "expand", "log_softmax.int": "log_softmax", "softmax.int": "softmax",
    **dict.fromkeys(("view.default", "reshape.default", "flatten.using_ints", "squeeze.dim",
                     "unsqueeze.default"), "reshape")}
# With other values than these an operation is another.
USUAL = {"ceil_mode": (False,), "divisor_override": (None,), "mode": ("constant", "replicate"),
         "train": (False,), "training": (False,), "interpolation_mode": (0,), "padding_mode": (0,),
         "align_corners": (False,)}
PAGE = Path(__file__).parent / "page"
WRONG = 12  # images at most that a step gets wrong are on the shelf


def described(model):
    """What `model` computes for one image, and its layers, as study/page/compute.js takes them: a dict.

    Raises UserError if there is an operation that the page does not have.
    """
    try:
        exported = torch.export.export(model.eval(), (torch.zeros(1, 1, 28, 28),), strict=False)
    except Exception as error:  # any exception: the network's own code may raise it
        raise cli.UserError(f"torch.export cannot follow it: {cli.one_line(error, 200)}") from None
    operations, output = operations_of(exported.graph)
    held, tensors = {**exported.state_dict, **exported.constants}, {}
    for spec in exported.graph_signature.input_specs:
        if spec.target in held:
            tensors[spec.arg.name] = {"shape": list(held[spec.target].shape),
                                      "data": base64_of(held[spec.target].detach().float().numpy())}
    # A layer's second call has a key that ends in @1.
    by_call = {(path, int(key.partition("@")[2] or 0)): operation for operation in operations
               for key, path in [operation["layer"]]}
    paths = {module: path for path, module in model.named_modules()}
    layers, calls = [], collections.Counter()
    for layer in layers_with_receptive_fields(model):
        path = paths[layer.layer]
        operation = by_call.get((path, calls[path]))
        calls[path] += 1
        if operation and layer.rows:
            layers.append({
                "name": layer.name, "shape": layer.shape, "parameters": layer.parameters,
                "rows": layer.rows, "columns": layer.columns,
                "field": "x".join("all" if n is None else str(n) for n in dict.fromkeys(layer.field)),
                "kind": operation["kind"], "output": operation["name"],
                "weight": operation["args"][1]["tensor"] if operation["kind"] == "conv2d" else None})
    return {"tensors": tensors, "operations": operations, "layers": layers, "output": output,
            "input": exported.graph_signature.user_inputs[0]}


def operations_of(graph):
    """The operations of an exported `graph` in turn, as a list of dicts, and the name of what comes out."""
    operations, changed = [], {}  # what has been changed in place: name -> that of its later value

    def argument(value):
        if isinstance(value, torch.fx.Node):
            return {"tensor": changed.get(value.name, value.name)}
        if isinstance(value, (torch.device, torch.dtype, torch.layout)):
            return str(value)
        return [argument(item) for item in value] if isinstance(value, (list, tuple)) else value

    for node in graph.nodes:
        if node.op == "call_function":
            name = str(node.target).removeprefix("aten.")
            key, (path, _) = list(node.meta.get("nn_module_stack", {"": ("", "")}).items())[-1]
            kind = OPERATIONS.get(name.replace("_.", "."))
            arguments = node.target._schema.arguments if kind else ()
            given = dict(zip((a.name for a in arguments), node.args, strict=False)) | node.kwargs
            odd = [option for option, usual in USUAL.items() if given.get(option, usual[0]) not in usual]
            scaled = kind in ("add", "sub") and "alpha" in given
            if not kind or odd or scaled or len(given.get("pad", ())) > 4:
                raise cli.UserError(f"the page cannot compute {name}{f' (in {path})' * bool(path)}")
            if name == "conv2d.padding":
                given["padding"] = same_padding(given)
            operations.append({"name": node.name, "kind": kind, "shape": list(node.meta["val"].shape),
                               "args": [argument(given.get(a.name, a.default_value)) for a in arguments],
                               "layer": (key, path)})
            if "_." in name:
                changed[node.args[0].name] = node.name
    return operations, argument(graph.output_node().args[0][0])["tensor"]


def same_padding(given):
    """The numbers that padding="same" or "valid" stands for, of a convolution's arguments `given`."""
    kernel = given["weight"].meta["val"].shape[2:]
    around = [size * (length - 1) for size, length in zip(given.get("dilation", (1, 1)), kernel, strict=True)]
    if given["padding"] == "valid":
        return [0, 0]
    if any(number % 2 for number in around):
        raise cli.UserError("the page cannot compute padding that differs from side to side")
    return [number // 2 for number in around]


def base64_of(array):
    """The numbers of the NumPy `array`, as they lie in memory, in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def content(folder, args):
    """What the page shows of the finished steps in `folder`, and of MNIST, as a dict. Raises UserError."""
    runs, _ = load_runs(sorted(folder.glob("step*.json")), for_means=False)
    images, labels = mnist.load_test(args.data_dir, args.mirror)
    networks, wrong = [], set()
    for run in runs:
        step, validated = run["step"], run["arguments"]["validate"]
        try:
            if step not in STEPS:
                raise cli.UserError("there is no such step")
            if run["arguments"]["dry_run"]:
                raise cli.UserError("it is a dry run")
            model = trained_network(run, folder / f"{step}.pt")
            network = described(model)
        except cli.UserError as error:
            cli.warn(f"left out: {step}: {error}")
            continue
        if run["recipe"] != VARIANTS[step].facts()["recipe"]:
            cli.warn(f"{step} was trained before its code was changed")
        # With --validate the images are others, and the test set stays unopened.
        mistakes = [] if validated else [image for image, *_ in run["mistakes"]]
        wrong |= {*mistakes}
        networks.append(network | {
            "step": step, "parameters": run["parameters"], "started": run["started"],
            "seed": run["arguments"]["seed"], "epochs": len(run["history"]),
            "accuracy": run["history"][-1]["test_accuracy"],
            "split": "validation" if validated else "test", "wrong": mistakes[:WRONG],
            "check": {"image": 0, "output": predict(model, Loader(images[:1], labels[:1], 1))[0].tolist()}})
    if not networks:
        raise cli.UserError(f"no finished run of a step in {folder}; train one first, as by `make step4`")
    right = [next((i for i in range(len(labels)) if labels[i] == digit and i not in wrong), None)
             for digit in range(10)]
    right = [i for i in right if i is not None]  # a network may get every image of a digit wrong
    shown = sorted({0, *right, *(i for network in networks for i in network["wrong"])})
    return {"networks": networks, "right": right, "mean": MEAN, "std": STD,
            "images": {i: {"label": int(labels[i]), "disputed": i in mnist.DISPUTED,
                           "pixels": base64_of(images[i].numpy())} for i in shown}}


def page(data):
    """The page that shows `data`, as content() gives it, as HTML."""
    html = (PAGE / "page.html").read_text(encoding="utf-8")
    for name in ("compute.js", "page.js"):
        html = html.replace(f"/* {name} */", (PAGE / name).read_text(encoding="utf-8"))
    written = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # no </script> in the middle
    return html.replace("/* data */", f"const DATA = {written};")


def main():
    parser = cli.out_dir_parser(__doc__, "folder of the finished steps; the page is put there, too")
    mnist.add_arguments(parser)
    args = parser.parse_args()
    folder = Path(args.out_dir)
    html = page(content(folder, args))
    with atomic_write(folder / "demo.html") as path:
        path.write_text(html, encoding="utf-8")
    print(f"Written: {folder / 'demo.html'}; open it in a browser")


if __name__ == "__main__":
    cli.run(main)
