"""Measure how well scans of a head that moved are registered, as `synthsr predict --also` does it.

Usage: python examples/shipped_model/measure_registration.py OUTPUT --labels LABEL_MAP ...
           [--moves 10] [--share 1/2]

Of each label map, T1, T2 and FLAIR scans in slices of 5 mm are simulated, all but the first after a
move of its own, of up to 5 mm and 5 degrees; predictions of the fast model are registered.

OUTPUT gets registrations.jsonl, one row per registered scan, which `evaluate.py --exams
--registered` takes (a run that was broken off goes on from there), and table.md. A registration
takes half a minute on a core of a CPU. Several processes measure at the same time if each is given
a share: 1/2 and 2/2, say; a run without a share then adds what is missing, and writes the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evaluation.heads import find_label_maps
from evaluation.moves import (
    centre_of,
    grid_of,
    misalignment,
    moved_exam,
    numbers_of,
    read_registrations,
)
from evaluation.network import HeadNetwork
from evaluation.shares import Share, all_files
from evaluation.tables import table
from evaluation.truth import SimulationPlan

from synthsr_net.prediction.predictor import REGISTRAR, Predictor
from synthsr_transforms.io.files import stem
from synthsr_transforms.subjects.files import SubjectFiles

ALLOWED_MM, ALLOWED_DEGREES = 0.3, 0.3
"""What a registration may leave."""


def registered(
    subject: SubjectFiles, network: HeadNetwork, plan: SimulationPlan, number: int
) -> Iterator[dict[str, Any]]:
    """Register the scans of one exam to the first.

    Yields:
        One row per scan: `map`, `move`, `scan`; `moved` and `rest`, shift of the middle of the head
        in mm and angle in degrees before and after; `correlation`; `left_out`, why, or None; and
        `first_to_scan`, the matrix that was found.
    """
    head, scans = moved_exam(subject, network, plan, number)
    centre = centre_of(grid_of(head))
    nothing = [None] * len(scans)
    exam = network.predictor.aligned([each.scan for each in scans], nothing, nothing)
    for each, placement in zip(scans[1:], exam.placements[1:], strict=True):
        found = placement.registration
        yield {
            "map": head.name,
            "move": number,
            "scan": each.name,
            "moved": misalignment(each.first_to_scan, np.eye(4), centre),
            "rest": misalignment(placement.first_to_scan, each.first_to_scan, centre),
            "correlation": None if found is None else found.after,
            "left_out": placement.left_out,
            "first_to_scan": placement.first_to_scan.tolist(),
        }


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """Errors by label map and scan, and of all."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["map"], row["scan"]), []).append(row)
    cells = [_cells(*key, each) for key, each in groups.items()] + [_cells("all", "", rows)]
    header = ["map", "scan", "number", "left out", "mm", "largest", "degrees", "largest", "good"]
    about = (
        f"Median and largest shift of the middle of the head, and angle, that are left; good: below"
        f" {ALLOWED_MM:g} mm and {ALLOWED_DEGREES:g} degrees."
    )
    return "\n".join([about, "", *table(header, cells), ""])


def _cells(name: str, scan: str, rows: Sequence[dict[str, Any]]) -> list[object]:
    rest = np.array([row["rest"] for row in rows])
    good = int((rest < [ALLOWED_MM, ALLOWED_DEGREES]).all(1).sum())
    pairs = zip(np.median(rest, 0).tolist(), rest.max(0).tolist(), strict=True)
    out = sum(row["left_out"] is not None for row in rows)
    return [name, scan, len(rows), out, *(value for pair in pairs for value in pair), good]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, measure, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUTPUT", help="folder to write to")
    parser.add_argument("--labels", nargs="+", required=True, metavar="PATH", help="label maps")
    parser.add_argument("--moves", type=int, default=10, help="number of exams of each")
    parser.add_argument("--share", type=Share.parse, help="register these exams only, as in 1/2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "registrations.jsonl"
    network = HeadNetwork(Predictor.from_file(REGISTRAR, force=True, device=given.device))
    plan = SimulationPlan(seed=given.seed)
    rows = [row for file in all_files(path) for row in read_registrations(file)]
    todo = [(each, n) for n in range(given.moves) for each in find_label_maps(given.labels)]
    if given.share:
        path, todo = given.share.file(path), list(given.share.of(todo))
    for subject, number in todo:
        if number in numbers_of(rows, stem(subject.labels)):
            continue
        made = list(registered(subject, network, plan, number))
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in made)
        rows += made
        print(made[0]["map"], number, *(row["rest"] for row in made), flush=True)
    if given.share:
        return 0
    text = table_text(rows)
    (given.out / "table.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
