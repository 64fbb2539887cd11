"""The stream of training pairs, generated ahead of time, and its loaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule

from synthsr_net.training.config import TrainingConfig
from synthsr_transforms.generator.generator import Generator, Pair
from synthsr_transforms.seeds import derive_seed

from .bank import Bank, Entry, place_of


class BatchPlan(NamedTuple):
    """Plan of a batch.

    Attributes:
        number: Number of the batch, counted over all devices.
        seed: Seed of all its random numbers.
        entries: Positions of its label maps in the bank.
    """

    number: int
    seed: int
    entries: tuple[int, ...]


def plan_batch(seed: int, number: int, num_entries: int, batch_size: int = 1) -> BatchPlan:
    """Plan the batch of a number, the same whatever came before it.

    With one sample per batch, it is the sample of that number that `synthsr generate` makes of the
    same label maps and seed.

    Args:
        seed: Seed of the run.
        number: Number of the batch.
        num_entries: Number of label maps to choose from.
        batch_size: Number of samples.

    Examples:
        >>> plan_batch(0, 5, 10) == plan_batch(0, 5, 10), plan_batch(0, 5, 10).number
        (True, 5)
    """
    own = derive_seed(seed, number)
    random = torch.Generator().manual_seed(derive_seed(own, 1))
    entries = torch.randint(num_entries, (batch_size,), generator=random)
    return BatchPlan(number, own, tuple(entries.tolist()))


class Mixed(NamedTuple):
    """What makes some of the batches, in place of the generator of the others.

    Attributes:
        generator: Makes pairs of real scans.
        bank: The scans.
        share: Share of the batches.
    """

    generator: Generator
    bank: Bank
    share: float

    def makes(self, seed: int, number: int) -> bool:
        """Whether the batch of a number is one of them, whatever came before it."""
        random = torch.Generator().manual_seed(derive_seed(derive_seed(seed, number), 2))
        return float(torch.rand((), generator=random)) < self.share


class Origin(NamedTuple):
    """A generator, and what it makes pairs of.

    Attributes:
        generator: Makes the pairs.
        entries: Label maps, or real scans, of training.
        held_out: Those of validation.
    """

    generator: Generator
    entries: Sequence[Entry]
    held_out: Sequence[Entry]


@dataclass
class Position:
    """Number of batches that a run has trained on, on each device."""

    done: int = 0


class PairStream:
    """Generates the pairs of a run on the device, one ahead of the training.

    On a GPU, the next pair is generated on a stream of its own while the network trains.

    Args:
        generator: Makes the pairs.
        bank: Label maps that they are made from.
        seed: Seed of the run.
        batch_size: Number of samples in a batch.
        rank: Number of this process.
        num_ranks: Number of processes, each of which makes every `num_ranks`-th batch.
        mixed: Makes pairs of real scans in a share of the batches, if there are some.
    """

    def __init__(
        self,
        generator: Generator,
        bank: Bank,
        *,
        seed: int = 0,
        batch_size: int = 1,
        rank: int = 0,
        num_ranks: int = 1,
        mixed: Mixed | None = None,
    ) -> None:
        self.generator, self.bank, self.mixed = generator, bank, mixed
        self.seed, self.batch_size = seed, batch_size
        self.rank, self.num_ranks = rank, num_ranks
        cuda = bank.device.type == "cuda"
        self._side = torch.cuda.Stream(bank.device) if cuda else None
        self._next: tuple[int, Pair, torch.cuda.Event] | None = None

    def plan(self, step: int) -> BatchPlan:
        """Return the plan of a step of this process."""
        _, bank = self.maker(step)
        return plan_batch(self.seed, self._number(step), len(bank), self.batch_size)

    def maker(self, step: int) -> tuple[Generator, Bank]:
        """Return what makes the pair of a step, and from what."""
        if self.mixed is not None and self.mixed.makes(self.seed, self._number(step)):
            return self.mixed.generator, self.mixed.bank
        return self.generator, self.bank

    def _number(self, step: int) -> int:
        return step * self.num_ranks + self.rank

    def pair(self, step: int) -> Pair:
        """Make the pair of a step now."""
        plan, (generator, bank) = self.plan(step), self.maker(step)
        return generator.pair(bank.batch(plan.entries), seed=plan.seed)

    def prefetch(self, step: int) -> None:
        """Begin to make the pair of a step on the side stream, if there is one."""
        if self._side is None or (self._next is not None and self._next[0] == step):
            return
        with torch.cuda.stream(self._side):
            pair = self.pair(step)
            ready = torch.cuda.Event()
            ready.record(self._side)
        self._next = (step, pair, ready)

    def take(self, step: int) -> Pair:
        """Return the pair of a step, prefetched or made now."""
        self.prefetch(step)
        if self._next is None:
            return self.pair(step)
        _, pair, ready = self._next
        self._next = None
        current = torch.cuda.current_stream(self.bank.device)
        current.wait_event(ready)
        for tensor in pair:
            if tensor is not None:
                tensor.record_stream(current)
        return pair


class PairLoader:
    """Loader of Lightning: the batches of one epoch, from where the run is.

    Args:
        stream: Makes the pairs.
        position: Position of the run, which the task increases.
        batches_per_epoch: Number of batches of an epoch.
    """

    def __init__(self, stream: PairStream, position: Position, batches_per_epoch: int) -> None:
        self.stream, self.position = stream, position
        self.batches_per_epoch = batches_per_epoch

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[Pair]:
        """The batches that are left of the epoch."""
        step = self.position.done
        end = (step // self.batches_per_epoch + 1) * self.batches_per_epoch
        for number in range(step, end):
            yield self.stream.take(number)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that Lightning saves with that of a run."""
        return {"done": self.position.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.position.done = int(state["done"])


class FixedPairs:
    """Loader of Lightning: the same samples every time, shared among processes.

    All processes get as many, as Lightning needs it; those beyond `number` are repetitions.

    Args:
        stream: Makes the pairs, one sample each, as a single process would.
        number: Number of samples of all processes together.
        rank: Number of this process.
        num_ranks: Number of processes.
    """

    def __init__(self, stream: PairStream, number: int, rank: int = 0, num_ranks: int = 1) -> None:
        self.stream = stream
        self.number = number
        self.steps = range(rank, -(-number // num_ranks) * num_ranks, num_ranks)

    def __len__(self) -> int:
        """Number of samples of this process."""
        return len(self.steps)

    def __iter__(self) -> Iterator[Pair]:
        """The samples of this process."""
        return (self.stream.pair(step % self.number) for step in self.steps)


class PairData(LightningDataModule):
    """Training and validation pairs, as Lightning asks for them.

    Args:
        origin: Of the pairs; where nothing is held out, validation takes what is trained on.
        config: Settings.
        position: Counter of batches, shared with the task.
        batches_per_epoch: Number of batches of an epoch.
        mixed: Of pairs of real scans, which make `pairs.share` of the batches and all validation
            samples, if there are some.
    """

    def __init__(
        self,
        origin: Origin,
        config: TrainingConfig,
        *,
        position: Position,
        batches_per_epoch: int,
        mixed: Origin | None = None,
    ) -> None:
        super().__init__()
        self.origin, self.mixed, self.config = origin, mixed, config
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
            device: Device of the process.
            rank: Number of the process.
            num_ranks: Number of processes.
        """
        run = self.config.run
        origins = [self.origin] if self.mixed is None else [self.origin, self.mixed]
        every = [entry for origin in origins for entry in (*origin.entries, *origin.held_out)]
        memory = place_of(every, device, run.label_map_memory)
        banks = [self._bank(origin, origin.entries, device, memory) for origin in origins]
        mixed = None
        if self.mixed is not None:
            mixed = Mixed(self.mixed.generator, banks[-1], self.config.pairs.share)
        self.stream = PairStream(
            self.origin.generator,
            banks[0],
            seed=run.seed,
            batch_size=run.batch_size,
            rank=rank,
            num_ranks=num_ranks,
            mixed=mixed,
        )
        validated = origins[-1]
        held_out = banks[-1]
        if validated.held_out:
            held_out = self._bank(validated, validated.held_out, device, memory)
        self.fixed = FixedPairs(
            PairStream(validated.generator, held_out, seed=self.config.validation.seed),
            self.config.validation.samples,
            rank,
            num_ranks,
        )

    @staticmethod
    def _bank(
        origin: Origin, entries: Sequence[Entry], device: torch.device, memory: torch.device
    ) -> Bank:
        config = origin.generator.config
        names = {"image": config.image, "target": config.target}
        return Bank(entries, **names, device=device, memory=memory)

    def train_dataloader(self) -> PairLoader:
        """Batches of an epoch, from where the run is."""
        return PairLoader(self.stream, self.position, self.batches_per_epoch)

    def val_dataloader(self) -> FixedPairs:
        """The validation samples of this process."""
        return self.fixed
