"""Random resolution and slice thickness of an acquisition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import Uniform
from synthsr_transforms.functional.acquisition import random_resolution
from synthsr_transforms.transforms.arguments import optional_triple, probability
from synthsr_transforms.transforms.base import Params, SynthTransform, grid_of
from synthsr_transforms.transforms.images import (
    ACQUISITION_SPACING,
    ACQUISITION_THICKNESS,
    named_image,
)


class AcquisitionResolution(SynthTransform):
    """Sample the resolution at which each channel was acquired, for `SliceAcquisition` to simulate.

    As in `SampleResolution` of SynthSeg and SynthSR: with `max_isotropic_mm`, each axis is uniform
    between the minimum and that; with `max_anisotropic_mm`, one axis, chosen at random, is; with
    both, one of the two happens. The thickness lies between minimum and spacing.
    The result is kept in the metadata as `acquisition_spacing_mm` and `acquisition_thickness_mm`.

    Args:
        min_mm: Finest spacing in mm, one number or three; None means the spacing of the image.
        max_isotropic_mm: Coarsest spacing of any axis in mm, one number or three, or None.
        max_anisotropic_mm: Coarsest spacing of the thick axis in mm, one number or three, or None.
        probability_minimum: Probability that a channel is acquired at the finest spacing.
        probability_isotropic: Where both modes are on, probability of the first.
        image: Name of the image.
        **kwargs: See `SynthTransform`.

    Examples:
        >>> import torch, torchio
        >>> subject = torchio.Subject(image=torchio.ScalarImage(torch.rand(1, 4, 4, 4)))
        >>> sampled = AcquisitionResolution(max_isotropic_mm=9)(subject)
        >>> all(1 <= mm <= 9 for mm in sampled.acquisition_spacing_mm[0])
        True
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        min_mm: float | Sequence[float] | None = None,
        max_isotropic_mm: float | Sequence[float] | None = 9.0,
        max_anisotropic_mm: float | Sequence[float] | None = None,
        probability_minimum: float = 0.05,
        probability_isotropic: float = 0.1,
        image: str = "image",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.min_mm = optional_triple(min_mm, "min_mm", float)
        self.max_isotropic_mm = optional_triple(max_isotropic_mm, "max_isotropic_mm", float)
        self.max_anisotropic_mm = optional_triple(max_anisotropic_mm, "max_anisotropic_mm", float)
        if self.max_isotropic_mm is None and self.max_anisotropic_mm is None:
            raise ValueError("max_isotropic_mm or max_anisotropic_mm must be given, got neither.")
        self.probability_minimum = probability(probability_minimum, "probability_minimum")
        self.probability_isotropic = probability(probability_isotropic, "probability_isotropic")
        self.image = image

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample spacing and thickness."""
        grid = grid_of(named_image(batch, self.image))
        size = (grid.batch_size, grid.channels)
        finest = grid.spacing_mm if self.min_mm is None else torch.tensor([self.min_mm])
        finest = finest[:, None, :].float().expand(*size, 3)
        isotropic = self._between(finest, self.max_isotropic_mm, generator)
        anisotropic = self._between(finest, self.max_anisotropic_mm, generator)
        spacing = random_resolution(
            finest,
            isotropic_mm=isotropic,
            anisotropic_mm=anisotropic,
            axis=torch.randint(3, size, generator=generator),
            choose_isotropic=torch.rand(size, generator=generator) < self.probability_isotropic,
            choose_minimum=torch.rand(size, generator=generator) < self.probability_minimum,
        )
        share = Uniform(0.0, 1.0).sample(spacing.shape, generator)
        return {"spacing_mm": spacing, "thickness_mm": finest + (spacing - finest) * share}

    @staticmethod
    def _between(
        finest: torch.Tensor, coarsest: tuple[float, float, float] | None, generator: Any
    ) -> torch.Tensor | None:
        if coarsest is None:
            return None
        room = (torch.tensor(coarsest) - finest).clamp(min=0)
        return finest + room * Uniform(0.0, 1.0).sample(finest.shape, generator)

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Note both in the metadata of the subject."""
        batch.metadata[ACQUISITION_SPACING] = params["spacing_mm"].tolist()
        batch.metadata[ACQUISITION_THICKNESS] = params["thickness_mm"].tolist()
