"""Public tutorial data by name: downloaded once, checked by SHA-256, and kept.

Files are kept in `<root>/<name>/`. A file that is there and whole is not downloaded again, so that
everything works offline from then on. `<root>` is the argument `root`, else the environment
variable `SYNTHSR_DATA`, else the user's cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from synthsr_transforms.support.downloads import WebFile, data_root, fetch
from synthsr_transforms.support.messages import check_choice

_GITHUB = "https://raw.githubusercontent.com/BBillot"
_SYNTHSR = f"{_GITHUB}/SynthSR/12091c066be702b677976ff3e485d44396dfed52/data"
_SYNTHSEG = f"{_GITHUB}/SynthSeg/3168fdf38ad220bd1927be43b67c5e9409a78ee7/data"

_SYNTHSR_CITATION = (
    "Iglesias JE, Billot B, Balbastre Y, et al. Joint super-resolution and synthesis of 1 mm "
    "isotropic MP-RAGE volumes from clinical MRI exams with scans of different orientation, "
    "resolution and contrast. NeuroImage 237:118206 (2021). doi:10.1016/j.neuroimage.2021.118206"
)
_SYNTHSEG_CITATION = (
    "Billot B, Greve DN, Puonti O, et al. SynthSeg: Segmentation of brain MRI scans of any "
    "contrast and resolution without retraining. Medical Image Analysis 86:102789 (2023). "
    "doi:10.1016/j.media.2023.102789"
)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A named list of files on the web.

    Examples:
        >>> DATASETS["synthsr_labels"].licence
        'Apache-2.0'
    """

    name: str
    description: str
    licence: str
    """SPDX identifier."""
    citation: str
    """The publication to cite when the data are used."""
    base_url: str
    """Web folder of the files."""
    registry: Mapping[str, str]
    """File name -> SHA-256, in hexadecimal digits."""

    def fetch(
        self,
        *,
        root: str | os.PathLike[str] | None = None,
        base_url: str | None = None,
        progressbar: bool = False,
    ) -> list[Path]:
        """Download the files that are not there yet.

        Args:
            root: Folder in which data sets are kept; the files go to `<root>/<name>/`. By
                default the environment variable `SYNTHSR_DATA`, else the user's cache folder.
            base_url: Web folder to download from instead of the original one (a mirror).
            progressbar: Show the progress of every download on standard error.

        Returns:
            Paths of all files, in the order of `registry`.

        Raises:
            DownloadError: A file cannot be reached, or its checksum is wrong.
        """
        folder, base = data_root(root) / self.name, (base_url or self.base_url).rstrip("/")
        return [
            fetch(
                WebFile(url=f"{base}/{name}", path=folder / name, sha256=checksum),
                progressbar=progressbar,
            )
            for name, checksum in self.registry.items()
        ]


_SYNTHSR_LABELS = """
bb81662d4827f58477a877a073ccacf9384d339e1f7208b8113ddb2b62dcc62d  brain1_labels.nii.gz
70b51d5fb65ab767c6e823efc7b3ce68f5484e0b016c5d224be0884a2629eaf0  brain2_labels.nii.gz
a51188c39574ddf0e8788750ba0bfff51355834b9927373d0e98e7f473873653  brain3_labels.nii.gz
c9732544341cd9c35294d1e6fea20944f354b9e46982df037b25ceab46b6ce19  brain4_labels.nii.gz
e5b02514c15f5d6a67f68d384a78e1aa8d41e6056898b40523f5b7037f1c1b30  brain5_labels.nii.gz
"""

_SYNTHSR_PRIORS = """
54392ad00780232cf36831cef4aff62f094e744bee503f3fa2d28a4c395987b3  generation_classes.npy
7ecc0ac1850bff54275009be2e6e21fa0a1aaf187da3dc67efa6924d35ba8ac2  generation_labels.npy
bf7b1d83559caf3e03f0c3dc1e39b05a037e530404c91031422e03705ae44da6  prior_means_t1_hr.npy
5a3fe9b57310dfd3b4a905a8c7b7e6de6f258b5a8bb0933b1b06358e69f0f5b2  prior_means_t1_lr.npy
7cd99c7c621e8a1231b4a4987b237ba0e35d8c962bdada6d39486f24840a522f  prior_means_t2.npy
a5ab3bdd8668748d70a56a1aebe42a4d05bad6f79d7283d7fb3647d42204c9b3  prior_stds_t1_hr.npy
f06062669f247a8e44358b999360b1cbc450292e92e3341d6193686ee234bcbc  prior_stds_t1_lr.npy
c07e8533600715df08efc01905d0a657ebf72f04a9dc0200fec41bae863644af  prior_stds_t2.npy
"""

_SYNTHSEG_LABELS = """
edbf1229a0552f8ce37438d02f59e810583b71b0a1b4d31dc38e5e2b2517acb1  training_seg_01.nii.gz
65e64c6b9415f389dfda5182ec3a269836925b04166ea82f47b230e54980d0a4  training_seg_02.nii.gz
f746e2f90e4dccd7bbbdc18bdd6374e455ddb7fc044504a0a42edc8507cf1aa0  training_seg_03.nii.gz
fbcf9d5d3b946dc53cff2e9954abb8c8172960ac35b1bf80c3ca240b4feda140  training_seg_04.nii.gz
a53baa7b0faea832d45f8a5b9a234b2b6d4ca92bf5c98baeada4a935cc2f1183  training_seg_05.nii.gz
57d8c612469359da78b7c16647cc6979be461eb03b59805e7ebded51554f9ead  training_seg_06.nii.gz
feaa1e8f320e037709a51e30881fe8076a45fc06611a09bbd87e76f8f3f89826  training_seg_07.nii.gz
f4a9d39c5c64bc5457de84b10a4c4b47f3bb6257e9f396ffa61d290015f178d2  training_seg_08.nii.gz
6f41f2b755c97185167d887d95180ca4c754578f81cd30fe8119df1e20bb27d5  training_seg_09.nii.gz
4a0147bf1d52c6853176777554165d79a01656ddb8f8474da48b65d6218b664e  training_seg_10.nii.gz
02e468bbb652ff0da18eeb73932f09813150ef95155ba7669831849da8517196  training_seg_11.nii.gz
5d0a47dd3ff4d821cc758e388a49da5744bf86dee423ed93bf727472a8454d8d  training_seg_12.nii.gz
d11cf676fbd5b9316fe30acbca98c854cf88dbcee74a5fe22092ac91ccd8d3a1  training_seg_13.nii.gz
7b8d1783c1b5b71b454644169d848b28fa57a33ca4a9b49ff88ad897b8aea570  training_seg_14.nii.gz
a896e39351622c2e138195780ba267811d7d162df0da0091126550f5de3b74ff  training_seg_15.nii.gz
f48c442569883055440a930ad098b4e747d72deb6369f529e4486c36b0cbfe81  training_seg_16.nii.gz
b3497de68fe813494b619d71513bafc872b7e367ee442decd8fabc094f4402fc  training_seg_17.nii.gz
dbf3b2297907c88481594a2441a47aa13c75452cd7323fec0313b785b04c9671  training_seg_18.nii.gz
719d714096fdd3c0964ad9dae6115cef9de8d93a25105504879b0dfa844da0f8  training_seg_19.nii.gz
4c2ab7e6a7711a6e00b7e6c6b40d5fd8c318d0aea3c472248b97d9d4c8cea555  training_seg_20.nii.gz
"""


def _registry(checksums: str) -> dict[str, str]:
    """File name -> checksum, from lines as `sha256sum` writes them."""
    pairs = (line.split() for line in checksums.strip().splitlines())
    return {file: checksum for checksum, file in pairs}


DATASETS: Mapping[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="synthsr_labels",
            description=(
                "5 brain label maps, 1 mm, FreeSurfer labels with left and right merged, "
                "from the tutorial of SynthSR."
            ),
            licence="Apache-2.0",
            citation=_SYNTHSR_CITATION,
            base_url=f"{_SYNTHSR}/labels",
            registry=_registry(_SYNTHSR_LABELS),
        ),
        Dataset(
            name="synthsr_priors",
            description=(
                "Label list, classes and intensity priors (T1 at two resolutions, T2) that go "
                "with synthsr_labels."
            ),
            licence="Apache-2.0",
            citation=_SYNTHSR_CITATION,
            base_url=f"{_SYNTHSR}/labels_classes_priors",
            registry=_registry(_SYNTHSR_PRIORS),
        ),
        Dataset(
            name="synthseg_labels",
            description=(
                "20 whole-head label maps, 1 mm, FreeSurfer labels with sides and "
                "extracerebral labels, from the training data of SynthSeg."
            ),
            licence="Apache-2.0",
            citation=_SYNTHSEG_CITATION,
            base_url=f"{_SYNTHSEG}/training_label_maps",
            registry=_registry(_SYNTHSEG_LABELS),
        ),
    )
}
"""All data sets, by name."""


def fetch_dataset(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    progressbar: bool = False,
) -> list[Path]:
    """Download a data set, or find it on disk.

    Args:
        name: One of `DATASETS`.
        root: See `Dataset.fetch`, as for the other arguments.
        base_url: Web folder to download from instead of the original one.
        progressbar: Show the progress of every download on standard error.

    Returns:
        Paths of its files, sorted by name.

    Examples:
        >>> paths = fetch_dataset("synthsr_labels")  # doctest: +SKIP
        >>> paths[0].name  # doctest: +SKIP
        'brain1_labels.nii.gz'
    """
    check_choice("name", name, DATASETS)
    return DATASETS[name].fetch(root=root, base_url=base_url, progressbar=progressbar)
