"""Compare the errors of a model with the scales of them that it predicts, and correct the scales.

Usage: python calibrate_uncertainty.py MODEL OUTPUT --fit LABEL_MAP ... --held-out LABEL_MAP ...
           [--contrasts T1 T2 FLAIR] [--spacings 1 3 5 7] [--axes 0 1 2] [--device cuda]

Scans are simulated of label maps as for `evaluate.py`, predicted as `synthsr predict` does, with
test-time augmentation and data consistency, and compared with the standard T1 within the head. Of
the label maps to fit, the factor a and the smallest scale c are found by which the scales b would
be most likely as a b + c. The factor goes into the weights of the last convolution, the smallest
scale into the description of the model: OUTPUT gets the corrected model (model.safetensors, in the
precision of MODEL), whose images are the same, bit for bit.

The label maps held out, which the network was never trained on, then say how mean absolute errors
compare with mean predicted scales in each tenth of the predicted scales, before and after:
results.json and table.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from evaluation.contrasts import CONTRASTS, TARGET_PRESET
from evaluation.heads import find_label_maps
from evaluation.network import HeadNetwork
from evaluation.slices import AXES, linear, operators
from evaluation.tables import table
from evaluation.truth import Setting, SimulationPlan, head_for, scans_of
from scipy.optimize import minimize
from torch import Tensor

from synthsr_net.metrics.calibration import TenthsOfScales
from synthsr_net.models.checkpoint import Model, save_model
from synthsr_net.models.packing import PRECISIONS, in_precision, stored_precision
from synthsr_net.models.zoo.files import resolve_model
from synthsr_net.networks.unet import UNet3d
from synthsr_net.prediction.predictor import Predictor
from synthsr_transforms.support.messages import SynthSRError

ALLOWED = 0.2
"""Deviation of a tenth that counts as calibrated."""


class Correction(NamedTuple):
    """Scales b become `factor * b + smallest`, in units of the output of the network."""

    factor: float = 1.0
    smallest: float = 0.0

    def of(self, scales: Tensor) -> Tensor:
        """Corrected scales."""
        return self.factor * scales + self.smallest


class Errors(NamedTuple):
    """Absolute errors and predicted scales within a head, in units of the output of the network."""

    head: str
    setting: Setting
    errors: Tensor
    scales: Tensor


def errors_of(
    network: HeadNetwork, label_maps: Sequence[str], plan: SimulationPlan
) -> Iterator[Errors]:
    """Predict from simulated scans of label maps."""
    unit = network.config.scan.output_scale
    for subject in find_label_maps(label_maps):
        head = head_for(subject, network, plan)
        for setting, scan in scans_of(head, plan, network.spacing_mm):
            t1, scales = network.with_scales(linear(scan), slices=operators(scan))
            inside = head.reference.head
            errors = (t1 - head.target).abs()[inside] / unit
            yield Errors(head.name, setting, errors, scales[inside] / unit)


def fit(tenths: TenthsOfScales) -> Correction:
    """The most likely correction of counted scales.

    The negative log-likelihood of errors e with scales b is the mean of log(b) + e / b.
    """
    counts, errors, scales = (
        values.double().cpu().numpy() for values in (tenths.counts, tenths.errors, tenths.scales)
    )
    counts, errors, scales = (values[counts > 0] for values in (counts, errors, scales))
    means = scales / counts

    def loss(logarithms: npt.NDArray[np.float64]) -> float:
        factor, smallest = np.exp(logarithms)
        corrected = factor * means + smallest
        return float((counts * np.log(corrected) + errors / corrected).sum() / counts.sum())

    start = np.log([errors.sum() / scales.sum(), 0.1 * errors.sum() / counts.sum()])
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-9})
    factor, smallest = np.exp(found.x).tolist()
    return Correction(factor, smallest)


def corrected(model: Model, correction: Correction) -> Model:
    """The model whose scales `smallest_scale + 0.02 exp(S)` are the corrected ones."""
    factor, smallest = correction
    state = {name: tensor.cpu() for name, tensor in model.network.state_dict().items()}
    state["scales.1.bias"] = state["scales.1.bias"] + math.log(factor)
    config = replace(model.config, smallest_scale=factor * model.config.smallest_scale + smallest)
    network = UNet3d(config.network).eval()
    network.load_state_dict(state)
    return Model(config, network)


def report(rows: Sequence[dict[str, Any]], before: Tensor, after: Tensor, means: Tensor) -> str:
    """Tables of tenths and of kinds of scans."""
    of_tenths = [
        [n + 1, *(float(values[n]) for values in (means[1], means[0], after, before))]
        for n in range(len(after))
    ]
    kinds: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["contrast"], row["slice_mm"]), []).append(row)
    of_scans = [
        [contrast, f"{mm:g}", *(_mean(each, name) for name in ("scale", "error"))]
        for (contrast, mm), each in kinds.items()
    ]
    lines = [
        *table(["tenth", "scale", "error", "error / scale", "before correction"], of_tenths),
        "",
        *table(["contrast", "slices (mm)", "scale", "error"], of_scans),
    ]
    return "\n".join(lines)


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


class Measured(NamedTuple):
    """Errors of held-out heads, counted before and after the correction, and a row per scan."""

    before: TenthsOfScales
    after: TenthsOfScales
    rows: list[dict[str, Any]]


def measure(
    network: HeadNetwork, label_maps: Sequence[str], plan: SimulationPlan, correction: Correction
) -> Measured:
    """Compare errors with scales on held-out heads."""
    unit = network.config.scan.output_scale
    found = Measured(counts_on(network), counts_on(network), [])
    for each in errors_of(network, label_maps, plan):
        scales = correction.of(each.scales)
        found.before.update(each.scales.log(), each.errors)
        found.after.update(scales.log(), each.errors)
        row = {
            "map": each.head,
            "contrast": each.setting.contrast,
            "slice_mm": each.setting.slice_mm,
            "axis": AXES[each.setting.axis],
            "scale": unit * float(scales.mean()),
            "error": unit * float(each.errors.mean()),
        }
        found.rows.append(row)
        print(json.dumps(row), flush=True)
    return found


def counts_on(network: HeadNetwork) -> TenthsOfScales:
    """Empty counts on the device of a network."""
    return TenthsOfScales().to(network.device)


def write(out: Path, source: Path, predictor: Predictor, found: Measured, own: Correction) -> str:
    """Write results, tables and the corrected model; returns the tables."""
    unit = predictor.config.scan.output_scale
    before, after = found.before.compute().cpu(), found.after.compute().cpu()
    means = unit * torch.stack(found.after.means()).cpu()
    text = report(found.rows, before, after, means)
    results = {
        "correction": own._asdict(),
        "ratios": after.tolist(),
        "before": before.tolist(),
        "errors": means[0].tolist(),
        "scales": means[1].tolist(),
        "scans": found.rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    model = corrected(Model(predictor.config, predictor.network), own)
    state, kind = model.network.state_dict(), stored_precision(source)
    state = in_precision(state, kind) if kind in PRECISIONS else state
    save_model(out / "model.safetensors", model.config, state)
    return text


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
    fitted = counts_on(network)
    for each in errors_of(network, options.fit, replace(plan, seed=1)):
        fitted.update(each.scales.log(), each.errors)
    correction = fit(fitted)
    print(f"factor {correction.factor:.4f}, smallest {correction.smallest:.6f}", flush=True)
    found = measure(network, options.held_out, plan, correction)
    print(write(options.out, source, predictor, found, correction))
    return float((found.after.compute() - 1).abs().nan_to_num(0).max())  # NaN: no voxel


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and calibrate; 0 if all tenths are within `ALLOWED`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="name or file of the model")
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--fit", nargs="+", required=True, metavar="LABEL_MAP")
    parser.add_argument("--held-out", nargs="+", required=True, metavar="LABEL_MAP")
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
