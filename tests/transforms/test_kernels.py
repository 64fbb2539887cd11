"""Kernels equal the plain operations, and leave to these what they cannot do.

With `--device cuda` they run on the GPU. On a CPU, `TRITON_INTERPRET=1 pytest
tests/transforms/test_kernels.py` runs them by Triton's interpreter, if Triton is installed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from synthsr_transforms.functional import (
    acquisition,
    blur,
    fields,
    geometry,
    intensity,
    lesions,
    mixture,
    operators,
    resample,
    texture,
    warp,
)
from synthsr_transforms.functional.kernels import banded, choice, gaussians, painting, voxelwise
from synthsr_transforms.functional.kernels import texture as vary
from synthsr_transforms.functional.kernels import warp as sampling
from synthsr_transforms.functional.kernels.choice import kernels_on, usable

SHAPE = (36, 9, 21)


def random(*shape: int, device: torch.device) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(device)


def plain(volume: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    with kernels_on():
        return operators.apply_separable(volume, matrices)


def assert_near(made: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert made.dtype == expected.dtype
    scale = max(expected.abs().max().item(), 1e-6)
    torch.testing.assert_close(made, expected, rtol=0, atol=tolerance * scale)


# Banded products ---------------------------------------------------------------------------------


def blurs(device: torch.device, boundary: str) -> list[Tensor]:
    sigma = torch.tensor([[[0.0, 0.6, 2.0]], [[1.1, 0.3, 5.0]]])
    return operators.blur_operators(SHAPE, sigma, device, boundary=boundary)


def kinds(device: torch.device) -> dict[str, list[Tensor | None]]:
    """Operators of every kind for `SHAPE`."""
    gap = torch.zeros(1, 1, 70, SHAPE[0])
    gap[..., 40, [3, 30]] = torch.tensor([1.0, -2.0])  # a row with two samples, all others are 0
    rows = random(2, 1, 5, SHAPE[1], device=device)
    return {
        "blur": list(blurs(device, "renormalise")),
        "dark_blur": list(blurs(device, "zero")),
        "up": resample._resize_operators(SHAPE, (70, 40, 21), False, device),
        "down": resample_to(5, device),
        "any": [gap.to(device), rows, None],
        "backwards": [None, None, torch.eye(SHAPE[2], device=device).flip(0)[None, None]],
    }


def resample_to(size: int, device: torch.device) -> list[Tensor | None]:
    """Operators that bring volumes of `SHAPE` to a cube."""
    return resample._resize_operators(SHAPE, (size,) * 3, True, device)


@pytest.mark.parametrize("kind", ["blur", "dark_blur", "up", "down", "any", "backwards"])
def test_bands_give_what_whole_matrices_do(kernels, kind, device):
    volume, matrices = random(2, 1, *SHAPE, device=device), kinds(device)[kind]
    assert banded.has_bands(volume, matrices)
    assert_near(operators.apply_separable(volume, matrices), plain(volume, matrices))


def test_bands_are_applied_to_volumes_of_any_layout(kernels, device):
    x, y, z = blurs(device, "zero")
    volume = random(1, 2, SHAPE[2], SHAPE[0], SHAPE[1], device=device).permute(0, 1, 3, 4, 2)
    volume = volume.expand(2, -1, -1, -1, -1)
    assert_near(operators.apply_separable(volume, [x, y, z]), plain(volume, [x, y, z]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bands_of_short_types_are_summed_in_float32(kernels, dtype, device):
    volume = random(1, 1, *SHAPE, device=device).to(dtype)
    matrix = random(1, 1, 7, SHAPE[0], device=device).to(dtype)
    made = operators.apply_separable(volume, [matrix, None, None])
    assert made.dtype == dtype
    expected = plain(volume.float(), [matrix.float(), None, None]).to(dtype)
    assert_near(made, expected, tolerance=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [SHAPE, (20, 20, 20)])
def test_weights_of_a_blur_are_made_by_a_kernel_as_without(kernels, shape, device):
    sigma = torch.tensor([[[0.0, 0.6, 2.0], [1.0, 1.3, 0.4]]], device=device).expand(2, -1, -1)
    window = torch.tensor([[[1.0, 2.0, 3.0]]], device=device)
    for own in ({}, {"window_sigma": window, "truncate": 1.25}):
        assert gaussians.can_make(shape, sigma, window)
        made = operators.blur_operators(shape, sigma, device, **own)
        with kernels_on():
            expected = operators.blur_operators(shape, sigma, device, **own)
        for ours, theirs in zip(made, expected, strict=True):
            assert ours.shape == theirs.shape
            assert_near(ours, theirs)


def test_weights_of_slices_are_made_by_a_kernel_as_without(kernels, device):
    where = 40 * random(2, 1, 3, 12, device=device) - 2
    widths = 3 * random(2, 1, 6, device=device)
    sigma, radius = operators.bounded(widths[..., :3], widths[..., 3:])
    given = where[..., 1:], SHAPE, sigma, radius, "renormalise", 0
    assert gaussians.can_make(SHAPE, sigma, radius, where)
    made = operators.gaussian_rows(*given)
    with kernels_on():
        assert_near(made, operators.gaussian_rows(*given))


def test_weights_that_no_kernel_makes_are_made_plainly(anywhere, device):
    sigma = torch.ones(2, 1, 3, device=device)
    assert gaussians.can_make(SHAPE, sigma, sigma)
    assert not gaussians.can_make(SHAPE, sigma.double(), sigma)
    assert not gaussians.can_make(SHAPE, sigma[0], sigma)
    assert not gaussians.can_make((9, 9, 5000), sigma, sigma)


def test_bands_are_narrow_and_hold_every_weight(kernels, device):
    matrices = blurs(device, "renormalise")
    bands = banded.find_bands(matrices)
    for matrix, band in zip(matrices, bands.expand(3, 2, 1, -1, -1), strict=True):
        tiles = matrix.split(banded.TILE_ROWS, dim=2)
        for number, tile in enumerate(tiles):
            for weights, (first, end) in zip(tile[:, 0], band[:, 0, number].tolist(), strict=True):
                used = weights.any(0).nonzero()[:, 0].tolist()
                assert (first, end) == (used[0] // 4 * 4, used[-1] + 1)


def test_bands_of_long_rows_hold_every_weight(kernels, device):
    matrix = torch.zeros(1, 1, 3 * banded.TILE_ROWS, 600)
    matrix[0, 0, 1, 270], matrix[0, 0, 5, 3] = 1e-3, 2.0
    matrix[0, 0, banded.TILE_ROWS + 7, 599] = -1.0
    bands = banded.find_bands([None, matrix.to(device), None])[1, 0, 0].tolist()
    assert bands == [[0, 271], [596, 600], [600, 0]]
    volume = random(1, 1, 2, 600, 3, device=device)
    given = [None, matrix.to(device), None]
    assert_near(operators.apply_separable(volume, given), plain(volume, given))


def test_a_blur_and_an_acquisition_are_the_same_by_bands(kernels, device):
    volume = random(2, 1, *SHAPE, device=device)
    sigma, spacing = torch.tensor([[[0.5, 1.5, 1.0]]]), torch.tensor([[[1.0, 2.0, 5.0]]] * 2)
    plan = acquisition.plan_slices(SHAPE, torch.ones(1, 1, 3), spacing)

    def both() -> list[Tensor]:
        slices = acquisition.acquire_slices(
            volume, plan, sigma.expand(2, 1, 3), SHAPE, at_low_resolution=lambda low: 2 * low
        )
        return [blur.gaussian_blur(volume, sigma), slices]

    made = both()
    with kernels_on():
        for ours, expected in zip(made, both(), strict=True):
            assert_near(ours, expected)


# Painting ----------------------------------------------------------------------------------------


@pytest.fixture
def labels(device: torch.device) -> Tensor:
    """Labels from -1 to 9, beyond tables of eight values at both ends."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-1, 10, (2, 1, 7, 11, 15), generator=generator).to(device)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("tables", [1, 2])
def test_look_up_by_a_kernel_is_the_same(kernels, labels, dtype, tables, device):
    table = random(tables, 3, 8, device=device)
    assert painting.can_paint(labels.to(dtype), [table])
    with kernels_on():
        expected = mixture.look_up(labels, table)
    assert torch.equal(mixture.look_up(labels.to(dtype), table), expected)
    numbers = (100 * table).long()
    assert torch.equal(mixture.look_up(labels, numbers), (100 * expected).long())


def test_mixtures_by_a_kernel_are_the_same(kernels, labels, device):
    means, stds = random(2, 2, 8, device=device), random(1, 2, 8, device=device)
    noise = random(2, 2, *labels.shape[2:], device=device)
    one = noise[:, :1].contiguous()
    together = torch.cat([means, stds[:, :1].expand(2, -1, -1)], 1)

    def all_of_them() -> list[Tensor]:
        several = mixture.tissue_mixtures(labels, together, [None, one])
        return [mixture.tissue_mixture(labels, means, stds, noise), *several]

    made = all_of_them()
    with kernels_on():
        for ours, expected in zip(made, all_of_them(), strict=True):
            assert_near(ours, expected)


def test_what_cannot_be_painted_by_a_kernel_is_painted_plainly(anywhere, labels, device):
    table = random(2, 1, 8, device=device)
    assert painting.can_paint(labels, [table])
    assert not painting.can_paint(labels.float(), [table])
    assert not painting.can_paint(labels, [table.double()])
    assert not painting.can_paint(labels, [random(3, 1, 8, device=device)])
    assert not painting.can_paint(labels, [table], [random(2, 2, 7, 11, 15, device=device)])
    assert not painting.can_paint(labels.transpose(2, 3), [table])
    assert not painting.can_paint(labels[:0], [table])


# Sampling ----------------------------------------------------------------------------------------


PATCH = (9, 6, 13)


def patch(device: torch.device, *, displaced: bool) -> tuple[Tensor, Tensor | None]:
    """Rows of a turned, mirrored patch that leaves a volume of `SHAPE`, and a displacement."""
    generator = torch.Generator().manual_seed(3)
    angles = torch.tensor([[20.0, -10, 5], [-15, 30, 12]])
    still = torch.zeros(2, 3)
    matrix = geometry.affine_matrix(angles, torch.zeros(2, 6), still + 1.1, still + 2)
    indices = [torch.stack([torch.arange(n), torch.arange(n).flip(0) + 2]) for n in PATCH]
    coarse = (4, 3, 5) if displaced else None
    rows = warp.patch_rows(geometry.about_centre(matrix, SHAPE), SHAPE, indices, coarse)
    displacement = 3 * torch.randn(2, 3, 4, 3, 5, generator=generator) if displaced else None
    return rows.to(device), None if displacement is None else displacement.to(device)


@pytest.mark.parametrize("displaced", [True, False])
def test_patches_are_read_by_a_kernel_as_at_coordinates(kernels, displaced, device):
    rows, displacement = patch(device, displaced=displaced)
    image = random(2, 3, *SHAPE, device=device)
    volumes = [torch.arange(2 * image[0, 0].numel(), device=device).view(2, 1, *SHAPE), image]
    volumes += [image.bfloat16(), image[:1, :1].half().expand(2, -1, -1, -1, -1)]
    kinds = [True, False, False, True]
    for volume, nearest in zip(volumes, kinds, strict=True):
        assert sampling.can_sample(volume, rows, PATCH, nearest=nearest)
    made = warp.sample_patch(volumes, kinds, rows, PATCH, displacement)
    with kernels_on():
        expected = warp.sample_patch(volumes, kinds, rows, PATCH, displacement)
    assert (made[0] != expected[0]).sum() <= 2  # halfway between two voxels
    assert_near(made[1], expected[1])
    assert_near(made[2], expected[2], tolerance=2 * torch.finfo(torch.bfloat16).eps)
    assert (made[3] != expected[3]).sum() <= 2


def test_a_patch_of_whole_voxels_is_the_volume(kernels, device):
    volume = torch.arange(36 * 9 * 21, device=device).view(1, 1, *SHAPE)
    rows = warp.patch_rows(torch.eye(4)[None], SHAPE, warp.whole_grid(SHAPE, 1, "cpu"))
    for nearest in (True, False):
        read = volume if nearest else volume.float()
        made = warp.sample_patch([read], [nearest], rows.to(device), SHAPE)[0]
        assert torch.equal(made, read)


def test_velocities_are_integrated_by_kernels_as_without(kernels, device):
    velocity = 6 * random(2, 3, 7, 6, 9, device=device) - 3
    before = velocity.clone()
    assert sampling.can_compose(velocity)
    made = fields.integrate_velocity(velocity)
    assert torch.equal(velocity, before)
    with kernels_on():
        assert_near(made, fields.integrate_velocity(velocity))
    once = sampling.compose(velocity, 1)
    assert not torch.equal(once, sampling.compose(velocity, 2))
    assert torch.equal(sampling.compose(once, 1), sampling.compose(velocity, 2))


def test_velocities_of_other_kinds_are_integrated_plainly(anywhere, device):
    assert sampling.can_compose(torch.ones(1, 3, 4, 4, 4, device=device))
    assert not sampling.can_compose(torch.ones(1, 2, 4, 4, 4, device=device))
    assert not sampling.can_compose(torch.ones(3, 4, 4, 4, device=device))
    assert not sampling.can_compose(torch.ones(1, 3, 4, 4, 4, dtype=torch.float64, device=device))


def test_what_cannot_be_sampled_by_a_kernel_is_sampled_plainly(anywhere, device):
    rows, _ = patch(device, displaced=False)
    image = random(2, 1, *SHAPE, device=device)
    assert sampling.can_sample(image, rows, PATCH, nearest=False)
    assert not sampling.can_sample(image.int(), rows, PATCH, nearest=False)
    assert not sampling.can_sample(image > 0, rows, PATCH, nearest=True)
    assert not sampling.can_sample(image.double(), rows, PATCH, nearest=False)
    assert not sampling.can_sample(image[:1], rows, PATCH, nearest=False)
    assert not sampling.can_sample(image, rows.double(), PATCH, nearest=False)
    assert not sampling.can_sample(image, rows, (9, 0, 13), nearest=False)


# Texture -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False])
def test_images_vary_alike_by_kernels_as_without(kernels, labels, masked, device):
    shape = labels.shape[2:]
    t = 200 * random(2, 2, *shape, device=device) - 20
    x = 50 + 0.3 * t[:, :1] + 30 * random(2, 3, *shape, device=device)
    t[1] = 7  # does not vary, so that the image does not follow
    field, strength = random(2, 1, *shape, device=device) - 0.5, torch.tensor([0.1, 0.2])
    where = (labels, torch.eye(8)[3:4, None].to(device)) if masked else ()
    given = x, t, field, strength.to(device), *where
    assert vary.can_vary(*given[:4], *(where or (None, None)))
    made = texture.vary_alike(*given)
    with kernels_on():
        expected = texture.vary_alike(*given)
    assert_near(made[1], expected[1])
    assert_near(made[0][0], expected[0][0])
    assert torch.equal(made[0][1], x[1])
    assert not torch.equal(made[0][0], x[0])


def test_what_cannot_be_varied_by_kernels_is_varied_plainly(anywhere, labels, device):
    x, t = (random(2, 1, *labels.shape[2:], device=device) for _ in range(2))
    strength, table = torch.ones(2, device=device), torch.ones(1, 1, 8, device=device)
    assert vary.can_vary(x, t, t, strength, labels, table)
    assert not vary.can_vary(x.double(), t, t, strength, labels, table)
    assert not vary.can_vary(x, t[:1], t, strength, labels, table)
    assert not vary.can_vary(x, t, t.expand(2, 3, -1, -1, -1), strength, labels, table)
    assert not vary.can_vary(x, t, t, strength[:1], labels, table)
    assert not vary.can_vary(x, t, t, strength, labels.float(), table)
    assert not vary.can_vary(x, t, t, strength, labels, table.expand(2, -1, -1))
    assert not vary.can_vary(x, t, t, strength, labels, None)


# Single voxels -----------------------------------------------------------------------------------


def voxelwise_cases(labels: Tensor, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Functions of volumes of two channels, and of label maps."""
    shape = labels.shape[2:]
    image = 300 * random(2, 2, *shape, device=device) - 30
    noise = random(2, 2, 2, *shape, device=device) - 0.5
    real = noise[:, :, :1].contiguous()
    field, near = (random(2, 1, *shape, device=device) for _ in range(2))
    std, value = 20 * random(2, 2, device=device), 200 * random(2, 2, device=device)
    rician = torch.tensor([[True, False], [False, True]], device=device)
    height, lift = (torch.tensor(n, device=device) for n in ([0.4, math.inf], [0.5, 0.2]))
    table, swap = random(1, 1, 8, device=device), torch.arange(16, device=device).view(2, 8).flip(1)
    kept = torch.tensor([[0.3, 0.0], [-0.4, 0.1]])
    return {
        "min_max": lambda: intensity.min_max(image),
        "clipped": lambda: intensity.min_max(image, clip=(0.0, 200.0)),
        "one_value": lambda: intensity.min_max(torch.full_like(image, 3), clip=(0.0, 1.0)),
        "gamma": lambda: intensity.gamma_contrast(image / 300, kept),
        "noise": lambda: intensity.add_noise_by_channel(image, real, std),
        "rician": lambda: intensity.add_noise_by_channel(image, noise, std, rician),
        "relabel": lambda: mixture.relabel(labels, swap),
        "relabel_short": lambda: mixture.relabel(labels.short(), swap.int()),
        "share": lambda: lesions.lesion_share(field, height, 0.1, labels, table),
        "near": lambda: lesions.lesion_share(field, height, 0.1, labels, table, near, lift),
        "blend": lambda: lesions.blend_lesions(image, field, value, std),
        "noisy_blend": lambda: lesions.blend_lesions(image, field, value, std, real[:, :, 0]),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("min_max", "clipped", "one_value", "gamma", "noise", "rician"),
        *("relabel", "relabel_short", "share", "near", "blend", "noisy_blend"),
    ],
)
def test_voxels_change_by_kernels_as_without(kernels, monkeypatch, labels, case, device):
    run = voxelwise_cases(labels, device)[case]
    launched = []
    launch = voxelwise._launch
    monkeypatch.setattr(voxelwise, "_launch", lambda *a, **k: launched.append(launch(*a, **k)))
    made = run()
    assert launched
    with kernels_on():
        expected = run()
    assert_near(made, expected)
    if made.dtype != torch.float32:
        assert torch.equal(made, expected)


def test_what_does_nothing_changes_no_bit(kernels, labels, device):
    image = random(2, 2, *labels.shape[2:], device=device)
    zero, some = torch.zeros(2, 2, device=device), random(2, 2, device=device)
    assert torch.equal(intensity.gamma_contrast(image, zero.cpu()), image)
    never = torch.full((2,), math.inf, device=device)
    table = torch.ones(1, 1, 8, device=device)
    share = lesions.lesion_share(image[:, :1].contiguous(), never, 0.1, labels, table)
    assert not share.any()
    assert torch.equal(lesions.blend_lesions(image, share, some, some, image - 0.5), image)
    none = torch.zeros(2, 2, dtype=torch.bool, device=device)
    noise = torch.stack([image, image], 2)
    assert torch.equal(intensity.add_noise_by_channel(image, noise, zero, none), image)


def test_what_is_not_a_number_stays_so(kernels, labels, device):
    image = random(2, 2, *labels.shape[2:], device=device)
    image[0, 1, 3, 3, 3] = math.nan
    made = intensity.min_max(image, clip=(0.0, 0.5))
    assert made[0, 1].isnan().all()
    assert made.isnan().sum() == image[0, 1].numel()
    assert intensity.gamma_contrast(image, torch.ones(2, 2)).isnan().sum() == 1


def test_volumes_of_other_kinds_are_changed_plainly(anywhere, labels, device):
    image, number = random(2, 2, *labels.shape[2:], device=device), torch.ones(2, 2, device=device)
    assert voxelwise.takes(image, image, numbers=(number, number > 0, number[:, 0]))
    assert not voxelwise.takes(image, image[:, :1])
    assert not voxelwise.takes(image.double())
    assert not voxelwise.takes(image.transpose(2, 3))
    assert not voxelwise.takes(image[:0])
    assert not voxelwise.takes(image[0])
    assert not voxelwise.takes(image, numbers=(number[:1],))
    assert not voxelwise.takes(image, numbers=(number.double(),))
    table = torch.ones(1, 8, device=device)
    assert voxelwise.takes_labels(labels, table)
    assert not voxelwise.takes_labels(labels.float(), table)
    assert not voxelwise.takes_labels(labels.expand(2, 2, *labels.shape[2:]), table)


# What is left to plain operations ----------------------------------------------------------------


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if kernels ran on every device, Triton or not."""
    monkeypatch.setattr(choice, "_runs_kernels", lambda device: True)
    with kernels_on("cpu", "cuda", "mps"):
        yield


def test_without_triton_all_is_plain(monkeypatch, device):
    monkeypatch.setitem(sys.modules, "triton", None)  # to import it is an error
    program = "synthsr_transforms.functional.kernels.choice_program"
    monkeypatch.delitem(sys.modules, program, raising=False)
    choice._runs_kernels.cache_clear()
    volume, matrices = random(2, 1, *SHAPE, device=device), blurs(device, "zero")
    with kernels_on("cpu", "cuda", "mps"):
        assert not usable(volume)
        made = operators.apply_separable(volume, matrices)
    choice._runs_kernels.cache_clear()
    assert torch.equal(made, plain(volume, matrices))


def test_kernels_are_off_where_they_are_not_wanted(anywhere, device):
    volume = random(2, 1, device=device)
    assert usable(volume)
    with kernels_on():
        assert not usable(volume)
    with kernels_on("meta"):
        assert not usable(volume)
        assert usable(volume.to("meta"))
    assert usable(volume)


def test_gradients_go_through_plain_operations(anywhere, device):
    volume, matrices = random(1, 1, *SHAPE, device=device), resample_to(5, device)
    assert banded.has_bands(volume, matrices)
    volume.requires_grad_()
    assert not banded.has_bands(volume, matrices)
    with torch.no_grad():
        assert banded.has_bands(volume, matrices)
    operators.apply_separable(volume, matrices).sum().backward()
    assert volume.grad is not None
    assert volume.grad.any()


def test_one_volume_waits_for_no_kernel_to_be_compiled(anywhere, monkeypatch, device):
    monkeypatch.setattr(operators, "along_bands", None)  # to call it is an error
    volume = random(4, 5, 6, device=device)
    matrix = random(3, 4, device=device)
    made = operators.along_axes(volume, [matrix, None, None])
    torch.testing.assert_close(made, torch.einsum("mx,xyz->myz", matrix, volume))


def test_tensors_that_are_traced_are_left_to_plain_operations(anywhere, device):
    seen = []

    def look(volume: Tensor) -> Tensor:
        seen.append(usable(volume))
        return volume

    torch.vmap(look)(random(2, 3, device=device))
    assert seen == [False]
    assert not usable(torch.nn.Parameter(random(2, 3, device=device)).data.as_subclass(Marked))


class Marked(Tensor):
    pass


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((1, 1, 4, 4, 4), torch.ones(2, 1, 4, 4)),  # more elements than the volume
        ((2, 1, 4, 4, 4), torch.ones(2, 3, 4, 4)),
        ((1, 1, 4, 4, 4), torch.ones(1, 1, 4, 5)),
        ((1, 1, 4, 4, 4), torch.ones(4, 4)),
        ((1, 1, 4, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.float64)),
        ((0, 1, 4, 4, 4), torch.ones(1, 1, 4, 4)),
    ],
)
def test_operators_that_do_not_fit_are_left_to_plain_operations(anywhere, shape, matrix, device):
    assert not banded.has_bands(torch.ones(shape, device=device), [None, matrix.to(device), None])
    assert not banded.has_bands(torch.ones(shape, device=device), [None, None, None])


def test_huge_volumes_are_left_to_plain_operations(anywhere):
    volume = torch.empty(1, 1, 2048, 1024, 1024, device="meta")
    matrix = torch.empty(1, 1, 4, 2048, device="meta")
    with kernels_on("meta"):
        assert banded.has_bands(volume[:, :, :1000], [matrix[..., :1000], None, None])
        assert not banded.has_bands(volume, [matrix, None, None])
