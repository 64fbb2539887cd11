"""Prediction: scans in, 1 mm T1-weighted scans out, with one model."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import nibabel as nib
import torch
from torch import Tensor

from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import Plan, plan_memory
from synthsr_net.inference.precision import resolve_precision
from synthsr_net.models.checkpoint import Model
from synthsr_net.prediction.refinement.contrast_inversion import second_input
from synthsr_net.prediction.refinement.lesions import keep_lesion
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import Scan, read_scan, scan_of
from synthsr_transforms.io.volumes import nifti_of, write_volume
from synthsr_transforms.support.devices import available_device
from synthsr_transforms.support.memory import left_within, parse_size
from synthsr_transforms.support.messages import SynthSRError

from .ct import is_ct
from .files import find_scans, plan_outputs, refuse_inputs
from .limits import limited
from .plausibility import check_plausible
from .postprocess import Prediction, from_network_space, pass_finisher
from .preprocess import ScanSpace, scan_config, to_network_space
from .provenance import PredictionRecord
from .settings import PredictorSettings, check_inverse_contrast

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage
    from torchio import ScalarImage
    from typing_extensions import Unpack

    from .settings import PredictorOptions

    AnyPath = str | os.PathLike[str]


class Prepared(NamedTuple):
    """Scans on their way through the network.

    Attributes:
        scans: The scans as read, one per input of the model.
        tensor: `(C, X, Y, Z)` float32, what the network takes.
        space: The way back.
        plan: How to compute, once that was decided.
    """

    scans: tuple[Scan, ...]
    tensor: Tensor
    space: ScanSpace
    plan: Plan | None = None


class Predictor:
    """A model, ready to turn scans into predictions.

    Args:
        model: The model. Its network is moved to the device.
        settings: Fields of `PredictorSettings`.

    Examples:
        >>> import numpy as np, nibabel as nib
        >>> from synthsr_net.models.checkpoint import ModelConfig, ScanConfig
        >>> from synthsr_net.networks.unet import UNet3d, UNetConfig
        >>> network = UNetConfig(num_levels=2, num_features=2)
        >>> config = ModelConfig(network=network, scan=ScanConfig(spacing_mm=5.0))
        >>> predictor = Predictor(Model(config, UNet3d(network).eval()), device="cpu")
        >>> noise = np.random.default_rng(0).random((20, 20, 10))
        >>> predictor(nib.Nifti1Image(noise, np.diag([5, 5, 10, 1]))).shape
        (20, 20, 20)
    """

    def __init__(self, model: Model, **settings: Unpack[PredictorOptions]) -> None:
        if model.config.structures:
            raise SynthSRError(
                f"the model must predict a scan, but {model.config.name} predicts probabilities of"
                f" {len(model.config.structures)} structures. Choose another of `synthsr models`."
            )
        self.settings = PredictorSettings(**settings)
        self.device = torch.device(available_device(self.settings.device))
        self.precision = resolve_precision(self.settings.precision, self.device)
        self.config = model.config
        self.network = model.network.to(self.device)
        self.scan_config = scan_config(self.config, self.settings.legacy)
        choices = {
            name: getattr(self.scan_config if value is None else self.settings, name)
            for name, value in dataclasses.asdict(self.settings).items()
            if name in ("flip", "inverse_contrast", "sharpen", "data_consistency")
        }
        self.flip: bool = choices["flip"]
        self.inverse_contrast: bool = choices["inverse_contrast"]
        if self.inverse_contrast:
            check_inverse_contrast(self.config)
        self.sharpen: bool = choices["sharpen"]
        self.data_consistency: bool = choices["data_consistency"]
        self.record = PredictionRecord(model, self.settings, choices)
        """Model and settings, for headers and sidecars."""

    @classmethod
    def from_file(
        cls, path: AnyPath | None = None, **settings: Unpack[PredictorOptions]
    ) -> Predictor:
        """Load a model.

        Args:
            path: Model file (`.safetensors`), Keras file of the original (`.h5`), or the name of a
                known model (see `synthsr models`). None: the model that ships with the package.
            settings: Fields of `PredictorSettings`.

        Raises:
            SynthSRError: If the model cannot be used, or a setting is out of its range.
        """
        from synthsr_net.models.loading import load_model
        from synthsr_net.models.zoo.files import default_model, resolve_model

        PredictorSettings(**settings)  # wrong settings are reported before the model is loaded
        file = Path(resolve_model(path or default_model()))
        predictor = cls(load_model(file), **settings)
        predictor.record.path = file
        return predictor

    @overload
    def __call__(self, image: SpatialImage | Sequence[SpatialImage]) -> nib.Nifti1Image: ...

    @overload
    def __call__(self, image: ScalarImage | Sequence[ScalarImage]) -> ScalarImage: ...

    @overload
    def __call__(
        self, image: AnyPath | Sequence[AnyPath], output: AnyPath | None = None
    ) -> Path: ...

    def __call__(self, image: Any, output: AnyPath | None = None) -> Any:
        """Predict from a path, a nibabel image or a `torchio.ScalarImage`.

        Args:
            image: The scan, or a list of scans for a model with several inputs.
            output: For paths, the file to write, which is replaced if it exists. By default it
                lies beside the scan, with `_synthsr` in its name.

        Returns:
            The same kind as `image`: the path of the written prediction, a `nibabel.Nifti1Image`
            with both forms and the unit set, or a `torchio.ScalarImage` `(1, X, Y, Z)` float32.
            Warnings about the scan are given as Python warnings.

        Raises:
            SynthSRError: If a scan cannot be used.
        """
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        paths = [isinstance(each, (str, os.PathLike)) for each in images]
        if output is not None and not all(paths):
            raise SynthSRError(
                f"output goes with scans given by path, got {type(images[0]).__name__}. Leave it"
                " out: the prediction is returned."
            )
        target = _output_path(images, output) if all(paths) else None
        scans = [
            read_scan(each) if is_path else scan_of(each)
            for each, is_path in zip(images, paths, strict=True)
        ]
        prediction = self.predict(scans)
        for text in prediction.warnings:
            warnings.warn(text, stacklevel=2)
        if target is not None:
            self.write(target, prediction.image)
            return target
        return self._like(images[0], prediction.image)

    def predict(self, scans: Sequence[Scan], *, lesion_mask: Volume | None = None) -> Prediction:
        """Predict from one scan per input of the model.

        Args:
            scans: Scans, in the order of the model's inputs.
            lesion_mask: Where the first scan shows a lesion to keep, see `keep_lesion`.

        Raises:
            ValueError: If a scan cannot be used, or their number is not that of the inputs.
        """
        prepared = self.planned(self.prepare(scans))
        return self.finish(prepared, self.infer(prepared), lesion_mask=lesion_mask)

    # The three steps of a prediction, which run in three threads over many scans

    def prepare(self, scans: Sequence[Scan], *, ct: bool | None = None) -> Prepared:
        """First step: scans to the space of the network, on the CPU.

        Args:
            scans: Scans, in the order of the model's inputs.
            ct: Whether they are CT, where the settings do not say.

        Raises:
            VolumeError: If one cannot be used, see `check_plausible` and `to_network_space`.
        """
        ct = ct if self.settings.ct is None else self.settings.ct
        doubts = [text for scan in scans for text in check_plausible(scan, self.settings.force)]
        if not ct and self.settings.legacy is None:
            keeps = [ct is None and is_ct(scan.volume) for scan in scans]
            scans = [s if keep else limited(s) for s, keep in zip(scans, keeps, strict=True)]
        tensor, space = to_network_space(scans, self.config, ct=ct, legacy=self.settings.legacy)
        space = dataclasses.replace(space, warnings=(*doubts, *space.warnings))
        return Prepared(tuple(scans), tensor, space)

    def planned(self, prepared: Prepared) -> Prepared:
        """Decide how to compute within the memory that is available now.

        Raises:
            SynthSRError: If no way fits; the message gives figures and what to do.
        """
        limit = self.settings.max_memory
        limit = parse_size(limit) if isinstance(limit, str) else limit
        plan = plan_memory(
            self.config.network,
            prepared.tensor.shape[1:],
            device=self.device,
            precision=self.precision,
            max_bytes=None if limit is None else left_within(limit, self.device),
            window=self.settings.window,
        )
        return prepared._replace(plan=plan)

    def infer(self, prepared: Prepared, *, flip: bool | None = None) -> Tensor:
        """Second step: the network.

        Args:
            prepared: From the first step.
            flip: Whether to average with the mirrored scan; None: as set.

        Returns:
            `(O, X, Y, Z)` float32 on the device, which may still be computing it.
        """
        inverts = self.inverse_contrast
        return predict_volume(
            self.network,
            prepared.tensor.to(self.device),
            flip=self.flip if flip is None else flip,
            second=partial(second_input, settings=self.scan_config) if inverts else None,
            plan=prepared.plan,
            precision=self.precision,
            finish=pass_finisher(self.config, self.scan_config),
        )

    def finish(
        self, prepared: Prepared, output: Tensor, *, lesion_mask: Volume | None = None
    ) -> Prediction:
        """Third step: back to the space of the scan, on the CPU.

        Args:
            prepared: From the first step.
            output: From the second.
            lesion_mask: Where the first scan shows a lesion to keep.
        """
        prediction = from_network_space(
            output,
            prepared.space,
            self.config,
            grid=self.settings.grid,
            sharpen=self.sharpen,
            scan=prepared.tensor[0] if self.data_consistency else None,
        )
        image, doubts = (
            prediction.image,
            [*prediction.warnings, *self._about_windows(prepared.plan)],
        )
        if lesion_mask is not None:
            image, more = keep_lesion(image, prepared.scans[0], lesion_mask)
            doubts += more
        return dataclasses.replace(prediction, image=image, warnings=tuple(doubts))

    def write(self, path: str | os.PathLike[str], volume: Volume, description: str = "") -> None:
        """Write a prediction, or its Laplace scale, atomically; see `write_volume`.

        Args:
            path: File ending in `.nii`, `.nii.gz`, `.mgz` or `.npz`.
            volume: What to write.
            description: Text for the header; by default that of the record.
        """
        legacy = self.settings.legacy is not None
        write_volume(path, volume, legacy=legacy, description=description or self.record.describe())

    def _about_windows(self, plan: Plan | None) -> Iterator[str]:
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
        return type(image)(torch.as_tensor(volume.data)[None], affine=volume.affine)


def _output_path(images: Sequence[AnyPath], output: AnyPath | None) -> Path:
    """File of the prediction from scans given by path."""
    source = find_scans(images[0])
    if source.kind != "file":
        raise SynthSRError(
            f"scan must be one file, got the {source.kind} {images[0]}. Use synthsr predict, or"
            " go through its files."
        )
    (target,) = plan_outputs(source, Path(images[0]).parent if output is None else output)
    refuse_inputs([target], [Path(image) for image in images])
    return target
