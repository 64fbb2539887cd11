"""Promises of the losses, of what is done to volumes before them, and of the regulariser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from synthsr_net.losses import (
    LOSSES,
    ImageLoss,
    SegmentationLoss,
    add_residual,
    build_loss,
    central_crop,
    critic_loss,
    generator_total,
)
from synthsr_net.losses.intensity import log_scale
from synthsr_net.losses.segmentation import merged_dice
from synthsr_net.losses.ssim import gaussian_window, local_mean

SHAPE = (12, 11, 13)
SIMILARITIES = ("ssim", "ssim3d")


@pytest.fixture
def volume(device: torch.device) -> Callable[..., Tensor]:
    """Maker of volumes of uniform numbers `(B, C, X, Y, Z)`."""

    def make(
        batch: int = 2,
        channels: int = 1,
        shape: tuple[int, ...] = SHAPE,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(batch, channels, *shape, generator=generator).to(device, dtype)

    return make


@pytest.fixture
def pair(volume: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Maker of a prediction and a target for a loss."""

    def make(loss: nn.Module, batch: int = 2, channels: int = 2, **kwargs: Any):
        outputs = loss.outputs_per_target * channels
        prediction = volume(batch, outputs, seed=1, **kwargs)
        return prediction, volume(batch, channels, seed=2, **kwargs)

    return make


class TestBuilding:
    @pytest.mark.parametrize(("name", "outputs"), [*((n, 1) for n in LOSSES if n != "laplace")])
    def test_most_losses_need_one_output_per_target(self, name, outputs):
        assert build_loss(name).outputs_per_target == outputs

    def test_laplace_needs_two(self):
        assert build_loss("laplace").outputs_per_target == 2

    @pytest.mark.parametrize(
        ("word", "near"), [("L1", "l1"), ("sim3d", "ssim3d"), ("laplac", "laplace")]
    )
    def test_unknown_names_get_the_nearest(self, word, near):
        with pytest.raises(ValueError, match=rf"did you mean '{near}'"):
            build_loss(word)

    def test_unknown_arguments_get_the_nearest(self):
        with pytest.raises(ValueError, match=r"ssim3d.*did you mean 'window_size'"):
            build_loss("ssim3d", {"windowsize": 7})
        with pytest.raises(ValueError, match="must be one of none, got 'sigma'"):
            build_loss("l1", {"sigma": 7})

    @pytest.mark.parametrize(
        ("name", "params"),
        [
            ("ssim3d", {"window_size": 4}),
            ("ssim3d", {"window_size": "7"}),
            ("ssim3d", {"sigma": 0}),
            ("ssim", {"legacy": "yes"}),
        ],
    )
    def test_refused_values_name_the_loss(self, name, params):
        with pytest.raises(ValueError, match=f"{name}: {next(iter(params))} must be"):
            build_loss(name, params)

    def test_arguments_reach_the_loss(self, pair):
        loss = build_loss("ssim3d", {"window_size": 5, "sigma": 1.0})
        prediction, target = pair(loss, shape=(6, 5, 7))
        with pytest.raises(ValueError, match="at least 11 voxels"):
            build_loss("ssim3d")(prediction, target)
        assert loss(prediction, target).isfinite()


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_a_batch_is_the_mean_of_its_elements(self, name, pair):
        loss = build_loss(name)
        prediction, target = pair(loss, batch=3)
        alone = [loss(prediction[i : i + 1], target[i : i + 1]) for i in range(3)]
        torch.testing.assert_close(loss(prediction, target), torch.stack(alone).mean())

    def test_channels_are_averaged(self, name, pair):
        loss = build_loss(name)
        prediction, target = pair(loss, channels=2)
        alone = [loss(prediction[:, i::2], target[:, i : i + 1]) for i in range(2)]
        torch.testing.assert_close(loss(prediction, target), torch.stack(alone).mean())

    def test_gradients_are_right(self, name, pair):
        loss = build_loss(name)
        prediction, target = pair(
            loss, batch=1, channels=1, shape=(11, 11, 12), dtype=torch.float64
        )
        if prediction.device.type == "mps":
            pytest.skip("no float64 on this device")
        target = target + 0.01 * (target - prediction[:, :1]).sign()  # away from kinks
        assert torch.autograd.gradcheck(loss, (prediction.requires_grad_(), target), fast_mode=True)

    def test_autocast_and_low_precision_give_float32(self, name, pair):
        loss = build_loss(name)
        prediction, target = pair(loss, dtype=torch.bfloat16)
        expected = loss(prediction.float(), target.float())
        with torch.autocast(target.device.type, torch.bfloat16):
            found = [loss(prediction, target), loss(prediction.float(), target.float())]
        for value in (*found, loss(prediction, target.float())):
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected, rtol=0, atol=0)

    def test_memory_layout_does_not_matter(self, name, pair):
        loss = build_loss(name)
        prediction, target = pair(loss)
        other = prediction.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(loss(other, target), loss(prediction, target))

    def test_other_shapes_are_refused(self, name, pair):
        loss = build_loss(name)
        prediction, target = pair(loss)
        for wrong in (prediction[:1], prediction[:, :1], prediction[..., 1:], prediction[0]):
            with pytest.raises(ValueError, match="prediction must be"):
                loss(wrong, target)
        with pytest.raises(ValueError, match="target must be"):
            loss(prediction[0], target[0])

    def test_nan_is_not_hidden(self, name, pair):
        loss = build_loss(name)
        prediction, target = pair(loss)
        prediction[0, 0, 6, 6, 6] = torch.nan
        assert loss(prediction, target).isnan()


def test_a_loss_of_ones_own_runs_outside_of_autocast(volume, device):
    class Product(ImageLoss):
        def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
            return (prediction @ target.mT).mean()

    a, b = volume(), volume(seed=1)
    with torch.autocast(device.type, torch.bfloat16):
        assert (a @ b.mT).dtype == torch.bfloat16
        found = Product()(a, b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (a @ b.mT).mean())


class TestDifferences:
    def test_l1_and_l2_are_means_over_everything(self, volume):
        a, b = volume(2, 2, seed=0), volume(2, 2, seed=1)
        difference = a.double().cpu().numpy() - b.double().cpu().numpy()
        assert build_loss("l1")(a, b).item() == pytest.approx(np.abs(difference).mean())
        assert build_loss("l2")(a, b).item() == pytest.approx((difference**2).mean())


class TestLaplace:
    def test_is_the_negative_log_likelihood(self, volume):
        intensity, target, scale_output = (volume(2, 2, seed=s) for s in range(3))
        scale = 1e-5 + 0.02 * scale_output.exp()
        expected = torch.distributions.Laplace(intensity, scale)
        found = build_loss("laplace")(torch.cat([intensity, scale_output], 1), target)
        torch.testing.assert_close(found, -expected.log_prob(target).mean())

    def test_is_smallest_where_the_scale_is_the_error(self, volume):
        error, zero = 0.3, volume() * 0
        best = math.log((error - 1e-5) / 0.02)
        spreads = [
            torch.full_like(zero, best + change).requires_grad_() for change in (-0.1, 0, 0.1)
        ]
        losses = [build_loss("laplace")(torch.cat([zero + error, s], 1), zero) for s in spreads]
        slopes = [torch.autograd.grad(x, s)[0].sum() for x, s in zip(losses, spreads, strict=True)]
        assert losses[1] < losses[0]
        assert losses[1] < losses[2]
        assert slopes[0] < 0 < slopes[2]
        assert slopes[1].abs() < 1e-4

    def test_extreme_scales_stay_finite(self, volume):
        for scale in (-1000.0, 1000.0):
            prediction = torch.cat([volume(seed=1), torch.full_like(volume(), scale)], 1)
            prediction.requires_grad_()
            loss = build_loss("laplace")(prediction, volume())
            (gradient,) = torch.autograd.grad(loss, prediction)
            assert loss.isfinite()
            assert gradient.isfinite().all()

    @given(st.floats(-20, 20))
    def test_the_scale_has_its_formula(self, spread):
        found = log_scale(torch.tensor(spread, dtype=torch.float64)).exp().item()
        assert found == pytest.approx(1e-5 + 0.02 * math.exp(spread), rel=1e-9)


def smooth(volume: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool3d(volume, 3, 1, 1)


def by_torchmetrics(a: Tensor, b: Tensor, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Mean similarity of images or volumes where the window lies inside.

    The map of torchmetrics goes on to the borders, where volumes are mirrored.
    """
    _, whole = structural_similarity_index_measure(
        a, b, kernel_size=size, sigma=sigma, data_range=1.0, return_full_image=True
    )
    inside = slice(size // 2, -(size // 2))
    return whole[(..., *[inside] * (a.ndim - 2))].mean()


def planes_by_torchmetrics(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Mean similarity of the planes across an axis, as images of their own."""
    return by_torchmetrics(*(x.movedim(axis, 0).flatten(0, 2)[:, None] for x in (a, b)))


class TestSimilarity:
    @pytest.mark.parametrize("name", SIMILARITIES)
    def test_is_least_for_equal_volumes(self, name, volume):
        loss, a = build_loss(name), volume()
        assert loss(a, a).item() == pytest.approx(-1, abs=1e-5)
        assert -1 < loss(a, volume(seed=1)).item() < 1
        assert loss(smooth(a), a) > loss(a, a) + 0.1

    @pytest.mark.parametrize("name", SIMILARITIES)
    def test_is_symmetric(self, name, volume):
        loss, a, b = build_loss(name), volume(), volume(seed=1)
        torch.testing.assert_close(loss(a, b), loss(b, a))

    @pytest.mark.parametrize("name", SIMILARITIES)
    def test_does_not_prefer_an_axis(self, name, volume):
        loss, a, b = build_loss(name), volume(), volume(seed=1)
        turned = loss(a.permute(0, 1, 4, 2, 3), b.permute(0, 1, 4, 2, 3))
        torch.testing.assert_close(turned, loss(a, b))

    @pytest.mark.parametrize("name", SIMILARITIES)
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_volumes_must_hold_the_window(self, name, axis, volume):
        small = volume(shape=tuple(10 if i == axis else 12 for i in range(3)))
        with pytest.raises(ValueError, match="at least 11 voxels along each axis"):
            build_loss(name)(small, small)

    @pytest.mark.parametrize(("size", "sigma"), [(11, 1.5), (9, 1.0), (5, 0.6)])
    def test_in_3d_equals_torchmetrics(self, size, sigma, volume):
        a, b = volume(2, 2), 0.7 * volume(2, 2) + 0.3 * volume(2, 2, seed=1)
        ours = build_loss("ssim3d", {"window_size": size, "sigma": sigma})(a, b)
        theirs = by_torchmetrics(a, b, size, sigma)
        torch.testing.assert_close(-ours, theirs, rtol=0, atol=1e-5)

    def test_in_planes_equals_torchmetrics(self, volume):
        a, b = volume(), 0.7 * volume() + 0.3 * volume(seed=1)
        x, y, z = (planes_by_torchmetrics(a, b, axis) for axis in (2, 3, 4))
        torch.testing.assert_close(-build_loss("ssim")(a, b), (x + y + z) / 3, rtol=0, atol=1e-5)
        legacy = build_loss("ssim", {"legacy": True})(a, b)
        torch.testing.assert_close(-legacy, (2 * x + y) / 3, rtol=0, atol=1e-5)


class TestWindows:
    @given(st.integers(0, 8).map(lambda n: 2 * n + 1), st.floats(0.1, 10))
    def test_weights_sum_to_1_and_are_symmetric(self, size, sigma):
        window = gaussian_window(size, sigma)
        assert len(window) == size
        assert sum(window) == pytest.approx(1)
        assert window == pytest.approx(window[::-1])
        assert max(window) == window[size // 2]

    @pytest.mark.parametrize("axis", [2, 3, 4])
    def test_is_a_convolution(self, axis, volume):
        window, x = gaussian_window(5, 1.2), volume(shape=(7, 6, 8))
        shape = [5 if i == axis else 1 for i in range(5)]
        kernel = torch.tensor(window, device=x.device).reshape(shape)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expected = nn.functional.conv3d(x, kernel)
        torch.testing.assert_close(local_mean(x, window, axis), expected)

    def test_derivatives_are_right_twice(self):
        x = torch.rand(1, 1, 4, 5, 3, dtype=torch.float64, requires_grad=True)

        def curved(x: Tensor) -> Tensor:
            return local_mean(x, gaussian_window(3, 1.0), 3) ** 3

        assert torch.autograd.gradcheck(curved, (x,))
        assert torch.autograd.gradgradcheck(curved, (x,))

    @pytest.mark.parametrize("name", ["ssim", "l1_ssim3d"])
    def test_compiled_losses_are_the_same_in_one_graph(self, volume, name):
        prediction, target = (volume(1, 2, (11, 12, 13), seed=seed) for seed in (0, 1))
        results = []
        for compiled in (False, True):
            torch._dynamo.reset()
            loss, x = build_loss(name), prediction.clone().requires_grad_()
            if compiled:
                loss.compile(backend="aot_eager", fullgraph=True)
            value = loss(x, target)
            value.backward()
            results.append((value.detach(), x.grad))
        torch.testing.assert_close(results[1], results[0])


class TestCropping:
    @given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(0, 9)] * 3))
    def test_is_the_box_in_the_middle(self, shape, size):
        volume = torch.arange(math.prod(shape)).reshape(1, 1, *shape)
        if any(crop > n for crop, n in zip(size, shape, strict=True)):
            with pytest.raises(ValueError, match="must fit into the volume"):
                central_crop(volume, size)
            return
        found = central_crop(volume, size).numpy()
        expected = volume.numpy()
        for axis, (n, crop) in enumerate(zip(shape, size, strict=True), start=2):
            start = int((n - (crop or n)) / 2)
            expected = expected.take(range(start, start + (crop or n)), axis)
        np.testing.assert_array_equal(found, expected)

    def test_nothing_means_all(self, volume):
        x = volume()
        for size in (None, 0, (0, 0, 0)):
            assert torch.equal(central_crop(x, size), x)

    def test_one_size_is_for_all_axes(self, volume):
        x = volume()
        assert torch.equal(central_crop(x, 10), central_crop(x, [10, 10, 10]))

    @pytest.mark.parametrize("size", [-1, 2.5, "12", (1, 2), (1, 2, 3, 4), True, (1, -2, 3)])
    def test_other_sizes_are_refused(self, size, volume):
        with pytest.raises(ValueError, match="loss crop must be a whole number"):
            central_crop(volume(), size)


class TestResidual:
    def test_is_added_in_the_order_of_the_channels(self, volume):
        prediction, image = volume(2, 4, seed=1), volume(2, 3, seed=2)
        given = prediction.clone()
        found = add_residual(prediction, image, [2, 0])
        torch.testing.assert_close(found[:, 0], prediction[:, 0] + image[:, 2])
        torch.testing.assert_close(found[:, 1], prediction[:, 1] + image[:, 0])
        assert torch.equal(found[:, 2:], prediction[:, 2:])
        assert torch.equal(prediction, given)

    def test_a_low_precision_output_is_added_to_the_image_as_it_is(self, volume):
        image = volume()
        nothing = torch.zeros_like(image, dtype=torch.bfloat16)
        with torch.autocast(image.device.type, torch.bfloat16):
            assert torch.equal(add_residual(nothing, image, [0]), image)

    def test_without_channels_nothing_is_added(self, volume):
        prediction = volume(2, 2)
        assert torch.equal(add_residual(prediction, volume(), []), prediction)

    @pytest.mark.parametrize("channels", [[3], [-1], [0, 1, 2]])
    def test_channels_must_exist(self, channels, volume):
        with pytest.raises(ValueError, match="at most 2 numbers from 0 to 2"):
            add_residual(volume(2, 2), volume(2, 3), channels)

    def test_sizes_must_agree(self, volume):
        with pytest.raises(ValueError, match="must agree in all but channels"):
            add_residual(volume(), volume()[..., 1:], [0])


def dice_by_hand(truth: Tensor, p: Tensor) -> float:
    """Mean Dice loss of channels of 0 and 1 in float64."""
    expected = []
    for g, q in zip(truth.flatten(0, 1), p.flatten(0, 1), strict=True):
        g, q = (x.double().cpu().numpy().ravel() for x in (g, q))
        expected.append(1 - (2 * (g @ q) + 1e-7) / (g @ g + q @ q + 1e-7))
    return float(np.mean(expected))


class TestDice:
    def test_equals_its_formula(self, volume):
        labels, p = (volume() * 3).int(), volume(2, 3, seed=1)
        truth = torch.cat([labels == value for value in (2, 0, 1)], 1)
        found = merged_dice(p, labels, {2: (0,), 0: (1,), 1: (2,)})
        assert found.item() == pytest.approx(dice_by_hand(truth, p))

    def test_extremes(self, volume):
        labels = (volume() > 0.6).int()
        inside = (labels == 1).float()
        for p, expected in ((inside, 0), (1 - inside, 1)):
            assert merged_dice(p, labels, {1: (0,)}).item() == pytest.approx(expected, abs=1e-6)
        assert merged_dice(inside * 0, labels, {7: (0,)}).item() == pytest.approx(0, abs=1e-6)


LABELS = (0, 2, 3, 41, 42)
EQUIVALENCY = (0, 2, 2, 42, -1, 2, 3)


@pytest.fixture
def label_map(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    which = torch.randint(0, len(LABELS), (2, 1, *SHAPE), generator=generator)
    return torch.tensor(LABELS, dtype=torch.int16)[which].to(device)


@pytest.fixture
def network(device: torch.device) -> nn.Module:
    """A segmentation network with statistics, dropout and a sense of direction."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1),
            nn.BatchNorm3d(4),
            nn.Dropout3d(0.5),
            nn.Conv3d(4, len(EQUIVALENCY), 1),
            nn.Softmax(1),
        )
    layers[1].running_var.fill_(0.3)
    return layers.to(device)


class TestSegmentationLoss:
    def test_is_dice_over_the_labels_that_channels_stand_for(self, network, volume, label_map):
        loss = SegmentationLoss(network, EQUIVALENCY, LABELS, crop=(8, 9, 0))
        image = volume()
        p = network.eval()(image)
        merged = torch.stack([p[:, 0], p[:, 1] + p[:, 2] + p[:, 5], p[:, 6], p[:, 3]], 1)
        truth = torch.cat([label_map == value for value in (0, 2, 3, 42)], 1)
        expected = dice_by_hand(*(central_crop(x, (8, 9, 0)) for x in (truth, merged.detach())))
        assert loss(image, label_map).item() == pytest.approx(expected)

    def test_a_perfect_segmentation_has_no_loss(self, label_map):
        class Oracle(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                return torch.cat([image == value for value in LABELS], 1).float()

        loss = SegmentationLoss(Oracle(), LABELS, LABELS)
        assert loss(label_map.float(), label_map).item() == pytest.approx(0, abs=1e-6)

    def test_the_network_stays_as_it_is(self, network, volume, label_map):
        before = {k: v.clone() for k, v in network.state_dict().items()}
        loss = SegmentationLoss(network, EQUIVALENCY, LABELS)
        image = volume().requires_grad_()
        with torch.random.fork_rng():
            values = [loss.train(mode)(image, label_map) for mode in (True, False)]
        values[0].backward()
        assert torch.equal(*values), "neither dropout nor statistics of the batch are used"
        assert image.grad.abs().max() > 0
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())
        assert nn.Sequential(loss).train()[0].network.training is False

    def test_gradients_are_right(self, network, label_map, device):
        if device.type == "mps":
            pytest.skip("no float64 on this device")
        loss = SegmentationLoss(
            network.double(), EQUIVALENCY, LABELS, intensity_range=(-0.5, 1.5), fs_header=True
        )
        image = torch.rand(2, 1, *SHAPE, dtype=torch.float64, device=device).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: loss(x, label_map), (image,), fast_mode=True, nondet_tol=1e-9
        )

    def test_the_network_runs_once(self, network, volume, label_map):
        calls = []
        network.register_forward_hook(lambda *_: calls.append(1))
        SegmentationLoss(network, EQUIVALENCY, LABELS)(volume(), label_map)
        assert len(calls) == 1

    def test_fs_header_turns_the_volume_for_the_network(self, network, volume, label_map):
        def to_freesurfer(x: Tensor) -> Tensor:
            return x.permute(0, 1, 2, 4, 3).flip(3)

        plain, turned = (
            SegmentationLoss(network, EQUIVALENCY, LABELS, fs_header=header)
            for header in (False, True)
        )
        image = volume()
        expected = plain(to_freesurfer(image), to_freesurfer(label_map))
        torch.testing.assert_close(turned(image, label_map), expected)
        assert (plain(image, label_map) - expected).abs() > 1e-6

    def test_intensities_are_clipped_and_rescaled(self, network, volume, label_map):
        plain = SegmentationLoss(network, EQUIVALENCY, LABELS)
        ranged = SegmentationLoss(network, EQUIVALENCY, LABELS, intensity_range=(10, 30))
        image = volume()
        wide = 10 + 20 * (2 * image - 0.5)
        expected = plain((2 * image - 0.5).clamp(0, 1), label_map)
        torch.testing.assert_close(ranged(wide, label_map), expected)

    def test_autocast_gives_float32(self, network, volume, label_map, device):
        loss = SegmentationLoss(network, EQUIVALENCY, LABELS)
        with torch.autocast(device.type, torch.bfloat16):
            found = loss(volume(dtype=torch.bfloat16), label_map)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(volume(), label_map), rtol=0.02, atol=0)

    def test_memory_does_not_grow_with_the_labels(self, label_map, device):
        """What autograd keeps per label is a mask, not a volume of numbers."""
        values = list(range(20))
        p = torch.rand(2, 20, *SHAPE, device=device, requires_grad=True)
        kept: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            merged_dice(p, label_map, {v: (v,) for v in values})
        own = sum(size for pointer, size in kept.items() if pointer != p.data_ptr())
        assert own < 1.1 * 20 * label_map.numel()

    def test_bad_input_is_refused(self, network, volume, label_map):
        loss = SegmentationLoss(network, EQUIVALENCY, LABELS)
        with pytest.raises(ValueError, match="one output image"):
            loss(volume(2, 2), label_map)
        with pytest.raises(ValueError, match="spacing of the label maps"):
            loss(volume(), label_map[..., 1:])
        with pytest.raises(ValueError, match="must fit into the volume"):
            SegmentationLoss(network, EQUIVALENCY, LABELS, crop=20)(volume(), label_map)
        with pytest.raises(ValueError, match="got 2 for 7 channels"):
            SegmentationLoss(network, (0, 2), LABELS)(volume(), label_map)

    def test_bad_settings_are_refused(self, network):
        with pytest.raises(ValueError, match=r"got 7\. Write -1"):
            SegmentationLoss(network, (0, 7), LABELS)
        with pytest.raises(ValueError, match="at least one label"):
            SegmentationLoss(network, (-1, -1), LABELS)
        with pytest.raises(ValueError, match="intensity_range"):
            SegmentationLoss(network, EQUIVALENCY, LABELS, intensity_range=(1, 1))

    def test_a_network_that_tells_its_channels_is_checked_at_once(self):
        from synthsr_net.networks.unet import UNet3d, UNetConfig

        network = UNet3d(UNetConfig(out_channels=3, num_features=2, num_levels=2, softmax=True))
        with pytest.raises(ValueError, match="got 2 for 3 channels"):
            SegmentationLoss(network, (0, 2), LABELS)


class Linear(nn.Module):
    """A critic whose gradient is known: the sum of the products with fixed numbers."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.slopes = nn.Parameter(slopes)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        image = image if mask is None else image * mask
        return (image * self.slopes).sum((1, 2, 3, 4))[:, None]


class TestCriticLoss:
    def test_a_linear_critic_has_a_known_loss(self, volume):
        slopes, real, fake = volume(1, 2, seed=1), volume(3, 2, seed=2), volume(3, 2, seed=3)
        found = critic_loss(Linear(slopes), real, fake, penalty_weight=7)
        norms = slopes.square().sum((2, 3, 4)).sqrt()
        torch.testing.assert_close(found.penalty, 7 * (1 - norms).square().mean())
        torch.testing.assert_close(found.real, -(real * slopes).sum() / 3)
        torch.testing.assert_close(found.fake, (fake * slopes).sum() / 3)
        torch.testing.assert_close(found.total, found.real + found.fake + found.penalty)

    def test_the_penalty_teaches_the_critic_the_norm_of_1(self, volume):
        critic = Linear(volume(1, 1, seed=1))
        critic_loss(critic, volume(), volume()).penalty.backward()
        slopes = critic.slopes.detach()
        norm = slopes.square().sum().sqrt()
        torch.testing.assert_close(critic.slopes.grad, 20 * (norm - 1) * slopes / norm)

    def test_the_mask_reaches_the_critic_everywhere(self, volume):
        slopes, real, fake, mask = (volume(seed=s) for s in range(4))
        mask = (mask > 0.5).float()
        masked = critic_loss(
            Linear(slopes), real, fake, mask=mask, weights=torch.zeros(2, 1, 1, 1, 1)
        )
        by_hand = critic_loss(Linear(slopes * mask), real, fake)
        for one, other in zip(masked, by_hand, strict=True):
            torch.testing.assert_close(one, other)

    def test_weights_lie_between_the_images(self, volume):
        real, fake, seen = volume(seed=1), volume(seed=2), []

        def critic(image: Tensor) -> Tensor:
            seen.append(image.detach())
            return image.square().sum((1, 2, 3, 4))[:, None]

        weights = torch.tensor([0.25, 1.0]).reshape(2, 1, 1, 1, 1)
        critic_loss(critic, real, fake, weights=weights)
        between = weights.to(real.device) * real + (1 - weights.to(real.device)) * fake
        assert any(torch.allclose(image, between) for image in seen)

    def test_chance_comes_from_the_generator_alone(self, volume, seeded):
        curved = lambda image: image.square().sum((1, 2, 3, 4))[:, None]  # noqa: E731
        real, fake, state = volume(seed=1), volume(seed=2), torch.random.get_rng_state()
        losses = [critic_loss(curved, real, fake, generator=seeded(s)).total for s in (0, 0, 1)]
        assert torch.equal(losses[0], losses[1])
        assert not torch.equal(losses[0], losses[2])
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_images_get_no_gradient(self, volume):
        real, fake = volume(seed=1).requires_grad_(), volume(seed=2).requires_grad_()
        critic_loss(Linear(volume()), real, fake).total.backward()
        assert real.grad is None
        assert fake.grad is None

    def test_a_critic_that_sees_nothing_gives_finite_gradients(self, volume):
        critic = Linear(volume())
        nothing = volume() * 0
        loss = critic_loss(critic, volume(seed=1), volume(seed=2), mask=nothing)
        loss.total.backward()
        assert loss.penalty.item() == pytest.approx(10)
        assert critic.slopes.grad.isfinite().all()

    def test_autocast_gives_float32(self, volume, device):
        critic, real, fake = Linear(volume()), volume(seed=1), volume(seed=2)
        weights = torch.full((2, 1, 1, 1, 1), 0.5)
        low = fake.bfloat16()
        expected = critic_loss(critic, real, low.float(), weights=weights)
        with torch.autocast(device.type, torch.bfloat16):
            found = critic_loss(critic, real, low, weights=weights)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_bad_input_is_refused(self, volume):
        with pytest.raises(ValueError, match="must have one shape"):
            critic_loss(Linear(volume()), volume(2), volume(1))
        with pytest.raises(ValueError, match="weights must be"):
            critic_loss(Linear(volume()), volume(), volume(), weights=torch.ones(2))


class TestGeneratorTotal:
    @given(st.floats(0, 0.5), st.floats(0, 0.5))
    def test_is_a_weighted_sum(self, critic_weight, dice_weight):
        scores = torch.tensor([[1.0], [4.0]])
        terms = torch.tensor(0.2), scores, torch.tensor(0.7)
        weights = {"critic_weight": critic_weight, "dice_weight": dice_weight}
        rest = 1 - critic_weight - dice_weight
        expected = rest * 0.2 + critic_weight * -2.5 + dice_weight * 0.7
        assert generator_total(*terms, **weights).item() == pytest.approx(expected, abs=1e-6)
        expected = (1 - critic_weight) * 0.2 - critic_weight * 2.5
        assert generator_total(*terms[:2], **weights).item() == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("weights", [(-0.1, 0.2), (0.2, -0.1), (0.6, 0.6)])
    def test_weights_must_leave_the_image_loss_some(self, weights):
        one = torch.ones(())
        with pytest.raises(ValueError, match="at most 1 together"):
            generator_total(
                one, one.reshape(1, 1), one, critic_weight=weights[0], dice_weight=weights[1]
            )
