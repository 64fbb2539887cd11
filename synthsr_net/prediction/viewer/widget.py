"""A prediction and what belongs to it in a notebook, shown by ipyniivue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from synthsr_transforms.drawing.slices import Convention
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.support.messages import SynthSRError

from .volumes import legend, sent, window_of

if TYPE_CHECKING:
    from ipywidgets import VBox

HEIGHT = 500
"""Of the planes, in pixels."""
TITLES = {"scan": "Scan", "segmentation": "Structures", "laplace_scale": "Uncertainty"}
OPACITIES = {"scan": 0.0, "segmentation": 0.4, "laplace_scale": 0.0}
"""Of layers above the first, before a slider is moved."""


def widget_of(layers: Mapping[str, Volume], convention: Convention = "neurological") -> VBox:
    """Make a widget that shows volumes above each other.

    Args:
        layers: `prediction`, `scan`, `segmentation` or `laplace_scale`, the lowest one first.
        convention: Where the left of the head is drawn.

    Returns:
        The `ipyniivue.NiiVue`, and a row of sliders for the opacity of each layer but the first.

    Raises:
        SynthSRError: If ipyniivue is not installed.
    """
    try:
        import ipyniivue
        import ipywidgets
    except ImportError as error:
        raise SynthSRError(
            f"view() needs ipyniivue, but {error.name} cannot be imported. Install what it needs:"
            " pip install 'synthsr[notebook]'. plot() draws a picture without it."
        ) from error
    planes = ipyniivue.NiiVue(
        height=HEIGHT,
        is_radiological_convention=convention == "radiological",
        multiplanar_show_render=ipyniivue.ShowRender.NEVER,
        show_all_orientation_markers=True,
        tile_margin=4.0,
        crosshair_color=(0.4, 0.75, 1.0, 0.8),
        drag_and_drop_enabled=False,
        show_legend=False,
    )
    lowest, *above = layers
    shown = [_settings(name, layers[name], 1.0) for name in (lowest,)]
    shown += [_settings(name, layers[name], OPACITIES[name]) for name in above]
    planes.load_volumes(shown)
    if "segmentation" in layers:
        planes.volumes[[*layers].index("segmentation")].set_colormap_label(_colours(layers))
    sliders = []
    for name, volume in zip(above, planes.volumes[1:], strict=True):
        slider = ipywidgets.FloatSlider(
            volume.opacity, min=0, max=1, step=0.05, description=TITLES[name]
        )
        ipywidgets.jslink((slider, "value"), (volume, "opacity"))
        sliders.append(slider)
    return ipywidgets.VBox([planes, ipywidgets.HBox(sliders)])


def _settings(name: str, volume: Volume, opacity: float) -> dict[str, Any]:
    """What ipyniivue has to know of a volume."""
    low, high = window_of(name, volume)
    return {
        "name": f"{name}.nii",
        "data": sent(volume),
        "colormap": "inferno" if name == "laplace_scale" else "gray",
        "opacity": opacity,
        "cal_min": low,
        "cal_max": high,
        "colorbar_visible": False,
    }


def _colours(layers: Mapping[str, Volume]) -> dict[str, Any]:
    """Colours of structures, by their rows."""
    rows = legend(layers["segmentation"])
    red, green, blue = zip(*(row["colour"] for row in rows), strict=True)
    return {
        **{"R": list(red), "G": list(green), "B": list(blue)},
        "A": [255 * row["shown"] for row in rows],
        "I": list(range(len(rows))),
        "labels": [row["name"] for row in rows],
    }
