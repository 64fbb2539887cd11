"""Models and their networks, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from synthsr_transforms.support.messages import listed

if TYPE_CHECKING:
    from synthsr_net.models.checkpoint import ModelConfig
    from synthsr_net.networks.unet import UNetConfig


def network_in_words(config: UNetConfig) -> dict[str, str]:
    """Levels, convolutions, channels and parameters of a network."""
    import torch

    from synthsr_net.networks.unet import UNet3d

    with torch.device("meta"):
        network = UNet3d(config)
    trained = sum(p.numel() for p in network.parameters())
    numbers = trained + sum(b.numel() for b in network.buffers() if b.is_floating_point())
    size = "x".join([str(config.kernel_size)] * 3)
    return {
        "levels": f"{config.num_levels}, of {listed(config.features)} features",
        "each": f"{counted(config.convs_per_level, 'convolution')} of {size}, {config.activation},"
        f" normalisation {config.normalisation}",
        "channels": f"{config.in_channels} in, {config.out_channels} out"
        + (", softmax" if config.softmax else ""),
        "parameters": f"{numbers:,}, {trained:,} of them trainable",
    }


def use_in_words(config: ModelConfig) -> dict[str, str]:
    """Inputs, output and defaults of a model."""
    scan = config.scan
    images = [
        i.name + (" with reliability map" if i.reliability_map else "") for i in config.inputs
    ]
    if config.takes_exams:
        images[0] += ", any number of scans"
    added = scan.residual_input
    what = f"added to {config.inputs[added].name}" if added is not None else f"{config.output} scan"
    if config.structures:
        number = len(config.structures) - 1
        return {"images": ", ".join(images), "output": f"probabilities of {number} structures"}
    return {
        "images": ", ".join(images),
        "output": what + (", and its spread" if config.spread else ""),
        "by default": f"{'' if scan.flip else 'no '}test-time augmentation (flip),"
        f"{' with inversion of inverse contrast,' if scan.flip and scan.inverse_contrast else ''}"
        f" {'' if scan.sharpen else 'no '}sharpening,"
        f" {'' if scan.data_consistency else 'no '}data consistency",
    }


def outline(settings: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    r"""Lines of nested settings, a level of indentation for each; numbers with four digits.

    Examples:
        >>> print("\n".join(outline({"steps": 7, "results": {"l1": 0.061234, "psnr": 21.7}})))
        steps: 7
        results:
          l1:   0.06123
          psnr: 21.7
    """
    margin = " " * indent
    numbers = all(isinstance(value, (int, float)) for value in settings.values())
    width = max(map(len, map(str, settings)), default=0) if numbers else 0
    for name, value in settings.items():
        label = f"{margin}{name}:"
        if isinstance(value, Mapping) and value:
            yield label
            yield from outline(value, indent + 2)
        elif isinstance(value, list) and any(isinstance(v, (Mapping, list)) for v in value):
            yield label
            for item in value:
                text = outline(item) if isinstance(item, Mapping) else [_value(item)]
                yield from (f"{margin}  {'-' if k == 0 else ' '} {x}" for k, x in enumerate(text))
        else:
            yield f"{label:<{len(margin) + width + 1}} {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return "none" if value is None or value == {} else " ".join(str(value).split())


def counted(count: int, noun: str) -> str:
    """A number of things.

    Examples:
        >>> counted(1, "level"), counted(2, "level")
        ('1 level', '2 levels')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
