"""The structures of an average head; later rows are painted over earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .shapes import Knots, Triple

Label = tuple[int, int]
"""Left and right value of a structure; twice the same value for a structure without sides."""


@dataclass(frozen=True)
class Organ:
    """A chain of round cones from knot to knot, stretched along the axes."""

    name: str
    label: Label
    knots: Knots
    stretch: Triple = (1.0, 1.0, 1.0)
    shell: tuple[Label, float] | None = None
    """A second label around the organ, and its thickness in mm."""
    over: tuple[Label, ...] = ()
    """Paint only voxels that have one of these labels; empty: all voxels."""
    grain: float | None = None
    """Paint only where a fine noise of unit variance is above this value."""
    grows: bool = False
    """Grow by the individual's `ventricle_mm`, and stay off the mid-sagittal plane."""

    def box_mm(self) -> tuple[list[float], list[float]]:
        """Corners of a box in head space that holds the organ, its shell and its growth."""
        knots = torch.tensor(self.knots)
        extra = (self.shell[1] if self.shell else 0.0) + (4.0 if self.grows else 0.0)
        reach = knots[:, 3].max() * torch.tensor(self.stretch) + extra
        low, high = knots[:, :3].amin(0) - reach, knots[:, :3].amax(0) + reach
        return low.tolist(), high.tolist()


AIR, CSF, BRAINSTEM = (0, 0), (24, 24), (16, 16)
WHITE, CORTEX, LESION = (2, 41), (3, 42), (25, 57)
CEREBELLUM_WHITE, CEREBELLUM_CORTEX = (7, 46), (8, 47)
VENTRICLE, TEMPORAL_HORN = (4, 43), (5, 44)
ARTERY, EYE, SOFT, EYE_MUSCLE = (502, 502), (506, 506), (507, 507), (508, 508)
MUCOSA, SKIN, CORD, VEIN = (509, 509), (511, 511), (512, 512), (514, 514)
BONE, MARROW, NERVE = (515, 515), (516, 516), (530, 530)

# fmt: off

FACE = (
    Organ("clivus", MARROW, ((0, 18, -53, 7), (0, 4, -64, 6)), (1.5, 1, 1), (BONE, 1.5)),
    Organ("orbit", SOFT, ((15, 42, -34, 5), (30, 63, -39, 16.5)), shell=(BONE, 2)),
    Organ("zygomatic arch", BONE, ((40, 66, -52, 5), (56, 48, -52, 3.5), (62, 24, -48, 3),
                                   (60, 2, -46, 4)), (0.7, 1, 1)),
    Organ("maxillary sinus", AIR, ((27, 56, -66, 13), (25, 66, -64, 9)), (1, 1, 1.25),
          (BONE, 1.6)),
    Organ("nasal cavity", MUCOSA, ((0, 38, -58, 8), (0, 60, -58, 10), (0, 84, -62, 7)),
          (1.2, 1, 1.9), (BONE, 1.2)),
    Organ("lateral meatus", AIR, ((6, 42, -66, 1.2), (5, 84, -68, 1.2)), (1, 1, 8),
          over=(MUCOSA,), grain=-0.6),
    Organ("medial meatus", AIR, ((1.5, 42, -52, 0.8), (1.5, 80, -58, 0.8)), (1, 1, 9),
          over=(MUCOSA,), grain=-0.2),
    Organ("ethmoid cells", AIR, ((0, 50, -34, 6.5), (0, 70, -34, 6.5)), (1.5, 1, 1.2),
          (BONE, 1.2)),
    Organ("ethmoid mucosa", MUCOSA, ((0, 46, -34, 7), (0, 72, -34, 7)), (1.5, 1, 1.2),
          over=(AIR,), grain=0.7),
    Organ("sphenoid sinus", AIR, ((0, 30, -43, 7), (0, 36, -43, 7)), (1.7, 1, 1), (BONE, 1.5)),
    Organ("frontal sinus", AIR, ((4, 85, -19, 6), (15, 83, -20, 5)), (1.3, 0.8, 1.7),
          over=(BONE, MARROW)),
    Organ("pharynx", AIR, ((0, 30, -64, 7), (0, 20, -80, 7), (0, 14, -118, 7)), (1.4, 0.8, 1)),
    Organ("hard palate", BONE, ((0, 80, -83, 3), (14, 74, -82, 3), (20, 50, -81, 3)),
          (1.2, 1, 0.7)),
    Organ("teeth", BONE, ((4, 90, -88, 3.5), (16, 82, -88, 3.5), (24, 56, -88, 4)), (1, 1, 1.8)),
    Organ("mandible", MARROW, ((46, 16, -58, 4), (45, 22, -84, 5), (42, 32, -118, 6)),
          (0.6, 1.6, 1), (BONE, 1.5)),
    Organ("superior rectus", EYE_MUSCLE, ((14, 44, -28, 1.4), (26, 60, -27, 2.2),
                                          (30, 72, -29, 1.6))),
    Organ("inferior rectus", EYE_MUSCLE, ((14, 44, -38, 1.4), (27, 60, -51, 2.2),
                                          (31, 72, -52, 1.6))),
    Organ("medial rectus", EYE_MUSCLE, ((12, 44, -33, 1.4), (17, 60, -38, 2.2),
                                        (19, 72, -40, 1.6))),
    Organ("lateral rectus", EYE_MUSCLE, ((17, 44, -33, 1.4), (39, 60, -38, 2.2),
                                         (43, 70, -40, 1.6))),
    Organ("eye", EYE, ((30.5, 71, -40, 11.6),)),
    Organ("atlas", BONE, ((9, -28, -84, 6), (12, -16, -84, 5)), (1, 1, 0.9)),
    Organ("vertebral bodies", MARROW, ((0, -6, -80, 5), (0, -4, -119, 8)), (1.3, 1, 1),
          (BONE, 1.8)),
    Organ("neural arch", BONE, ((13, -18, -99, 5), (0, -44, -103, 4)), (1, 1, 0.8)),
)

SKULL_BASE = (
    Organ("spinal canal", CSF, ((0, -22, -70, 11), (0, -24, -88, 9), (0, -23, -119, 8.5))),
    Organ("spinal cord", CORD, ((0, -24, -76, 5.2), (0, -24, -119, 5)), (1.15, 1, 1)),
    Organ("petrous bone", BONE, ((24, -9, -45, 7), (40, -14, -46, 11), (55, -20, -46, 12),
                                 (55, -20, -60, 8)), over=(CSF, SOFT)),
    Organ("mastoid cells", AIR, ((44, -18, -46, 8), (56, -22, -46, 10), (55, -20, -60, 7)),
          over=(BONE,), grain=0.5),
    Organ("ear canal", AIR, ((48, -12, -46, 2.2), (67, -13, -46, 2.3)), over=(BONE, SOFT)),
    Organ("transverse sinus", VEIN, ((0, -84, -14, 2.5), (26, -77, -22, 3), (48, -56, -29, 3.4),
                                     (53, -34, -34, 4)), (1, 1, 1.2)),
    Organ("jugular vein", VEIN, ((53, -34, -34, 4), (44, -27, -48, 4), (32, -18, -62, 4),
                                 (31, -18, -119, 4.5))),
    Organ("straight sinus", VEIN, ((0, -36, -4, 1.8), (0, -84, -14, 2))),
    Organ("carotid artery", ARTERY, ((27, -8, -119, 2.8), (27, -4, -76, 2.8), (22, 6, -54, 2.8),
                                     (14, 14, -46, 2.6), (12, 27, -40, 2.5), (12, 27, -32, 2.3),
                                     (11, 20, -25, 1.8))),
    Organ("middle cerebral artery", ARTERY, ((11, 20, -25, 1.6), (24, 23, -21, 1.4),
                                             (38, 22, -17, 1.2))),
    Organ("vertebral, basilar artery", ARTERY, ((0, 10, -24, 1.6), (0, 12, -46, 1.8),
                                                (9, -6, -66, 1.8), (17, -14, -84, 1.9))),
    Organ("optic nerve", NERVE, ((5, 24, -22, 1.6), (14, 42, -31, 1.8), (24, 54, -37, 2),
                                 (28, 62, -39, 2))),
    Organ("optic chiasm", (85, 85), ((0, 21, -22, 2.6), (6, 24, -22, 2.1)), (1, 1.4, 1)),
)

CALLOSUM: Knots = (
    (0, 32, -7, 1.8), (0, 43, -1, 3.6), (0, 43, 9, 4), (0, 30, 18.5, 3.2), (0, 10, 23, 2.8),
    (0, -10, 23, 2.8), (0, -25, 17.5, 3), (0, -35, 9, 4.5), (0, -34, 5, 3.6),
)

DEEP = (
    Organ("septum and fornix", WHITE, ((0, 33, 3, 9), (0, 9, 9, 11), (0, -22, 8, 9)),
          (0.2, 1, 1)),
    Organ("quadrigeminal cistern", CSF, ((0, -29, 0, 4), (0, -25, -9, 4)), (1.5, 1, 1)),
    Organ("ventral diencephalon", (28, 60), ((5, 12, -15, 6.5), (9, 3, -14, 7.5),
                                             (20, 0, -13, 5.5)), (1.1, 1.25, 0.8)),
    Organ("midbrain", BRAINSTEM, ((0, -9, -16, 10), (0, -6, -24, 10.5)), (1.25, 0.9, 1)),
    Organ("pons", BRAINSTEM, ((0, -3, -31, 12.5), (0, -5, -40, 12)), (1.2, 0.95, 1)),
    Organ("medulla", BRAINSTEM, ((0, -12, -48, 9), (0, -20, -64, 7.5), (0, -24, -78, 6)),
          (1.1, 1, 1)),
    Organ("cerebellar peduncle", CEREBELLUM_WHITE, ((13, -10, -36, 5), (20, -26, -37, 7)),
          (0.8, 1, 1), over=(CSF, CEREBELLUM_CORTEX)),
    Organ("thalamus", (10, 49), ((8.5, 9, 1.5, 8), (13, -8, 2.5, 11)), (1, 1.05, 0.95)),
    Organ("medial thalamus", (10, 49), ((6, 7, -4, 5), (7, -8, -4, 6))),
    Organ("putamen", (12, 51), ((21, 28, -8, 7.5), (27, 13, -4, 8), (30, 0, 0, 4.5)),
          (0.7, 1.1, 1.25)),
    Organ("pallidum", (13, 52), ((17, 21, -6, 5), (22, 9, -4, 5.5)), (0.75, 1.1, 0.95)),
    Organ("caudate", (11, 50), ((12.5, 33, 1, 8), (15, 24, 7, 7), (16, 8, 13, 5),
                                (20, -10, 14, 3.4), (28, -20, 9, 2.4), (31, -20, 0, 1.8)),
          (0.85, 1, 1)),
    Organ("accumbens", (26, 58), ((9.5, 30, -11, 5.2),), (0.9, 1, 0.85)),
    Organ("hippocampus", (17, 53), ((18, -25, -3, 3.5), (26, -19, -10, 4.5), (29, -6, -19, 5.2),
                                    (27, 6, -24, 6), (23, 11, -25, 5.5)), (1.05, 1, 0.85)),
    Organ("amygdala", (18, 54), ((24, 17, -23, 7.5),), (1, 0.85, 1)),
    Organ("frontal horn", VENTRICLE, ((7, 44, 3, 3), (5.5, 34, 7, 5.5), (5, 18, 11, 5.5),
                                      (6, 2, 16, 4.5)), (0.8, 1, 1.15), grows=True),
    Organ("lateral ventricle", VENTRICLE, ((6, 16, 14.5, 3.8), (8, 0, 17, 4.2),
                                           (12, -18, 16, 4.8), (22, -29, 9, 6), (25, -43, 3, 3.8),
                                           (23, -58, 0, 1.7)), (1.2, 1, 0.85), grows=True),
    Organ("temporal horn", TEMPORAL_HORN, ((26, -28, 2, 3.5), (33, -20, -9, 2.6),
                                           (36, -6, -19, 2.1), (33, 8, -26, 2.4)), grows=True),
    Organ("choroid plexus", (136, 163), ((12, -8, 15, 1.5), (17, -22, 13, 2.2), (24, -29, 6, 3.2)),
          over=(VENTRICLE,)),
    Organ("temporal choroid plexus", (137, 164), ((28, -27, -2, 2), (34, -18, -11, 1.8)),
          over=(TEMPORAL_HORN,)),
    Organ("third ventricle", (14, 14), ((0, 16, -13, 6.5), (0, -3, -3, 7)), (0.33, 1, 1)),
    Organ("fourth ventricle", (15, 15), ((0, -13, -13, 1.3), (0, -16, -24, 2), (0, -23, -35, 5),
                                         (0, -24, -45, 3), (0, -27, -54, 1.5)), (1.2, 0.9, 1)),
    Organ("striatal vessel", (30, 62), ((25, 13, -13.5, 1.8), (28, 8, -12.5, 1.8))),
    Organ("frontal cap", LESION, ((14, 46, 6, 3.4), (16, 41, 12, 2.8)), over=(WHITE,)),
    Organ("occipital cap", LESION, ((28, -38, 11, 3.2), (28, -46, 7, 2.8)), over=(WHITE,)),
)

# fmt: on

PHANTOM_LABELS: tuple[int, ...] = tuple(
    sorted(
        {
            *AIR, *SKIN, *SOFT, *BONE, *MARROW, *WHITE, *CORTEX, *CEREBELLUM_CORTEX,
            *(v for organ in (*FACE, *SKULL_BASE, *DEEP) for v in organ.label),
        }
    )
)  # fmt: skip
"""Every label of a head of 1 mm: the labels that all SynthSeg training maps have in common."""
