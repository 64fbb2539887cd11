"""Segmentation: scans of any contrast in, label maps and volumes of structures out."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from synthsr_net.inference.slabs import Box
from synthsr_net.models.checkpoint import Model, StructureConfig
from synthsr_net.prediction.refinement.brain_mask import brain_box
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.labels.structures import BACKGROUND, FLUID, REST_OF_HEAD
from synthsr_transforms.support.messages import SynthSRError

from .files import EXTRA_ENDINGS
from .inferer import Inferer, Prepared
from .intensities import network_input_, padding
from .segmentation.posteriors import Summary, summary_of
from .segmentation.quality import quality_score
from .settings import PredictorSettings
from .space.postprocess import Segmentation, place
from .space.preprocess import ScanSpace

if TYPE_CHECKING:
    from torchio import LabelMap  # noqa: F401 - named in a string
    from typing_extensions import Unpack

    from .inferer import AnyPath
    from .settings import SegmenterOptions

AROUND_BRAIN_MM = 12.0
"""Structures are looked for up to this far from the brain that a prediction shows."""
INTRACRANIAL = "intracranial"
"""Name of the volume of all structures inside the skull."""


class Segmenter(Inferer[Segmentation, "LabelMap"]):
    """A segmentation network, ready to be applied to scans.

    Args:
        model: The model. Its network is moved to the device.
        settings: Fields of `PredictorSettings` that apply.

    Raises:
        SynthSRError: If the model does not predict structures, or a setting is out of its range.

    Examples:
        >>> segmenter = Segmenter.from_file(device="cpu")
        >>> [structure.name for structure in segmenter.config.structures[2:5]]
        ['left cerebral white matter', 'left cerebral cortex', 'left lateral ventricle']
    """

    ending: ClassVar[str] = EXTRA_ENDINGS["segmentation"]

    def __init__(self, model: Model, **settings: Unpack[SegmenterOptions]) -> None:
        if not model.config.structures:
            raise SynthSRError(
                f"the model must tell structures apart, but {model.config.name} predicts"
                f" {model.config.output}. Choose a segmentation network of `synthsr models`."
            )
        super().__init__(model, PredictorSettings(**settings))
        self.keeps_posteriors = False
        """Whether results keep the probabilities of all structures."""
        self.swap = other_sides(self.config.structures)

    @classmethod
    def from_file(
        cls,
        path: AnyPath | None = None,
        *,
        trainable: bool = False,
        **settings: Unpack[SegmenterOptions],
    ) -> Segmenter:
        """Load a segmentation network.

        Args:
            path: Model file (`.safetensors`), or the name of a known model (see `synthsr models`).
                None: the network that ships with the package.
            trainable: See `Predictor.from_file`. The network gives probabilities.
            settings: Fields of `PredictorSettings` that apply.

        Raises:
            SynthSRError: If the model cannot be used, or a setting is out of its range.
        """
        from synthsr_net.models.zoo.files import SEGMENTATION_MODEL

        return cls._load(path or SEGMENTATION_MODEL, settings, trainable=trainable)

    def passes(self) -> dict[str, Any]:
        """Further arguments of `predict_volume`, for what is done in and between its passes."""
        return {"swap": self.swap}

    def torchio_image(self, image: Any) -> type:
        """Class of results for images of TorchIO."""
        made: type = sys.modules["torchio"].LabelMap  # loaded, as the image is of it
        return made

    def check_spacing(self, spacing_mm: float) -> None:
        """Refuse predictions of another voxel spacing than this network works at.

        Raises:
            SynthSRError: If so, or if the network takes more than one image.
        """
        own = self.scan_config.spacing_mm
        if own != spacing_mm or not self.config.is_simple:
            raise SynthSRError(
                f"predictions of {spacing_mm:g} mm need a segmentation network that takes one scan"
                f" of that spacing, but {self.config.name} takes {len(self.config.inputs)} of"
                f" {own:g} mm. Choose another model."
            )

    def segment_prediction(
        self,
        image: Tensor,
        scans: Tensor,
        space: ScanSpace,
        grid: str,
        *,
        brain_only: bool = False,
    ) -> Segmentation:
        """Segment a prediction, before it leaves the space of its network.

        Args:
            image: `(X, Y, Z)` on the aligned grid of the space, with the voxel spacing of this
                network as well.
            scans: `(N, X, Y, Z)` what it was predicted from, on the same grid.
            space: Place of the scan.
            grid: Grid of the result, see `place`.
            brain_only: Whether structures around the brain are all that is wanted: what is far from
                it counts as background, which takes less time. It applies to the grid `1mm`.
        """
        tensor, _ = network_input_(image.clone(), self.scan_config, self.config.inputs[0].maximum)
        begin = padding(image.shape, self.scan_config.divisor)[0]
        prepared = Prepared((), tensor[None], replace(space, begin=begin, warnings=()))
        prepared = self.planned(prepared)
        box = self._around_brain(image) if brain_only and grid == "1mm" else None
        if box is None:
            return self._placed(prepared, self.infer(prepared), grid, scans)
        moved = [slice(p.start + b, p.stop + b) for p, b in zip(box, begin, strict=True)]
        assert prepared.plan is not None
        plan = replace(prepared.plan, box=(moved[0], moved[1], moved[2]))
        posteriors = self.infer(prepared._replace(plan=plan))
        values = [structure.value for structure in self.config.structures]
        summary = summary_of(posteriors).placed(image.shape, box, values.index(BACKGROUND))
        labels = self._labels(summary, prepared.space, grid)
        return self._result(prepared, summary, scans, labels)

    def _around_brain(self, image: Tensor) -> Box | None:
        """Box of the brain in a prediction and its surroundings; None if all is near it."""
        if all(structure.value != BACKGROUND for structure in self.config.structures):
            return None
        spacing_mm = self.scan_config.spacing_mm
        return brain_box(image, spacing_mm, AROUND_BRAIN_MM)

    def finish(
        self, prepared: Prepared, output: Tensor, *, lesion_mask: Volume | None = None
    ) -> Segmentation:
        """Third step: the most probable structures, on the grid of the scan.

        Args:
            prepared: From the first step.
            output: From the second, `(S, X, Y, Z)` probabilities.
            lesion_mask: Not used.
        """
        return self._placed(prepared, output, self.settings.grid, prepared.shown)

    def _placed(self, prepared: Prepared, output: Tensor, grid: str, scans: Tensor) -> Segmentation:
        space = prepared.space
        inside = output[(slice(None), *space.inside)]
        summary = summary_of(inside)
        channels = [place(each, space, grid) for each in inside] if self.keeps_posteriors else []
        if grid == "1mm":
            image = self._labels(summary, space, grid)
        else:
            image = self._most_probable(inside, space, grid, channels)
        posteriors = None
        if self.keeps_posteriors:
            posteriors = Volume(np.stack([c.data for c in channels], axis=-1), image.affine)
        return self._result(prepared, summary, scans, image, posteriors)

    def _result(
        self,
        prepared: Prepared,
        summary: Summary,
        scans: Tensor,
        image: Volume,
        posteriors: Volume | None = None,
    ) -> Segmentation:
        space = prepared.space
        quality = quality_score(summary, space.aligned_grid[1], self.config, scans)
        doubts = [*space.warnings, *self.about_windows(prepared.plan)]
        if quality is not None and quality.doubt is not None:
            doubts.append(quality.doubt)
        volumes = self._volumes_ml(summary.total)
        return Segmentation(image, volumes, posteriors, quality, tuple(doubts))

    def _labels(self, summary: Summary, space: ScanSpace, grid: str) -> Volume:
        """Values of the most probable structures on the grid of the network."""
        return place(self._values.to(summary.best.device)[summary.best.long()], space, grid)

    def _most_probable(
        self, inside: Tensor, space: ScanSpace, grid: str, channels: Sequence[Volume]
    ) -> Volume:
        """Values of the most probable structures on another grid; `channels` are on it, if any."""
        highest, index = None, np.zeros(0)
        for number, each in enumerate(inside):
            volume = channels[number] if channels else place(each, space, grid)
            if highest is None:
                highest, index = volume, np.zeros(volume.data.shape, np.int64)
                continue
            index[volume.data > highest.data] = number
            highest = Volume(np.maximum(highest.data, volume.data), volume.affine)
        assert highest is not None
        return Volume(self._values.numpy()[index], highest.affine)

    @property
    def _values(self) -> Tensor:
        values = [structure.value for structure in self.config.structures]
        return torch.tensor(values, dtype=torch.int16 if max(values) < 2**15 else torch.int32)

    @property
    def volume_names(self) -> list[str]:
        """Names of the volumes of its segmentations, in order."""
        return list(self._volumes_ml(torch.zeros(len(self.config.structures))))

    def _volumes_ml(self, total: Tensor) -> dict[str, float]:
        """Volumes from the sums of the probabilities of all structures."""
        sums = (total * (self.scan_config.spacing_mm**3 / 1000)).tolist()
        structures = self.config.structures
        volumes = {
            structure.name: volume
            for structure, volume in zip(structures, sums, strict=True)
            if structure.value not in (BACKGROUND, REST_OF_HEAD)
        }
        if any(structure.value == FLUID for structure in structures):
            return {INTRACRANIAL: sum(volumes.values()), **volumes}
        return volumes


def other_sides(structures: Sequence[StructureConfig]) -> list[int]:
    """Index of the structure of the other side of the head, for each; of itself if there is none.

    Examples:
        >>> names = ["background", "left caudate", "right caudate"]
        >>> other_sides([StructureConfig(value=i, name=name) for i, name in enumerate(names)])
        [0, 2, 1]
    """
    names = [structure.name for structure in structures]
    sides = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    others = [re.sub(r"\b(?:[Ll]eft|[Rr]ight)\b", lambda m: sides[m[0]], name) for name in names]
    return [names.index(other) if other in names else i for i, other in enumerate(others)]
