"""Settings of a training run; the defaults are those of the original where it has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from synthsr_net.models.checkpoint import ScanConfig
from synthsr_net.networks.unet import WIDENED, UNetConfig
from synthsr_transforms.subjects.files import SubjectRecord

SECTION = "training"
"""Section of a configuration that holds a `TrainingConfig`."""

OPTIMISERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "inverse_time")
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
BANKS = ("auto", "device", "host")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of `torch.compile`."""
METRICS = tuple(
    f"{region}/{name}" for region in ("brain", "head") for name in ("l1", "psnr", "ssim")
)
"""Metrics of the validation samples, see `metrics.VolumeMetrics`."""


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """A frozen segmentation network that judges the prediction, see `losses.SegmentationLoss`."""

    model: Optional[str] = None  # noqa: UP045 - read at run time by OmegaConf
    """Model file or Keras file of the network; null means none."""
    equivalency: Any = None
    """For each output channel of the network, the label of the label maps that it stands for, or
    -1 for none: a list, or a `.npy` file."""
    weight: float = 0.25
    """Weight of the Dice loss; the image loss keeps 1."""
    fs_header: bool = False
    """Whether the network expects the axes of FreeSurfer's volumes (left, inferior, anterior)."""
    percentiles: Optional[tuple[float, float]] = None  # noqa: UP045
    """Lower and upper percentile of the real targets, in percent, that the prediction is clipped
    to and rescaled from; null means none. The original has [2, 98] for real targets."""

    def __post_init__(self) -> None:
        _check(self.weight >= 0, "loss.segmentation.weight", "at least 0", self.weight)
        low, high = self.percentiles or (0.0, 100.0)
        name = "loss.segmentation.percentiles"
        _check(0 <= low < high <= 100, name, "two rising numbers from 0 to 100", self.percentiles)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What training makes small."""

    name: str = "l1"
    """One of `synthsr_net.losses.LOSSES`."""
    params: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""
    crop: Any = None
    """Size in voxels of the central box that the loss reads, one number or three; null means all.
    Label maps are padded so that the box can lie anywhere in them, see `padding_voxels`."""
    padding_voxels: Any = None
    """Zeros added to each side of the label maps, one number or three; null means half of what
    `crop` leaves out."""
    residual_channels: Optional[list[int]] = None  # noqa: UP045
    """For each output channel, the number of the image channel that the network's output is added
    to; reliability maps are not counted. Null means that the network predicts by itself."""
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How weights follow gradients."""

    name: str = "adam"
    """One of `OPTIMISERS`."""
    learning_rate: float = 1e-4
    """Largest step size."""
    schedule: str = "constant"
    """`constant`; `cosine`, which falls to `final_ratio` by the end of the run; or `inverse_time`,
    1 / (1 + decay * step), as in Keras."""
    decay: float = 0.0
    """Constant of `inverse_time`."""
    final_ratio: float = 0.01
    """Learning rate at the end of `cosine`, as a ratio of `learning_rate`."""
    warm_up_steps: int = 0
    """Number of steps in which the learning rate rises from 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    epsilon: float = 1e-7
    """Added to the root of the second."""
    weight_decay: float = 0.0
    """Decay of weights per step and learning rate."""
    clip_norm: Optional[float] = None  # noqa: UP045
    """Largest norm of the gradient of all weights; null means no limit."""
    accumulate: int = 1
    """Number of batches whose gradients make one step."""
    average_decay: float = 0.0
    """Decay per step of the exponential moving average of weights that is validated and saved,
    such as 0.999; 0 means the weights themselves."""

    def __post_init__(self) -> None:
        _choice("optimiser.name", self.name, OPTIMISERS)
        _choice("optimiser.schedule", self.schedule, SCHEDULES)
        _check(self.learning_rate > 0, "optimiser.learning_rate", "above 0", self.learning_rate)
        _check(0 <= self.final_ratio <= 1, "optimiser.final_ratio", "in [0, 1]", self.final_ratio)
        for name in ("decay", "epsilon", "weight_decay"):
            _check(getattr(self, name) >= 0, f"optimiser.{name}", "at least 0", getattr(self, name))
        in_range = all(0 <= beta < 1 for beta in self.betas)
        _check(in_range, "optimiser.betas", "two numbers in [0, 1)", self.betas)
        _check(self.warm_up_steps >= 0, "optimiser.warm_up_steps", "at least 0", self.warm_up_steps)
        _check(self.accumulate >= 1, "optimiser.accumulate", "at least 1", self.accumulate)
        _check(
            0 <= self.average_decay < 1, "optimiser.average_decay", "in [0, 1)", self.average_decay
        )
        _check(
            self.clip_norm is None or self.clip_norm > 0,
            "optimiser.clip_norm",
            "above 0 or null",
            self.clip_norm,
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, chance and hardware of a run."""

    epochs: int = 100
    """Number of epochs."""
    steps_per_epoch: int = 1000
    """Number of batches per epoch and device, after each of which there is validation and a model
    file."""
    batch_size: int = 1
    """Number of samples in a batch, on each device."""
    seed: int = 0
    """Seed of all chance."""
    precision: str = "auto"
    """One of `PRECISIONS`; `auto` is bf16 on GPUs that multiply it natively, else fp32."""
    freeze_statistics: Optional[float] = None  # noqa: UP045
    """Share of the run, in [0, 1], after which batch normalisation uses its running statistics in
    training as in prediction and no longer changes them, so that the network gets used to them;
    null means never. With few samples in a batch, its own statistics differ much from these."""
    compile: Any = False
    """Whether network and image loss are compiled (`torch.compile`), which takes a minute at the
    beginning. One of `COMPILE_MODES` is for the network. With `reduce-overhead` and `max-autotune`,
    a GPU repeats the kernels of a step from a recording (CUDA graphs), for which the host has next
    to nothing to do."""
    feature_multiple: int = 1
    """Multiple that numbers of features are padded to with zeros in computing, with normalisation
    `instance` or `none`: GPUs multiply 32 channels sooner than 24. The weights stay as they are."""
    deterministic: bool = False
    """Whether only deterministic algorithms are used, slower on GPUs."""
    bank: str = "auto"
    """Where label maps are kept: on the `device`, on the `host`, or `auto`: on the device if they
    take less than half of its memory."""
    save_every_minutes: float = 5.0
    """Time after which the state of the run is saved, besides the end of each epoch."""
    save_every_steps: Optional[int] = None  # noqa: UP045
    """Number of batches after which it is saved, instead of the time."""
    keep_models: int = -1
    """Number of epochs whose model files are kept, besides the best and the last; -1 means all."""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_size", "feature_multiple"):
            _check(getattr(self, name) >= 1, f"run.{name}", "at least 1", getattr(self, name))
        _check(self.seed >= 0, "run.seed", "at least 0", self.seed)
        _choice("run.precision", self.precision, PRECISIONS)
        _choice("run.bank", self.bank, BANKS)
        modes = f"true, false or one of {', '.join(COMPILE_MODES)}"
        known = isinstance(self.compile, bool) or self.compile in COMPILE_MODES
        _check(known, "run.compile", modes, self.compile)
        every = self.save_every_steps
        _check(every is None or every >= 1, "run.save_every_steps", "at least 1 or null", every)
        _check(
            self.save_every_minutes > 0,
            "run.save_every_minutes",
            "above 0",
            self.save_every_minutes,
        )
        share = self.freeze_statistics
        in_range = share is None or 0 <= share <= 1
        _check(in_range, "run.freeze_statistics", "in [0, 1] or null", share)
        _check(self.keep_models >= -1, "run.keep_models", "at least -1", self.keep_models)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What is measured after each epoch, on the same samples every time."""

    every_epochs: int = 1
    """Number of epochs between validations; the last epoch is always validated. 0 means never."""
    held_out: Any = 0.1
    """Label maps that are not trained on: a ratio (rounded down), a number, or a list of file
    names. If there are none, validation samples come from the label maps of training."""
    samples: int = 8
    """Number of validation samples, on all devices together."""
    previews: int = 4
    """Number of them that are drawn."""
    seed: int = 1000
    """Seed of the validation samples."""
    images: Optional[str] = None  # noqa: UP045
    """Folder of real scans to validate on, see `real_pairs`."""
    labels: Optional[str] = None  # noqa: UP045
    """Folder of their label maps."""
    spacings_mm: list[float] = field(default_factory=lambda: [1.0, 3.0, 5.0])
    """Slice spacings, in mm, that the real scans are degraded to."""
    metric: str = "brain/l1"
    """Metric of the samples by which the best model is chosen; of errors (l1) the smallest, else
    the largest is best."""

    def __post_init__(self) -> None:
        _check(self.every_epochs >= 0, "validation.every_epochs", "at least 0", self.every_epochs)
        _check(self.samples >= 1, "validation.samples", "at least 1", self.samples)
        _check(self.previews >= 0, "validation.previews", "at least 0", self.previews)
        _check(self.seed >= 0, "validation.seed", "at least 0", self.seed)
        if (self.images is None) != (self.labels is None):
            raise ValueError(
                "validation.images and validation.labels must be given together, got"
                f" {self.images!r} and {self.labels!r}. Real scans need label maps to measure in."
            )
        usable = len(self.spacings_mm) > 0 and all(mm > 0 for mm in self.spacings_mm)
        _check(usable, "validation.spacings_mm", "numbers above 0", self.spacings_mm)
        real = [] if self.images is None else [f"real/{mm:g}mm/" for mm in self.spacings_mm]
        known = self.metric in METRICS or self.metric.startswith(tuple(real))
        choices = ", ".join([*METRICS, *(f"{name}..." for name in real)])
        _check(known, "validation.metric", f"one of {choices}", self.metric)


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """Fine-tuning against a critic that tells predictions from targets (WGAN with penalty)."""

    weight: float = 0.0
    """Weight of the critic's score in the loss; 0 means no critic. The original has 0.01."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty in the loss of the critic."""
    first_ratio: int = 100
    """Number of updates of the critic before the first of the network."""
    ratio: int = 10
    """Number of updates of the critic before each other one."""
    learning_rate: float = 1e-4
    """Learning rate of the critic."""
    num_features: int = 32
    """Features of the critic's first level."""
    num_levels: int = 4
    """Levels of the critic."""
    removed_labels: list[int] = field(default_factory=list)
    """Labels where the critic sees zeros, in predictions and targets."""

    def __post_init__(self) -> None:
        _check(0 <= self.weight < 1, "adversarial.weight", "in [0, 1)", self.weight)
        for name in ("first_ratio", "ratio", "num_features", "num_levels"):
            value = getattr(self, name)
            _check(value >= 1, f"adversarial.{name}", "at least 1", value)
        _check(
            self.penalty_weight >= 0,
            "adversarial.penalty_weight",
            "at least 0",
            self.penalty_weight,
        )
        _check(self.learning_rate > 0, "adversarial.learning_rate", "above 0", self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What the model file says to `synthsr predict`."""

    name: Optional[str] = None  # noqa: UP045
    """Name of the model; null means that of the run's folder."""
    description: str = ""
    """What the model does, in one sentence."""
    licence: str = "unknown"
    """SPDX identifier of the terms of the weights."""
    citation: str = ""
    """What to cite."""
    output: str = "T1w"
    """Contrast of the prediction."""
    inputs: list[str] = field(default_factory=list)
    """Names of the input images, one per image channel; empty means image, or image_1, ..."""
    contrasts: list[str] = field(default_factory=list)
    """Their contrasts; empty means any."""
    scan: ScanConfig = field(default_factory=lambda: ScanConfig(output_range=(0.0, 255.0)))
    """How scans become inputs and outputs become scans; spacing, divisor and residual input are
    set by the run."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything about a run but the generator: the section `training` of a configuration."""

    network: UNetConfig = field(default_factory=UNetConfig)
    """Architecture; numbers of channels follow from the generator."""
    initial_weights: Optional[str] = None  # noqa: UP045
    """Model file or Keras file to start from; layers of another number of channels are adapted."""
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    held_out: list[SubjectRecord] = field(default_factory=list)
    """Label maps, and their images, that validation samples are made from; set by the run."""

    def __post_init__(self) -> None:
        segmentation, critic = self.loss.segmentation, self.adversarial.weight
        both = 0.0 if segmentation.model is None or not critic else segmentation.weight + critic
        if both > 1:
            raise ValueError(
                "adversarial.weight and loss.segmentation.weight must be at most 1 together, as the"
                f" image loss has the rest, got {critic:g} and {segmentation.weight:g}."
            )
        if critic and self.optimiser.accumulate > 1:
            raise ValueError(
                "optimiser.accumulate must be 1 in adversarial training, got"
                f" {self.optimiser.accumulate}. Raise run.batch_size instead."
            )
        recorded = self.run.compile in ("reduce-overhead", "max-autotune")
        if recorded and (critic or self.optimiser.accumulate > 1):
            raise ValueError(
                "run.compile must be true or false with a critic or optimiser.accumulate above 1,"
                f" as a recording keeps one step in memory, got {self.run.compile!r}. Set"
                " run.compile=true."
            )
        normalisation = self.network.normalisation
        if self.run.feature_multiple > 1 and normalisation not in WIDENED:
            raise ValueError(
                f"run.feature_multiple must be 1 with network.normalisation {normalisation}, whose"
                f" statistics zeros would change, got {self.run.feature_multiple}. Leave it out, or"
                f" choose {' or '.join(WIDENED)}."
            )


def triple(value: Any, name: str) -> tuple[int, int, int] | None:
    """Read a size in voxels: one number, three, or nothing, which 0 means as well.

    Raises:
        ValueError: If it is anything else.
    """
    if value is None:
        return None
    sizes = [value] * 3 if isinstance(value, int) else list(value)
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if len(sizes) != 3 or not whole or min(sizes) < 0:
        raise ValueError(f"{name} must be a whole number or three, got {value!r}.")
    return None if not any(sizes) else (sizes[0], sizes[1], sizes[2])


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, name, f"one of {', '.join(choices)}", value)


def _check(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {got!r}.")
