"""Settings of a training run; the defaults are those of the original where it has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from synthsr_net.inference.precision import PRECISIONS
from synthsr_net.metrics.volumes import REGION_MEASURES
from synthsr_net.models.checkpoint import ScanConfig
from synthsr_net.networks.unet import MAX_LEVELS, WIDENED, UNetConfig
from synthsr_transforms.job.record import JobConfig
from synthsr_transforms.subjects.files import SubjectRecord

SECTION = "training"
"""Section of a configuration that holds a `TrainingConfig`."""

OPTIMISERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "inverse_time")
LABEL_MAP_MEMORIES = ("auto", "device", "host")
CALIBRATION_L1 = "calibration/l1"
"""Metric of the scale of the error: the largest deviation of a tenth, see `UncertaintyTask`."""
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of `torch.compile`."""


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """Regularisation by a frozen segmentation network, see `losses.SegmentationLoss`."""

    model: Optional[str] = None  # noqa: UP045 - read at run time by OmegaConf
    """Model file or Keras file of the network; null means none."""
    output_labels: Any = None
    """For each output channel of the network, the label of the label maps that it stands for, or
    -1 for none: a list or a `.npy` file (`segmentation_label_equivalency` of the original). Null
    means what the model file says, if it says so."""
    weight: float = 0.25
    """Weight of the Dice loss; that of the image loss is 1."""
    freesurfer_axes: bool = False
    """Whether the network expects the axes of FreeSurfer's volumes (left, inferior, anterior)."""
    clip_percentiles: Optional[tuple[float, float]] = None  # noqa: UP045
    """Lower and upper percentile of the real targets, in percent, that the prediction is clipped
    to and rescaled from; null means none. The original has [2, 98] for real targets."""

    def __post_init__(self) -> None:
        _check(self, "loss.segmentation", "weight", *_AT_LEAST_0)
        rising = lambda pair: pair is None or 0 <= pair[0] < pair[1] <= 100  # noqa: E731
        expected = "two rising numbers from 0 to 100"
        _check(self, "loss.segmentation", "clip_percentiles", rising, expected)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Training loss."""

    name: str = "l1"
    """One of `synthsr_net.losses.LOSSES`, or, where the target is the label map that a step
    `GroupLabels` makes, of `SEGMENTATION_LOSSES`."""
    params: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor; the values of structures come from the generator."""
    crop: Any = None
    """Size in voxels of the central box in which the loss is computed, one number or three; null
    means the whole patch. Label maps are padded so that the box reaches all of their voxels, see
    `padding_voxels`."""
    padding_voxels: Any = None
    """Zeros added to each side of the label maps, one number or three; null means half of what
    `crop` leaves out."""
    residual_channels: Optional[list[int]] = None  # noqa: UP045
    """For each output channel, the number of the image channel that the network's output is added
    to; reliability maps are not counted. Null means that the network predicts by itself."""
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Optimiser, learning rate schedule and averaging of weights."""

    name: str = "adam"
    """One of `OPTIMISERS`."""
    learning_rate: float = 1e-4
    """Learning rate after warm-up."""
    schedule: str = "constant"
    """`constant`; `cosine`, which falls to `final_learning_rate_ratio` by the end of the run; or
    `inverse_time`, 1 / (1 + inverse_time_decay * step), as in Keras."""
    inverse_time_decay: float = 0.0
    """Decay of the schedule `inverse_time`."""
    final_learning_rate_ratio: float = 0.01
    """Learning rate at the end of `cosine`, as a ratio of `learning_rate`."""
    warmup_steps: int = 0
    """Number of steps in which the learning rate rises linearly from 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares (`betas` of Adam)."""
    epsilon: float = 1e-7
    """Term added to the denominator (`eps` of Adam)."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser: an L2 penalty for `adam`, decoupled for `adamw`."""
    clip_norm: Optional[float] = None  # noqa: UP045
    """Norm to which the gradient of all weights is clipped; null means no clipping."""
    accumulate_batches: int = 1
    """Number of batches whose gradients are accumulated for one step."""
    ema_decay: float = 0.0
    """Decay per step of the exponential moving average of weights that is validated and saved,
    such as 0.999; 0 means the weights themselves."""

    def __post_init__(self) -> None:
        _check(self, "optimiser", "name", *_one_of(OPTIMISERS))
        _check(self, "optimiser", "schedule", *_one_of(SCHEDULES))
        _check(self, "optimiser", "learning_rate", *_ABOVE_0)
        names = ("inverse_time_decay", "epsilon", "weight_decay", "warmup_steps")
        _check(self, "optimiser", names, *_AT_LEAST_0)
        _check(self, "optimiser", "accumulate_batches", *_AT_LEAST_1)
        _check(self, "optimiser", "final_learning_rate_ratio", lambda v: 0 <= v <= 1, "in [0, 1]")
        _check(self, "optimiser", "ema_decay", lambda v: 0 <= v < 1, "in [0, 1)")
        in_range = lambda betas: all(0 <= beta < 1 for beta in betas)  # noqa: E731
        _check(self, "optimiser", "betas", in_range, "two numbers in [0, 1)")
        _check(self, "optimiser", "clip_norm", lambda v: v is None or v > 0, "above 0 or null")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, seed, precision and speed of a run."""

    epochs: int = 100
    """Number of epochs."""
    steps_per_epoch: int = 1000
    """Number of batches per epoch and device, after each of which there is validation and a model
    file."""
    batch_size: int = 1
    """Number of samples in a batch, on each device."""
    seed: int = 0
    """Seed of all random numbers of the run."""
    precision: str = "auto"
    """One of `synthsr_net.inference.precision.PRECISIONS`."""
    freeze_batch_norm_after: Optional[float] = None  # noqa: UP045
    """Fraction of the run, in [0, 1], after which batch normalisation is frozen: it uses its
    running statistics in training as in prediction and no longer updates them, so that the network
    adapts to them; null means never. Statistics of small batches differ much from them."""
    compile: Any = False
    """Whether network and image loss are compiled (`torch.compile`), which takes a minute at the
    beginning; or one of `COMPILE_MODES`, for the network. `reduce-overhead` and `max-autotune` use
    CUDA graphs, which spare the host."""
    feature_multiple: int = 1
    """Multiple to which numbers of features are padded with zeros in computing, with normalisation
    `instance` or `none`: GPUs are faster with 32 channels than 24. The weights are the same."""
    deterministic: bool = False
    """Whether only deterministic algorithms are used, slower on GPUs."""
    label_map_memory: str = "auto"
    """Memory that holds label maps: `device`, `host`, or `auto`: that of the device if they take
    less than half of it."""
    save_every_minutes: float = 5.0
    """Time after which the state of the run is saved, besides the end of each epoch."""
    save_every_steps: Optional[int] = None  # noqa: UP045
    """Number of batches after which it is saved, instead of the time."""
    keep_models: int = -1
    """Number of last epochs whose model files stay, besides the best and the last; -1 means all."""

    def __post_init__(self) -> None:
        _check(self, "run", ("epochs", "steps_per_epoch"), *_up_to(1, 10**6))
        _check(self, "run", ("batch_size", "feature_multiple"), *_up_to(1, 10**4))
        _check(self, "run", "seed", *_AT_LEAST_0)
        _check(self, "run", "precision", *_one_of(PRECISIONS))
        _check(self, "run", "label_map_memory", *_one_of(LABEL_MAP_MEMORIES))
        is_mode = lambda v: isinstance(v, bool) or v in COMPILE_MODES  # noqa: E731
        _check(self, "run", "compile", is_mode, f"true, false or {_one_of(COMPILE_MODES)[1]}")
        is_count = lambda v: v is None or v >= 1  # noqa: E731
        _check(self, "run", "save_every_steps", is_count, "at least 1 or null")
        _check(self, "run", "save_every_minutes", *_ABOVE_0)
        is_fraction = lambda v: v is None or 0 <= v <= 1  # noqa: E731
        _check(self, "run", "freeze_batch_norm_after", is_fraction, "in [0, 1] or null")
        _check(self, "run", "keep_models", lambda v: v >= -1, "at least -1")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Validation after each epoch, on the same samples every time."""

    every_epochs: int = 1
    """Number of epochs between validations; the last epoch is always validated. 0 means never."""
    held_out: Any = 0.1
    """Label maps, or pairs of real scans, that are not trained on: a ratio (rounded down), a
    number, or a list of file names. If there are none, validation samples come from those of
    training."""
    samples: int = 8
    """Number of validation samples, on all devices together."""
    previews: int = 4
    """Number of them that are shown in pictures."""
    seed: int = 1000
    """Seed of the validation samples."""
    images: Optional[str] = None  # noqa: UP045
    """Folder of real scans to validate on, see `real_pairs`."""
    labels: Optional[str] = None  # noqa: UP045
    """Folder of their label maps."""
    slice_spacings_mm: list[float] = field(default_factory=lambda: [1.0, 3.0, 5.0])
    """Slice spacings, in mm, that the real scans are degraded to."""
    metric: str = "brain/l1"
    """Metric of the samples by which the best model is chosen; of errors (l1) the smallest, else
    the largest is best. Of a segmentation: `dice/mean`, or `dice/` and a structure; of uncertainty:
    `calibration/l1`."""

    def __post_init__(self) -> None:
        _check(self, "validation", ("every_epochs", "seed"), *_AT_LEAST_0)
        _check(self, "validation", "previews", *_up_to(0, 1000))
        _check(self, "validation", "samples", *_up_to(1, 10**5))
        if (self.images is None) != (self.labels is None):
            raise ValueError(
                "validation.images and validation.labels must be given together, got"
                f" {self.images!r} and {self.labels!r}. Real scans need label maps to measure in."
            )
        usable = lambda mm: len(mm) > 0 and min(mm) > 0  # noqa: E731
        _check(self, "validation", "slice_spacings_mm", usable, "numbers above 0")
        spacings = [] if self.images is None else self.slice_spacings_mm
        real = tuple(f"real/{mm:g}mm/" for mm in spacings)
        begins = ("dice/", *real)
        known = (*REGION_MEASURES, CALIBRATION_L1)
        is_known = lambda name: name in known or name.startswith(begins)  # noqa: E731
        expected = _one_of([*known, *(f"{name}..." for name in begins)])[1]
        _check(self, "validation", "metric", is_known, expected)


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Pairs of real scans to train on, where a run has some."""

    share: float = 1.0
    """Share of batches that are made from them; the others are made from label maps."""
    spacing_mm: Optional[float] = None  # noqa: UP045
    """Voxel spacing that they are brought to; null means that of the label maps, or else that of
    the targets."""
    sources: list[SubjectRecord] = field(default_factory=list)
    """Pairs of training, recorded by the run."""
    validation_sources: list[SubjectRecord] = field(default_factory=list)
    """Pairs of validation, likewise."""

    def __post_init__(self) -> None:
        _check(self, "pairs", "share", lambda v: 0 < v <= 1, "above 0 and at most 1")
        _check(self, "pairs", "spacing_mm", lambda v: v is None or v > 0, "above 0 or null")


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """Adversarial fine-tuning (Wasserstein GAN with gradient penalty)."""

    weight: float = 0.0
    """Weight of the critic's score in the loss; 0 means no critic. The original has 0.01."""
    gradient_penalty_weight: float = 10.0
    """Weight of the gradient penalty in the loss of the critic."""
    first_critic_steps: int = 100
    """Number of updates of the critic before the first of the network."""
    critic_steps: int = 10
    """Number of updates of the critic before each other one."""
    learning_rate: float = 1e-4
    """Learning rate of the critic."""
    num_features: int = 32
    """Features of the critic's first level."""
    num_levels: int = 4
    """Levels of the critic."""
    masked_labels: list[int] = field(default_factory=list)
    """Labels whose voxels are set to zero for the critic, in predictions and targets."""

    def __post_init__(self) -> None:
        _check(self, "adversarial", "weight", lambda v: 0 <= v < 1, "in [0, 1)")
        _check(self, "adversarial", ("first_critic_steps", "critic_steps"), *_up_to(1, 10**6))
        _check(self, "adversarial", "num_levels", *_up_to(1, MAX_LEVELS))
        most = max(1, 2**MAX_LEVELS // 2**self.num_levels)  # 4096 in the last level
        _check(self, "adversarial", "num_features", *_up_to(1, most))
        _check(self, "adversarial", "gradient_penalty_weight", *_AT_LEAST_0)
        _check(self, "adversarial", "learning_rate", *_ABOVE_0)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Description in the model file, which `synthsr predict` reads."""

    name: Optional[str] = None  # noqa: UP045
    """Name of the model; null means that of the run's folder."""
    description: str = ""
    """Purpose of the model, in one sentence."""
    licence: str = "unknown"
    """SPDX identifier of the terms of the weights."""
    citation: str = ""
    """Reference to cite."""
    output: str = "T1w"
    """Contrast of the prediction."""
    inputs: list[str] = field(default_factory=list)
    """Names of the input images, one per image channel; empty means image, or image_1, ..."""
    contrasts: list[str] = field(default_factory=list)
    """Their contrasts; empty means any."""
    scan: ScanConfig = field(default_factory=lambda: ScanConfig(output_range=(0.0, 255.0)))
    """Conversion of scans to inputs and of outputs to scans; spacing, divisor and residual input
    are set by the run."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything about a run but the generator: the section `training` of a configuration."""

    network: UNetConfig = field(default_factory=UNetConfig)
    """Architecture; numbers of channels follow from the generator."""
    initial_weights: Optional[str] = None  # noqa: UP045
    """Model file or Keras file to start from; layers of another number of channels are adapted."""
    uncertainty: bool = False
    """Whether to train the scale of the error alone: the network of `initial_weights`, which stays
    as it is, gets a second head (`network.scale_features`), trained by the loss `laplace`, and the
    model file keeps its description."""
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    validation_sources: list[SubjectRecord] = field(default_factory=list)
    """Label maps of validation and their images, recorded by the run."""

    def __post_init__(self) -> None:
        segmentation, critic = self.loss.segmentation, self.adversarial.weight
        both = 0.0 if segmentation.model is None or not critic else segmentation.weight + critic
        if both > 1:
            raise ValueError(
                "adversarial.weight and loss.segmentation.weight must be at most 1 together, as the"
                f" image loss has the rest, got {critic:g} and {segmentation.weight:g}."
            )
        if critic and self.optimiser.accumulate_batches > 1:
            raise ValueError(
                "optimiser.accumulate_batches must be 1 in adversarial training, got"
                f" {self.optimiser.accumulate_batches}. Raise run.batch_size instead."
            )
        recorded = self.run.compile in ("reduce-overhead", "max-autotune")
        if recorded and (critic or self.optimiser.accumulate_batches > 1):
            raise ValueError(
                "run.compile must be true or false with a critic or optimiser.accumulate_batches"
                f" above 1, as CUDA graphs record one step, got {self.run.compile!r}. Set"
                " run.compile=true."
            )
        normalisation = self.network.normalisation
        if self.run.feature_multiple > 1 and normalisation not in WIDENED:
            raise ValueError(
                f"run.feature_multiple must be 1 with network.normalisation {normalisation}, whose"
                f" statistics zeros would change, got {self.run.feature_multiple}. Leave it out, or"
                f" choose {' or '.join(WIDENED)}."
            )


@dataclass(frozen=True, kw_only=True)
class Experiment(JobConfig):
    """A run as data, as its `config.yaml` holds it: generator, label maps (`job`) and training."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The training."""


Condition = tuple[Callable[[Any], bool], str]
"""Whether a value is allowed, and how to say so."""

_AT_LEAST_0: Condition = (lambda value: value >= 0, "at least 0")
_AT_LEAST_1: Condition = (lambda value: value >= 1, "at least 1")
_ABOVE_0: Condition = (lambda value: value > 0, "above 0")


def _up_to(low: int, high: int) -> Condition:
    return lambda value: low <= value <= high, f"{low} to {high}"


def _one_of(choices: Sequence[str]) -> Condition:
    return lambda value: value in choices, f"one of {', '.join(choices)}"


def _check(
    config: Any, section: str, names: str | tuple[str, ...], holds: Callable[[Any], bool], text: str
) -> None:
    """Check settings of one section against one condition.

    Raises:
        ValueError: If a value does not hold.
    """
    for name in (names,) if isinstance(names, str) else names:
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(f"{section}.{name} must be {text}, got {value!r}.")
