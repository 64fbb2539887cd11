"""Measure the quality of a model: on held-out label maps, real scans, lesions and CT.

Every part runs if its data are given. DIR gets results.json, report.md and pictures.

Usage:
  python evaluate.py --model NAME_OR_FILE --out DIR --labels held_out/
  python evaluate.py --model fast --out DIR --scans FLAIR.nii.gz T2.nii.gz --quick
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from evaluation.contrasts import CONTRASTS, TARGET_PRESET
from evaluation.run import Evaluation, EvaluationData, EvaluationSettings
from evaluation.truth import SimulationPlan

from synthsr_net.models.zoo.files import default_model
from synthsr_net.prediction.predictor import Predictor

QUICK = {
    **{"contrasts": ["T1"], "stripped": [], "with_lesions": []},
    **{"spacings": [5.0], "degraded": [5.0], "axes": [2]},
}
"""Options that `--quick` sets."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        description=(__doc__ or "").partition("Usage")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--model", default=default_model(), help="name or file of the model")
    made.add_argument("--out", type=Path, required=True, help="folder for the results")
    data = made.add_argument_group("data")
    data.add_argument("--labels", nargs="+", default=[], metavar="PATH", help="held-out label maps")
    data.add_argument("--images", metavar="PATH", help="real T1-weighted scans")
    data.add_argument("--image-labels", metavar="PATH", help="their label maps")
    data.add_argument("--scans", nargs="+", default=[], metavar="PATH", help="real scans")
    data.add_argument("--patient", nargs="+", default=[], metavar="FILE", help="one person's scans")
    data.add_argument(
        "--registrations",
        nargs="+",
        default=[],
        metavar="FILE",
        help="ITK transform from the common space to each of them, - for none",
    )
    data.add_argument("--lesions", metavar="FILE", help="mask of the person's lesions")
    data.add_argument(
        "--bright-lesions",
        metavar="FILE",
        help="the one of these scans in which lesions are bright, to find them in, such as a FLAIR",
    )
    data.add_argument("--registered", metavar="FILE", help="of exams, from measure_registration.py")
    data.add_argument("--ct", metavar="FILE", help="head CT in Hounsfield units")
    work = made.add_argument_group("work")
    work.add_argument("--contrasts", nargs="+", default=list(CONTRASTS), choices=list(CONTRASTS))
    work.add_argument("--stripped", nargs="*", default=["T1", "T2"], choices=list(CONTRASTS))
    scanners = [name for name, contrast in CONTRASTS.items() if contrast.by_tissue is not None]
    work.add_argument("--with-lesions", nargs="*", default=["T1", "T2", "FLAIR"], choices=scanners)
    work.add_argument("--spacings", nargs="+", type=float, default=[1, 3, 5, 7], metavar="MM")
    work.add_argument("--degraded", nargs="*", type=float, default=[3, 5], metavar="MM")
    work.add_argument("--axes", nargs="+", type=int, default=[0, 1, 2], choices=[0, 1, 2])
    work.add_argument("--exams", action="store_true", help="several scans of heads together")
    work.add_argument(
        "--target", default=TARGET_PRESET, metavar="PRESET", help="whose target it is"
    )
    work.add_argument("--quick", action="store_true", help="T1, 5 mm, axial slices alone")
    work.add_argument("--device", default="auto")
    work.add_argument("--precision", default="auto")
    work.add_argument("--no-flip", action="store_true", help="without flip averaging")
    work.add_argument(
        "--no-data-consistency", action="store_true", help="T1-weighted scans by the network alone"
    )
    work.add_argument(
        "--inverse-contrast",
        action=argparse.BooleanOptionalAction,
        help="invert T2-like scans for the second pass; by default as the model says",
    )
    work.add_argument("--seed", type=int, default=0)
    return made


def settings_of(options: argparse.Namespace) -> EvaluationSettings:
    """Amounts of simulation."""
    if options.quick:
        vars(options).update(QUICK)
    plan = SimulationPlan(
        contrasts=options.contrasts,
        stripped=options.stripped,
        with_lesions=options.with_lesions,
        spacings_mm=options.spacings,
        axes=options.axes,
        seed=options.seed,
        target=options.target,
    )
    lesion_scans = 1 if options.quick else None
    return EvaluationSettings(
        held_out=plan,
        degraded_mm=options.degraded,
        lesion_scans=lesion_scans,
        exams=options.exams,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        settings = settings_of(options)
        names = [field.name for field in fields(EvaluationData)]
        data = EvaluationData(**{name: getattr(options, name) for name in names})
        predictor = Predictor.from_file(
            options.model,
            force=True,  # simulated scans may be plain
            device=options.device,
            precision=options.precision,
            flip=False if options.no_flip else None,
            inverse_contrast=options.inverse_contrast,
            data_consistency=False if options.no_data_consistency else None,
        )
        Evaluation(predictor, data, settings).run(options.out)
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"Wrote {options.out / 'report.md'}, {options.out / 'results.json'} and pictures.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
