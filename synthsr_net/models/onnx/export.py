"""Models as ONNX files, for programs without PyTorch; each file is checked when it is written.

The metadata of a file holds the header of the model file, one JSON text under `synthsr`, so that it
says itself what the network needs.
"""

from __future__ import annotations

import copy
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synthsr_net.models.checkpoint import HEADER, Model, ModelConfig, config_of_header, header_text
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError

from .graph import INPUT, OPSET, OUTPUT, graph_of

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxruntime")
"""Packages of the extra `export`."""
IR_VERSION = 8
"""Version of the file format, that of `OPSET`: older readers take the file as well."""
MAX_DIFFERENCE = 1e-4
"""Largest difference between onnxruntime and PyTorch, as a share of the range of the output."""
MAX_BYTES = 2**31 - 2**20
"""An ONNX file holds at most 2 GiB; the rest is for the graph."""


def export_onnx(model: Model, path: str | os.PathLike[str]) -> float:
    """Write the network of a model as an ONNX file, atomically, and compare it with PyTorch.

    A network that takes several scans becomes one that takes one.

    The file takes `image`, `(batch, in_channels, x, y, z)` float32 of any sizes, and gives
    `prediction`, `(batch, out_channels, x, y, z)` float32, as `UNet3d.forward` does in inference.
    What comes before and after, such as the normalisation, is described in its metadata, see
    `config_of_metadata`. Before the file appears, onnxruntime and PyTorch compute random volumes of
    the two `check_shapes`.

    Args:
        model: Network and config.
        path: File ending in `.onnx`, which is replaced if it exists.

    Returns:
        Largest difference between onnxruntime and PyTorch, as a share of the range of the output.

    Raises:
        SynthSRError: If a package is missing, the path has another ending, or the weights need more
            than 2 GiB.
        WorkFailedError: If ONNX or onnxruntime refuses the network, or the largest difference is
            above `MAX_DIFFERENCE` of the range.
        OSError: If the file cannot be written.
    """
    require_packages()
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise SynthSRError(f"an ONNX file must end in .onnx, got {path}. Rename it.")
    network = copy.deepcopy(model.network).to("cpu", torch.float32).eval().requires_grad_(False)
    _check_size(network)
    content = _onnx_model(model.config, network).SerializeToString()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        difference = _compare(temporary, network, max(i.maximum for i in model.config.inputs))
    return difference


def require_packages() -> None:
    """Refuse to go on without the packages of the extra `export`.

    Raises:
        SynthSRError: If one is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SynthSRError(
            f"export needs {' and '.join(PACKAGES)}, but {' and '.join(missing)} cannot be"
            " imported. Install what it needs: pip install 'synthsr[export]'"
        )


def config_of_metadata(text: str) -> ModelConfig:
    """Config of the model that an ONNX file was made of.

    Args:
        text: What the metadata of the file has under `synthsr`; with onnxruntime,
            `session.get_modelmeta().custom_metadata_map["synthsr"]`.

    Raises:
        ValueError: If the text is not a config, or of a later version of synthsr.

    Examples:
        >>> config_of_metadata('{"format": 1, "name": "mine"}').scan.spacing_mm
        1.0
    """
    return config_of_header(text, "the metadata")


def check_shapes(config: UNetConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the inputs that are compared: one that is halved without a remainder, one not.

    Both leave several voxels to the deepest level, as the statistics of a normalisation need them.

    Examples:
        >>> check_shapes(UNetConfig())
        ((1, 1, 64, 32, 48), (2, 1, 61, 31, 45))
    """
    side = max(config.divisor, 4)
    x, y, z = 4 * side, 2 * min(side, 16), 3 * min(side, 16)
    return (1, config.in_channels, x, y, z), (2, config.in_channels, x - 3, y - 1, z - 3)


def _check_size(network: UNet3d) -> None:
    size = sum(4 * tensor.numel() for tensor in network.state_dict().values())
    if size > MAX_BYTES:
        raise SynthSRError(
            f"an ONNX file must be smaller than 2 GiB, but the weights need {size / 2**30:.1f} GiB."
            " Export a smaller network."
        )


def _onnx_model(config: ModelConfig, network: UNet3d) -> onnx.ModelProto:
    from onnx import helper

    whole, input_text, output_text = _descriptions(config)
    model = helper.make_model(
        graph_of(network, input_text=input_text, output_text=output_text),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="synthsr",
        producer_version=version("synthsr"),
        doc_string=whole,
    )
    helper.set_model_props(model, {HEADER: header_text(config)})
    return model


def _descriptions(config: ModelConfig) -> tuple[str, str, str]:
    """Of the model, its input and its output, in words."""
    scan, channels = config.scan, []
    for image in config.inputs:
        channels += [image.name] + [f"reliability map of {image.name}"] * image.reliability_map
    whole = (
        f"Network {config.name} of synthsr. {config.description}\n"
        f"Licence: {config.licence}\nCite: {config.citation}\n"
        f"The metadata has, under {HEADER}, everything that is to be known as JSON."
    )
    input_text = (
        f"(batch, channel, x, y, z), channels: {', '.join(channels)}; axes to the right, front and"
        f" top, voxels of {scan.spacing_mm:g} mm, intensities normalised ({scan.normalisation}) and"
        f" padded with zeros to multiples of {scan.divisor}. Other sizes work as well: they are"
        " halved rounding up."
    )
    output_text = (
        f"(batch, channel, x, y, z), {config.output} in the sizes of the input, before scale"
        f" ({scan.output_scale:g}) and range"
        + ("; the last half of the channels are log spreads." if config.spread else ".")
    )
    return whole, input_text, output_text


def _compare(path: Path, network: UNet3d, maximum: float) -> float:
    """Largest difference between onnxruntime and PyTorch, as a share of the range.

    Args:
        path: The ONNX file.
        network: What it was made of.
        maximum: Of the random input.

    Raises:
        WorkFailedError: If it is too large, or there is none.
    """
    generator = torch.Generator().manual_seed(0)
    volumes = [maximum * torch.rand(s, generator=generator) for s in check_shapes(network.config)]
    shares = []
    for x, output in zip(volumes, _computed(path, volumes), strict=True):
        expected = network(x)
        shares.append((output - expected).abs().max() / _range(expected))
    worst = float(torch.stack(shares).max())  # NaN if there is one
    if not worst <= MAX_DIFFERENCE:
        raise WorkFailedError(
            f"the ONNX network must compute what PyTorch computes, but differs by {worst:.1e} of"
            f" the range, more than {MAX_DIFFERENCE:g}. Nothing was written; update onnxruntime, or"
            " report it."
        )
    return worst


def _computed(path: Path, volumes: list[Tensor]) -> list[Tensor]:
    """Outputs of onnxruntime for each input, after ONNX has checked the file."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        outputs = [session.run([OUTPUT], {INPUT: x.numpy()})[0] for x in volumes]
    except Exception as error:  # those of onnxruntime have no common class
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise WorkFailedError(
            f"the ONNX network must run in onnxruntime {onnxruntime.__version__}, but does not"
            f" ({reason}). Nothing was written; update onnx and onnxruntime, or report it."
        ) from error
    return [torch.from_numpy(output) for output in outputs]


def _range(output: Tensor) -> float:
    """Range of the output; for one that is nearly constant, 1 % of its largest magnitude."""
    low, high = (float(value) for value in torch.aminmax(output))
    return max(high - low, 0.01 * max(abs(low), abs(high))) or 1.0
