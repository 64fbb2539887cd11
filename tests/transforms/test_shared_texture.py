"""Texture that input and target share."""

from __future__ import annotations

import pytest
import torch
import torchio as tio
from torch import Tensor

from synthsr_transforms.functional.texture import slope
from synthsr_transforms.transforms import SharedTexture


def volume(seed: int = 0, channels: int = 1) -> Tensor:
    """A target with three tissues and background."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(4, (channels, 6, 6, 6), generator=generator)
    return coarse.repeat_interleave(5, 1).repeat_interleave(4, 2).repeat_interleave(4, 3) / 3.0


def applied(image: Tensor, target: Tensor, **arguments: object) -> tuple[Tensor, Tensor]:
    subject = tio.Subject(image=tio.ScalarImage(image), target=tio.ScalarImage(target))
    transform = SharedTexture(**{"std": 0.1, "size_mm": 3, **arguments})  # type: ignore[arg-type]
    out = transform(subject, generator=torch.Generator().manual_seed(1))
    return out.images["image"].data, out.images["target"].data


@pytest.mark.parametrize(("gain", "offset"), [(2.0, 1.0), (-0.5, 3.0)])
def test_an_input_on_a_line_with_the_target_stays_on_it(gain: float, offset: float) -> None:
    target = volume()
    image, varied = applied(gain * target + offset, target)
    assert not torch.allclose(varied, target)
    torch.testing.assert_close(image, gain * varied + offset, rtol=0, atol=1e-5)


def test_an_input_that_has_no_common_contrast_stays_nearly_as_it_is() -> None:
    target, image = volume(), torch.rand(1, 30, 24, 24, generator=torch.Generator().manual_seed(3))
    changed, varied = applied(image, target)
    assert (changed - image).std() < 0.1 * (varied - target).std()


def test_the_change_is_a_share_of_the_target_of_the_given_deviation() -> None:
    target = volume()
    _, varied = applied(target, target, std=0.2, size_mm=2)
    inside = target > 0
    assert torch.equal(varied[~inside], target[~inside])
    ratio = varied[inside] / target[inside] - 1
    assert abs(float(ratio.mean())) < 0.03
    assert 0.17 < float(ratio.std()) < 0.23


def test_channels_of_the_input_follow_each_with_its_own_sign() -> None:
    target = volume()
    image, varied = applied(torch.cat([target, 1 - target]), target)
    torch.testing.assert_close(image, torch.cat([varied, 1 - varied]), rtol=0, atol=1e-5)


def test_slope_is_that_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(2, 1, 5, 6, 7, generator=generator) - 0.3
    x = torch.rand(2, 3, 5, 6, 7, generator=generator)
    for b in range(2):
        inside = t[b, 0] > 0
        known = torch.stack([t[b, 0][inside], torch.ones(int(inside.sum()))], 1)
        fit = torch.linalg.lstsq(known, x[b][:, inside].T).solution[0]
        torch.testing.assert_close(slope(x, t)[b].flatten(), fit, rtol=1e-4, atol=1e-5)
    assert not slope(x, torch.ones_like(t)).any()


def test_volumes_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        applied(torch.rand(1, 4, 4, 4), torch.rand(1, 8, 8, 8))


class TestTissues:
    """Labels 0 (background), 2 (white matter), 3 (cortex) and 24 (fluid) of FreeSurfer."""

    @pytest.fixture
    def subject(self) -> tio.Subject:
        generator = torch.Generator().manual_seed(5)
        kinds = torch.tensor([0, 2, 3, 24])[torch.randint(4, (1, 6, 6, 6), generator=generator)]
        labels = kinds.repeat_interleave(5, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        target, image = torch.zeros(labels.shape), torch.zeros(labels.shape)
        # in the image, white matter is darker than cortex, but fluid brightest, off the line
        for value, t, x in ((2, 110.0, 60.0), (3, 78.0, 90.0), (24, 20.0, 900.0)):
            target[labels == value], image[labels == value] = t, x
        return tio.Subject(
            labels=tio.LabelMap(labels),
            image=tio.ScalarImage(image),
            target=tio.ScalarImage(target),
        )

    def test_the_others_stay_and_the_fit_does_not_see_them(self, subject: tio.Subject) -> None:
        varying = SharedTexture(
            std=0.1,
            size_mm=3,
            tissues=["white_matter", "grey_matter"],
            label_table="freesurfer_aseg",
        )
        out = varying(subject, generator=torch.Generator().manual_seed(1))
        labels = subject.images["labels"].data
        changed = {name: out.images[name].data - subject.images[name].data for name in out.images}
        inside = (labels == 2) | (labels == 3)
        for name in ("image", "target"):
            assert not changed[name][~inside].any()
            assert changed[name][inside].abs().min() > 0
        slope_of_tissues = (90.0 - 60.0) / (78.0 - 110.0)
        torch.testing.assert_close(
            changed["image"], slope_of_tissues * changed["target"], rtol=1e-4, atol=1e-3
        )
