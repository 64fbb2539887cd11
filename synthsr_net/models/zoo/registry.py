"""Published models of the original authors: their weights on the web, and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthsr_net.models.checkpoint import InputConfig, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNetConfig
from synthsr_transforms.support.messages import SynthSRError

_GITHUB = "https://raw.githubusercontent.com/freesurfer/freesurfer/dev/mri_synthsr"
_ANNEX = "https://surfer.nmr.mgh.harvard.edu/pub/dist/freesurfer/repo/annex.git/annex/objects"

_FREESURFER = (
    "FreeSurfer Software License. These weights are distributed with FreeSurfer; its terms are at "
    "https://surfer.nmr.mgh.harvard.edu/fswiki/FreeSurferSoftwareLicense"
)
_SCIENCE_ADVANCES = (
    "Iglesias JE, Billot B, Balbastre Y, et al. SynthSR: A public AI tool to turn heterogeneous "
    "clinical brain scans into high-resolution T1-weighted images for 3D morphometry. Science "
    "Advances 9(5):eadd3607 (2023). doi:10.1126/sciadv.add3607"
)
_NEUROIMAGE = (
    "Iglesias JE, Billot B, Balbastre Y, et al. Joint super-resolution and synthesis of 1 mm "
    "isotropic MP-RAGE volumes from clinical MRI exams with scans of different orientation, "
    "resolution and contrast. NeuroImage 237:118206 (2021). doi:10.1016/j.neuroimage.2021.118206"
)
_RADIOLOGY = (
    "Iglesias JE, Schleicher R, Laguna S, et al. Quantitative brain morphometry of portable "
    "low-field-strength MRI using super-resolution machine learning. Radiology (2022). "
    "doi:10.1148/radiol.220522"
)

_V2_SCAN = ScanConfig(normalise_after_padding=True, clip_each_pass=True, sharpen=True)
"""Of the v2 models of FreeSurfer; v1 has the defaults."""


class ModelError(SynthSRError):
    """A model that cannot be had; the message names it and says what to do."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published model of the original authors.

    Examples:
        >>> PUBLISHED_MODELS["synthsr-v1"].size_bytes
        53075984
    """

    config: ModelConfig
    """Everything about it but its weights. The first sentence of the licence names it in short."""
    file: str
    """Name of the Keras weight file."""
    url: str | None = None
    """Address of the file; None if it cannot be downloaded."""
    size_bytes: int | None = None
    sha256: str | None = None
    """In hexadecimal digits."""


def _annexed(folder: str, size_bytes: int, sha256: str) -> dict[str, Any]:
    """Address, size and checksum of a file in the annex of FreeSurfer."""
    key = f"SHA256E-s{size_bytes}--{sha256}.h5"
    return {"url": f"{_ANNEX}/{folder}/{key}/{key}", "size_bytes": size_bytes, "sha256": sha256}


PUBLISHED_MODELS: Mapping[str, PublishedModel] = {
    model.config.name: model
    for model in (
        PublishedModel(
            config=ModelConfig(
                name="synthsr-v2",
                description="Any MRI contrast, or CT; version 2.0 of January 2023, as in "
                "FreeSurfer.",
                licence=_FREESURFER,
                citation=f"{_SCIENCE_ADVANCES}\n{_NEUROIMAGE}",
                scan=_V2_SCAN,
            ),
            file="synthsr_v20_230130.h5",
            **_annexed(
                "f08/bc9",
                106_163_752,
                "a472f776e7b33b5ea6e10c801f55fee488f1477a208b3e6998dc1aec1d9c5f8b",
            ),
        ),
        PublishedModel(
            config=ModelConfig(
                name="synthsr-lowfield-v2",
                description="One scan of a portable low-field scanner (0.064 T), of any contrast; "
                "version 2.0 of January 2023, as in FreeSurfer.",
                licence=_FREESURFER,
                citation=f"{_RADIOLOGY}\n{_SCIENCE_ADVANCES}",
                scan=_V2_SCAN,
            ),
            file="synthsr_lowfield_v20_230130.h5",
            **_annexed(
                "de0/799",
                106_163_752,
                "a7c5ea91c94fe31f3c716252caae0d181629201bd884dc59af88ddfd75ed4b84",
            ),
        ),
        PublishedModel(
            config=ModelConfig(
                name="synthsr-v1",
                description="Any MRI contrast, or CT; version 1.0 of July 2021.",
                licence=_FREESURFER,
                citation=f"{_SCIENCE_ADVANCES}\n{_NEUROIMAGE}",
            ),
            file="synthsr_v10_210712.h5",
            url=f"{_GITHUB}/synthsr_v10_210712.h5",
            size_bytes=53_075_984,
            sha256="2fd59e96196388360eba95254fb6dfc9eb9eb8638018b590575e47e0a387f255",
        ),
        PublishedModel(
            config=ModelConfig(
                name="synthsr-hyperfine",
                description="A T1-weighted and a T2-weighted scan of a Hyperfine scanner (0.064 "
                "T); version 1.0 of July 2021.",
                licence="Apache-2.0. That of the repository that holds the file, "
                "https://github.com/BBillot/SynthSR",
                citation=f"{_RADIOLOGY}\n{_NEUROIMAGE}",
                network=UNetConfig(in_channels=2),
                inputs=[
                    InputConfig(name="T1", contrast="T1w", maximum=3.0),
                    InputConfig(name="T2", contrast="T2w", maximum=2.0),
                ],
                scan=ScanConfig(residual_input=0, output_range=None, flip=False),
            ),
            file="SynthSR_v10_210712_hyperfine.h5",
        ),
    )
}
"""All published models, by name."""
