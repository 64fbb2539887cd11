"""What is done on a GPU is what is done on a CPU, and the host waits for it a few times only.

The operations of the device are done here on tensors of the CPU, as if the host could not see them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from synthsr_net import Predictor
from synthsr_net.models.checkpoint import Model, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.refinement.brain_mask import filled, find_brain, flooded
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.support import devices

LOOKS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")
"""Operations for which the host waits, besides reading."""
AFFINE = np.diag([5.0, 5, 5, 1])


class OnDevice(TorchDispatchMode):
    """Follows what is computed from tensors that were put on a device, as if that were another.

    Attributes:
        launches: Number of operations on them that compute something.
        looks: Names of the operations by which the host saw numbers of them.
        reads: Shapes of the tensors that it read each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: Any = WeakTensorKeyDictionary()
        self.launches, self.looks, self.reads = 0, list[str](), list[list[tuple[int, ...]]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        used = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x in self.alive]
        if used:
            self.launches += not func.is_view
            if func._schema.name in LOOKS:
                self.looks.append(func._schema.name)
            self.alive.update({x: True for x in tree_leaves(result) if isinstance(x, Tensor)})
        return result

    def put(self, tensor: Tensor, device: object) -> Tensor:
        """`on_device`."""
        tensor = tensor.clone()
        self.alive[tensor] = True
        return tensor

    def read(self, tensor: Tensor) -> Any:
        """`on_host`."""
        return self.read_together([tensor])[0]

    def read_together(self, tensors: Sequence[Tensor]) -> list[Any]:
        """`on_host_together`."""
        self.reads.append([tuple(tensor.shape) for tensor in tensors])
        return [tensor.detach().clone().numpy() for tensor in tensors]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> OnDevice:
    """A device in place of the CPU, whose numbers are read by `on_host` alone."""
    mode = OnDevice()
    others = {
        "on_host": mode.read,
        "on_host_together": mode.read_together,
        "on_device": mode.put,
        "is_on_host": lambda tensor: False,
    }
    real = {name: getattr(devices, name) for name in others}
    modules = [each for name, each in sys.modules.items() if name.startswith("synthsr_")]
    for module in modules:
        for name, function in real.items():
            if getattr(module, name, None) is function:
                monkeypatch.setattr(module, name, others[name])
    return mode


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    network = UNetConfig(num_levels=2, num_features=2)
    treatment = ScanConfig(
        spacing_mm=4.0, normalisation="percentile", inverse_contrast=True, data_consistency=True
    )
    torch.manual_seed(0)
    return Predictor(
        Model(ModelConfig(network=network, scan=treatment), UNet3d(network).eval()),
        device="cpu",
        force=True,
    )


def head(kind: str) -> Scan:
    """A ball of tissue with noise in air, and what is wrong with it, or CT."""
    rng = np.random.default_rng(0)
    place = np.indices((44, 36, 40)) - np.array([21.5, 17.5, 19.5])[:, None, None, None]
    radius = np.linalg.norm(place, axis=0)
    noise = rng.normal(size=radius.shape)
    data = np.where(radius < 16, 300 + 20 * noise + 3 * place[0], np.abs(5 * noise))
    if kind == "CT":
        data = np.select([radius < 14, radius < 16], [35 + 5 * noise, 900], -1000 + 10 * noise)
    elif kind == "labels":
        data = np.floor(radius / 4)
    elif kind == "padded":
        data[:6] = data[-6:] = -20000
    elif kind == "defective":
        data[5, 6, 7] = 1e6
    elif kind == "wrong sign":
        data = np.rint(data)
        data = np.where(data > 300, data - 512, data)
    order = "F" if kind == "plain" else "C"
    return Scan(np.array(data, dtype=np.float32, order=order), AFFINE)


KINDS = ("plain", "CT", "labels", "padded", "defective", "wrong sign")


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_prepares_what_the_host_prepares(kind, predictor, request):
    here = predictor.prepare([head(kind)])
    request.getfixturevalue("elsewhere")
    there = predictor.prepare([head(kind)])
    assert here.space.warnings == there.space.warnings
    assert bool(here.space.warnings) == (kind != "plain")
    np.testing.assert_allclose(here.tensor, there.tensor, rtol=0, atol=1e-6)


def test_the_host_waits_a_few_times_only(predictor, elsewhere):
    with elsewhere as mode:
        prepared = predictor.prepare([head("plain")])
        assert len(mode.reads) <= 5  # samples, a profile, neighbours, slices, percentiles
        assert not mode.looks
        assert mode.launches <= 130
        output = predictor.infer(prepared)
        before = len(mode.reads), mode.launches
        predictor.finish(prepared, output)
    assert len(mode.reads) - before[0] == 1  # the result
    assert len(mode.looks) <= 1  # whether the scan is alike
    assert mode.launches - before[1] <= 205


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_what_goes_to_a_device_is_copied_in_its_layout_without_threads_of_pytorch(order):
    tensor = torch.arange(24.0).view(2, 3, 4).permute(order)
    mode = OnDevice()
    mode.alive[tensor] = True
    with mode:
        copy = devices.page_locked(tensor, pin=False)
    assert copy.stride() == tensor.stride()
    assert copy.data_ptr() != tensor.data_ptr()
    assert torch.equal(copy, tensor)
    assert mode.launches <= 1  # memory is asked for


@pytest.mark.parametrize("share", [0.35, 0.5, 0.65])
def test_flooding_reaches_what_is_connected(share):
    generator = torch.Generator().manual_seed(round(100 * share))
    for shape in ((9, 12, 7), (1, 30, 2), (16, 16, 16)):
        mask = torch.rand(shape, generator=generator) < share
        begin = torch.zeros_like(mask)
        begin[0, 0, 0] = begin[-1, -1, -1] = True
        mask |= begin
        parts = ndimage.label(mask.numpy())[0]
        expected = np.isin(parts, [parts[0, 0, 0], parts[-1, -1, -1]])
        np.testing.assert_array_equal(flooded(mask, begin), expected)


def test_what_surrounds_a_head_is_flooded_in_few_rounds(elsewhere):
    place = np.indices((40, 44, 36)) - np.array([20, 22, 18])[:, None, None, None]
    head = torch.from_numpy(np.linalg.norm(place / [[[[1.1]]], [[[1.3]]], [[[1]]]], axis=0) < 13)
    head &= torch.rand(head.shape, generator=torch.Generator().manual_seed(0)) < 0.9
    assert torch.equal(filled(head), torch.from_numpy(ndimage.binary_fill_holes(head.numpy())))
    assert len(elsewhere.reads) <= 3


def brain_like(seed: int) -> Tensor:
    """Patches of all tissues, some of them large."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 6, 5, 7, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(42, 37, 45), mode="trilinear")[0, 0]
    return 150 * fine + 20 * torch.rand(fine.shape, generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_a_device_finds_the_brain_that_the_host_finds_without_threads_of_pytorch(seed, request):
    t1 = brain_like(seed)
    on_tensors = OnDevice()
    on_tensors.alive[t1] = True
    with on_tensors:
        here = find_brain(t1, 3.0)
    assert 0 < here.sum() < here.numel()
    assert not on_tensors.launches
    assert np.array_equal(find_brain(t1.numpy(), 3.0), here)
    request.getfixturevalue("elsewhere")
    assert torch.equal(find_brain(t1, 3.0), here)


def test_devices_fill_the_holes_that_the_host_fills(request):
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(12, 10, 11, generator=generator) < share for share in (0.2, 0.7, 0.9)]
    shell = torch.ones(20, 20, 20, dtype=torch.bool)
    shell[1:-1, 1:-1, 1:-1] = False  # a hole that is larger than all that is outside
    masks += [shell, torch.zeros(4, 4, 4, dtype=torch.bool)]
    here = [filled(mask) for mask in masks]
    request.getfixturevalue("elsewhere")
    for expected, mask in zip(here, masks, strict=True):
        assert torch.equal(filled(mask), expected)
