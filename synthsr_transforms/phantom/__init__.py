"""A procedural head: the label map of a whole head, made from mathematics and a seed.

Every structure is a signed distance in mm (negative inside), every variation is a smooth field with
a seed, both functions of world position: any voxel spacing samples the same head, and no file is
needed. Smooth functions are evaluated once, on a lattice of 3 mm that does not depend on the
voxels, and interpolated; thin and small structures are evaluated at the voxels.

*World space* is RAS mm with the origin in the middle of the head. *Head space* is the space of
the tables in `anatomy`: an average head, origin between the thalami, and `u`, the distance from the
mid-sagittal plane, instead of `x`. A smooth random map from world to head makes the individuals.

Labels are those of FreeSurfer, with the extracerebral labels of the SynthSeg training maps.

The modules, from the whole to the parts: `head` makes the grid, `painting` writes the labels,
`fields` gives the smooth fields there, `individuals` how people differ; `anatomy` lists the
structures, `shapes` has surfaces and distances.
"""

from .anatomy import PHANTOM_LABELS
from .head import head_phantom

__all__ = ["PHANTOM_LABELS", "head_phantom"]
