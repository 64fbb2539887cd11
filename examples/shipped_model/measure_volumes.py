"""Measure how volumes of structures in scans and in predictions compare with label maps.

Usage: python examples/shipped_model/measure_volumes.py OUTPUT --real SCAN ... --maps LABEL_MAP ...
           [--model NAME_OR_FILE] [--spacings 1 3 5 7] [--axes 0 1 2] [--share 1/8]
           [--device cuda]

Three kinds of images of each head are segmented: the scan of 1 mm itself, the prediction from it,
and predictions from slices that are simulated of it. Beside each real T1-weighted scan lies its
label map: NAME_aparc+aseg.mgz for NAME_T1.mgz or another last word. Of label maps that no network
was trained on, T1-weighted scans are simulated.

OUTPUT gets volumes.csv, one row per image and one per label map (a run that was broken off goes on
from there; choose another folder for another model), and table.md. A prediction takes 2 minutes on
a core of a CPU with the default model, a second with a GPU. Several processes measure at the same
time if each is given a share: 1/8 to 8/8, say; a run without a share then adds what is missing, and
writes the table.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from evaluation.heads import find_label_maps, read_head
from evaluation.shares import Share, all_files
from evaluation.slices import AXES, Slices, acquire, check_slices
from evaluation.tables import table
from evaluation.truth import Setting, scan_of_head, seed_of
from torch import Tensor
from train_segmentation import CENTRAL, SIDED, STRUCTURES, channel_lookup, read_real

from synthsr_net.models.zoo.files import SEGMENTATION_MODEL, default_model
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.segmenter import Segmenter
from synthsr_transforms.io.files import stem
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.subjects.files import SubjectFiles

REAL, SIMULATED = "real", "simulated"
"""Sources of scans."""
LABELS, SCAN, PREDICTION = "label map", "scan", "prediction"
"""What volumes are of."""
COMPARED = {
    **{name: (f"left {name}", f"right {name}") for name in SIDED},
    **{name: (name,) for name in CENTRAL if name != "fluid"},  # aparc+aseg has a part of it alone
}
"""Names of the volumes of each structure: left and right are two observations."""


# Heads -------------------------------------------------------------------------------------------


class Subject(NamedTuple):
    """A head whose label map is known.

    Attributes:
        name: Of its file.
        source: `REAL` or `SIMULATED`.
        labels: `(X, Y, Z)` channels of `STRUCTURES`, voxels of 1 mm.
        slices: Function of slice spacing and axis, that scans it.
    """

    name: str
    source: str
    labels: Tensor
    slices: Callable[[float, int], Slices]

    def scan(self, slice_mm: float, axis: int) -> Scan:
        """A scan as it would be read from a file."""
        slices = self.slices(slice_mm, axis)
        return Scan(np.ascontiguousarray(slices.data.cpu().numpy()), slices.affine, self.name)

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volumes in the label map, by names of structures."""
        counts = torch.bincount(self.labels.flatten(), minlength=len(STRUCTURES)).tolist()
        return {name: count / 1000 for name, count in zip(STRUCTURES.values(), counts, strict=True)}


def real_subject(path: Path) -> Subject:
    """A real scan whose label map lies beside it."""
    volume, labels = read_real(path)
    return Subject(stem(path), REAL, labels, lambda *where: acquire(volume, np.eye(4), *where))


def simulated_subject(label_map: SubjectFiles) -> Subject:
    """A label map of which T1-weighted scans are simulated."""
    head = read_head(label_map, 1.0, 16, "cpu")
    image = head.image("T1", seed_of(0, head.name, "T1", ""))

    def slices(slice_mm: float, axis: int) -> Slices:
        return scan_of_head(head, Setting("T1", False, slice_mm, axis), image, 0)

    labels = channel_lookup(int(head.labels.max()))[head.labels.long()]
    return Subject(head.name, SIMULATED, labels, slices)


# Volumes -----------------------------------------------------------------------------------------


class Key(NamedTuple):
    """What a row of volumes is of."""

    head: str
    source: str
    of: str
    """`LABELS`, `SCAN` or `PREDICTION`."""
    slice_mm: float = 1.0
    orientation: str = ""
    """Of slices thicker than 1 mm."""


Rows = dict[Key, dict[str, float]]
"""Volumes in ml by names of structures."""


def read_rows(path: Path) -> Rows:
    """Rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return {}
    rows: Rows = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            head, source, of, slice_mm, orientation = (row.pop(name) for name in Key._fields)
            key = Key(head, source, of, float(slice_mm), orientation)
            rows[key] = {name: float(value) for name, value in row.items()}
    return rows


def append_row(path: Path, key: Key, volumes_ml: dict[str, float]) -> None:
    """Add a row to a CSV file."""
    names = [name for parts in COMPARED.values() for name in parts]
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not file.tell():  # a new one
            writer.writerow([*Key._fields, *names])
        writer.writerow([*key, *(f"{volumes_ml[name]:.4f}" for name in names)])


def images(spacings_mm: Sequence[float], axes: Sequence[int]) -> Iterator[tuple[str, float, int]]:
    """Images to segment of each head: what they are, slice spacing and axis."""
    yield SCAN, 1.0, 0
    for slice_mm in spacings_mm:
        for axis in axes if slice_mm > 1 else [0]:
            yield PREDICTION, float(slice_mm), axis


def measure(
    subjects: Sequence[Subject],
    predictor: Predictor,
    segmenter: Segmenter,
    todo: Sequence[tuple[str, float, int]],
    path: Path,
    share: Share | None = None,
) -> Rows:
    """Add volumes of images to a CSV file, but for those that are there.

    Args:
        subjects: The heads.
        predictor: Makes predictions and segments them.
        segmenter: Segments scans.
        todo: From `images`; the first of all heads come first.
        path: The file.
        share: Of the images; it has a file of its own.

    Returns:
        The rows in the file and in those of shares.
    """
    rows = {key: row for file in all_files(path) for key, row in read_rows(file).items()}
    images_of = [(subject, *image) for image in todo for subject in subjects]
    if share:
        path, images_of = share.file(path), list(share.of(images_of))
    for subject in subjects:
        key = Key(subject.name, subject.source, LABELS)
        if key not in rows:
            rows[key] = subject.volumes_ml
            append_row(path, key, rows[key])
    for subject, of, slice_mm, axis in images_of:
        orientation = AXES[axis] if slice_mm > 1 else ""
        key = Key(subject.name, subject.source, of, slice_mm, orientation)
        if key in rows:
            continue
        model = segmenter if of == SCAN else predictor
        segmentation = model.predict([subject.scan(slice_mm, axis)]).segmentation
        assert segmentation is not None
        rows[key] = segmentation.volumes_ml
        append_row(path, key, rows[key])
        print(*key, flush=True)
    return rows


# Table -------------------------------------------------------------------------------------------


def compare(found: Sequence[float], truth: Sequence[float]) -> tuple[float, float, float]:
    """Mean signed and mean absolute error in percent of the truth, and correlation.

    What is 0 in truth does not count.

    Examples:
        >>> compare([1.1, 1.8, 4.0], [1.0, 2.0, 4.0])
        (0.0, 6.67, 0.995)
    """
    x, y = np.array(found), np.array(truth)
    x, y = x[y > 0], y[y > 0]
    if not len(y):
        return (float("nan"),) * 3
    error = 100 * (x / y - 1)
    varied = len(y) > 2 and min(x.std(), y.std()) > 0
    correlation = np.corrcoef(x, y)[0, 1] if varied else np.nan
    return (
        round(float(error.mean()), 2) + 0.0,
        round(float(np.abs(error).mean()), 2),
        round(float(correlation), 3),
    )


def table_text(rows: Rows) -> str:
    """Volumes against those of label maps, and of scans, as Markdown; sources of scans apart."""
    lines = [
        "Mean signed error and mean absolute error in percent of the reference, and correlation."
        " Left and right, and orientations of slices, are observations of their own."
    ]
    for source in dict.fromkeys(key.source for key in rows):
        of_source = {key: row for key, row in rows.items() if key.source == source}
        for reference in (LABELS, SCAN):
            lines += ["", *_table_of(of_source, reference)]
    return "\n".join([*lines, ""])


def _table_of(rows: Rows, reference: str) -> list[str]:
    """Title and table of the volumes of one source against those of its label maps or scans."""
    truth = {key.head: row for key, row in rows.items() if key.of == reference}
    groups: dict[str, list[Key]] = {}
    for key in sorted(rows, key=lambda key: (key.of != SCAN, key.slice_mm)):
        if key.of not in (LABELS, reference) and key.head in truth:
            name = SCAN if key.of == SCAN else f"{PREDICTION} of {key.slice_mm:g} mm"
            groups.setdefault(name, []).append(key)
    if not groups:
        return []
    (source,) = {key.source for key in rows}
    header = ["structure", f"{reference} (ml)", *(f"{n} (n={len(k)})" for n, k in groups.items())]
    cells: list[list[object]] = []
    for structure, parts in COMPARED.items():
        mean = float(np.mean([row[part] for row in truth.values() for part in parts]))
        cells.append([structure, mean])
        for keys in groups.values():
            pairs = [(rows[key][part], truth[key.head][part]) for key in keys for part in parts]
            cells[-1].append(_cell(*compare(*zip(*pairs, strict=True))))
    title = f"{source.capitalize()} scans, heads: {len(truth)}; reference: the {reference}"
    return [f"### {title}", "", *table(header, cells)]


def _cell(bias: float, error: float, correlation: float) -> str:
    text = f"{bias:+.1f}, {error:.1f}"
    return text if np.isnan(correlation) else f"{text}, {correlation:.2f}"


# Command line ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, measure, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUTPUT", help="folder to write to")
    parser.add_argument("--real", nargs="*", default=[], type=Path, help="real T1-weighted scans")
    parser.add_argument("--maps", nargs="*", default=[], help="held-out label maps")
    parser.add_argument("--model", default=default_model(), help="name or file of the model")
    parser.add_argument("--segmentation", default=SEGMENTATION_MODEL, help="likewise")
    parser.add_argument("--spacings", nargs="*", type=float, default=[1, 3, 5, 7], metavar="MM")
    parser.add_argument("--axes", nargs="+", type=int, default=[0, 1, 2], choices=[0, 1, 2])
    parser.add_argument("--share", type=Share.parse, help="measure these images only, as in 1/8")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args(arguments)
    check_slices(given.spacings, given.axes)
    given.out.mkdir(parents=True, exist_ok=True)
    computing = {"device": given.device, "precision": given.precision}
    segmenter = Segmenter.from_file(given.segmentation, force=True, **computing)
    predictor = Predictor.from_file(given.model, force=True, **computing)
    predictor.add_segmenter(segmenter)
    subjects = [*map(real_subject, given.real)]
    subjects += map(simulated_subject, find_label_maps(given.maps))
    path = given.out / "volumes.csv"
    todo = [*images(given.spacings, given.axes)]
    rows = measure(subjects, predictor, segmenter, todo, path, given.share)
    if given.share:
        return 0
    text = table_text(rows)
    (given.out / "table.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
