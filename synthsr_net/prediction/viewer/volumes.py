"""Volumes as the page of a viewer takes them: NIfTI, and how to show them, as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from synthsr_transforms.drawing.colours import label_colours
from synthsr_transforms.drawing.planes import percentile_window, scan_window
from synthsr_transforms.drawing.slices import Convention, range_in_words, size_in_words
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import nifti_of, read_image, read_labels
from synthsr_transforms.labels.files import rows_of_values
from synthsr_transforms.labels.structures import BACKGROUND, REST_OF_HEAD

from .server import Served

AnyPath = str | os.PathLike[str]


def served_volumes(
    scan: AnyPath,
    prediction: AnyPath,
    others: Mapping[str, AnyPath | None],
    convention: Convention,
) -> dict[str, Served]:
    """Volumes and the file `volumes.json`, by their names in the address of the page.

    Args:
        scan: See `open_viewer`.
        prediction: See `open_viewer`.
        others: The files `segmentation` and `uncertainty`, or None.
        convention: See `open_viewer`.
    """
    volumes = {"scan": read_scan(scan).volume, "prediction": read_image(prediction)}
    paths = {"scan": scan, "prediction": prediction}
    for name, path in others.items():
        if path is not None:
            paths[name] = path
            volumes[name] = read_labels(path) if name == "segmentation" else read_image(path)
    shown = [_shown(name, Path(paths[name]), volume) for name, volume in volumes.items()]
    page = {"convention": convention, "volumes": shown}
    served = {
        f"{name}.nii": Served("application/octet-stream", sent(volume))
        for name, volume in volumes.items()
    }
    return {"volumes.json": Served("application/json", json.dumps(page).encode()), **served}


def sent(volume: Volume) -> bytes:
    """A volume as NIfTI; labels as numbers of rows of `legend`, few and without gaps."""
    if not np.issubdtype(volume.data.dtype, np.integer):
        return nifti_of(volume._replace(data=np.asarray(volume.data, np.float32))).to_bytes()
    values, rows = np.unique(volume.data, return_inverse=True)
    kind = np.uint8 if len(values) <= 256 else np.uint16
    return nifti_of(volume._replace(data=rows.reshape(volume.data.shape).astype(kind))).to_bytes()


def window_of(name: str, volume: Volume) -> tuple[float, float]:
    """Values that are drawn black and white, or in the first and last colour."""
    if name == "scan":
        return scan_window(volume.data)
    low, high = percentile_window(volume.data)
    return low if name == "prediction" else 0.0, high


def legend(labels: Volume) -> list[dict[str, Any]]:
    """Value, name and colour of each label that occurs, and whether it is shown at first."""
    values = np.unique(labels.data)
    rows = rows_of_values([int(value) for value in values], None, sort=False)
    return [
        {
            "value": row.value,
            "name": row.name,
            "colour": colour,
            "shown": row.value not in (BACKGROUND, REST_OF_HEAD),
        }
        for row, colour in zip(rows, label_colours(values).tolist(), strict=True)
    ]


def _shown(name: str, path: Path, volume: Volume) -> dict[str, Any]:
    """What the page has to know of a volume."""
    file = path.name.encode("utf-8", "replace").decode()
    details = f"{size_in_words(volume)}, {range_in_words(volume.data)}"
    shown = {"name": name, "file": file, "details": details, "window": window_of(name, volume)}
    return shown | ({"labels": legend(volume)} if name == "segmentation" else {})
