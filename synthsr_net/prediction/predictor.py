"""Prediction: scans in, 1 mm T1-weighted scans out, with one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from synthsr_net.models.checkpoint import Model
from synthsr_net.prediction.refinement.contrast_inversion import second_input
from synthsr_transforms.io.grids import Affine, Volume
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.support.messages import SynthSRError

from .exams.alignment import Exam, registered
from .files import ENDING
from .inferer import Inferer, Prepared
from .settings import PredictorSettings, check_inverse_contrast
from .space.postprocess import Prediction, from_network_space, pass_finisher

if TYPE_CHECKING:
    from torchio import ScalarImage  # noqa: F401 - named in a string
    from typing_extensions import Unpack

    from .inferer import AnyPath
    from .segmenter import Segmenter
    from .settings import PredictorOptions


class Predictor(Inferer[Prediction, "ScalarImage"]):
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

    ending: ClassVar[str] = ENDING
    choices: ClassVar[tuple[str, ...]] = ("flip", "inverse_contrast", "sharpen", "data_consistency")

    def __init__(self, model: Model, **settings: Unpack[PredictorOptions]) -> None:
        if model.config.structures:
            raise SynthSRError(
                f"the model must predict a scan, but {model.config.name} predicts probabilities of"
                f" {len(model.config.structures)} structures. Use synthsr segment, or choose"
                " another of `synthsr models`."
            )
        super().__init__(model, PredictorSettings(**settings))
        self.inverse_contrast: bool = self.chosen["inverse_contrast"]
        self.sharpen: bool = self.chosen["sharpen"]
        self.data_consistency: bool = self.chosen["data_consistency"]
        if self.inverse_contrast:
            check_inverse_contrast(self.config)
        self._registrar: Predictor | None = None
        self.segmenter: Segmenter | None = None
        """Segmentation network that predictions go through, see `add_segmenter`."""
        self._brain_only = False

    @classmethod
    def from_file(
        cls,
        path: AnyPath | None = None,
        *,
        trainable: bool = False,
        **settings: Unpack[PredictorOptions],
    ) -> Predictor:
        """Load a model.

        Args:
            path: Model file (`.safetensors`), Keras file of the original (`.h5`), or the name of a
                known model (see `synthsr models`). None: the model that ships with the package.
            trainable: Whether the weights of `network`, a PyTorch module in evaluation mode, take
                gradients, for a training loop of your own. Predictions are always in evaluation
                mode, with the weights as they are; `save` writes them.
            settings: Fields of `PredictorSettings`.

        Raises:
            SynthSRError: If the model cannot be used, or a setting is out of its range.
        """
        from synthsr_net.models.zoo.files import default_model

        return cls._load(path or default_model(), settings, trainable=trainable)

    def add_segmenter(self, segmenter: Segmenter, *, brain_only: bool = False) -> None:
        """Let predictions go through a segmentation network as well.

        Args:
            segmenter: The network.
            brain_only: See `Segmenter.segment_prediction`.

        Raises:
            SynthSRError: If it works at another voxel spacing.
        """
        segmenter.check_spacing(self.scan_config.spacing_mm)
        self.segmenter = segmenter
        self._brain_only = brain_only and self.config.output == "T1w"

    def aligned(
        self,
        scans: Sequence[Scan],
        cts: Sequence[bool | None],
        transforms: Sequence[Affine | None],
    ) -> Exam:
        """Scans of an exam in the space of the first, registered by predictions of the fast model.

        Args:
            scans: The scans.
            cts: Whether each is CT; None: unknown.
            transforms: See `prepare`.
        """
        if not self.settings.registration:
            return super().aligned(scans, cts, transforms)
        with _ONE_REGISTRAR:
            self._registrar = registrar = self._registrar or self._make_registrar()

        def predict(index: int) -> Volume:
            prepared = registrar.prepare([scans[index]], ct=cts[index])
            return registrar.finish(prepared, registrar.infer(prepared)).image

        return registered(scans, predict, transforms)

    def _make_registrar(self) -> Predictor:
        settings = self.settings
        return Predictor.from_file(
            REGISTRAR,
            device=str(self.device),
            precision=settings.precision,
            ct=settings.ct,
            force=True,  # what is no head was refused before
            max_memory=settings.max_memory,
            data_consistency=False,
        )

    def passes(self) -> dict[str, Any]:
        """Further arguments of `predict_volume`, for what is done in and between its passes."""
        finish = pass_finisher(self.config, self.scan_config)
        if not self.inverse_contrast:
            return {"finish": finish}
        return {"finish": finish, "second": partial(second_input, settings=self.scan_config)}

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
            scan=prepared.first_scan if self.data_consistency else None,
        )
        segmentation = None
        if self.segmenter is not None:
            segmentation = self.segmenter.segment_prediction(
                prediction.aligned,
                prepared.shown,
                prepared.space,
                self.settings.grid,
                brain_only=self._brain_only,
            )
        image = prediction.image
        doubts = [*prediction.warnings, *self.about_windows(prepared.plan)]
        if segmentation is not None:
            doubts += segmentation.warnings
        if lesion_mask is not None:
            from synthsr_net.prediction.refinement.lesions import keep_lesion

            image, more = keep_lesion(image, prepared.scans[0], lesion_mask)
            doubts += more
        return dataclasses.replace(
            prediction, image=image, warnings=tuple(doubts), segmentation=segmentation
        )


REGISTRAR = "fast"
"""Model whose predictions are registered."""
_ONE_REGISTRAR = Lock()
"""It is loaded once, by whichever thread comes first."""
