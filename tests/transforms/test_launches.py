"""Guards of the speed of the generator that do not depend on the machine.

On a GPU every operation on voxels is a launch or several, and every number that the host reads of
them waits for all of those before. Both can be counted on a CPU, and the memory that is alive too.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchio as tio
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.support import devices

SIZE = 32
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")
ALLOCATIONS = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::_unsafe_view")
BY_MASK = ("aten::index", "aten::index_put", "aten::index_put_")


class OnVoxels(TorchDispatchMode):
    """Follows what is computed from some tensors, as if these were on a GPU.

    Args:
        tensors: The tensors.

    Attributes:
        launches: Number of operations on them that compute something.
        waits: Names of the operations by which the host read numbers of them.
        peak: Most bytes that were alive at once, of the tensors too.
    """

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.alive: Any = WeakTensorKeyDictionary()
        self.launches, self.peak, self.waits = 0, 0, list[str]()
        for tensor in tensors:
            self.alive[tensor] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x in self.alive]
        if read:
            masks = [x for x in read if x.dtype == torch.bool]
            if func._schema.name in WAITS or (func._schema.name in BY_MASK and masks):
                self.waits.append(func._schema.name)
            self._count(func, [x for x in tree_leaves(result) if isinstance(x, Tensor)])
        return result

    def _count(self, func: Any, made: list[Tensor]) -> None:
        if not func.is_view:
            self.launches += 1
        for tensor in made:
            self.alive[tensor] = True
        storages = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in self.alive}
        self.peak = max(self.peak, sum(storages.values()))


def followed(size: int, seed: int) -> OnVoxels:
    """What it took to make a batch of pairs with the preset `all_purpose`."""
    generator = Generator.from_preset("all_purpose", [f"crop.shape={SIZE}"])
    subject = tio.Subject(labels=head_phantom(spacing_mm=4))
    batch = SubjectsBatch.from_subjects([subject] * size)
    batch.metadata["brain_box"] = generator.brain_box(batch).tolist()
    with OnVoxels(batch.images["labels"].data) as mode:
        generator.pair(batch, seed=seed)
    return mode


def test_a_batch_takes_no_wait(monkeypatch):
    monkeypatch.setattr(devices, "computes_all", lambda device: True)
    assert not [name for seed in range(2) for name in followed(4, seed).waits]


class OnMeta(TorchDispatchMode):
    """Counts what would happen on a GPU, with tensors of the device `meta`, which hold no numbers.

    Attributes:
        launches: Number of operations that compute or copy something there.
        peak: Most bytes that were alive there at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: Any = WeakTensorKeyDictionary()
        self.launches, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        there = [x for x in tensors if x.device.type == "meta"]
        if there:
            free = func.is_view or func._schema.name in ALLOCATIONS
            self.launches += not free
            self.alive.update(dict.fromkeys(there, True))
            storages = {
                x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in self.alive
            }
            self.peak = max(self.peak, sum(storages.values()))
        return result


@pytest.mark.parametrize(("size", "launches"), [(1, 380), (8, 440)])
def test_a_batch_of_common_size_takes_few_launches_and_little_memory(size, launches, meta):
    generator = Generator.from_preset("all_purpose")
    labels = torch.empty(size, 1, 181, 217, 181, dtype=torch.int32, device=meta)
    images = {"labels": ImagesBatch(labels, [AffineMatrix()] * size, image_class=tio.LabelMap)}
    batch = SubjectsBatch(images, metadata={"brain_box": [[[20, 20, 20], [150, 180, 150]]] * size})
    made = []
    for seed in range(8 if size == 1 else 4):
        with OnMeta() as mode:
            mode.alive[labels] = True
            pair = generator.pair(batch, seed)
        assert pair.image.shape == (size, 1, 160, 160, 160)
        made.append(mode)
    assert sum(mode.launches for mode in made[1:]) / len(made[1:]) <= launches
    assert max(mode.peak for mode in made) / size <= 180e6  # eleven volumes of float32


@pytest.mark.parametrize(
    "waits", [lambda x: x.sum().item(), lambda x: x[x > 0], torch.nonzero, lambda x: bool(x.any())]
)
def test_reading_a_number_is_a_wait(waits):
    x = torch.rand(10)
    with OnVoxels(x) as mode:
        waits(x)
    assert len(mode.waits) == 1


def test_views_are_no_launches_and_memory_is_given_back():
    x = torch.rand(10)
    with OnVoxels(x) as mode:
        for _ in range(5):
            x.view(2, 5).t() + 1
    assert mode.launches == 5
    assert mode.peak == 80
