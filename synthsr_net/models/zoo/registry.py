"""Published models of the original authors: their weights on the web, and their settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pooch

from synthsr_net.models.checkpoint import InputConfig, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNetConfig
from synthsr_transforms.support.messages import SynthSRError

_GITHUB = "https://raw.githubusercontent.com/freesurfer/freesurfer/dev/mri_synthsr"
_ANNEX = "https://surfer.nmr.mgh.harvard.edu/pub/dist/freesurfer/repo/annex.git/annex/objects"

_FREESURFER: Mapping[str, Any] = {
    "licence": "FreeSurfer Software License",
    "licence_note": (
        "These weights are distributed with FreeSurfer; its terms are at "
        "https://surfer.nmr.mgh.harvard.edu/fswiki/FreeSurferSoftwareLicense"
    ),
}
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

_V2_SCAN: Mapping[str, Any] = {
    "normalise_after_padding": True,
    "clip_each_pass": True,
    "sharpen": True,
}
"""Settings of a `ScanConfig` for the v2 models of FreeSurfer; v1 has its defaults."""
_HYPERFINE_SCAN: Mapping[str, Any] = {"residual_input": 0, "output_range": None, "flip": False}
_HYPERFINE_INPUTS: tuple[Mapping[str, Any], ...] = (
    {"name": "T1", "contrast": "T1w", "maximum": 3.0},
    {"name": "T2", "contrast": "T2w", "maximum": 2.0},
)


class ModelError(SynthSRError):
    """A model that cannot be had; the message names it and says what to do."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published model of the original authors.

    Examples:
        >>> PUBLISHED_MODELS["synthsr-v1"].size_bytes
        53075984
    """

    name: str
    description: str
    licence: str
    """In short."""
    licence_note: str
    """Source of the terms."""
    citation: str
    """Publications to cite, one per line."""
    file: str
    """Name of the Keras weight file."""
    url: str | None = None
    """Address of the file; None if it cannot be downloaded."""
    size_bytes: int | None = None
    sha256: str | None = None
    """In hexadecimal digits."""
    inputs: tuple[Mapping[str, Any], ...] = ({},)
    """Settings of the `InputConfig` of each scan that the network takes."""
    scan: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its `ScanConfig`."""


def _annexed(folder: str, size_bytes: int, sha256: str) -> dict[str, Any]:
    """Address, size and checksum of a file in the annex of FreeSurfer."""
    key = f"SHA256E-s{size_bytes}--{sha256}.h5"
    return {"url": f"{_ANNEX}/{folder}/{key}/{key}", "size_bytes": size_bytes, "sha256": sha256}


PUBLISHED_MODELS: Mapping[str, PublishedModel] = {
    model.name: model
    for model in (
        PublishedModel(
            name="synthsr-v2",
            description="Any MRI contrast, or CT; version 2.0 of January 2023, as in FreeSurfer.",
            **_FREESURFER,
            citation=f"{_SCIENCE_ADVANCES}\n{_NEUROIMAGE}",
            file="synthsr_v20_230130.h5",
            scan=_V2_SCAN,
            **_annexed(
                "f08/bc9",
                106_163_752,
                "a472f776e7b33b5ea6e10c801f55fee488f1477a208b3e6998dc1aec1d9c5f8b",
            ),
        ),
        PublishedModel(
            name="synthsr-lowfield-v2",
            description=(
                "One scan of a portable low-field scanner (0.064 T), of any contrast; version 2.0 "
                "of January 2023, as in FreeSurfer."
            ),
            **_FREESURFER,
            citation=f"{_RADIOLOGY}\n{_SCIENCE_ADVANCES}",
            file="synthsr_lowfield_v20_230130.h5",
            scan=_V2_SCAN,
            **_annexed(
                "de0/799",
                106_163_752,
                "a7c5ea91c94fe31f3c716252caae0d181629201bd884dc59af88ddfd75ed4b84",
            ),
        ),
        PublishedModel(
            name="synthsr-v1",
            description="Any MRI contrast, or CT; version 1.0 of July 2021.",
            **_FREESURFER,
            citation=f"{_SCIENCE_ADVANCES}\n{_NEUROIMAGE}",
            file="synthsr_v10_210712.h5",
            url=f"{_GITHUB}/synthsr_v10_210712.h5",
            size_bytes=53_075_984,
            sha256="2fd59e96196388360eba95254fb6dfc9eb9eb8638018b590575e47e0a387f255",
        ),
        PublishedModel(
            name="synthsr-hyperfine",
            description=(
                "A T1-weighted and a T2-weighted scan of a Hyperfine scanner (0.064 T); version "
                "1.0 of July 2021."
            ),
            licence="Apache-2.0",
            licence_note=(
                "That of the repository that holds the file, https://github.com/BBillot/SynthSR"
            ),
            citation=f"{_RADIOLOGY}\n{_NEUROIMAGE}",
            file="SynthSR_v10_210712_hyperfine.h5",
            inputs=_HYPERFINE_INPUTS,
            scan=_HYPERFINE_SCAN,
        ),
    )
}
"""All published models, by name."""

_BY_CHANNELS = {1: "synthsr-v1", 2: "synthsr-hyperfine"}


def config_of_known(known: PublishedModel, network: UNetConfig | None = None) -> ModelConfig:
    """Config of a published model.

    Args:
        known: The model.
        network: Its architecture, where it was read from the weights; None for the published one.

    Examples:
        >>> config_of_known(PUBLISHED_MODELS["synthsr-v2"]).scan.sharpen
        True
    """
    return _config(
        known,
        network or UNetConfig(in_channels=len(known.inputs)),
        name=known.name,
        description=known.description,
        licence=f"{known.licence}. {known.licence_note}",
        citation=known.citation,
    )


def config_of_keras(path: str | os.PathLike[str], network: UNetConfig) -> ModelConfig:
    """Config of a Keras file, which does not say how scans become inputs.

    A file of the registry, known by its checksum or else by its name, has the settings there. Any
    other is taken for a model as the original trains them by default: of one scan of any contrast
    (as synthsr-v1), or of two low-field scans (as synthsr-hyperfine). The description says so.

    Args:
        path: The file.
        network: Its architecture, read from the weights.

    Raises:
        ModelError: If the channels fit neither.
    """
    path = Path(path)
    fitting = [m for m in PUBLISHED_MODELS.values() if len(m.inputs) == network.in_channels]
    for known in fitting:
        if _is_file_of(known, path):
            return config_of_known(known, network)
    named = [m for m in fitting if m.file.lower() == path.name.lower()]
    if network.out_channels != 1 or network.in_channels not in _BY_CHANNELS:
        raise ModelError(
            f"{path} must have one or two input channels and one output channel to be used as it"
            f" is, got {network.in_channels} and {network.out_channels}. Say what they are by"
            " synthsr convert-weights --inputs."
        )
    known = named[0] if named else PUBLISHED_MODELS[_BY_CHANNELS[network.in_channels]]
    why = "file name" if named else "number of channels"
    return _config(
        known,
        network,
        name=path.stem,
        description=f"Keras file {path.name}, used with the settings of {known.name}, to which"
        f" its {why} points.",
    )


def _is_file_of(known: PublishedModel, path: Path) -> bool:
    same_size = path.stat().st_size == known.size_bytes
    return same_size and pooch.file_hash(str(path)) == known.sha256


def _config(known: PublishedModel, network: UNetConfig, **described: Any) -> ModelConfig:
    """Settings of a known model, for a network, which may have another depth."""
    divisor = 2**network.num_levels  # as in the original, though half of it would do
    return ModelConfig(
        network=network,
        inputs=[InputConfig(**image) for image in known.inputs],
        scan=ScanConfig(**{"divisor": divisor, **known.scan}),
        **described,
    )
