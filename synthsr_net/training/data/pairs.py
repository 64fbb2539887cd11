"""Label maps on the device, and the pairs that are generated there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pytorch_lightning import LightningDataModule

from synthsr_net.training.config import TrainingConfig
from synthsr_transforms.generator.generator import Generator

from .bank import Bank, Entry, place_of
from .stream import FixedPairs, PairLoader, PairStream, Position


class PairData(LightningDataModule):
    """Training and validation pairs, as Lightning asks for them.

    Args:
        generator: Makes the pairs.
        entries: Label maps of training.
        held_out: Label maps of validation; where there are none, those of training serve.
        config: Settings.
        position: Counter of batches, shared with the task.
        batches_per_epoch: Number of batches of an epoch.
    """

    def __init__(
        self,
        generator: Generator,
        entries: Sequence[Entry],
        held_out: Sequence[Entry],
        config: TrainingConfig,
        *,
        position: Position,
        batches_per_epoch: int,
    ) -> None:
        super().__init__()
        self.generator, self.config = generator, config
        self.entries, self.held_out = list(entries), list(held_out)
        self.position, self.batches_per_epoch = position, batches_per_epoch

    def setup(self, stage: str) -> None:
        """Bring the label maps to the device of this process."""
        assert self.trainer is not None
        self.connect(
            self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size
        )

    def connect(self, device: torch.device, rank: int = 0, num_ranks: int = 1) -> None:
        """Make the streams of a process.

        Args:
            device: Where it computes.
            rank: Number of the process.
            num_ranks: Number of processes.
        """
        run = self.config.run
        kept = place_of([*self.entries, *self.held_out], device, run.label_map_memory)
        self.stream = PairStream(
            self.generator,
            self._bank(self.entries, device, kept),
            seed=run.seed,
            batch_size=run.batch_size,
            rank=rank,
            num_ranks=num_ranks,
        )
        held_out = self._bank(self.held_out, device, kept) if self.held_out else self.stream.bank
        self.fixed = FixedPairs(
            PairStream(self.generator, held_out, seed=self.config.validation.seed),
            self.config.validation.samples,
            rank,
            num_ranks,
        )

    def _bank(self, entries: Sequence[Entry], device: torch.device, kept: torch.device) -> Bank:
        return Bank(entries, target=self.generator.config.target, device=device, kept=kept)

    def train_dataloader(self) -> PairLoader:
        """Batches of an epoch, from where the run is."""
        return PairLoader(self.stream, self.position, self.batches_per_epoch)

    def val_dataloader(self) -> FixedPairs:
        """The validation samples of this process."""
        return self.fixed
