"""Model files: weights and everything that prediction needs to know, in one safetensors file.

The header holds one JSON text under `synthsr`, a `ModelConfig` with the version of the format.
Nothing in a model file is ever executed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from synthsr_net.losses.intensity import SMALLEST_SCALE
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.config import from_mapping
from synthsr_transforms.support.messages import SynthSRError, check_choice
from synthsr_transforms.support.pointers import refuse_pointer

FORMAT_VERSION = 2
"""Version of the header; a file of a later version is refused. Files of networks that have a second
head have version 2, others version 1, which older readers know."""
_LATER = {"scale_features": 0}
"""Settings of networks that version 1 does not know, and what they are there."""
HEADER = "synthsr"
"""Key of the header's JSON text."""

NORMALISATIONS = ("min_max", "percentile")
SEGMENTATION = "segmentation"
"""`ModelConfig.output` of networks that tell structures apart."""


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """One image that a network takes."""

    name: str = "image"
    """Name of the image in messages and on the command line."""
    contrast: str = "any"
    """Contrast that the network was trained on, such as T1w; `any` for random ones."""
    maximum: float = 1.0
    """Intensities are rescaled to [0, maximum]."""
    reliability_map: bool = False
    """Whether the image is followed by a channel that is 1 on acquired slices and falls to 0
    between them."""


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    """One structure that a segmentation network tells apart."""

    value: int
    """Its value in segmentations."""
    name: str
    """Its name."""


@dataclass(frozen=True, kw_only=True)
class PopulationStructure:
    """Volume and place that a structure has in people of one size, turned alike."""

    value: int
    """Its value in segmentations."""
    log_ml: float
    """Mean of the natural logarithm of its volume in ml."""
    sd_log_ml: float
    """Standard deviation of that."""
    place: tuple[float, float, float]
    """Mean position of its centre to the right, front and top, in mm."""
    sd_place_mm: float
    """Root mean square of the distance of centres from there."""


@dataclass(frozen=True, kw_only=True)
class QualityWeights:
    """Weights, at least 0, of what lowers a Dice coefficient.

    See `synthsr_net.prediction.segmentation.quality`.
    """

    constant: float = 0.0
    """Of 1."""
    doubt: float = 1.0
    """Of -log of the Dice coefficient that the probabilities themselves expect."""
    volume: float = 0.0
    """Of unusual volumes of structures."""
    place: float = 0.0
    """Of unusual places of structures among each other."""
    size: float = 0.0
    """Of an unusual size of the brain."""
    turn: float = 0.0
    """Of an unusual direction of the head."""
    absence: float = 0.0
    """Of the share of structures that are missing."""
    unsupported: float = 0.0
    """Of what is missing of a usual support by the scan, in logarithms."""

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in vars(self).items() if not value >= 0}
        if wrong:
            raise ValueError(f"quality: weights must be at least 0, got {wrong}.")


@dataclass(frozen=True, kw_only=True)
class QualityGroup:
    """Structures whose mean Dice coefficient is estimated."""

    name: str
    values: list[int]
    """Their values in segmentations."""
    weights: QualityWeights = field(default_factory=QualityWeights)
    """What lowers it, and how much."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Calibration of the quality score of a segmentation network."""

    overall: QualityGroup
    """What the overall score is about."""
    groups: list[QualityGroup]
    """What further scores are about."""
    population: list[PopulationStructure]
    """What structures are like in people; those that are missing here are not looked at."""
    sd_log_size: float
    """Standard deviation of the natural logarithm of the size (length) of brains."""
    threshold: float
    """Below this overall score, a scan is to be looked at."""

    def __post_init__(self) -> None:
        known = {structure.value for structure in self.population}
        for group in (self.overall, *self.groups):
            unknown = sorted(set(group.values) - known)
            if unknown or not group.values:
                raise ValueError(
                    f"quality: the values of group {group.name!r} must be some of the population,"
                    f" got {unknown or 'none'}."
                )
        spreads = [self.sd_log_size]
        for structure in self.population:
            spreads += [structure.sd_log_ml, structure.sd_place_mm]
        if not min(spreads) > 0:
            raise ValueError(f"quality: deviations must be above 0, got {min(spreads)}.")


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """Conversion of scans to inputs of a network, and of its output to a scan."""

    spacing_mm: float = 1.0
    """Voxel spacing that the network works at, in mm."""
    divisor: int = 32
    """Sizes are padded with zeros to multiples of this."""
    normalisation: str = "min_max"
    """`min_max`: minimum to 0, maximum to `InputConfig.maximum`; `percentile`: the same with the
    percentiles of `percentiles`, clipped."""
    percentiles: tuple[float, float] = (0.0, 99.9)
    """Lower and upper percentile, in percent, for `percentile`."""
    normalise_after_padding: bool = False
    """Whether zeros of the padding count in the normalisation, as for the v2 models of
    FreeSurfer, and CT is clipped after resampling."""
    output_scale: float = 255.0
    """Factor from the output of the network to intensities."""
    output_range: tuple[float, float] | None = (0.0, 128.0)
    """Intensities are clipped to this."""
    clip_each_pass: bool = False
    """Whether each pass of test-time augmentation is clipped, rather than their mean."""
    residual_input: int | None = None
    """Index of the input that the network's output is added to, in its normalised intensities;
    the sum is mapped back to the intensities of that scan. None: the output stands alone."""
    flip: bool = True
    """Whether predictions are averaged with those of the left-right mirrored scan by default."""
    inverse_contrast: bool = False
    """Whether the mirrored pass sees scans of inverse contrast inverted by default, see
    `synthsr_net.prediction.refinement.contrast_inversion`. For models that predict a T1 with white
    matter near 110 from one scan."""
    sharpen: bool = False
    """Whether predictions are sharpened (unsharp mask) by default."""
    data_consistency: bool = False
    """Whether predictions are made consistent with scans of their own contrast by default, see
    `synthsr_net.prediction.refinement.data_consistency`. For models that predict a T1 with white
    matter near 110."""

    def __post_init__(self) -> None:
        check_choice("normalisation", self.normalisation, NORMALISATIONS)
        if self.spacing_mm <= 0 or self.divisor < 1:
            raise ValueError(
                "spacing_mm must be above 0 and divisor at least 1,"
                f" got {self.spacing_mm} and {self.divisor}."
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model but its weights."""

    name: str = "unnamed"
    description: str = ""
    licence: str = "unknown"
    """SPDX identifier, or what is known of the terms of the weights."""
    citation: str = ""
    """Publications to cite when predictions are published."""
    network: UNetConfig = field(default_factory=UNetConfig)
    """Architecture."""
    inputs: list[InputConfig] = field(default_factory=lambda: [InputConfig()])
    """The images that the network takes, in the order of its channels."""
    output: str = "T1w"
    """Contrast of the prediction, or `segmentation`."""
    structures: list[StructureConfig] = field(default_factory=list)
    """Of a segmentation: the structure that each output channel is the probability of."""
    quality: QualityConfig | None = None
    """Of a segmentation: how its quality is estimated; None: not calibrated."""
    spread: bool = False
    """Whether the last half of the output channels are logarithms S of the scale of a Laplace
    distribution, whose scale is `smallest_scale` + 0.02 exp(S)."""
    smallest_scale: float = SMALLEST_SCALE
    """The scale where S is far below 0, in units of the output of the network."""
    scan: ScanConfig = field(default_factory=ScanConfig)
    training: dict[str, Any] = field(default_factory=dict)
    """Summary of the training: preset, steps, data, losses."""

    def __post_init__(self) -> None:
        channels = self.num_channels
        if channels != self.network.in_channels:
            raise ValueError(
                f"the network takes {self.network.in_channels} channels, but the inputs of model"
                f" {self.name!r} ({', '.join(i.name for i in self.inputs)}) make {channels}."
                " Correct the inputs."
            )
        count = len(self.structures)
        if count and count != self.network.out_channels:
            raise ValueError(
                f"a segmentation network must have one output per structure, {count}, got"
                f" {self.network.out_channels}."
            )
        if self.quality is not None:
            known = {structure.value for structure in self.structures}
            unknown = sorted({each.value for each in self.quality.population} - known)
            if unknown:
                raise ValueError(f"quality: the model has no structures of the values {unknown}.")
        if self.network.scale_features and not self.spread:
            raise ValueError(
                "a network with scale_features predicts spreads, got spread false. Set it to true."
            )
        if not 0 < self.smallest_scale <= 1:
            raise ValueError(f"smallest_scale must be in (0, 1], got {self.smallest_scale}.")
        if self.spread and self.network.out_channels % 2:
            raise ValueError(
                "a network that predicts spreads must have an even number of output channels,"
                f" got {self.network.out_channels}."
            )

    @property
    def is_simple(self) -> bool:
        """Whether the model predicts an image of its own from one image."""
        return self.num_channels == 1 and self.scan.residual_input is None

    @property
    def takes_exams(self) -> bool:
        """Whether it takes several scans of a head: its predictions from each are averaged."""
        alone = len(self.inputs) == 1 and self.scan.residual_input is None
        return alone and not self.structures

    @property
    def num_channels(self) -> int:
        """Number of channels that the inputs make."""
        return sum(1 + image.reliability_map for image in self.inputs)


@dataclass(frozen=True)
class Model:
    """A network and its config."""

    config: ModelConfig
    network: UNet3d

    def without_scales(self) -> Model:
        """The same without the second head, whose scales take time; weights are shared."""
        there = self.config.network
        if not there.scale_features:
            return self
        network = dataclasses.replace(there, scale_features=0, out_channels=there.head_channels)
        with torch.device("meta"):
            alone = UNet3d(network)
        state = self.network.state_dict()
        alone.load_state_dict({name: state[name] for name in alone.state_dict()}, assign=True)
        alone.train(self.network.training).requires_grad_(False)
        return Model(dataclasses.replace(self.config, network=network, spread=False), alone)


def save_model(
    path: str | os.PathLike[str], config: ModelConfig, state: Mapping[str, Tensor]
) -> None:
    """Write a model file, atomically.

    Args:
        path: File ending in `.safetensors`.
        config: Goes into the header.
        state: State dict of a `UNet3d` of `config.network`, in any precision.

    Raises:
        SynthSRError: If the path has another ending.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise SynthSRError(f"a model file must end in .safetensors, got {path}. Rename it.")
    header = {HEADER: header_text(config)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as temporary:  # not by save_file, whose files only their owner may read
        temporary.write_bytes(save(tensors, header))


def header_text(config: ModelConfig) -> str:
    """Header of a model file, as JSON; `config_of_header` is its inverse."""
    settings: dict[str, Any] = {"format": FORMAT_VERSION, **asdict(config)}
    network = settings["network"]
    if all(network[name] == value for name, value in _LATER.items()):
        settings["format"] = 1
    for name, value in _LATER.items():
        if network[name] == value:
            del network[name]
    if config.smallest_scale == SMALLEST_SCALE:
        del settings["smallest_scale"]
    return json.dumps(settings)


def read_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Read the header of a model file, without its weights.

    Raises:
        SynthSRError: If the file is not a model file, or of a later format.
    """
    return _read(Path(path), weights=False)[0]


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Returns:
        The model on the CPU, in float32, ready for inference.

    Raises:
        SynthSRError: If the file is not a model file, is damaged, of a later format, or its
            weights do not fit its architecture.
    """
    config, state = _read(Path(path), weights=True)
    return Model(config, network_of(config.network, state, str(path)))


def network_of(config: UNetConfig, state: Mapping[str, Tensor], where: str) -> UNet3d:
    """A network for inference with the weights of a state dict.

    Args:
        config: Architecture.
        state: Weights by name.
        where: Where the weights come from, for messages.

    Raises:
        SynthSRError: If names, shapes or values do not fit.
    """
    with torch.device("meta"):
        network = UNet3d(config)
    expected = network.state_dict()
    state = {name: tensor for name, tensor in state.items()}
    for name in expected:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.long))
    wrong = sorted(set(expected) ^ set(state)) or [
        name for name, tensor in expected.items() if tensor.shape != state[name].shape
    ]
    if wrong:
        raise SynthSRError(
            f"{where} must hold the weights of its architecture, but {len(wrong)} differ, first"
            f" {wrong[0]}. Get the file again, or convert it again."
        )
    for name in expected:
        if expected[name].is_floating_point():
            state[name] = _as_weights(state[name], name, where)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _as_weights(tensor: Tensor, name: str, where: str) -> Tensor:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise SynthSRError(f"{where} must hold floating point weights, but {name} is {kind}.")
    tensor = tensor.to(torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        raise SynthSRError(f"{where} must hold finite weights, but {name} does not.")
    return tensor


def _read(path: Path, weights: bool) -> tuple[ModelConfig, dict[str, Tensor]]:
    refuse_pointer(path)
    if not path.is_file():
        raise SynthSRError(f"{path} must be a model file, but there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            names = file.keys() if weights else []
            state = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise SynthSRError(
            f"{path} must be a safetensors file, but cannot be read ({error}). Get it again; Keras"
            " files (.h5) are converted by synthsr convert-weights."
        ) from error
    if header is None:
        raise SynthSRError(
            f"{path} must be a model file of synthsr, but its header does not describe a model."
            " Use a file that synthsr train or synthsr convert-weights wrote."
        )
    return config_of_header(header, path), state


def config_of_header(header: str, path: str | os.PathLike[str]) -> ModelConfig:
    """Read the header of a model file.

    Args:
        header: From `header_text`.
        path: Where it comes from, for messages.

    Raises:
        SynthSRError: If it is damaged, or of a later format.
    """
    try:
        settings = json.loads(header)
        version = settings.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise SynthSRError(f"{path} has a damaged header. Get the file again.") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise SynthSRError(
            f"{path} has format {version}, this version of synthsr reads {FORMAT_VERSION}."
            " Update synthsr."
        )
    try:
        return from_mapping(ModelConfig, _literal(settings))
    except ValueError as error:
        raise SynthSRError(f"{path}: {error}") from error


def _literal(settings: Any) -> Any:
    """Settings whose texts OmegaConf takes as they are, without looking up what `${...}` names."""
    if isinstance(settings, dict):
        return {key: _literal(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_literal(value) for value in settings]
    if isinstance(settings, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", settings)
    return settings
