"""Trained networks leave PyTorch by its own doors: torch.export and ONNX, for batches of any size."""
import importlib
import inspect

import onnxruntime
import pytest
import torch

from study.variants import STEPS


@pytest.fixture(params=STEPS)
def network(request):
    """Each step's network after one batch in training mode, for the statistics of batch norm."""
    torch.manual_seed(0)
    net = importlib.import_module(request.param).Net()
    net(torch.rand(64, 1, 28, 28))
    return net.eval()


BATCH = ({0: torch.export.Dim("batch")},)  # the first dimension of the only input


def test_torch_export(network):
    exported = torch.export.export(network, (torch.rand(3, 1, 28, 28),), dynamic_shapes=BATCH).module()
    for size in (1, 7):
        images = torch.rand(size, 1, 28, 28)
        assert torch.allclose(exported(images), network(images), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_onnx(network, tmp_path):
    by_default = inspect.signature(torch.onnx.export).parameters["dynamo"].default  # since torch 2.9
    dynamic = {"dynamic_shapes": BATCH} if by_default else {"dynamic_axes": {"images": {0: "batch"}}}
    torch.onnx.export(network, (torch.rand(3, 1, 28, 28),), tmp_path / "net.onnx", input_names=["images"],
                      **dynamic)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for size in (1, 7):
        images = torch.rand(size, 1, 28, 28)
        answer, = session.run(None, {"images": images.numpy()})
        assert torch.allclose(torch.from_numpy(answer), network(images), atol=1e-4)
