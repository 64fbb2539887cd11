"""The structural similarity index from local moments."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

STABILISERS = (0.01**2, 0.03**2)
"""Constants c1 and c2 of the index for intensities within 0 and 1."""

Moments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def products(a: Tensor, b: Tensor) -> Moments:
    """Two images and their products, whose local means are the moments of `similarity`."""
    return a, b, a * a, b * b, a * b


def similarity(moments: Sequence[Tensor]) -> Tensor:
    r"""Structural similarity at each place from the local means \(E\) of `products`.

    \[\frac{2 E[a] E[b] + c_1}{E[a]^2 + E[b]^2 + c_1} \cdot \frac{2 (E[ab] - E[a] E[b]) + c_2}
    {E[a^2] + E[b^2] - E[a]^2 - E[b]^2 + c_2}\]

    Args:
        moments: Five tensors of one shape: means of a, b, a², b² and ab.

    Returns:
        Same shape, 1 where the images are equal.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity,
        IEEE Transactions on Image Processing 13 (2004).
    """
    a, b, aa, bb, ab = moments
    c1, c2 = STABILISERS
    across, within = a * b, a * a + b * b
    luminance = (2 * across + c1) / (within + c1)
    return luminance * (2 * (ab - across) + c2) / (aa + bb - within + c2)
