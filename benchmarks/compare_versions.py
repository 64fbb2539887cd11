"""Do two versions of this package write the same? Run the same commands with both, bit for bit.

Usage:
  python benchmarks/compare_versions.py run CHECKOUT OUT [--data DIR]    # once per version
  python benchmarks/compare_versions.py run CHECKOUT OUT --scans DIR     # predictions of all in DIR
  python benchmarks/compare_versions.py compare OUT OTHER_OUT

`run` predicts the example (every model and the original's way), generates pairs of several presets
from the phantom, trains, stops and resumes a small network, and estimates priors; with a folder of
real scans, label maps and matching images, it does the same on these. It takes some ten minutes on
two cores. `compare` reads every volume, array, weight and number that was written, and prints a
table, with the correlation where volumes differ. Commands compute with one thread, so that sums
have one order.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from safetensors.numpy import load_file

RENAMED = {"step": "global_step"}
"""Columns of metrics by their names in older versions."""
SMALL = ["crop.shape=32", "network.num_features=4", "network.num_levels=2"]
"""Settings of a network that trains within seconds."""


def commands(out: Path, data: Path | None) -> Iterator[tuple[str, list[object]]]:
    """Names and arguments of the commands; each writes into a folder of its name."""
    scan = out / "example" / "scan.nii.gz"
    yield "example", ["example", scan]
    for name, options in {
        "default": [],
        "fast": ["--model", "fast"],
        "legacy": ["--model", "fast", "--legacy", "v1"],
        "input_grid": ["--model", "fast", "--grid", "input"],
    }.items():
        yield f"predict_{name}", ["predict", scan, out / f"predict_{name}" / "t1.nii.gz", *options]
    for preset in ("all_purpose", "tutorial_6_multimodal_synthetic"):
        yield (
            f"generate_{preset}",
            ["generate", preset, "-n", 2, "--seed", 3, "--out", out / f"generate_{preset}"],
        )
    training = out / "train"
    yield "train", ["train", "all_purpose", "--out", training, *settings("run.epochs=1")]
    yield "train_resumed", ["train", "--out", training, "--resume", *settings("run.epochs=2")]
    yield (
        "predict_trained",
        [
            *["predict", scan, out / "predict_trained" / "t1.nii.gz"],
            *["--model", training / "models" / "last.safetensors"],
        ],
    )
    pairs = out / "generate_all_purpose"
    yield (
        "priors",
        [
            *["estimate-priors", "--images", pairs / "sample_000000_image.nii.gz"],
            *["--labels", pairs / "sample_000000_labels.nii.gz"],
            *["--out", out / "priors", "--legacy"],
        ],
    )
    if data is not None:
        yield from commands_on_data(out, data)


def predictions(out: Path, scans: Path) -> Iterator[tuple[str, list[object]]]:
    """Predictions with the fast model of all scans in a folder and those inside it."""
    for scan in sorted(p for p in scans.rglob("*") if p.name.endswith((".nii", ".nii.gz", ".mgz"))):
        name = "__".join(scan.relative_to(scans).parts)
        yield name, ["predict", scan, out / name / "t1.nii.gz", "--model", "fast"]


def settings(*more: str) -> list[object]:
    """Options of a short run of a small network."""
    chosen = [*SMALL, "run.steps_per_epoch=3", "validation.samples=1", *more]
    return [part for setting in chosen for part in ("--set", setting)]


def commands_on_data(out: Path, data: Path) -> Iterator[tuple[str, list[object]]]:
    """The same on real scans: `flair`, `t2` and `t1` with `t1_labels`, and `label_map`."""
    found = {name: next(data.glob(f"{name}.*")) for name in ("flair", "t2", "t1")}
    labels, head = (next(data.glob(f"{name}.*")) for name in ("t1_labels", "label_map"))
    for name, model in (("flair", "fast"), ("t2", "synthsr-t1-v1")):
        place = out / f"real_{name}" / "t1.nii.gz"
        yield f"real_{name}", ["predict", found[name], place, "--model", model]
    place = out / "real_labels"
    yield (
        "real_labels",
        ["generate", "all_purpose", "--labels", head, "-n", 1, "--out", place],
    )
    yield (
        "real_priors",
        [
            *["estimate-priors", "--images", found["t1"], "--labels", labels],
            *["--out", out / "real_priors"],
        ],
    )


def run(checkout: Path, out: Path, data: Path | None, scans: Path | None) -> int:
    """Run every command with the code of a checkout."""
    out = out.resolve()
    todo = commands(out, data) if scans is None else predictions(out, scans)
    link = out / ".path"
    link.mkdir(parents=True)
    (link / "synthsr_cli").symlink_to(checkout.resolve() / "cli", target_is_directory=True)
    path = os.pathsep.join([str(checkout.resolve()), str(link.resolve())])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    failed = 0
    for name, arguments in todo:
        (out / name).mkdir(exist_ok=True)
        command = [sys.executable, "-c", "from synthsr_cli.main import main; main()"]
        command += map(str, arguments)
        done = subprocess.run(command, env=environment, cwd=link, capture_output=True, text=True)
        print(f"{name}: {done.returncode}", flush=True)
        (out / name / "messages.txt").write_text(done.stderr)
        if done.returncode:
            failed += 1
            print(done.stderr[-600:])
    return failed


def numbers(path: Path) -> dict[str, np.ndarray] | None:
    """Everything in a file that must not change, by name; None for files that may differ."""
    name = path.name
    if name.endswith((".nii.gz", ".nii", ".mgz")):
        image = nib.load(path)
        return {"voxels": np.asanyarray(image.dataobj), "affine": image.affine}
    if name.endswith(".safetensors"):
        return dict(load_file(path))
    if name.endswith(".npy"):
        return {"array": np.load(path)}
    if name == "metrics.csv":
        rows = list(csv.DictReader(path.open()))
        clocks = ("seconds", "samples_per_second", "time", "memory")
        return {
            RENAMED.get(key, key): np.array([row[key] for row in rows])
            for key in rows[0]
            if not any(clock in key for clock in clocks)
        }
    return None


def compare(first: Path, second: Path) -> int:
    """Print a table of all files of either folder, and return how many differ."""
    files = sorted(
        {p.relative_to(base) for base in (first, second) for p in base.rglob("*") if p.is_file()}
    )
    different = 0
    print("| file | numbers | result |\n| --- | --- | --- |")
    for file in files:
        pair = [base / file for base in (first, second)]
        if not all(p.is_file() for p in pair):
            if numbers_of_suffix(file):
                different += 1
                print(f"| {file} | | only in {'second' if pair[1].is_file() else 'first'} |")
            continue
        before, after = numbers(pair[0]), numbers(pair[1])
        if before is None or after is None:
            continue
        same = list(before.values()) == [] or set(before) == set(after)
        same = same and all(
            np.array_equal(before[k], after[k], equal_nan=before[k].dtype.kind == "f")
            for k in before
        )
        different += not same
        count = sum(value.size for value in before.values())
        found = "equal" if same else f"DIFFERENT{correlation(before, after)}"
        print(f"| {file} | {count:,} | {found} |")
    print(f"\n{different} files differ.")
    return different


def correlation(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> str:
    """Correlation of two volumes of one shape where the first shows something, as text."""
    first, second = before.get("voxels"), after.get("voxels")
    if first is None or second is None or first.shape != second.shape:
        return ""
    inside = first > 0.05 * first.max()
    return f", correlation {np.corrcoef(first[inside], second[inside])[0, 1]:.6f}"


def numbers_of_suffix(file: Path) -> bool:
    """Whether a file is of a kind that is compared."""
    return file.name.endswith((".nii.gz", ".mgz", ".safetensors", ".npy", "metrics.csv"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and do one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    runner = kinds.add_parser("run")
    runner.add_argument("checkout", type=Path)
    runner.add_argument("out", type=Path)
    runner.add_argument("--data", type=Path)
    runner.add_argument("--scans", type=Path)
    comparer = kinds.add_parser("compare")
    comparer.add_argument("first", type=Path)
    comparer.add_argument("second", type=Path)
    given = parser.parse_args(arguments)
    if given.kind == "run":
        data, scans = (p and p.resolve() for p in (given.data, given.scans))
        return int(run(given.checkout, given.out, data, scans) > 0)
    return int(compare(given.first, given.second) > 0)


if __name__ == "__main__":
    sys.exit(main())
