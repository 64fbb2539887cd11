"""A model applied to scans: read, prepared, computed within the memory there is, and written."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, overload

import nibabel as nib
import torch
from torch import Tensor

from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.fused import warm_up
from synthsr_net.inference.memory import Plan, plan_memory
from synthsr_net.inference.precision import DTYPES, resolve_precision
from synthsr_net.models.checkpoint import Model, save_model
from synthsr_transforms.io.grids import Affine, Volume
from synthsr_transforms.io.kinds import thinning
from synthsr_transforms.io.scans import Scan, read_scan, scan_of
from synthsr_transforms.io.volumes import nifti_of, write_volume
from synthsr_transforms.support.devices import available_device, shared_here
from synthsr_transforms.support.memory import left_within, parse_size
from synthsr_transforms.support.messages import SynthSRError

from .checks.ct import is_ct
from .checks.ct import sampling as sampling_of_ct
from .checks.limits import limited
from .checks.limits import sampling as sampling_of_limits
from .checks.plausibility import check_plausible
from .checks.voxels import Voxels
from .exams.alignment import Exam, Placement, aligned_as_told
from .exams.network_space import exam_to_network_space, shares_of_scans
from .files import find_scans, plan_outputs, refuse_inputs
from .provenance import PredictionRecord
from .settings import PredictorSettings
from .space.preprocess import ScanSpace, check_number, scan_config, to_network_space

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage
    from torchio import ScalarImage
    from typing_extensions import Self

    from .space.postprocess import Segmentation

    AnyPath = str | os.PathLike[str]

log = logging.getLogger("synthsr_net")


class Result(Protocol):
    """What a model makes of a scan."""

    @property
    def image(self) -> Volume:
        """The image that is asked for."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about the scan and the image, one line each."""

    @property
    def segmentation(self) -> Segmentation | None:
        """Structures, if a segmentation network told them apart."""

    @property
    def extra(self) -> dict[str, Volume | None]:
        """Further images that can be written, by the names of `EXTRA_ENDINGS`."""


Made = TypeVar("Made", bound=Result)
Kind = TypeVar("Kind")


class Prepared(NamedTuple):
    """Scans on their way through the network.

    Attributes:
        scans: The scans as read, one per input of the model, or those of an exam that are used,
            in the space of the first.
        tensor: `(C, X, Y, Z)` float32, what the network takes, or `(N, C, X, Y, Z)` for several
            scans of an exam.
        space: The way back.
        plan: How to compute, once that was decided.
        placements: Of an exam, what became of each scan that was given.
        shares: Of several scans, `(N, X, Y, Z)`, what each of their predictions counts.
    """

    scans: tuple[Scan, ...]
    tensor: Tensor
    space: ScanSpace
    plan: Plan | None = None
    placements: tuple[Placement, ...] = ()
    shares: Tensor | None = None

    @property
    def first_scan(self) -> Tensor:
        """First channel `(X, Y, Z)` of the (first) scan in the tensor."""
        return self.tensor.flatten(0, -4)[0]

    @property
    def shown(self) -> Tensor:
        """All channels of all scans in the tensor, `(N, X, Y, Z)` without padding."""
        return self.tensor.flatten(0, -4)[(slice(None), *self.space.inside)]


class Inferer(Generic[Made, Kind]):
    """A model, ready to be applied to scans.

    Args:
        model: The model. Its network is moved to the device.
        settings: How to use it.
    """

    ending: ClassVar[str]
    """Suffix of the names of files that it writes."""
    choices: ClassVar[tuple[str, ...]] = ("flip",)
    """Settings that the model decides where they are None."""

    def __init__(self, model: Model, settings: PredictorSettings) -> None:
        self.settings = settings
        self.device = torch.device(available_device(settings.device))
        self.measures_on = self.device if self.device.type == "cuda" else torch.device("cpu")
        """Where scans are checked and resampled; other devices lack the types for it."""
        self.precision = resolve_precision(settings.precision, self.device)
        if not settings.uncertainty:
            model = model.without_scales()
        self.config = model.config
        self.network = model.network.to(self.device)
        self.scan_config = scan_config(self.config, settings.legacy)
        chosen = {
            name: getattr(self.scan_config if value is None else settings, name)
            for name, value in dataclasses.asdict(settings).items()
            if name in self.choices
        }
        self._is_warm = False
        self.flip: bool = chosen["flip"]
        self.chosen: Mapping[str, bool] = chosen
        self.record = PredictionRecord(model, settings, chosen)
        """Model and settings, for headers and sidecars."""

    @classmethod
    def _load(cls, path: AnyPath, settings: Mapping[str, Any], *, trainable: bool = False) -> Self:
        from synthsr_net.models.loading import load_model
        from synthsr_net.models.zoo.files import resolve_model

        PredictorSettings(**settings)  # wrong settings are reported before the model is loaded
        file = Path(resolve_model(path))
        make: Callable[..., Self] = cls
        made = make(load_model(file), **settings)
        if trainable:
            made.network.requires_grad_(True)
        else:
            made.record.path = file
        return made

    def save(self, path: AnyPath, *, name: str | None = None) -> None:
        """Write a model file with the weights that the network has now, atomically.

        Args:
            path: File ending in `.safetensors`, which is replaced if it exists.
            name: Name of the model; None means that of the file.

        Raises:
            SynthSRError: If the path has another ending.
            OSError: If the file cannot be written.
        """
        config = dataclasses.replace(self.config, name=name or Path(path).stem)
        save_model(path, config, self.network.state_dict())

    @overload
    def __call__(self, image: SpatialImage | Sequence[SpatialImage]) -> nib.Nifti1Image: ...

    @overload
    def __call__(self, image: ScalarImage | Sequence[ScalarImage]) -> Kind: ...

    @overload
    def __call__(
        self, image: AnyPath | Sequence[AnyPath], output: AnyPath | None = None
    ) -> Path: ...

    def __call__(self, image: Any, output: AnyPath | None = None) -> Any:
        """Apply the model to a path, a nibabel image or a `torchio.ScalarImage`.

        Args:
            image: The scan, or a list of scans: one for each input of the model, or, for a model
                that takes any number, all of one person, of which the first one gives the space.
            output: For paths, the file to write, which is replaced if it exists. By default it
                lies beside the scan, with `ending` in its name.

        Returns:
            The same kind as `image`: the path of the written file, a `nibabel.Nifti1Image` with
            both forms and the unit set, or an image of TorchIO, `(1, X, Y, Z)`. Warnings about the
            scan are given as Python warnings.

        Raises:
            SynthSRError: If a scan cannot be used.
        """
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        paths = [isinstance(each, (str, os.PathLike)) for each in images]
        if output is not None and not all(paths):
            raise SynthSRError(
                f"output goes with scans given by path, got {type(images[0]).__name__}. Leave it"
                " out: the result is returned."
            )
        target = self._output_path(images, output) if all(paths) else None
        scans = [
            read_scan(each) if is_path else scan_of(each)
            for each, is_path in zip(images, paths, strict=True)
        ]
        result = self.predict(scans)
        for text in result.warnings:
            warnings.warn(text, stacklevel=2)
        if target is not None:
            self.write(target, result.image)
            return target
        return self._like(images[0], result.image)

    def predict(self, scans: Sequence[Scan], *, lesion_mask: Volume | None = None) -> Made:
        """Apply the model to one scan per input.

        Args:
            scans: Scans, in the order of the model's inputs.
            lesion_mask: Where the first scan shows a lesion to keep, see `keep_lesion`.

        Raises:
            ValueError: If a scan cannot be used, or their number is not that of the inputs.
        """
        self.warm_up()
        prepared = self.planned(self.prepare(scans))
        return self.finish(prepared, self.infer(prepared), lesion_mask=lesion_mask)

    def warm_up(self) -> None:
        """Let kernels be compiled while the first scan is prepared, if that has not been done."""
        if not self._is_warm:
            self._is_warm = True
            warm_up(self.device, DTYPES[self.precision])

    # The three steps, which run in three threads over many scans

    def prepare(
        self,
        scans: Sequence[Scan],
        *,
        ct: bool | Sequence[bool | None] | None = None,
        transforms: Sequence[Affine | None] = (),
    ) -> Prepared:
        """First step: scans to the space of the network, on the device where there is a GPU.

        Args:
            scans: Scans, in the order of the model's inputs, or of an exam.
            ct: Whether they are CT, or each of them, where the settings do not say.
            transforms: For each scan of an exam, `(4, 4)` from points of the first to those of the
                scan, in mm of the world of NIfTI; None, or none at all: to be found.

        Raises:
            VolumeError: If one cannot be used, see `check_plausible` and `to_network_space`.
        """
        ct = ct if self.settings.ct is None else self.settings.ct
        cts = [ct] * len(scans) if ct is None or isinstance(ct, bool) else list(ct)
        check_number(self.config, len(scans))
        doubts, found, legacy = [], [], self.settings.legacy
        for scan, each in zip(scans, cts, strict=True):
            voxels = Voxels(scan.data, self.measures_on)
            voxels.order([kind(voxels.shape) for kind in SAMPLES])
            doubts += check_plausible(scan, self.settings.force, voxels)
            found.append((scan, voxels) if legacy else _limited(scan, each, voxels))
        scans = [scan for scan, _ in found]
        if len(scans) == len(self.config.inputs):
            measured = [voxels for _, voxels in found]
            tensor, space = to_network_space(
                scans, self.config, cts=cts, legacy=legacy, voxels=measured
            )
            space = dataclasses.replace(space, warnings=(*doubts, *space.warnings))
            return Prepared(tuple(scans), tensor, space)
        return self._prepare_exam(scans, cts, transforms or [None] * len(scans), doubts)

    def _prepare_exam(
        self,
        scans: Sequence[Scan],
        cts: Sequence[bool | None],
        transforms: Sequence[Affine | None],
        doubts: Sequence[str],
    ) -> Prepared:
        if self.settings.legacy is not None:
            raise SynthSRError(
                f"legacy takes one scan, as the original does, got {len(scans)}. Leave it out, or"
                " give one scan."
            )
        exam = self.aligned(scans, cts, transforms)
        used = [cts[p.index] for p in exam.placements if p.left_out is None]
        make = to_network_space if len(exam.scans) == 1 else exam_to_network_space
        tensor, space = make(exam.scans, self.config, cts=used)
        space = dataclasses.replace(space, warnings=(*doubts, *exam.warnings, *space.warnings))
        made = Prepared(exam.scans, tensor, space, placements=exam.placements)
        if len(exam.scans) == 1:
            return made
        return made._replace(shares=shares_of_scans(exam.scans, space, tensor.shape[-3:]))

    def aligned(
        self,
        scans: Sequence[Scan],
        cts: Sequence[bool | None],
        transforms: Sequence[Affine | None],
    ) -> Exam:
        """Scans of an exam in the space of the first; here, their headers are trusted.

        Args:
            scans: The scans.
            cts: Whether each is CT; None: unknown.
            transforms: See `prepare`.
        """
        return aligned_as_told(scans, transforms)

    def planned(self, prepared: Prepared) -> Prepared:
        """Decide how to compute within the memory that is available now.

        Raises:
            SynthSRError: If no way fits; the message gives figures and what to do.
        """
        limit = self.settings.max_memory
        limit = parse_size(limit) if isinstance(limit, str) else limit
        plan = plan_memory(
            self.config.network,
            prepared.tensor.shape[-3:],
            device=self.device,
            precision=self.precision,
            flip=self.flip,
            max_bytes=None if limit is None else left_within(limit, self.device),
            window=self.settings.window,
        )
        size = " x ".join(map(str, prepared.tensor.shape[-3:]))
        log.debug("%s voxels in %s on %s: %s", size, self.precision, self.device, plan)
        return prepared._replace(plan=plan)

    def infer(self, prepared: Prepared, *, flip: bool | None = None) -> Tensor:
        """Second step: the network, one at a time.

        Args:
            prepared: From the first step; planned here if it was not.
            flip: Whether to average with the mirrored scan; None: as set.

        Returns:
            `(O, X, Y, Z)` float32 on the device, which may still be computing it.
        """
        with _ONE_NETWORK:
            prepared = prepared if prepared.plan is not None else self.planned(prepared)
            shared_here(prepared.tensor)

            def predict(x: Tensor) -> Tensor:
                return predict_volume(
                    self.network,
                    x.to(self.device),
                    flip=self.flip if flip is None else flip,
                    plan=prepared.plan,
                    precision=self.precision,
                    **self.passes(),
                )

            if prepared.shares is None:
                return predict(prepared.tensor)
            scans = zip(prepared.tensor, prepared.shares, strict=True)
            return reduce(Tensor.add_, (predict(x).mul_(s.to(self.device)) for x, s in scans))

    def passes(self) -> dict[str, Any]:
        """Further arguments of `predict_volume`, for what is done in and between its passes."""
        return {}

    def finish(
        self, prepared: Prepared, output: Tensor, *, lesion_mask: Volume | None = None
    ) -> Made:
        """Third step: back to the space of the scan.

        Args:
            prepared: From the first step.
            output: From the second.
            lesion_mask: Where the first scan shows a lesion to keep.
        """
        raise NotImplementedError

    def write(self, path: str | os.PathLike[str], volume: Volume, description: str = "") -> None:
        """Write a volume of the result atomically; see `write_volume`.

        Args:
            path: File ending in `.nii`, `.nii.gz`, `.mgz` or `.npz`.
            volume: What to write.
            description: Text for the header; by default that of the record.
        """
        settings = self.settings
        write_volume(
            path,
            volume,
            legacy=settings.legacy is not None,
            description=description or self.record.describe(),
            dtype=settings.dtype,
        )

    def about_windows(self, plan: Plan | None) -> Iterator[str]:
        """Warnings of results that were put together from windows."""
        if plan is None or plan.window is None:
            return
        windows = f"windows of {' x '.join(map(str, plan.window))} voxels"
        if self.settings.window is None:
            yield (
                f"predicted in {windows} for lack of memory: intensities may differ a little from"
                " those of the whole volume."
            )
        if plan.local_statistics:
            yield (
                f"the network normalises by statistics of the volume it sees, and saw {windows}:"
                " contrast may differ between parts of the head. Allow more memory to avoid that."
            )

    def _like(self, image: Any, volume: Volume) -> Any:
        if isinstance(image, nib.spatialimages.SpatialImage):
            legacy = self.settings.legacy is not None
            return nifti_of(volume, legacy=legacy, description=self.record.describe())
        return self.torchio_image(image)(torch.as_tensor(volume.data)[None], affine=volume.affine)

    def torchio_image(self, image: Any) -> type:
        """Class of results for images of TorchIO."""
        return type(image)

    def _output_path(self, images: Sequence[AnyPath], output: AnyPath | None) -> Path:
        """File of the result from scans given by path."""
        source = find_scans(images[0])
        if source.kind != "file":
            raise SynthSRError(
                f"scan must be one file, got the {source.kind} {images[0]}. Use the command line,"
                " or go through its files."
            )
        folder = Path(images[0]).parent if output is None else output
        (target,) = plan_outputs(source, folder, self.ending)
        refuse_inputs([target], [Path(image) for image in images])
        return target


def _limited(scan: Scan, ct: bool | None, voxels: Voxels) -> tuple[Scan, Voxels]:
    """A scan without values that no tissue has, if it is not CT, and its voxels."""
    if ct or (ct is None and is_ct(scan.volume, voxels)):
        return scan, voxels
    mended = limited(scan, voxels)
    return mended, voxels if mended is scan else Voxels(mended.data, voxels.data.device)


SAMPLES = (thinning, sampling_of_ct, sampling_of_limits)
"""Which voxels the checks of a scan look at."""
_ONE_NETWORK = Lock()
"""One network computes at a time: two would take each other's memory and cores."""
