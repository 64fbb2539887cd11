"""Compare the errors of a model with the scales of them that it predicts, and correct the scales.

Usage: python calibrate_uncertainty.py MODEL OUTPUT --fit LABEL_MAP ... [--held-out LABEL_MAP ...]
           [--images SCANS --image-labels LABEL_MAPS] [--fit-real] [--contrasts T1 T2 FLAIR]
           [--spacings 1 3 5 7] [--axes 0 1 2] [--device cuda]

Scans are simulated of label maps as for `evaluate.py`, predicted as `synthsr predict` does, with
test-time augmentation and data consistency, and compared with the standard T1 within the head. Of
the label maps to fit, the factor a, the power p and the smallest scale c are found by which the
scales b would be most likely as a b^p + c. Factor and power go into the weights of the last
convolution, the smallest scale into the description of the model: OUTPUT gets the corrected model
(model.safetensors, in the precision of MODEL), whose images are the same, bit for bit.

The label maps held out then say how mean absolute errors compare with mean predicted scales in each
tenth of the predicted scales, before and after; without any, each label map to fit is measured with
a correction fitted to the others. Label maps that the network was trained on have smaller errors
than others. Slices of real T1-weighted scans are measured too, within the brain, against the scans,
mapped to the contrast of the prediction by a cubic polynomial. With --fit-real, they are fitted as
well, as much as all the simulated ones: the correction is then the one whose scales are nearest to
the errors in the tenths of both. Each head is measured with a correction fitted to all the others.

OUTPUT also gets scans.jsonl (a run that was broken off goes on from there), results.json and
table.md. Several processes can measure heads of their own at the same time, each into its own
folder: put their files into one, as scans_1.jsonl and so on, and a run there without any data fits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from evaluation.contrasts import CONTRASTS, TARGET_PRESET
from evaluation.heads import find_label_maps
from evaluation.network import HeadNetwork
from evaluation.shares import all_files
from evaluation.slices import AXES, acquire, linear, operators
from evaluation.tables import table
from evaluation.truth import Setting, SimulationPlan, head_for, scans_of
from scipy.optimize import minimize
from torch import Tensor

from synthsr_net.losses.intensity import SMALLEST_SCALE, UNIT_SCALE
from synthsr_net.metrics.calibration import TenthsOfScales
from synthsr_net.metrics.comparison import fit_polynomial, reference_of
from synthsr_net.models.checkpoint import Model, ModelConfig, save_model
from synthsr_net.models.packing import PRECISIONS, in_precision, stored_precision
from synthsr_net.models.zoo.files import resolve_model
from synthsr_net.networks.unet import UNet3d
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.training.validation import on_grid_of_network, read_real_pairs
from synthsr_transforms.support.messages import SynthSRError

ALLOWED = 0.2
"""Deviation of a tenth that counts as calibrated."""
FIT, HELD_OUT, REAL = "fit", "held out", "real"
"""What scans are measured for."""
ALL = "all"
"""Those that are fitted, simulated and real."""
TITLES = {
    FIT: "Simulated, each head corrected by a fit to the others",
    REAL: "Real, each head corrected by a fit to the others",
    ALL: "All that were fitted, each head corrected by a fit to the others",
    HELD_OUT: "Held out",
}
Counts = npt.NDArray[np.float64]
"""`(3, N)`: of groups of voxels that have nearly one scale, their number, the sum of their errors
and that of their scales."""


class Correction(NamedTuple):
    """Scales b above the smallest become `factor * b**power + smallest`, in units of the output."""

    factor: float = 1.0
    power: float = 1.0
    smallest: float = 0.0

    def of(self, counts: Counts) -> Counts:
        """Counts with corrected scales."""
        number, errors, scales = counts
        means = self.factor * (scales / number) ** self.power + self.smallest
        return np.stack([number, errors, number * means])


# Measurement -------------------------------------------------------------------------------------


def simulated(
    network: HeadNetwork, label_maps: Sequence[str], plan: SimulationPlan
) -> Iterator[tuple[str, Setting, Callable[[], Counts]]]:
    """Heads of label maps and how they are scanned, each with a function that counts errors."""
    for subject in find_label_maps(label_maps):
        head = head_for(subject, network, plan)
        for setting, scan in scans_of(head, plan, network.spacing_mm):

            def count(scan: Any = scan, head: Any = head) -> Counts:
                t1, scales = network.with_scales(linear(scan), slices=operators(scan))
                inside = head.reference.head
                return counted(network, (t1 - head.target)[inside], scales[inside])

            yield head.name, setting, count


def real(
    network: HeadNetwork, images: str, labels: str, plan: SimulationPlan
) -> Iterator[tuple[str, Setting, Callable[[], Counts]]]:
    """Real scans, see `simulated`."""
    affine = np.diag([*[network.spacing_mm] * 3, 1.0])
    for pair in read_real_pairs(images, labels):
        whole, tissues = on_grid_of_network(pair, network.spacing_mm)
        reference, box = reference_of(pair.name, whole, tissues)
        image, inside = whole[box].to(network.device), reference.brain.to(network.device)
        for slice_mm in plan.spacings_mm:
            for axis in plan.axes if slice_mm > network.spacing_mm else plan.axes[-1:]:

                def count(
                    image: Tensor = image,
                    inside: Tensor = inside,
                    where: tuple[float, int] = (slice_mm, axis),
                ) -> Counts:
                    scan = acquire(image, affine, *where)
                    t1, scales = network.with_scales(linear(scan), slices=operators(scan))
                    found = t1[inside].double()
                    truth = fit_polynomial(image[inside].double(), found)
                    return counted(network, found - truth, scales[inside])

                yield pair.name, Setting("T1", False, float(slice_mm), axis), count


def counted(network: HeadNetwork, differences: Tensor, scales: Tensor) -> Counts:
    """Count voxels by the scale above the smallest, both in units of the output of the network."""
    unit, smallest = network.config.scan.output_scale, network.config.smallest_scale
    tenths = TenthsOfScales().to(network.device)
    above = (scales / unit - smallest).clamp(min=1e-9)
    tenths.update(above.log(), differences.abs() / unit)
    counts = torch.stack([tenths.counts, tenths.errors, tenths.scales]).cpu().numpy()
    return np.asarray(counts[:, counts[0] > 0])


def collect(
    use: str, found: Iterator[tuple[str, Setting, Callable[[], Counts]]], path: Path
) -> list[dict[str, Any]]:
    """Add rows to a file of JSON lines, but for those that are there, and return all of this use.

    Those in files of other processes beside it, see `evaluation.shares`, are there as well.

    Returns:
        Rows with `use`, `map`, `contrast`, `slice_mm`, `axis` and `counts`.
    """
    lines = [line for each in all_files(path) for line in each.read_text().splitlines()]
    rows = {tuple(row[key] for key in _KEYS): row for row in map(json.loads, lines)}
    for name, setting, count in found:
        key = (use, name, setting.contrast, setting.slice_mm, AXES[setting.axis])
        if key in rows:
            continue
        rows[key] = dict(zip(_KEYS, key, strict=True)) | {"counts": count().tolist()}
        with path.open("a") as file:
            file.write(json.dumps(rows[key]) + "\n")
        print(*key, flush=True)
    return [row for row in rows.values() if row["use"] == use]


_KEYS = ("use", "map", "contrast", "slice_mm", "axis")


def joined(rows: Sequence[dict[str, Any]]) -> Counts:
    """Counts of all rows."""
    return np.concatenate([np.array(row["counts"]) for row in rows], axis=1)


# Correction --------------------------------------------------------------------------------------


def fit(groups: Sequence[Counts]) -> Correction:
    """The correction of counted scales.

    Of one group of scans, it is the most likely one: the negative log-likelihood of errors e with
    scales b is the mean of log(b) + e / b. Of several, the logarithms of error over scale in the
    tenths of each group are as small as they can be, in the mean of their squares.
    """
    number, errors, scales = counts = np.concatenate(groups, axis=1)

    def correction_of(x: npt.NDArray[np.float64]) -> Correction:
        factor, power, smallest = np.exp(x).tolist()
        factor *= usual ** (1 - power)  # so that it means the same whatever the power is
        return Correction(factor, power, max(smallest, SMALLEST_SCALE))

    def unlikeliness(x: npt.NDArray[np.float64]) -> float:
        corrected = correction_of(x).of(counts)[2] / number
        return float((number * np.log(corrected) + errors / corrected).sum() / number.sum())

    def deviation(x: npt.NDArray[np.float64]) -> float:
        tenths = [tenths_of(correction_of(x).of(group)) for group in groups]
        return float(np.nanmean(np.square([np.log(e / s) for e, s in tenths])))

    loss = unlikeliness if len(groups) == 1 else deviation
    usual = float(scales.sum() / number.sum())
    start = np.log([errors.sum() / scales.sum(), 1.0, 0.1 * errors.sum() / number.sum()])
    options = {"xatol": 1e-4, "fatol": 1e-9, "maxiter": 5000, "maxfev": 5000}
    return correction_of(minimize(loss, start, method="Nelder-Mead", options=options).x)


def by_use(rows: Sequence[dict[str, Any]]) -> list[Counts]:
    """Counts of simulated and of real scans."""
    uses = dict.fromkeys(row["use"] for row in rows)
    return [joined([row for row in rows if row["use"] == use]) for use in uses]


def corrected(model: Model, correction: Correction) -> Model:
    """The model whose scales `smallest_scale + 0.02 exp(S)` are the corrected ones."""
    factor, power, smallest = correction
    state = {name: tensor.cpu() for name, tensor in model.network.state_dict().items()}
    shift = math.log(factor) + (power - 1) * math.log(UNIT_SCALE)
    state["scales.1.weight"] = power * state["scales.1.weight"]
    state["scales.1.bias"] = power * state["scales.1.bias"] + shift
    config = replace(model.config, smallest_scale=smallest)
    network = UNet3d(config.network).eval()
    network.load_state_dict(state)
    return Model(config, network)


def tenths_of(counts: Counts) -> Counts:
    """Mean error and mean scale of each tenth of the voxels by their scales, `(2, 10)`."""
    number, errors, scales = counts[:, np.argsort(counts[2] / counts[0])]
    tenth = (10 * (number.cumsum() - number / 2) / number.sum()).astype(int).clip(0, 9)
    sums = [np.bincount(tenth, each, 10) for each in (number, errors, scales)]
    with np.errstate(invalid="ignore"):
        return np.stack(sums[1:]) / sums[0]


def fitted_to_others(rows: Sequence[dict[str, Any]]) -> list[Counts]:
    """Corrected counts of each row, by a fit to the rows of other heads."""
    heads = dict.fromkeys(row["map"] for row in rows)
    own = {head: fit(by_use([row for row in rows if row["map"] != head])) for head in heads}
    return [own[row["map"]].of(np.array(row["counts"])) for row in rows]


# Results -----------------------------------------------------------------------------------------


def report(
    rows: Sequence[dict[str, Any]], after: Sequence[Counts], config: ModelConfig
) -> dict[str, Any]:
    """Measures of one use: ratios of tenths before and after and by head, means by kind of scan."""
    unit = config.scan.output_scale
    error, scale = unit * tenths_of(np.concatenate(after, axis=1))
    before = tenths_of(Correction(smallest=config.smallest_scale).of(joined(rows)))
    kinds: dict[tuple[str, float], list[Counts]] = {}
    heads: dict[str, list[Counts]] = {}
    for row, counts in zip(rows, after, strict=True):
        kinds.setdefault((row["contrast"], row["slice_mm"]), []).append(counts)
        heads.setdefault(row["map"], []).append(counts)
    tenths = {name: tenths_of(np.concatenate(v, axis=1)) for name, v in heads.items()}
    return {
        "scales": scale.tolist(),
        "errors": error.tolist(),
        "ratios": (error / scale).tolist(),
        "before": (before[0] / before[1]).tolist(),
        "kinds": [
            [contrast, f"{mm:g}", *(unit * each[::-1][:2].sum(1) / each[0].sum()).tolist()]
            for (contrast, mm), each in ((k, np.concatenate(v, axis=1)) for k, v in kinds.items())
        ],
        "heads": [[name, *(each[0] / each[1]).tolist()] for name, each in tenths.items()],
    }


def report_text(title: str, found: dict[str, Any]) -> list[str]:
    """Tables of `report`."""
    columns = [found[name] for name in ("scales", "errors", "ratios", "before")]
    tenths = [[n + 1, *values] for n, values in enumerate(zip(*columns, strict=True))]
    header = ["tenth", "scale", "error", "error / scale", "before correction"]
    kinds = table(["contrast", "slices (mm)", "scale", "error"], found["kinds"])
    heads = table(["error / scale of tenths", *map(str, range(1, 11))], found["heads"])
    return [f"### {title}", "", *table(header, tenths), "", *heads, "", *kinds, ""]


def calibrate(options: argparse.Namespace) -> float:
    """Do all; returns the largest deviation of a tenth."""
    source = Path(resolve_model(options.model))
    predictor = Predictor.from_file(
        source, force=True, device=options.device, precision=options.precision
    )
    if not predictor.config.network.scale_features:
        raise SynthSRError(f"{source} must have a second head. Train one with uncertainty=true.")
    network = HeadNetwork(predictor)
    plan = SimulationPlan(
        contrasts=options.contrasts,
        stripped=[],
        spacings_mm=options.spacings,
        axes=options.axes,
        target=options.target,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    rows = measured(network, options, plan)
    fitted = [row for use in (FIT, *[REAL] * options.fit_real) for row in rows[use]]
    if not fitted:
        raise SynthSRError(
            f"there must be scans to fit, got none. Give --fit, or put files into {options.out}."
        )
    correction, config = fit(by_use(fitted)), predictor.config
    results: dict[str, Any] = {
        use: report(rows[use], [correction.of(np.array(r["counts"])) for r in rows[use]], config)
        for use in (HELD_OUT, *[REAL] * (not options.fit_real))
        if rows[use]
    }
    if len({row["map"] for row in fitted}) > 1:
        results |= reports_by_others(fitted, config)
    text = [f"Scales b become {correction.factor:.4g} b^{correction.power:.4g}"]
    text[0] += f" + {correction.smallest:.4g}, in units of the output.\n"
    titles = TITLES if options.fit_real else TITLES | {REAL: "Real"}
    text += [line for use, found in results.items() for line in report_text(titles[use], found)]
    print("\n".join(text))
    (options.out / "table.md").write_text("\n".join(text), encoding="utf-8")
    results = {"correction": correction._asdict(), **results}
    (options.out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    write_corrected(source, Model(config, predictor.network), correction, options.out)
    judged = results.get(HELD_OUT) or results.get(ALL) or results.get(FIT)
    return float(np.nanmax(np.abs(np.array(judged["ratios"]) - 1))) if judged else math.nan


def measured(
    network: HeadNetwork, options: argparse.Namespace, plan: SimulationPlan
) -> dict[str, list[dict[str, Any]]]:
    """Rows of all uses: what is measured now, and what is in the folder already."""
    nothing: Iterator[tuple[str, Setting, Callable[[], Counts]]] = iter(())
    images = options.images, options.image_labels
    parts = {
        FIT: simulated(network, options.fit, replace(plan, seed=1)),
        HELD_OUT: simulated(network, options.held_out, plan),
        REAL: real(network, *images, plan) if options.images else nothing,
    }
    path = options.out / "scans.jsonl"
    return {
        use: [row for row in collect(use, part, path) if row["contrast"] in options.contrasts]
        for use, part in parts.items()
    }


def reports_by_others(
    fitted: Sequence[dict[str, Any]], config: ModelConfig
) -> dict[str, dict[str, Any]]:
    """Reports of the scans that were fitted, each head corrected by a fit to the others.

    Those of simulated and of real scans, and if there are both, of all.
    """
    after = fitted_to_others(fitted)
    found = {}
    for use in (FIT, REAL, ALL):
        chosen = [n for n, row in enumerate(fitted) if use in (row["use"], ALL)]
        if chosen and (use != ALL or len(found) > 1):
            found[use] = report([fitted[n] for n in chosen], [after[n] for n in chosen], config)
    return found


def write_corrected(source: Path, model: Model, correction: Correction, out: Path) -> None:
    """Write the corrected model in the precision of its source."""
    model, kind = corrected(model, correction), stored_precision(source)
    state = model.network.state_dict()
    state = in_precision(state, kind) if kind in PRECISIONS else state
    save_model(out / "model.safetensors", model.config, state)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and calibrate; 0 if all tenths are within `ALLOWED`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="name or file of the model")
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--fit", nargs="+", default=[], metavar="LABEL_MAP")
    parser.add_argument("--held-out", nargs="+", default=[], metavar="LABEL_MAP")
    parser.add_argument("--images", metavar="PATH", help="real T1-weighted scans")
    parser.add_argument("--image-labels", metavar="PATH", help="their label maps")
    parser.add_argument("--fit-real", action="store_true", help="fit the real scans as well")
    parser.add_argument("--contrasts", nargs="+", default=list(CONTRASTS), choices=list(CONTRASTS))
    parser.add_argument("--spacings", nargs="+", type=float, default=[1, 3, 5, 7], metavar="MM")
    parser.add_argument("--axes", nargs="+", type=int, default=[0, 1, 2], choices=[0, 1, 2])
    parser.add_argument(
        "--target", default=TARGET_PRESET, metavar="PRESET", help="whose target it is"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    try:
        worst = calibrate(parser.parse_args(arguments))
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"largest deviation of a tenth: {worst:.3f}")
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
