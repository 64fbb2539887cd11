"""Make the pictures of the documentation: transforms, presets and commands.

The head is the built-in phantom, or that of the scan that `synthsr example` writes: pictures show
nobody.

Usage: python examples/gallery.py [--out docs/images/gallery] [NAME ...]

NAME is a transform, a preset or a command; without any, all pictures are made, which takes a few
minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import torchio as tio
from matplotlib.figure import Figure
from PIL import Image
from torchio.data.batch import SubjectsBatch
from tutorial_data import contrast_of, drawn

import synthsr_transforms.transforms as transforms
from synthsr_net.example import EXAMPLE_SCAN
from synthsr_transforms import Generator
from synthsr_transforms.drawing.colours import label_colours
from synthsr_transforms.drawing.panels import Panel, draw_grid, figure_array, write
from synthsr_transforms.drawing.planes import panels_through, view_of
from synthsr_transforms.drawing.slices import (
    PLANES,
    Row,
    centre_of_labels,
    centre_of_mass,
    outlined,
    slice_panel,
)
from synthsr_transforms.generator.config import load_config, preset_names
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.volumes import read_volume, write_volume
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import PHANTOM_LABELS, head_phantom
from synthsr_transforms.subjects.files import phantom_subject, read_subject
from synthsr_transforms.support.atomic import replacing

GALLERY = Path(__file__).parents[1] / "docs" / "images" / "gallery"
TABLE = "synthseg"
SEED, MIXTURE_SEED, INSERTION_SEED = 5, 4, 1
SAGITTAL, CORONAL, AXIAL = 0, 1, 2
STAGES_SEED = 2
STAGES = ("mixture", "blur", "acquisition", "realignment")
"""Steps of the tutorial presets after which the image is shown."""
SAMPLES = {"all_purpose": (0, 1, 2), "exam": (3,)}
"""Seeds of the samples of presets, where there is not one."""
COLOURLESS = 4  # largest difference of the channels of a grey pixel
OFF_MIDLINE_MM = (22, 0, 0)
OUTLINE = 3  # label whose colour outlines have
GREY_STEP = 3  # between grey levels, which makes files smaller
BRAIN = (1, 500)  # values of labels of the brain

Settings = Mapping[str, Any]
Array = npt.NDArray[Any]


class Example(NamedTuple):
    """A transform before, at the low and at the high end of what presets or their like draw.

    Attributes:
        low: Its arguments, mild.
        high: Its arguments, strong; None where there is nothing to choose.
        titles: What is written above the two results.
        start: What goes in, see `start_of`.
        shown: Image that is shown before.
        made: Image that is shown after; by default, the same.
        plane: Axis across which the slice is cut.
        outline: Draw where the brain was before.
        follow: Cut through the middle of what changes.
        seed: Seed of the random choices.
        then: Transform that shows what was sampled.
    """

    low: Settings
    high: Settings | None
    titles: Sequence[str]
    start: str = "scan"
    shown: str = "image"
    made: str = ""
    plane: int = AXIAL
    outline: bool = False
    follow: bool = False
    seed: int = SEED
    then: tio.Transform | None = None


T1, T2 = contrast_of("T1w"), contrast_of("T2w")
LESIONS = {"label_table": TABLE, "intensity": 0.9, "std": 0.03, "include": ["image"]}
ROTATED = (3.0, -2.0, 5.0)  # degrees about the axes

TRANSFORMS: dict[str, Example] = {
    "SpatialDeformation": Example(
        {"rotation_degrees": 5.0, "velocity_std_mm": 1.0},
        {"rotation_degrees": (0.0, 0.0, 20.0), "scaling": 1.1, "velocity_std_mm": 3.0},
        ("5 degrees, velocity 1 mm", "20 degrees, velocity 3 mm"),
    ),
    "PatchCrop": Example({"shape": 144}, {"shape": 96}, ("144 voxels", "96 voxels")),
    "HemisphereFlip": Example({}, None, ("mirrored",), start="marked"),
    "TissueMixture": Example(
        {"label_table": TABLE, "prior_stds": (1, 5), "background_mean": 5, "background_std": 2},
        {"label_table": TABLE, "prior_stds": (15, 25), "background_mean": 5, "background_std": 2},
        ("prior_stds=(1, 5)", "prior_stds=(15, 25)"),
        start="labels", shown="labels", made="image", seed=MIXTURE_SEED,
    ),
    "TissueContrast": Example(
        {"label_table": TABLE, **T1, "std": 2.0},
        {"label_table": TABLE, **T2, "std": 2.0, "same_sides": True},
        ("contrast of a T1", "contrast of a T2"),
        start="labels", shown="labels", made="target",
    ),
    "GroupLabels": Example(
        {"label_table": TABLE, "structures": "freesurfer"},
        {"label_table": TABLE, "structures": "each"},
        ("structures=freesurfer", "structures=each"),
        start="labels", shown="labels", made="target",
    ),
    "LesionSimulation": Example(
        {**LESIONS, "size_mm": 4.0, "height": 2.4}, {**LESIONS, "size_mm": 14.0, "height": 1.3},
        ("size_mm=4, height=2.4", "size_mm=14, height=1.3"), start="T2",
    ),
    "LesionInsertion": Example(
        {**LESIONS, "scaling": 1.8}, {**LESIONS, "scaling": 0.8}, ("scaling=1.8", "scaling=0.8"),
        start="T2", follow=True, seed=INSERTION_SEED,
    ),
    "BiasCorruption": Example({"std": 0.1}, {"std": 0.5}, ("std=0.1", "std=0.5")),
    "MinMaxRescale": Example(
        {"clip": (20, 140)}, {"clip": (60, 110)}, ("clip=(20, 140)", "clip=(60, 110)"),
        start="intensities",
    ),
    "GammaContrast": Example(
        {"log_gamma": -0.6}, {"log_gamma": 0.6}, ("log_gamma=-0.6", "log_gamma=0.6")
    ),
    "GaussianSmoothing": Example(
        {"sigma_mm": 0.7}, {"sigma_mm": 2.5}, ("sigma_mm=0.7", "sigma_mm=2.5")
    ),
    "SharedTexture": Example(
        {"label_table": TABLE, "std": 0.09, "size_mm": 2.0},
        {"label_table": TABLE, "std": 0.09, "size_mm": 12.0},
        ("std=0.09, size_mm=2", "std=0.09, size_mm=12"),
        start="pair",
    ),
    "CopyImage": Example(
        {"channels": (0,)}, {"channels": (1,)}, ("copy of channel 0", "copy of channel 1"),
        start="channels", made="target",
    ),
    "SelectChannels": Example(
        {"channels": (0,), "include": ["image"]}, {"channels": (1,), "include": ["image"]},
        ("channels=(0,)", "channels=(1,)"), start="channels",
    ),
    "TargetResolution": Example(
        {"spacing_mm": 1.5}, {"spacing_mm": 3.0}, ("spacing_mm=1.5", "spacing_mm=3")
    ),
    "RegistrationError": Example(
        {"rotation_degrees": 1.0, "translation_mm": 1.0, "include": ["image"]},
        {"rotation_degrees": ROTATED, "translation_mm": 5.0, "include": ["image"]},
        ("1 mm, 1 degree", "5 mm, up to 5 degrees"), start="swapped", outline=True,
    ),
    "AcquisitionResolution": Example(
        {"max_isotropic_mm": 2.0, "probability_isotropic": 1.0, "probability_minimum": 0.0},
        {"max_isotropic_mm": None, "max_anisotropic_mm": 9.0, "probability_minimum": 0.0},
        ("at most 2 mm, isotropic", "slices of at most 9 mm"), plane=SAGITTAL,
        then=transforms.SliceAcquisition(),
    ),
    "SliceAcquisition": Example(
        {"spacing_mm": (1, 1, 3), "thickness_mm": (1, 1, 3)},
        {"spacing_mm": (1, 1, 9), "thickness_mm": (1, 1, 6), "noise_std": 0.02},
        ("slices of 3 mm", "9 mm, 6 mm thick, noise"), plane=SAGITTAL,
    ),
    "ReliabilityMap": Example(
        {"spacing_mm": (1, 1, 3)}, {"spacing_mm": (1, 1, 9)},
        ("slices of 3 mm", "slices of 9 mm"), made="reliability", plane=SAGITTAL,
    ),
    "RegistrationCorrection": Example(
        {"rotation_degrees": 0.0, "translation_mm": 0.0, "include": ["image"]},
        {"rotation_degrees": 2.0, "translation_mm": 2.0, "include": ["image"]},
        ("exact", "2 mm, 2 degrees remain"), start="moved", outline=True,
    ),
    "ScannerNoise": Example({"std": 0.03}, {"std": 0.15}, ("std=0.03", "std=0.15")),
    "SkullStripping": Example(
        {"label_table": TABLE, "margin_mm": 0.0, "include": ["image"]},
        {"label_table": TABLE, "margin_mm": 6.0, "include": ["image"]},
        ("margin_mm=0", "margin_mm=6"),
    ),
    "PartialFieldOfView": Example(
        {"fraction": 0.9}, {"fraction": 0.5}, ("fraction=0.9", "fraction=0.5"), plane=SAGITTAL
    ),
}  # fmt: skip


def generator(seed: int = SEED) -> torch.Generator:
    """Random numbers of one picture."""
    return torch.Generator().manual_seed(seed)


@cache
def head(seed: int = 0) -> tio.LabelMap:
    """The label map of a phantom."""
    return head_phantom(seed=seed)


@cache
def scan(contrast: str = "T1") -> torch.Tensor:
    """A scan of the phantom, intensities from 0 to 1, `(1, X, Y, Z)`."""
    intensities = drawn(head(), T1 if contrast == "T1" else T2)
    return (intensities / (130 if contrast == "T1" else 250)).clamp(0, 1)


def start_of(kind: str) -> tio.Subject:
    """What goes into a transform: labels, and images of the kind that shows what it does."""
    affine = head().affine
    made: dict[str, torch.Tensor] = {}
    if kind == "intensities":
        made["image"] = scan() * 130
    elif kind in ("channels", "swapped", "moved"):
        contrasts = ("T1", "T2") if kind == "channels" else ("T2", "T1")
        made["image"] = torch.cat([scan(contrast) for contrast in contrasts])
    elif kind == "marked":
        made["image"] = scan().clone()
        made["image"][:, 18:26, 172:190] = 1.0  # a capsule at the left temple
    elif kind != "labels":
        made["image"] = scan("T2" if kind == "T2" else "T1")
    if kind == "pair":
        made["target"] = scan()
    images = {name: tio.ScalarImage(data, affine=affine) for name, data in made.items()}
    subject = tio.Subject(labels=head(), **images)
    if kind == "moved":
        subject = build("RegistrationError", TRANSFORMS["RegistrationError"].high)(
            subject, generator=generator()
        )
    return subject


def build(name: str, settings: Settings) -> tio.Transform:
    """A transform of the library; lesions are inserted with a mask made here."""
    if name == "LesionInsertion":
        settings = {**settings, "masks": lesion_mask()}
    return getattr(transforms, name)(**settings)


_folder = tempfile.TemporaryDirectory()


@cache
def lesion_mask() -> Path:
    """A mask of one ragged lesion, in a file."""
    path = Path(_folder.name, "lesion.nii.gz")
    axes = torch.meshgrid(*[torch.arange(-20.0, 21)] * 3, indexing="ij")
    waves = sum(torch.sin(axis * (0.31 + 0.1 * k) + k) for k, axis in enumerate(axes))
    distance = torch.stack([axes[0] * 1.4, axes[1], axes[2]]).square().sum(0).sqrt()
    mask = distance + 2 * waves < 9
    nib.save(nib.Nifti1Image(mask.numpy().astype(np.uint8), np.eye(4)), path)
    return path


# Pictures of transforms


def transform_picture(name: str) -> Figure:
    """A row: what goes in, and the two results."""
    example = TRANSFORMS[name]
    before = start_of(example.start)
    several = example.start == "channels"
    channels = range(before[example.shown].num_channels) if several else (-1,)
    results = []
    for settings in [example.low] if example.high is None else [example.low, example.high]:
        made = build(name, settings)(before, generator=generator(example.seed))
        results.append(example.then(made, generator=generator()) if example.then else made)
    centre = centre_of_labels(volume_of(before["labels"]))
    if example.plane == SAGITTAL:
        centre = centre + OFF_MIDLINE_MM
    if example.follow:
        change = (results[-1]["image"].data - before["image"].data)[0].abs().numpy()
        centre = centre_of_mass(volume_of(before["labels"])._replace(data=change))
    panels = [panel_of(before, example.shown, example, centre, c) for c in channels]
    panels += [panel_of(made, example.made or example.shown, example, centre) for made in results]
    first = [f"before, channel {c}" if several else "before" for c in channels]
    return row_figure([panels], [[*first, *example.titles]])


def panel_of(
    subject: tio.Subject, name: str, example: Example, centre: Array, channel: int = -1
) -> Panel:
    """The slice of an image through a point of the world."""
    shown = volume_of(subject[name], channel)
    is_labels = shown.data.dtype.kind != "f"
    window = None if is_labels else window_of(shown.data)
    row = Row(name, shown, "labels" if is_labels else "image", window)
    panel = slice_panel(row, example.plane, centre)
    if not example.outline:
        return panel
    labels = volume_of(head())
    brain = (labels.data >= BRAIN[0]) & (labels.data < BRAIN[1])
    where = slice_panel(Row("", labels._replace(data=brain * OUTLINE)), example.plane, centre)
    return panel._replace(pixels=outlined(panel.pixels, panel.window, where.pixels, zoom=1))


def volume_of(image: tio.Image, channel: int = 0) -> Volume:
    """A channel of an image as a volume whose axes run right, anterior, superior."""
    return reorient(Volume(image.data[channel].numpy(), np.asarray(image.affine.data)))


def window_of(data: Array) -> tuple[float, float]:
    """From 0 to the top of a usual range, 1, 130 or 255, or else to the brightest of the image."""
    top = float(np.percentile(data[::2, ::2, ::2], 99))
    return 0.0, next((limit for limit in (1.0, 130.0, 255.0) if limit / 2 < top < limit * 1.3), top)


def row_figure(panels: Sequence[Sequence[Panel]], titles: Sequence[Sequence[str]]) -> Figure:
    """Panels with a title above each, a pixel to the mm."""
    figure = draw_grid(panels, pixels_per_mm=1.0)
    for axes, title in zip(figure.axes, [t for row in titles for t in row], strict=True):
        write(axes, title)
    return figure


# Pictures of presets


def preset_picture(name: str) -> Figure:
    """Rows: samples of a preset; labels, input and target of each."""
    if name.startswith("tutorial"):
        return stages_picture(name)
    made = Generator.from_preset(name)
    subject = subject_for(made)
    rows = [rows_of_sample(made, subject, seed) for seed in SAMPLES.get(name, (0,))]
    panels = []
    for row in rows:
        centre = centre_of_labels(row[0].volume)
        panels.append([slice_panel(each, AXIAL, centre) for each in row])
    return row_figure(panels, [[each.title for each in row] for row in rows])


def subject_for(made: Generator) -> tio.Subject:
    """The phantom, with a scan if the generator wants a real target."""
    subject = read_subject(phantom_subject(made.config.label_table))
    if not made.config.real_target:
        return subject
    brain = scan() * (subject["labels"].data > 0)
    target = tio.ScalarImage(brain, affine=head().affine)
    return tio.Subject(labels=subject["labels"], target=target)


def stages_picture(name: str) -> Figure:
    """A row for each channel of the input: labels, the image after some steps, target."""
    config = load_config(name)
    subject, panels, titles = subject_for(Generator(config)), [], []
    last = Generator(config).run(subject, STAGES_SEED)[0]
    labels = reorient(element_of(last, "labels"))
    centre = centre_of_labels(labels) + OFF_MIDLINE_MM
    chosen = config.steps["inputs"].params["channels"] if "inputs" in config.steps else None
    for channel in range(last.images[config.image].data.shape[1]):
        rows = [Row("labels", labels, "labels")]
        for step in (step for step in STAGES if step in config.steps):
            names = [*config.steps]
            steps = {n: config.steps[n] for n in names[: names.index(step) + 1]}
            begun = Generator(dataclasses.replace(config, steps=steps)).run(subject, STAGES_SEED)[0]
            where = channel if chosen is None or "inputs" in steps else chosen[channel]
            rows.append(Row(f"after {step}", reorient(element_of(begun, config.image, where))))
        rows.append(Row("target", reorient(element_of(last, config.target))))
        panels.append([slice_panel(row, SAGITTAL, centre) for row in rows])
        titles.append([row.title for row in rows])
    return row_figure(panels, titles)


def element_of(batch: SubjectsBatch, name: str, channel: int = 0, element: int = 0) -> Volume:
    """A channel of an image of one element."""
    image = batch.images[name]
    affine = np.asarray(image.affines[element].data)
    return Volume(image.data[element, channel].numpy(), affine)


def rows_of_sample(made: Generator, subject: tio.Subject, seed: int) -> list[Row]:
    """What is shown of one sample: labels, channels or scans of the input, target."""
    batch = made.run(subject, seed)[0]
    rows = []
    for kind in ("labels", made.config.image, made.config.target):
        image = batch.images[kind]
        elements = range(len(image.data) if kind == made.config.image else 1)
        where = [(e, c) for e in elements for c in range(image.data.shape[1])]
        for number, (element, channel) in enumerate(where, start=1):
            volume = reorient(element_of(batch, kind, channel, element))
            title = kind if len(where) == 1 else f"{kind} {number}"
            is_labels = not image.data.is_floating_point()
            rows.append(Row(title, volume, "labels" if is_labels else "image"))
    return rows


# Pictures of commands


def run_command(folder: Path, *words: str | Path) -> None:
    """Run a command of the package in a folder, as a user does."""
    line = [sys.executable, "-m", "synthsr_cli", *map(str, words)]
    subprocess.run(line, cwd=folder, check=True)


def planes_figure(volumes: Mapping[str, Volume], labels: Sequence[str] = ()) -> Figure:
    """A row for each volume: sagittal, coronal and axial slices at the same places of the world."""
    turned = {name: reorient(volume) for name, volume in volumes.items()}
    view = view_of([next(iter(turned.values()))], list(turned.values())[-1])
    panels = []
    for name, volume in turned.items():
        row = panels_through(volume, view, 1.0)
        if name in labels:
            row = [panel._replace(pixels=coloured(panel.pixels)) for panel in row]
        panels.append(row)
    return row_figure(panels, [[name, "", ""] for name in turned])


def coloured(pixels: Array) -> Array:
    """Colours of a slice of labels."""
    return label_colours(np.ma.filled(pixels, 0).astype(np.int32))


def predict_picture(folder: Path) -> Figure:
    """The example scan, and what `synthsr predict` makes of it."""
    run_command(folder, "predict", EXAMPLE_SCAN, "t1.nii.gz")
    prediction = read_volume(folder / "t1.nii.gz")
    return planes_figure({"scan": read_volume(EXAMPLE_SCAN), "synthsr predict": prediction})


def ct_picture(folder: Path) -> Figure:
    """A simulated CT in slices of 5 mm, and its prediction."""
    contrast = contrast_of("CT")
    head_units = drawn(head(), contrast) / 255 * 80
    outside = (head().data == 0) | (head().data == 507) & (head_units < 5)
    acquired = transforms.SliceAcquisition(spacing_mm=(1, 1, 5), thickness_mm=(1, 1, 5))(
        torch.where(outside, -5.0, head_units), generator=generator()
    )
    path = folder / "ct.nii.gz"
    affine = np.asarray(head().affine.data)
    write_volume(path, Volume(acquired[0].numpy(), affine))
    run_command(folder, "predict", path, "t1.nii.gz", "--ct")
    prediction = read_volume(folder / "t1.nii.gz")
    return planes_figure({"simulated CT": read_volume(path), "synthsr predict --ct": prediction})


def segment_picture(folder: Path) -> Figure:
    """The example scan, and the structures that `synthsr segment` finds in it."""
    run_command(folder, "segment", EXAMPLE_SCAN, "labels.nii.gz")
    found = "synthsr segment"
    volumes = {"scan": read_volume(EXAMPLE_SCAN), found: read_volume(folder / "labels.nii.gz")}
    return planes_figure(volumes, labels=[found])


def labels_picture(folder: Path) -> Figure:
    """A label map, and the classes of two label tables, each class in one colour."""
    labels = volume_of(head())
    volumes = {"labels of the head phantom": labels}
    for name in ("synthseg", "synthseg_synthsr"):
        volumes[f"classes of {name}"] = labels._replace(
            data=one_value_per_class(labels.data, LabelTable.ready(name))
        )
    centre = centre_of_labels(labels)
    rows = [Row(title, volume, "labels") for title, volume in volumes.items()]
    panels = [[slice_panel(row, plane, centre) for plane in PLANES] for row in rows]
    return row_figure(panels, [[row.title, "", ""] for row in rows])


def one_value_per_class(labels: Array, table: LabelTable) -> Array:
    """Labels in which all of a class have the value of the most frequent one."""
    lookup, counts = np.zeros(labels.max() + 1, np.int16), np.bincount(labels.ravel())
    for number in {*table.classes}:
        members = [v for v, c in zip(table.values, table.classes, strict=True) if c == number]
        lookup[members] = members[int(counts[members].argmax())]
    return lookup[labels]


def estimate_priors_picture(folder: Path) -> Image.Image:
    """What `synthsr estimate-priors --plot` draws, for T1 scans of three phantoms."""
    for part in ("scans", "labels"):
        (folder / part).mkdir()
    for seed in range(3):
        labels = head_phantom(spacing_mm=1.5, seed=seed)
        affine = np.asarray(labels.affine.data)
        for part, data in (("scans", drawn(labels, T1)), ("labels", labels.data)):
            write_volume(folder / part / f"head{seed}.nii.gz", Volume(data[0].numpy(), affine))
    arguments = "--images scans --labels labels --out priors --plot"
    run_command(folder, "estimate-priors", *arguments.split())
    return Image.open(folder / "priors" / "priors_channel1.png").convert("RGB")


COMMANDS: dict[str, Callable[[Path], Figure | Image.Image]] = {
    "predict": predict_picture,
    "predict_ct": ct_picture,
    "segment": segment_picture,
    "labels": labels_picture,
    "estimate_priors": estimate_priors_picture,
}


# Files


def names() -> dict[str, list[str]]:
    """Names of all pictures, by folder."""
    return {"transforms": [*TRANSFORMS], "presets": preset_names(), "commands": [*COMMANDS]}


def make(name: str) -> tuple[str, Image.Image]:
    """The path of a picture below the gallery, and the picture with at most 256 colours."""
    kind = next(kind for kind, those in names().items() if name in those)
    path = f"{kind}/{name}.png"
    if kind == "commands":
        with tempfile.TemporaryDirectory() as folder:
            made = COMMANDS[name](Path(folder))
    else:
        made = transform_picture(name) if kind == "transforms" else preset_picture(name)
    if isinstance(made, Image.Image):
        return path, made.quantize(64)
    return path, few_colours(figure_array(made))


@cache
def palette() -> npt.NDArray[np.uint8]:
    """256 colours: those of labels, and greys."""
    colours = np.unique(label_colours(np.array(PHANTOM_LABELS)), axis=0)
    greys = np.arange(0, 256, GREY_STEP)[:, None].repeat(3, 1)
    unused = np.zeros((256 - len(colours) - len(greys), 3))
    return np.concatenate([colours, greys, unused]).astype(np.uint8)


def few_colours(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """A grey picture, or one in the colours of `palette`, whose nearest each pixel takes."""
    if int(np.ptp(pixels.astype(np.int16), axis=-1).max()) <= COLOURLESS:
        steps = np.rint(pixels.mean(axis=-1) / GREY_STEP)
        return Image.fromarray((steps * GREY_STEP).astype(np.uint8))
    found, where = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    apart = np.square(found[:, None].astype(np.int32) - palette().astype(np.int32)).sum(axis=-1)
    indices = apart.argmin(axis=1).astype(np.uint8)[where.reshape(pixels.shape[:2])]
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette(palette().tobytes())
    return picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Make pictures and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = [name for those in names().values() for name in those]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--out", type=Path, default=GALLERY, help="folder of the pictures")
    given = parser.parse_args(arguments)
    unknown = sorted({*given.names} - {*known})
    if unknown:
        parser.error(f"NAME must be one of {', '.join(known)}, got {', '.join(unknown)}.")
    for name in given.names or known:
        path, picture = make(name)
        (given.out / path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(given.out / path) as temporary:
            picture.save(temporary, format="png", optimize=True)
        print(f"{path} {(given.out / path).stat().st_size / 1e3:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
