"""Volumes as the page of a viewer takes them: NIfTI, and how to show them, as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from synthsr_net.prediction.segmenter import BACKGROUND, REST_OF_HEAD
from synthsr_transforms.drawing.colours import label_colours
from synthsr_transforms.drawing.planes import percentile_window, scan_window
from synthsr_transforms.drawing.slices import Convention, range_in_words, size_in_words
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import nifti_of, read_image, read_labels
from synthsr_transforms.labels.files import rows_of_values

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
    windows = {
        "scan": scan_window(volumes["scan"].data),
        "prediction": percentile_window(volumes["prediction"].data),
    }
    paths = {"scan": scan, "prediction": prediction}
    for name, path in others.items():
        if path is not None:
            paths[name] = path
            volumes[name] = read_labels(path) if name == "segmentation" else read_image(path)
            windows[name] = 0.0, percentile_window(volumes[name].data)[1]
    shown = [_shown(name, Path(paths[name]), volumes[name], windows[name]) for name in volumes]
    page = {"convention": convention, "volumes": shown}
    served = {
        f"{name}.nii": Served("application/octet-stream", nifti_of(_sent(volume)).to_bytes())
        for name, volume in volumes.items()
    }
    return {"volumes.json": Served("application/json", json.dumps(page).encode()), **served}


def _sent(volume: Volume) -> Volume:
    """A volume as it is sent; labels as numbers of rows of their table, few and without gaps."""
    if not np.issubdtype(volume.data.dtype, np.integer):
        return volume._replace(data=np.asarray(volume.data, np.float32))
    values, rows = np.unique(volume.data, return_inverse=True)
    kind = np.uint8 if len(values) <= 256 else np.uint16
    return volume._replace(data=rows.reshape(volume.data.shape).astype(kind))


def _shown(name: str, path: Path, volume: Volume, window: tuple[float, float]) -> dict[str, Any]:
    """What the page has to know of a volume."""
    file = path.name.encode("utf-8", "replace").decode()
    details = f"{size_in_words(volume)}, {range_in_words(volume.data)}"
    shown: dict[str, Any] = {"name": name, "file": file, "details": details, "window": window}
    if name == "segmentation":
        values = np.unique(volume.data)
        rows = rows_of_values([int(value) for value in values], None, sort=False)
        shown["labels"] = [
            {
                "value": row.value,
                "name": row.name,
                "colour": colour,
                "shown": row.value not in (BACKGROUND, REST_OF_HEAD),
            }
            for row, colour in zip(rows, label_colours(values).tolist(), strict=True)
        ]
    return shown
