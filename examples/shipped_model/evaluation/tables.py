"""The report of an evaluation: Markdown tables that can be pasted into a model card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .likeness import DICE, grouped

Row = Mapping[str, Any]

_ALL = "mean"


def report_text(results: Mapping[str, Any]) -> str:
    """Report of all parts that were evaluated.

    Args:
        results: From `evaluation.run.evaluate`.
    """
    model = results["model"]
    lines = [f"# Evaluation of {model['name']}", "", *_about(results), ""]
    for part, (title, tables) in _PARTS.items():
        if results.get(part):
            lines += [f"## {title}", "", *tables(results[part]), ""]
    if results["pictures"]:
        lines += ["## Pictures", ""]
        lines += [f"![{name[:-4]}](pictures/{name})" for name in results["pictures"]]
    return "\n".join(lines).rstrip() + "\n"


def _about(results: Mapping[str, Any]) -> list[str]:
    model, machine = results["model"], results["environment"]
    averaging, inversion, consistency = (
        "with" if model[name] else "without"
        for name in ("flip", "inverse_contrast", "data_consistency")
    )
    versions = machine["versions"]
    return [
        f"Model file SHA-256 `{model['sha256']}`, {model['precision']}, {averaging} flip averaging,"
        f" {inversion} inversion of inverse contrast, {consistency} data consistency, on"
        f" {machine['device']}; synthsr {versions['synthsr']}, torch {versions['torch']};"
        f" seed {results['seed']}.",
        "",
        results["protocol"],
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table.

    Args:
        header: Names of columns; the first ones that hold text in all rows are left aligned.
        rows: Cells: text, or numbers that are written with as many digits as they deserve.

    Examples:
        >>> table(["scan", "SSIM"], [["a", 0.91234]])
        ['| scan | SSIM |', '| --- | ---: |', '| a | 0.912 |']
    """
    texts = [all(isinstance(row[k], str) for row in rows) for k in range(len(header))]
    lines = [header, ["---" if text else "---:" for text in texts]]
    lines += [[_cell(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return str(value)


# Parts -------------------------------------------------------------------------------------------


def _held_out(rows: Sequence[Row]) -> list[str]:
    header = [
        "contrast",
        "slices",
        "SSIM",
        "interpolated",
        "PSNR (dB)",
        "interpolated",
        "L1",
        "interpolated",
        "SSIM raw",
        "PSNR raw",
        "L1 raw",
    ]
    cells = [
        [
            row["contrast"] + ("" if row["skull"] else ", no skull"),
            f"{row['slice_mm']:g} mm",
            *_pairs(row, ("ssim", "psnr", "l1")),
            *(row["raw"][name] for name in ("ssim", "psnr", "l1")),
        ]
        for row in grouped(
            rows, ["contrast", "skull", "slice_mm"], ["network", "interpolation", "raw"]
        )
    ]
    return table(header, cells)


def _held_out_lesions(rows: Sequence[Row]) -> list[str]:
    header = ["contrast", "lesions", "number of heads", *_LESION_COLUMNS]
    names = ("input", "prediction", "without")
    cells = [
        [row["contrast"], row["place"], row["count"], *(row["lesions"].get(n) for n in names)]
        for row in grouped(rows, ["contrast", "place"], ["lesions"])
    ]
    return table(header, cells)


_LESION_COLUMNS = ("input", "prediction", "prediction without lesions")


def _real_pairs(rows: Sequence[Row]) -> list[str]:
    header = ["scan", "slices"]
    for name in ("SSIM", "PSNR (dB)", "L1", "Dice white", "Dice grey", "Dice fluid"):
        header += [name, "interpolated"]
    everyone = [{**row, "scan": _ALL} for row in rows]
    several = len({row["scan"] for row in rows}) > 1
    means = [
        mean
        for part in ([rows, everyone] if several else [rows])
        for mean in grouped(part, ["scan", "slice_mm"], ["network", "interpolation"])
    ]
    cells = [
        [row["scan"], f"{row['slice_mm']:g} mm", *_pairs(row, ("ssim", "psnr", "l1", *DICE))]
        for row in means
    ]
    return table(header, cells)


def _pairs(row: Row, names: Sequence[str]) -> Iterator[float | None]:
    """Measures of the network, each followed by that of interpolation."""
    for name in names:
        yield row["network"].get(name)
        yield row["interpolation"].get(name)


def _scans(rows: Sequence[Row]) -> list[str]:
    columns: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        for what in ("network", "interpolation", "resampling"):
            if what in row:
                column = columns.setdefault((row["change"], what), {})
                column.setdefault(row["scan"], []).append(row[what])
    scans = list(dict.fromkeys(row["scan"] for row in rows))
    header = ["scan"]
    header += [change if what == "network" else _SHORT[what] for change, what in columns]
    cells = []
    for scan in scans:
        found = [column.get(scan) for column in columns.values()]
        cells.append([scan, *(sum(x) / len(x) if x else None for x in found)])
    if len(scans) > 1:
        every = [
            [cell for cell in column if cell is not None]
            for column in zip(*(line[1:] for line in cells), strict=True)
        ]
        cells.append([_ALL, *(sum(x) / len(x) if x else None for x in every)])
    return table(header, cells)


_SHORT = {"interpolation": "interpolated", "resampling": "resampled only"}


def _patient(rows: Sequence[Row]) -> list[str]:
    header = ["scans", "correlation", "SSIM", "PSNR (dB)", "L1", "correlation of the scans"]
    names = ("correlation", "ssim", "psnr", "l1", "inputs")
    return table(header, [[" and ".join(row["pair"]), *(row[n] for n in names)] for row in rows])


def _lesions(rows: Sequence[Row]) -> list[str]:
    header = ["scan", "lesions", "number", *_LESION_COLUMNS]
    cells = [
        [
            row["scan"],
            row["lesions"],
            row["count"],
            row["input"],
            row["prediction"],
            row.get("without"),
        ]
        for row in rows
    ]
    return table(header, cells)


def _ct(rows: Sequence[Row]) -> list[str]:
    header = ["scan", "brain (ml)", "white matter", "grey matter"]
    names = ("brain_ml", "white", "grey")
    return table(header, [[row["scan"], *(row[name] for name in names)] for row in rows])


_PARTS = {
    "held_out": ("Held-out label maps", _held_out),
    "held_out_lesions": ("Contrast of lesions in held-out label maps", _held_out_lesions),
    "real_pairs": ("Real T1-weighted scans with label maps", _real_pairs),
    "scans": ("Real scans, changed: correlation with the prediction as it was", _scans),
    "patient": ("Scans of one person: agreement of the predictions", _patient),
    "lesions": ("Contrast of lesions", _lesions),
    "ct": ("Computed tomography", _ct),
}
