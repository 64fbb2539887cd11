"""The report of an evaluation: Markdown tables that can be pasted into a model card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from synthsr_net.metrics.comparison import DICE_TISSUES, mean_of

Row = Mapping[str, Any]

_ALL = "mean"
_QUALITY = ("ssim", "psnr", "l1")


def report_text(results: Mapping[str, Any]) -> str:
    """Report of all parts that were evaluated.

    Args:
        results: From `run.Evaluation`.
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


def grouped(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], measured: Sequence[str]
) -> list[dict[str, Any]]:
    """Means of rows that agree in some keys.

    Args:
        rows: Each with all keys, and mappings of measures.
        keys: What rows of a group have in common; groups keep the order of their first rows.
        measured: Names of the mappings to average.

    Examples:
        >>> rows = [{"scan": s, "network": {"ssim": x}} for s, x in (("a", 1.0), ("a", 0.5))]
        >>> grouped(rows, ["scan"], ["network"])
        [{'scan': 'a', 'count': 2, 'network': {'ssim': 0.75}}]
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        {
            **dict(zip(keys, values, strict=True)),
            "count": len(members),
            **{name: mean_of(row[name] for row in members) for name in measured},
        }
        for values, members in groups.items()
    ]


# Parts -------------------------------------------------------------------------------------------


def _held_out(rows: Sequence[Row]) -> list[str]:
    header = ["contrast", "slices"]
    for name in ("SSIM", "PSNR (dB)", "L1"):
        header += [name, "interpolated"]
    header += ["SSIM raw", "PSNR raw", "L1 raw"]
    cells = [
        [
            row["contrast"] + ("" if row["skull"] else ", no skull"),
            f"{row['slice_mm']:g} mm",
            *_pairs(row, _QUALITY),
            *(row["raw"][name] for name in _QUALITY),
        ]
        for row in grouped(
            rows, ["contrast", "skull", "slice_mm"], ["network", "interpolation", "raw"]
        )
    ]
    return table(header, cells)


def _exams(rows: Sequence[Row]) -> list[str]:
    regions = ("brain", "head")
    names = {f"{where} {name}": f"{where}/{name}" for where in regions for name in _QUALITY}
    moves = {"move": "move"} if "move" in rows[0] else {}
    return _plain({"map": "map"} | moves | {"scans": "scans"} | names, rows)


def _real_pairs(rows: Sequence[Row]) -> list[str]:
    header = ["scan", "slices"]
    for name in ("SSIM", "PSNR (dB)", "L1", "Dice white", "Dice grey", "Dice fluid"):
        header += [name, "interpolated"]
    everyone = [{**row, "scan": _ALL} for row in rows]
    several = len({row["scan"] for row in rows}) > 1
    cells = [
        [row["scan"], f"{row['slice_mm']:g} mm", *_pairs(row, (*_QUALITY, *DICE_TISSUES))]
        for part in ([rows, everyone] if several else [rows])
        for row in grouped(part, ["scan", "slice_mm"], ["network", "interpolation"])
    ]
    return table(header, cells)


def _pairs(row: Row, names: Sequence[str]) -> Iterator[float | None]:
    """Measures of the network, each followed by that of interpolation."""
    for name in names:
        yield row["network"].get(name)
        yield row["interpolation"].get(name)


def _scans(rows: Sequence[Row]) -> list[str]:
    found: dict[str, list[dict[tuple[str, str], float]]] = {}
    for row in rows:
        measured = {(row["change"], what): row[what] for what in _SHORT if what in row}
        found.setdefault(row["scan"], []).append(measured)
    means = {scan: mean_of(values) for scan, values in found.items()}
    if len(means) > 1:
        means[_ALL] = mean_of(list(means.values()))
    columns = list(dict.fromkeys(column for values in means.values() for column in values))
    header = ["scan", *(_SHORT[what] or change for change, what in columns)]
    return table(
        header, [[scan, *(values.get(c) for c in columns)] for scan, values in means.items()]
    )


_SHORT = {"network": "", "interpolation": "interpolated", "resampling": "resampled only"}


def _patient(rows: Sequence[Row]) -> list[str]:
    columns = {
        "correlation": "correlation",
        "SSIM": "ssim",
        "PSNR (dB)": "psnr",
        "L1": "l1",
        "correlation of the scans": "inputs",
    }
    return _plain(
        {"scans": "scans"} | columns, [{**r, "scans": " and ".join(r["pair"])} for r in rows]
    )


_CONTRASTS = {
    "input": "input",
    "prediction": "prediction",
    "prediction without lesions": "without",
}


def _held_out_lesions(rows: Sequence[Row]) -> list[str]:
    columns = {"contrast": "contrast", "lesions": "place", "number of heads": "count"}
    means = grouped(rows, ["contrast", "place"], ["lesions"])
    return _plain(columns | _CONTRASTS, [{**row, **row["lesions"]} for row in means])


def _lesions(rows: Sequence[Row]) -> list[str]:
    return _plain({"scan": "scan", "lesions": "lesions", "number": "count"} | _CONTRASTS, rows)


def _ct(rows: Sequence[Row]) -> list[str]:
    columns = {"brain (ml)": "brain_ml", "white matter": "white", "grey matter": "grey"}
    return _plain({"scan": "scan"} | columns, rows)


def _plain(columns: Mapping[str, str], rows: Sequence[Row]) -> list[str]:
    """Table of rows as they are: names of columns, and where rows have their cells."""
    return table(list(columns), [[row.get(key) for key in columns.values()] for row in rows])


_PARTS = {
    "held_out": ("Held-out label maps", _held_out),
    "exams": ("Exams of held-out label maps, slices of 5 mm, aligned", _exams),
    "moved_exams": ("Exams of held-out label maps, slices of 5 mm, moved and registered", _exams),
    "real_exams": ("Exams of real scans with remapped intensities, slices of 5 mm", _exams),
    "held_out_lesions": ("Contrast of lesions in held-out label maps", _held_out_lesions),
    "real_pairs": ("Real T1-weighted scans with label maps", _real_pairs),
    "scans": ("Real scans, changed: correlation with the prediction as it was", _scans),
    "patient": ("Scans of one person: agreement of the predictions", _patient),
    "lesions": ("Contrast of lesions", _lesions),
    "ct": ("Computed tomography", _ct),
}
