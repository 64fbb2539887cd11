"""Time this package and others at the same work, side by side, and print tables in Markdown.

Usage:
  python benchmarks/compare.py [--device cuda] [--size 160] [--batches 1 4]
  python benchmarks/compare.py --only monai torchio --skip-predictions

Every library makes scans of one label map (the phantom) by the same steps, as far as it has them:
deformation, a Gaussian mixture, a bias field, gamma, a lower resolution, noise. What a library
lacks is left out or done by plain PyTorch, as the table says. Each is used as its documentation
does, and makes one sample at a time where it knows no batches. Predictions are those of one
network by this package, by PyTorch layer by layer and by ONNX Runtime. A library that is not
installed, or fails, gets a row with its error.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.metadata
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchio as tio
from torch import Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import Plan
from synthsr_net.models.checkpoint import Model, ModelConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms import Generator, load_config
from synthsr_transforms.phantom import head_phantom

Make = Callable[[int], Any]
clock: Callable[[], float] = time.perf_counter
"""Seconds that are counted; `--cpu-time` counts those that this process computes."""
STEPS = ("deformation", "mixture", "bias", "rescale", "gamma", "resolution", "acquisition")
"""Steps of the preset `all_purpose` that others have as well."""


class Peer(NamedTuple):
    """A library that makes scans of label maps.

    Attributes:
        package: Name of its distribution.
        setup: Makes, from label maps `(B, 1, X, Y, Z)`, a function of a seed that makes B scans.
        batched: Whether it knows batches.
        note: What differs.
    """

    package: str
    setup: Callable[[Tensor], Make]
    batched: bool = False
    note: str = ""


def batch_of(labels: Tensor) -> SubjectsBatch:
    """Label maps as a batch of TorchIO."""
    subjects = [tio.Subject(labels=tio.LabelMap(each)) for each in labels]
    return SubjectsBatch.from_subjects(subjects).to(labels.device)


def ours(labels: Tensor) -> Make:
    """The steps that all have, by this package."""
    config = load_config("all_purpose")
    steps = {name: config.steps[name] for name in STEPS}
    generator, batch = Generator(dataclasses.replace(config, steps=steps)), batch_of(labels)
    return lambda seed: generator.run(batch, seed)[0].images["image"].data


def all_purpose(labels: Tensor) -> Make:
    """The whole preset, with a target."""
    size = labels.shape[-1] // 32 * 32
    generator, batch = (
        Generator.from_preset("all_purpose", [f"crop.shape={size}"]),
        batch_of(labels),
    )
    return lambda seed: generator.pair(batch, seed).image


def torchio(labels: Tensor) -> Make:
    """TorchIO's own transforms."""
    image: dict[str, Any] = {"include": ["image"]}
    make = tio.Compose(
        [
            tio.Spatial(
                degrees=20,
                scales=(0.85, 1.15),
                translation=10,
                max_displacement=5,
                num_control_points=7,
            ),
            tio.LabelsToImage(
                label_key="labels", image_key="image", default_mean=(25, 225), default_std=(1, 12)
            ),
            tio.BiasField(std=(0, 0.5), **image),
            tio.RescaleIntensity(**image),
            tio.Gamma(log_gamma=(-0.4, 0.4), **image),
            tio.Anisotropy(downsampling=(1, 5), **image),
            tio.Noise(std=(0, 0.03), **image),
        ]
    )
    batch = batch_of(labels)
    return lambda seed: make(copy.copy(batch)).images["image"].data


def mixture(labels: Tensor) -> Tensor:
    """Gaussian mixture by plain PyTorch, for libraries without one."""
    means = torch.empty(int(labels.max()) + 1, device=labels.device).uniform_(25, 225)
    stds = torch.empty_like(means).uniform_(1, 12)
    index = labels.long()
    return means[index] + stds[index] * torch.randn_like(labels)


def monai(labels: Tensor) -> Make:
    """MONAI's array transforms."""
    from monai import transforms as mt

    device = labels.device
    deform = mt.Rand3DElastic(
        sigma_range=(5, 8),
        magnitude_range=(50, 150),
        prob=1,
        rotate_range=0.35,
        translate_range=10,
        scale_range=0.15,
        mode="nearest",
        device=device,
    )
    degrade = mt.Compose(
        [
            mt.RandBiasField(prob=1),
            mt.ScaleIntensity(),
            mt.RandAdjustContrast(prob=1, gamma=(0.67, 1.5)),
            mt.RandSimulateLowResolution(prob=1, zoom_range=(0.2, 1), device=device),
            mt.RandGaussianNoise(prob=1, std=0.03),
        ]
    )
    first = labels[0].float()
    return lambda seed: degrade(mixture(deform(first)))


def batchaug(labels: Tensor) -> Make:
    """BatchAug, with the transforms that its page names."""
    import batchaug as ba

    steps = [
        ba.RandBiasField(prob=1),
        ba.ScaleIntensity(),
        ba.RandAdjustContrast(prob=1, gamma=(0.67, 1.5)),
        ba.RandSimulateLowResolution(prob=1, zoom_range=(0.2, 1)),
        ba.RandGaussianNoise(prob=1, mean=0.0, std=0.03),
    ]
    deform = ba.RandAffine(prob=1, rotate_range=0.35, translate_range=10, scale_range=0.15)
    whole = labels.float()

    def make(seed: int) -> Tensor:
        image = mixture(deform(whole).round())
        for step in steps:
            image = step(image)
        return image

    return make


def cornucopia(labels: Tensor) -> Make:
    """Cornucopia's generator of scans from labels."""
    import cornucopia as cc

    synth = cc.SynthFromLabelTransform(
        order=1, elastic_nodes=7, gmm_fwhm=False, motion_fwhm=False, gfactor=False
    )
    first = labels[0]
    return lambda seed: synth(first)


def batchgenerators(labels: Tensor) -> Make:
    """The transforms of nnU-Net, batchgeneratorsv2."""
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.local.brightness_gradient import (
        BrightnessGradientAdditiveTransform,
    )
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    shape = tuple(labels.shape[2:])
    deform = SpatialTransform(
        shape,
        0,
        False,
        p_elastic_deform=1,
        elastic_deform_magnitude=(0.05, 0.1),
        p_rotation=1,
        rotation=(-0.35, 0.35),
        p_scaling=1,
        scaling=(0.85, 1.15),
        mode_seg="nearest",
    )
    steps = [
        BrightnessGradientAdditiveTransform(scale=(30, 60), max_strength=0.5),
        GammaTransform((0.67, 1.5), 0, False, 1, 0),
        SimulateLowResolutionTransform((0.2, 1), False, False, ()),
        GaussianNoiseTransform((0, 0.001)),
    ]
    first = labels[0].short()

    def make(seed: int) -> Tensor:
        drawn = deform(image=first.float(), segmentation=first)
        image = {"image": mixture(drawn["segmentation"].float()) / 225}
        for step in steps:
            image = step(**image)
        return image["image"]

    return make


def voxynth(labels: Tensor) -> Make:
    """Voxynth's augmentation."""
    from voxynth.augment import image_augment

    first = labels[0]
    return lambda seed: image_augment(
        mixture(first.float()),
        bias_field_probability=1,
        added_noise_probability=1,
        gamma_scaling_probability=1,
        resized_probability=1,
    )


OWN_MIXTURE = "no mixture (plain PyTorch)"
PEERS = {
    "synthsr": Peer("synthsr", ours, True),
    "all_purpose": Peer("synthsr", all_purpose, True, "the whole preset, with a target"),
    "torchio": Peer("torchio", torchio, True),
    "monai": Peer("monai", monai, note=OWN_MIXTURE),
    "cornucopia": Peer("cornucopia", cornucopia),
    "batchgeneratorsv2": Peer(
        "batchgeneratorsv2",
        batchgenerators,
        note=f"{OWN_MIXTURE}; brightness gradient for bias",
    ),
    "batchaug": Peer("batchaug", batchaug, True, f"{OWN_MIXTURE}; no elastic deformation"),
    "voxynth": Peer("voxynth", voxynth, note=f"{OWN_MIXTURE}; no deformation"),
}


def phantom(size: int, device: torch.device) -> Tensor:
    """A cube of the phantom's labels, `(1, 1, X, Y, Z)`."""
    labels = tio.CropOrPad(target_shape=size)(head_phantom(spacing_mm=1))
    return labels.data[None].to(device)


def median_seconds(make: Make, device: torch.device, seconds: float) -> float:
    """Median time of a call, after one that is not counted; a slow one is called but once more."""
    begin = clock()
    make(0)
    fewest = 1 if clock() - begin > 5 * seconds else 3
    times: list[float] = []
    while len(times) < fewest or (sum(times) < seconds and len(times) < 200):
        _wait(device)
        begin = clock()
        make(len(times))
        _wait(device)
        times.append(clock() - begin)
    return statistics.median(times)


def peak_mib(make: Make, device: torch.device) -> float | None:
    """Memory of a call on the device, beyond what is held already."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    make(0)
    _wait(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pair_rows(
    names: Iterable[str], device: torch.device, size: int, batches: Sequence[int], seconds: float
) -> Iterator[list[str]]:
    """Rows of the table of scans: name, version, milliseconds per sample and batch, memory."""
    labels = phantom(size, device)
    for name in names:
        peer = PEERS[name]
        row = [name, version(peer.package)]
        try:
            memory = None
            for batch in batches:
                if batch > 1 and not peer.batched:
                    row.append("no batches")
                    continue
                make = peer.setup(labels.expand(batch, -1, -1, -1, -1).contiguous())
                row.append(f"{1000 * median_seconds(make, device, seconds) / batch:.1f}")
                memory = memory or peak_mib(make, device)
            row += ["" if memory is None else f"{memory:.0f}", peer.note]
        except Exception as error:  # whatever it is goes into the table
            yield _failed(row, error, 4 + len(batches))
            continue
        yield row


def _failed(row: list[str], error: Exception, columns: int) -> list[str]:
    words = f"{type(error).__name__}: {error}".splitlines()[0].replace("|", "/")[:120]
    return [*row, *[""] * (columns - 1 - len(row)), words]


def version(package: str) -> str:
    """Version of an installed package, or a dash."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def predictors(network: UNet3d, x: Tensor, precision: str) -> dict[str, tuple[str, Make]]:
    """Ways to compute one pass of a network, with the package whose version counts."""
    plan = Plan("store", 0)

    def streamed(_: int) -> Tensor:
        return predict_volume(network, x, plan=plan, precision=precision)

    def layer_by_layer(_: int) -> Tensor:
        with torch.no_grad():
            return network(x[None])

    return {
        f"synthsr, {precision}": ("synthsr", streamed),
        "PyTorch, layer by layer, fp32": ("torch", layer_by_layer),
    }


def onnx_session(network: UNet3d, x: Tensor, folder: Path) -> Make:
    """The same network in ONNX Runtime."""
    import onnxruntime

    from synthsr_net.models.onnx.export import export_onnx

    path = folder / "network.onnx"
    model = Model(ModelConfig(network=network.config), copy.deepcopy(network).cpu())
    export_onnx(model, path)
    wanted = "CUDAExecutionProvider" if x.is_cuda else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise RuntimeError(f"no {wanted}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=[wanted])
    volume = x.cpu()[None].numpy()
    return lambda _: session.run(None, {"image": volume})


def prediction_rows(
    device: torch.device, size: int, features: int, seconds: float
) -> Iterator[list[str]]:
    """Rows of the table of predictions: way, version, seconds per pass, memory."""
    torch.manual_seed(0)
    config = UNetConfig(num_features=features, normalisation="instance", normalise_last=False)
    network = UNet3d(config).eval().requires_grad_(False).to(device)
    x = torch.rand(1, size, size, size, device=device)
    ways = predictors(network, x, "fp32")
    if device.type == "cuda":
        ways |= {k: v for k, v in predictors(network, x, "tf32").items() if "synthsr" in k}
    ways |= {k: v for k, v in predictors(network, x, "bf16").items() if "synthsr" in k}
    for name, (package, make) in ways.items():
        elapsed, memory = median_seconds(make, device, seconds), peak_mib(make, device)
        yield [name, version(package), f"{elapsed:.3f}", "" if memory is None else f"{memory:.0f}"]
    row = ["ONNX Runtime, fp32", version("onnxruntime")]
    with tempfile.TemporaryDirectory() as folder:
        try:
            make = onnx_session(network, x, Path(folder))
            yield [*row, f"{median_seconds(make, device, seconds):.3f}", ""]
        except Exception as error:
            yield _failed(row, error, 4)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, each row as soon as it is known."""
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def machine(device: torch.device) -> str:
    """The machine, date and versions in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"{platform.machine()} CPU, {threads} thread{'s' * (threads != 1)}"
    python = platform.python_version()
    return f"{name}, {date.today()}, Python {python}, PyTorch {torch.__version__}"


def main(arguments: Sequence[str]) -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128, help="edge of the volumes in voxels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each figure")
    parser.add_argument("--features", type=int, default=24, help="of the network's first level")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--skip-predictions", action="store_true")
    parser.add_argument(
        "--cpu-time", action="store_true", help="time of the processor, for a shared machine"
    )
    chosen = parser.parse_args(arguments)
    if chosen.cpu_time:
        global clock
        clock = time.process_time
    device, size = torch.device(chosen.device), chosen.size
    print(f"{machine(device)}, {size}^3 voxels\n")
    times = [f"ms, batch of {batch}" for batch in chosen.batches]
    print_table(
        ["Scans of label maps", "Version", *times, "MiB", "Differs by"],
        pair_rows(chosen.only, device, size, chosen.batches, chosen.seconds),
    )
    if not chosen.skip_predictions:
        rows = prediction_rows(device, size, chosen.features, chosen.seconds)
        print_table(["One pass of a U-Net", "Version", "s", "MiB"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
