"""Deep copies stay on the device; what is pickled or saved comes back in main memory."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.torch_device.tensors import KINDS


def test_deep_copies_and_pickles() -> None:
    tensor = torch.arange(6.0, device="wgpu").view(2, 3).t().requires_grad_()
    copied = copy.deepcopy([tensor, tensor])
    assert copied[0] is copied[1]
    assert copied[0].device == tensor.device
    assert copied[0].requires_grad
    with torch.no_grad():
        copied[0].add_(1)
    assert tensor.tolist() == [[0, 3], [1, 4], [2, 5]]
    loaded = pickle.loads(pickle.dumps(tensor))
    assert loaded.device.type == "cpu"
    assert torch.equal(loaded, tensor.cpu())


def test_a_copied_module_learns_apart() -> None:
    layer = nn.Linear(3, 2, device="wgpu")
    layer.register_buffer("steps", torch.zeros(2, device="wgpu"))
    layer(torch.ones(1, 3, device="wgpu")).sum().backward()
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        copied.weight.zero_()
        copied.steps.add_(1)
    assert layer.weight.abs().sum().item() > 0
    assert layer.steps.tolist() == [0, 0]


def test_saved_tensors_share_what_they_shared_by_name() -> None:
    tensor = torch.arange(4, device="wgpu")
    file = io.BytesIO()
    torch.save({"one": tensor, "same": tensor, "half": tensor.half()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["one"] is loaded["same"]
    assert loaded["one"].tolist() == [0, 1, 2, 3]
    assert loaded["half"].dtype == torch.float16


def test_only_leaves_are_copied() -> None:
    product = torch.ones(2, device="wgpu", requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly"):
        copy.deepcopy(product)


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("place", ["cpu", "wgpu"])
def test_files_load_onto_the_device(place: str, weights_only: bool) -> None:
    tensor = torch.arange(12.0, device=place)
    shared = {"whole": tensor, "part": tensor.view(3, 4).t()[1:]} if place == "cpu" else {}
    kinds = {str(kind): torch.tensor([1, 0, 1]).to(place, kind) for kind in KINDS}
    saved = {**shared, **kinds, "weight": nn.Parameter(tensor.half())}
    file = io.BytesIO()
    torch.save(saved, file)
    for where in ("wgpu", torch.device("wgpu"), {"cpu": "wgpu"}):
        file.seek(0)
        loaded = torch.load(file, map_location=where, weights_only=weights_only)
        for name, value in saved.items():
            assert loaded[name].device.type == "wgpu"
            assert loaded[name].dtype == value.dtype
            assert torch.equal(loaded[name].cpu(), value.cpu())
        assert isinstance(loaded["weight"], nn.Parameter)
        if shared:
            loaded["whole"][5] = -1.0
            assert loaded["part"][0, 1].item() == -1.0


def test_a_file_of_other_types_names_the_type() -> None:
    file = io.BytesIO()
    torch.save(torch.ones(3, dtype=torch.float64), file)
    file.seek(0)
    with pytest.raises(DeviceError, match=r"not torch.float64"):
        torch.load(file, map_location="wgpu")
