"""Adversarial fine-tuning of a network against a critic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synthsr_net.losses.adversarial import critic_loss, generator_total
from synthsr_net.networks.critic import Critic, mask_of
from synthsr_net.training.config import AdversarialConfig
from synthsr_transforms.generator.generator import Pair
from synthsr_transforms.seeds import derive_seed

from .optimisation import learning_rate_factor, make_optimiser
from .regression import TrainingTask
from .watch import LossWatch


def is_network_turn(number: int, config: AdversarialConfig) -> bool:
    """Whether a batch updates the network, and not the critic.

    Args:
        number: Number of the batch, from 0.
        config: Settings with the ratios.

    Examples:
        >>> config = AdversarialConfig(first_critic_steps=3, critic_steps=2)
        >>> [number for number in range(12) if is_network_turn(number, config)]
        [3, 6, 9]
    """
    after = number - config.first_critic_steps
    return after >= 0 and after % (config.critic_steps + 1) == 0


class AdversarialTask(TrainingTask):
    """Training of a network and a critic in turns.

    Each batch updates one of them: the critic learns to score targets above predictions, the
    network to get high scores, beside its other losses. Running statistics of the network's
    normalisations are updated in both turns, as each runs it in training mode.

    Args:
        critic: The critic, for patches of one size.
        args: See `TrainingTask`.
        kwargs: See `TrainingTask`.

    References:
        Gulrajani et al., Improved training of Wasserstein GANs, NIPS 2017.
    """

    def __init__(self, critic: Critic, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self.critic = critic
        self.adversarial = self.config.adversarial
        self.critic_watch = LossWatch()
        self._critic_losses: list[float] = []

    def configure_optimizers(self) -> Any:
        """Optimisers of the network and of the critic, and the learning rate of the first."""
        settings, run = self.config.optimiser, self.config.run
        network = make_optimiser(self.network.parameters(), settings)
        critic = make_optimiser(self.critic.parameters(), settings, self.adversarial.learning_rate)
        factor = learning_rate_factor(settings, run.epochs * run.steps_per_epoch)
        schedule = torch.optim.lr_scheduler.LambdaLR(network, factor)
        return [{"optimizer": network, "lr_scheduler": schedule}, {"optimizer": critic}]

    def training_step(self, batch: Pair, batch_idx: int) -> None:  # type: ignore[override]
        """Update the network or the critic."""
        optimisers: Any = self.optimizers()
        network, critic = optimisers
        if is_network_turn(self.position.done, self.adversarial):
            loss = self._update(network, self.network_loss(batch), self.network)
            self.watch.add(self.position.done, loss)
            self.lr_schedulers().step()  # type: ignore[union-attr]
            self.update_average()
        else:
            loss = self._update(critic, self.critic_loss(batch), self.critic)
            self.critic_watch.add(self.position.done, loss)

    def _update(self, optimiser: Any, loss: Tensor, module: torch.nn.Module) -> Tensor:
        """One step of an optimiser; gradients of the other module are dropped."""
        self.network.zero_grad()
        self.critic.zero_grad()
        self.manual_backward(loss)
        self.clip_gradient(module.parameters())
        optimiser.step()
        return loss

    def network_loss(self, pair: Pair) -> Tensor:
        """Return the loss of the network: image loss, score of the critic, and regulariser."""
        with self.random_state():
            prediction = self.predicted(pair)
        fake = self.objective.intensities(prediction)
        objective = self.objective
        dice = None if objective.segmentation is None else objective.segmentation(fake, pair.labels)
        return generator_total(
            objective.image_part(prediction, pair.target),
            self.critic(fake, self.mask(pair)),
            dice,
            critic_weight=self.adversarial.weight,
            dice_weight=objective.segmentation_weight,
        )

    def critic_loss(self, pair: Pair) -> Tensor:
        """Return the loss of the critic."""
        with torch.no_grad(), self.random_state():
            fake = self.objective.intensities(self.predicted(pair))
        step = derive_seed(self.config.run.seed, self.position.done, self.global_rank, 1)
        return critic_loss(
            self.critic,
            pair.target,
            fake,
            mask=self.mask(pair),
            penalty_weight=self.adversarial.gradient_penalty_weight,
            generator=torch.Generator().manual_seed(step),
        ).total

    def mask(self, pair: Pair) -> Tensor | None:
        """Return the mask of voxels that the critic sees; None means all."""
        removed = self.adversarial.masked_labels
        return mask_of(pair.labels, removed) if removed else None

    def take_losses(self, *, wait: bool = False) -> list[float]:
        """Return losses of the network that have arrived; those of the critic go to the epoch."""
        self._critic_losses += self.critic_watch.read(wait=wait)
        return super().take_losses(wait=wait)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the position of the run, with the losses of the critic in the epoch so far."""
        super().on_save_checkpoint(checkpoint)
        self._critic_losses += self.critic_watch.read(wait=True)
        checkpoint["critic_losses"] = list(self._critic_losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        super().on_load_checkpoint(checkpoint)
        self._critic_losses = list(checkpoint["critic_losses"])

    def extra_results(self) -> dict[str, float]:
        """Return the mean loss of the critic in the epoch."""
        losses, self._critic_losses = self._critic_losses, []
        return {"train/critic_loss": sum(losses) / len(losses)} if losses else {}
