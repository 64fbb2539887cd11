"""A trainer of nnU-Net that augments on the GPU, and the same for pipelines of batchgeneratorsv2.

Usage: export nnUNet_extTrainer=examples/recipes/nnunet
       nnUNetv2_train DATASET 3d_fullres FOLD -tr SynthSRTrainer

Needs nnU-Net (pip install nnunetv2); tried with 2.8.1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from synthsr_augmentation import augment
from torch.nn.functional import interpolate


class SynthSRTrainer(nnUNetTrainer):
    """Worker processes only cut patches; the device of the network augments the whole batch."""

    @staticmethod
    def get_training_transforms(
        patch_size: Sequence[int],
        rotation: Any,
        deep_supervision_scales: Any,
        mirror_axes: Any,
        do_dummy_2d_data_aug: bool,
        use_mask_for_norm: Sequence[bool] | None = None,
        **labels: Any,
    ) -> BasicTransform:
        """What nnU-Net does to validation patches: nothing random, labels at full size."""
        if len(patch_size) != 3 or do_dummy_2d_data_aug or any(use_mask_for_norm or ()):
            raise NotImplementedError(
                "SynthSRTrainer needs patches in three dimensions, nearly isotropic, and a"
                " normalisation without masks. Use nnUNetTrainer for this configuration."
            )
        return nnUNetTrainer.get_validation_transforms(None, **labels)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Augment, make the smaller label maps of deep supervision, and train."""
        image, labels = (
            batch[key].to(self.device, non_blocking=True) for key in ("data", "target")
        )
        with torch.no_grad():
            image, labels = augment(image, labels, self.configuration_manager.patch_size)
        target = labels
        if self.enable_deep_supervision:
            sizes = [
                [round(n * s) for n, s in zip(labels.shape[2:], scales, strict=True)]
                for scales in self._get_deep_supervision_scales()
            ]
            target = [
                interpolate(labels.float(), size, mode="nearest-exact").to(labels.dtype)
                for size in sizes
            ]
        return super().train_step({"data": image, "target": target})


class SynthSRAugmentation(BasicTransform):
    """The same augmentation in a pipeline of batchgeneratorsv2, one sample at a time on the CPU."""

    def __init__(self, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.patch_size = patch_size

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Replace `image` and `segmentation`, `(C, X, Y, Z)`."""
        pair = (data_dict[key][None] for key in ("image", "segmentation"))
        image, labels = augment(*pair, self.patch_size)
        return data_dict | {"image": image[0], "segmentation": labels[0]}
