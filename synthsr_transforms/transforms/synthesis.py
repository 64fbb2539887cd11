"""Images and segmentations made from label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import (
    Constant,
    Distribution,
    DistributionSpec,
    Uniform,
    as_distribution,
)
from synthsr_transforms.functional.mixture import look_up, tissue_mixture
from synthsr_transforms.labels.rows import TISSUES
from synthsr_transforms.labels.structures import AUTO, StructureTable
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.priors.tissue_priors import TissuePriors, resolve_priors
from synthsr_transforms.seeds import sample_seeds

from .base import BARE_IMAGE, Params, check_destination, replace_image
from .common.images import Notes, add_made_image, note_coil
from .common.labels_on_grid import ValueIndex, whole_labels
from .common.random_fields import field_from_params
from .kinds import SynthLabelTransform

PriorSpec = float | Sequence[Any] | str | None


class TissueMixture(SynthLabelTransform):
    r"""Make an image from labels: \(I(x) = \mu_{l(x)} + \sigma_{l(x)} z(x)\), \(z \sim N(0, 1)\).

    Means and standard deviations are drawn anew for each element, channel and class from their
    priors (Billot et al., MIDL 2020); negative ones become 0.

    Args:
        label_table: Labels and their classes: a `LabelTable`, the name of a ready one or a file.
        num_channels: Number C of channels.
        prior_means: Prior of the means: None, a number, a pair, a `(2 C, K)` array or its `.npy`
            file, see `TissuePriors.from_spec`.
        prior_stds: Prior of the standard deviations, likewise.
        distribution: `"uniform"` (rows are bounds) or `"normal"` (rows are mean and deviation).
        priors: All three at once: the `priors.yaml` of `synthsr estimate-priors`, a `TissuePriors`,
            or what `TissuePriors.to_dict` gives.
        background_mean: Distribution of the mean of the labels whose tissue is background, in place
            of their prior, for each channel; None keeps the prior.
        background_std: Distribution of their standard deviation, likewise.
        destination: Name of the image to make. A bare tensor, array or image is replaced.
        check_labels: Refuse labels that the table lacks. On a GPU this waits for the device, so
            pipelines that checked their label maps when they read them turn it off; unknown
            labels then read 0.
        **kwargs: See `SynthLabelTransform`.

    Raises:
        ValueError: If a prior does not fit, or a label is not in the table.

    Examples:
        >>> import torch
        >>> mixture = TissueMixture(label_table="freesurfer_aseg", num_channels=2)
        >>> mixture(torch.full((1, 4, 4, 4), 17)).shape
        torch.Size([2, 4, 4, 4])
    """

    preserves_layout = False

    def __init__(  # noqa: PLR0913 - each is one property of the mixture
        self,
        *,
        label_table: LabelTable | str,
        num_channels: int = 1,
        prior_means: PriorSpec = None,
        prior_stds: PriorSpec = None,
        distribution: str = "uniform",
        priors: TissuePriors | Mapping[str, Any] | str | None = None,
        background_mean: DistributionSpec | None = None,
        background_std: DistributionSpec | None = None,
        destination: str = "image",
        check_labels: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_table = LabelTable.resolve(label_table)
        if num_channels < 1:
            raise ValueError(f"num_channels must be at least 1, got {num_channels}.")
        self.num_channels = int(num_channels)
        self.prior_means, self.prior_stds = prior_means, prior_stds
        self.distribution = distribution
        self.background_mean = _clipped_distribution(background_mean, "background_mean")
        self.background_std = _clipped_distribution(background_std, "background_std")
        self.destination = destination
        self.check_labels = bool(check_labels)
        self.priors = priors.to_dict() if isinstance(priors, TissuePriors) else priors
        self._class_priors = self._read_priors()
        self._class_index = ValueIndex(self.label_table.class_lookup())
        rows = self.label_table.rows
        self._background = sorted({r.label_class for r in rows if r.tissue == "background"})

    def _read_priors(self) -> TissuePriors:
        if self.priors is None:
            return TissuePriors.from_spec(
                self.prior_means,
                self.prior_stds,
                distribution=self.distribution,
                num_channels=self.num_channels,
                num_classes=self.label_table.num_classes,
            )
        alone = self.prior_means is None and self.prior_stds is None
        if not alone or self.distribution != "uniform":
            raise ValueError(
                "priors must come alone, got prior_means, prior_stds or distribution as well. Leave"
                " these out."
            )
        return resolve_priors(self.priors, self.label_table, self.num_channels)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample the parameters of each class and the seed of the noise."""
        means, stds = self._class_priors.sample(batch.batch_size, generator)
        size = (batch.batch_size, self.num_channels, len(self._background))
        for numbers, chosen in ((means, self.background_mean), (stds, self.background_std)):
            if chosen is not None:
                own = chosen.sample(size, generator).clamp(min=0)
                numbers.numpy()[..., self._background] = own.numpy()  # quicker than torch
        return {
            "means": means,
            "stds": stds,
            "noise_seed": sample_seeds(batch.batch_size, generator),
        }

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Make the image."""
        _, image = self.label_image(batch)
        labels = whole_labels(image.data)
        if self.check_labels:
            self.refuse_unknown(labels)
        device = labels.device
        means, stds = self.tables(params).to(device, non_blocking=True)
        shape = (means.shape[1], *labels.shape[2:])
        noise = field_from_params(params, "noise", shape, device)
        made = tissue_mixture(labels, means, stds, noise)
        add_made_image(batch, self.destination, made, image)

    def tables(self, params: Params) -> Tensor:
        """Mean and standard deviation of each label value, `(2, B, C, V)` on the CPU."""
        return self._class_index.spread(torch.stack([params["means"], params["stds"]]))

    def refuse_unknown(self, labels: Tensor) -> None:
        """Refuse labels that the table lacks; waits for a GPU.

        Args:
            labels: `(B, 1, X, Y, Z)` whole numbers.

        Raises:
            ValueError: If there are any.
        """
        known = self._class_index.known.to(labels.device)
        inside = labels.clamp(0, len(known) - 1)
        bad = ~look_up(inside, known.expand(labels.shape[0], 1, -1)) | (labels < 0)
        if bool(bad.any()):
            raise ValueError(
                f"labels must be in the label table, got {labels[bad].unique().tolist()[:10]}."
                " Add them to the table (see `synthsr labels --write-table`)."
            )


def _clipped_distribution(spec: DistributionSpec | None, name: str) -> Distribution | None:
    """A distribution whose negative numbers become 0, such as a normal one, but not all of them."""
    chosen = None if spec is None else as_distribution(spec, name=name)
    if chosen is not None and chosen.bounds[1] < 0:
        raise ValueError(f"{name} must be at least 0, got {chosen.to_spec()!r}. Raise it.")
    return chosen


class TissueContrast(SynthLabelTransform):
    """Make an image in which every tissue has a chosen intensity.

    Unlike `TissueMixture`, which samples contrasts at random, this gives one known contrast
    whatever the label set: each label takes the intensity of its value, else of its tissue.

    Args:
        label_table: Labels and their tissues: a `LabelTable`, the name of a ready one or a file.
        by_tissue: Distribution of the intensity of each tissue (see `labels.TISSUES`); those not
            named are 0.
        by_value: Distributions of single label values, which win over those of the tissue.
        std: Distribution of the standard deviation inside each label.
        same_sides: Left and right labels of a structure have one intensity.
        destination: Name of the image to make. A bare tensor, array or image is replaced.
        replace: The destination exists already, with one channel and the shape of the label map,
            and is replaced, in the elements of a batch that `p` chooses, decided for each.
        coil: Whether a receive coil makes the image. Else, as in computed tomography,
            `BiasCorruption` leaves it as it is.
        **kwargs: See `SynthLabelTransform`.

    Examples:
        >>> import torch
        >>> t1 = TissueContrast(label_table="freesurfer_aseg", by_tissue={"white_matter": 110})
        >>> t1(torch.tensor([0, 2]).reshape(1, 2, 1, 1)).flatten().tolist()
        [0.0, 110.0]
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        label_table: LabelTable | str,
        by_tissue: Mapping[str, DistributionSpec] | None = None,
        by_value: Mapping[int, DistributionSpec] | None = None,
        std: DistributionSpec = 0.0,
        same_sides: bool = False,
        destination: str = "target",
        replace: bool = False,
        coil: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_table = LabelTable.resolve(label_table)
        self.coil = bool(coil)
        self.by_tissue = _distributions(by_tissue or {}, "by_tissue")
        unknown = set(self.by_tissue) - set(TISSUES)
        if unknown:
            raise ValueError(f"by_tissue must name tissues of {list(TISSUES)}, got {unknown}.")
        self.by_value = {int(k): v for k, v in _distributions(by_value or {}, "by_value").items()}
        self.std = as_distribution(std, name="std", minimum=0, single=True)
        self.same_sides = bool(same_sides)
        self.destination = destination
        self.replace = self.preserves_layout = bool(replace)
        self._row_index = ValueIndex(self.label_table.index_lookup())
        zero = as_distribution(0)
        self._of_rows = [
            self.by_value.get(row.value) or self.by_tissue.get(row.tissue) or zero
            for row in self.label_table.rows
        ]
        self._together = _as_one(self._of_rows)
        self._source_rows = self._rows_to_draw() if self.same_sides else None

    def _rows_to_draw(self) -> list[int]:
        """Row whose intensity each row of the label table takes: that of its left partner."""
        swapped = self.label_table.swapped_values()
        values, sides = list(self.label_table.values), self.label_table.sides
        return [
            values.index(swapped[value]) if side == "right" else row
            for row, (value, side) in enumerate(zip(values, sides, strict=True))
        ]

    def check(self, batch: SubjectsBatch) -> None:
        """Refuse a batch without the image to replace."""
        super().check(batch)
        if self.replace:
            check_destination(batch, self.destination)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample intensity and standard deviation per label, and the seed of the noise."""
        size = (batch.batch_size, 1, len(self.label_table))
        means = (
            self._together.sample(size, generator)
            if self._together
            else torch.stack([one.sample(size[:2], generator) for one in self._of_rows], -1)
        )
        stds = self.std.sample(size, generator)
        if self._source_rows is not None:
            means, stds = means[..., self._source_rows], stds[..., self._source_rows]
        return {
            "means": means,
            "stds": stds,
            "noise_seed": sample_seeds(batch.batch_size, generator),
        }

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Make the image."""
        _, image = self.label_image(batch)
        means, stds = self.tables(params).to(image.device, non_blocking=True)
        labels = whole_labels(image.data)
        if bool(params["stds"].any()):
            noise = field_from_params(params, "noise", (1, *labels.shape[2:]), labels.device)
            made = tissue_mixture(labels, means, stds, noise)
        else:
            made = look_up(labels, means)
        own = BARE_IMAGE if BARE_IMAGE in batch.images else self.destination
        self.note_coil(batch, own)
        if self.replace and BARE_IMAGE not in batch.images:
            replace_image(batch, self.destination, made)
        else:
            add_made_image(batch, self.destination, made, image)

    def note_coil(self, batch: SubjectsBatch | Notes, name: str | None = None) -> None:
        """Note whether a coil made the image; its name is the destination unless given."""
        note_coil(batch, name or self.destination, [self.coil] * batch.batch_size)

    def tables(self, params: Params) -> Tensor:
        """Mean and standard deviation of each label value, `(2, B, 1, V)` on the CPU."""
        return self._row_index.spread(torch.stack([params["means"], params["stds"]]))


def _distributions(specs: Mapping[Any, DistributionSpec], name: str) -> dict[Any, Distribution]:
    if not isinstance(specs, Mapping):
        raise ValueError(f"{name} must be a mapping to intensities, got {specs!r}.")
    return {
        key: as_distribution(spec, name=f"{name}.{key}", single=True) for key, spec in specs.items()
    }


def _as_one(distributions: Sequence[Distribution]) -> Distribution | None:
    """Constant and uniform distributions as one with bounds per label, which is faster."""
    simple = [one for one in distributions if isinstance(one, Constant | Uniform)]
    if len(simple) < len(distributions):
        return None
    bounds = [one.bounds for one in simple]
    return Uniform(tuple(low for low, _ in bounds), tuple(high for _, high in bounds))


class GroupLabels(SynthLabelTransform):
    """Group the labels of a label map into structures: the target of a segmentation.

    The result is a label map. `SkullStripping` and `PartialFieldOfView` mask it if their `include`
    names it, so that structures which the image does not show become background.

    Args:
        label_table: Labels of the label map: a `LabelTable`, the name of a ready one or a file.
        structures: Name of a ready structure table, path of a `.tsv` file with the columns value,
            name and labels, `each` for one structure per label, or `auto`; see
            `labels.structures.StructureTable.resolve`.
        destination: Name of the label map to make. A bare tensor, array or image is replaced.
        **kwargs: See `SynthLabelTransform`.

    Examples:
        >>> import torch
        >>> group = GroupLabels(label_table="freesurfer_aparc_aseg")
        >>> group(torch.tensor([2, 1005, 77]).reshape(1, 3, 1, 1)).flatten().tolist()
        [2, 3, 2]
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        label_table: LabelTable | str,
        structures: str = AUTO,
        destination: str = "target",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_table = LabelTable.resolve(label_table)
        self.structures, self.destination = structures, destination
        self.structure_table = StructureTable.resolve(structures, self.label_table)
        self._lookup = self.structure_table.lookup()

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Add the label map of structures."""
        _, labels = self.label_image(batch)
        lookup = self._lookup.to(labels.device, non_blocking=True)
        values = whole_labels(labels.data).clamp(0, len(lookup) - 1).long()
        add_made_image(batch, self.destination, lookup[values], labels, labels=True)
