"""Whole files of every kind that is read, small, made by the project itself."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, save_model
from synthsr_net.models.keras.weights import write_keras
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.report.entries import ReportEntry, save_entry
from synthsr_transforms.estimation import PriorEstimation, find_data_sets, write_estimate
from synthsr_transforms.job.job import GenerationJob
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom

SPACING_MM = 8.0
GENERATOR = """
label_table: synthseg_synthsr
steps:
  deformation: {name: SpatialDeformation, params: {rotation_degrees: [-15, 15], scaling: 0.1}}
  crop: {name: PatchCrop, params: {shape: 16}}
  flip: {name: HemisphereFlip, params: {p: 0.5}}
  mixture: {name: TissueMixture, params: {distribution: uniform}}
  bias: {name: BiasCorruption, params: {std: [0, 0.3], include: [image]}}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
  target: {name: CopyImage}
  acquisition: {name: SliceAcquisition, params: {spacing_mm: [8, 8, 16], noise_std: [0, 0.1]}}
"""
TRAINING = """
training:
  network: {num_levels: 2, num_features: 2}
  optimiser: {learning_rate: 1.0e-2, clip_norm: 1.0, schedule: cosine, warmup_steps: 2}
  loss: {name: l1}
  run: {epochs: 2, steps_per_epoch: 5, batch_size: 1, precision: fp32}
  validation: {every_epochs: 0, previews: 0, samples: 2}
"""


def write_originals(folder: Path) -> list[Path]:
    """Write the files, and return those that are to be damaged."""
    _write_volumes(folder)
    _write_models(folder)
    (folder / "generator.yaml").write_text(GENERATOR)
    (folder / "training.yaml").write_text(GENERATOR + TRAINING)
    _write_tables(folder)
    job = GenerationJob.from_source(
        folder / "generator.yaml", labels=folder / "labels.nii.gz", folder=folder / "job"
    )
    list(job.run())
    (folder / "list.txt").write_text(f"{folder / 'scan.nii.gz'}\n{folder / 'scan.mgz'}\n")
    entry = ReportEntry("scan", "scan.nii.gz", "out.nii.gz", warnings=("a doubt",), seconds=1.0)
    save_entry(folder / "report", entry).rename(folder / "entry.json")
    record = folder / "job" / "sample_000000.json"
    record.rename(folder / "sample.json")
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "stds.npy"]


def _write_volumes(folder: Path) -> None:
    labels = head_phantom(spacing_mm=SPACING_MM)
    data, affine = labels.data[0].numpy(), np.asarray(labels.affine.data, np.float64)
    random = np.random.default_rng(0)
    scan = (60 + 5 * (data % 41)) * (data > 0) + random.normal(0, 4, data.shape)
    scan = np.maximum(scan, 0).astype(np.float32)
    for name, voxels, small in (("labels", data, np.int16), ("scan", scan, np.float32)):
        voxels = np.asarray(voxels, small)
        whole = voxels if name == "labels" else voxels.astype(np.int16)
        nib.save(nib.Nifti1Image(whole, affine), folder / f"{name}.nii")
        nib.save(nib.Nifti1Image(voxels, affine), folder / f"{name}.nii.gz")
        mgh = voxels.astype(np.int32) if name == "labels" else voxels
        nib.save(nib.MGHImage(mgh, affine), folder / f"{name}.mgz")
        np.savez_compressed(folder / f"{name}.npz", vol_data=voxels)


def _write_models(folder: Path) -> None:
    torch.manual_seed(0)
    network = UNetConfig(num_levels=2, num_features=2)
    state = UNet3d(network).state_dict()
    config = ModelConfig(name="tiny", network=network, scan=ScanConfig(spacing_mm=SPACING_MM))
    save_model(folder / "model.safetensors", config, state)
    write_keras(folder / "keras.h5", network, state)


def _write_tables(folder: Path) -> None:
    table = LabelTable.ready("synthseg_synthsr")
    table.write(folder / "table.tsv")
    np.save(folder / "values.npy", np.array(table.values))
    number = len(set(table.classes))
    means = np.stack([np.linspace(0, 200, number), np.full(number, 5.0)])
    np.save(folder / "means.npy", means)
    np.save(folder / "stds.npy", means / 10 + 1)
    data_sets = find_data_sets([folder / "scan.nii.gz"], [folder / "labels.nii.gz"])
    estimate = PriorEstimation(data_sets=data_sets, label_table=table).run()
    write_estimate(estimate, folder / "estimate")
    (folder / "estimate" / "priors.yaml").rename(folder / "priors.yaml")
