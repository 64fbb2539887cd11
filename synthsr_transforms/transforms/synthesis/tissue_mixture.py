"""Images from label maps by a Gaussian mixture with random parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import Distribution, DistributionSpec, as_distribution
from synthsr_transforms.functional.mixture import look_up, tissue_mixture
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.priors.tissue_priors import TissuePriors, resolve_priors
from synthsr_transforms.seeds import sample_seeds
from synthsr_transforms.transforms.base import Params
from synthsr_transforms.transforms.images import add_made_image
from synthsr_transforms.transforms.kinds import SynthLabelTransform
from synthsr_transforms.transforms.labels_on_grid import ValueIndex, whole_labels
from synthsr_transforms.transforms.random_fields import field_from_params

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
                numbers[..., self._background] = chosen.sample(size, generator).clamp(min=0)
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
            self._refuse_unknown(labels)
        device = labels.device
        numbers = torch.stack([params["means"], params["stds"]])
        means, stds = self._class_index.spread(numbers, device)
        shape = (means.shape[1], *labels.shape[2:])
        noise = field_from_params(params, "noise", shape, device)
        made = tissue_mixture(labels.clamp(0, means.shape[-1] - 1), means, stds, noise)
        add_made_image(batch, self.destination, made, image)

    def _refuse_unknown(self, labels: Tensor) -> None:
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
