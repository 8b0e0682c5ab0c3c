"""What a configured loss allows: which rows may be left out, and how a batch may be cut, trimmed and packed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelerate.logging import get_logger
from trl import GRPOTrainer

from tinyzero_trl.models.architectures import depends_on_width, is_plain_decoder
from tinyzero_trl.models.varlen import TORCH_VARLEN
from tinyzero_trl.training.loss.micro_batches import LOSS_NORMALISERS
from tinyzero_trl.training.trl_internals import attention_of, has_entropy_bonus

logger = get_logger(__name__)


@dataclass(frozen=True)
class LossTraits:
    """Facts of a trainer's model, loss and configuration that do not change while it trains.

    Attributes:
        loss_type: a key of `LOSS_NORMALISERS`, or another one, whose batches are not divided.
        has_kl_term: whether a row with an advantage of zero still has a gradient.
        is_sequence_level: whether importance ratios come one per row and not one per token.
        clip_range: the interval outside of which the importance ratio of a token is clipped; None where no token's is.
        indivisible_because: why the loss of a batch may be no weighted sum of the losses of its micro-batches, or None.
        skips_rows: whether rows without gradient are to be left out.
        trims_prompts: whether left padding may go; not where positions are absolute.
        trims_completions: whether right padding may go; not where positions depend on the width of the batch.
        is_padding_free: whether the rows of a micro-batch lie end to end, without padding.
        gives_bounds: whether passes over such rows say where each row begins, as `TORCH_VARLEN` wants it.
        max_tokens: most token positions in one micro-batch; None sets no limit.
        multiple_of: widths are rounded up to a multiple of this.
    """

    loss_type: str
    has_kl_term: bool
    is_sequence_level: bool
    clip_range: tuple[float, float] | None
    indivisible_because: str | None
    skips_rows: bool
    trims_prompts: bool
    trims_completions: bool
    is_padding_free: bool
    gives_bounds: bool
    max_tokens: int | None
    multiple_of: int

    @classmethod
    def of(cls, trainer: GRPOTrainer) -> "LossTraits":
        """The traits of a trainer whose `__init__` has run. Warns about settings that have no effect."""
        args: Any = trainer.args  # an AdaptiveGRPOConfig
        model = trainer.accelerator.unwrap_model(trainer.model)
        is_plain, has_kl_term = is_plain_decoder(model), trainer.beta != 0.0
        indivisible_because = why_indivisible(trainer)
        attention, can_pack = attention_of(model.config), can_pack_rows(trainer)
        if args.padding_free and not can_pack:
            logger.warning(
                f"padding_free has no effect: it needs a plain decoder (this is {model.config.model_type!r}) "
                "without an adapter for which the place of a token matters, no router_aux_loss_coef, and "
                "top_entropy_quantile 1."
            )
        if indivisible_because and args.max_tokens_per_micro_batch is not None:
            logger.warning(
                f"max_tokens_per_micro_batch does not limit training passes: with {indivisible_because} a batch is not "
                "divided. Lower per_device_train_batch_size to use less memory."
            )
        because = indivisible_because or ("beta" if has_kl_term else None)
        if because and args.skip_zero_advantage_rows:  # the default, so nobody has asked for it
            logger.info(f"skip_zero_advantage_rows has no effect: with {because} those rows have a gradient.")
        return cls(
            loss_type=trainer.loss_type,
            has_kl_term=has_kl_term,
            is_sequence_level=trainer.importance_sampling_level == "sequence",
            clip_range=clip_range(trainer),
            indivisible_because=indivisible_because,
            skips_rows=args.skip_zero_advantage_rows,
            trims_prompts=is_plain,
            trims_completions=not depends_on_width(model.config),
            is_padding_free=packs_rows(args.padding_free, attention, can_pack=can_pack),
            gives_bounds=attention == TORCH_VARLEN,
            max_tokens=args.max_tokens_per_micro_batch,
            multiple_of=args.pad_to_multiple_of or 1,
        )


def clip_range(trainer: GRPOTrainer) -> tuple[float, float] | None:
    """The interval that the loss of TRL clips the importance ratio of a token to."""
    if trainer.importance_sampling_level == "sequence" or trainer.loss_type in ("sapo", "vespo"):
        return None
    if trainer.loss_type == "cispo":
        return 0.0, trainer.epsilon_high
    return 1 - trainer.epsilon_low, 1 + trainer.epsilon_high


def can_pack_rows(trainer: GRPOTrainer) -> bool:
    """Whether rows can lie end to end: positions that start again separate them, and nothing in the loss joins them.

    A quantile of entropies does: equal tokens have equal entropies up to rounding, which decides there.
    """
    joined = trainer.aux_loss_enabled or trainer.top_entropy_quantile < 1.0
    return is_plain_decoder(trainer.accelerator.unwrap_model(trainer.model)) and not joined


def packs_rows(wanted: bool | None, attention: str, *, can_pack: bool) -> bool:
    """Whether micro-batches take their rows end to end; unasked, where the model's attention has kernels for it."""
    has_kernels = "flash" in attention or attention == TORCH_VARLEN
    return can_pack and (has_kernels if wanted is None else wanted)


def why_indivisible(trainer: GRPOTrainer) -> str | None:
    """The first reason why the loss of a batch may be no weighted sum of the losses of its micro-batches."""
    optimizer = str(trainer.args.optim)
    reasons: Mapping[str, bool] = {
        "a compute_loss of its own": _has_own_loss(trainer),
        "an entropy bonus": has_entropy_bonus(trainer),
        "router_aux_loss_coef": trainer.aux_loss_enabled,
        "top_entropy_quantile": trainer.top_entropy_quantile < 1.0,
        f"loss_type {trainer.loss_type!r}": trainer.loss_type not in LOSS_NORMALISERS,
        # Such optimizers step inside the backward pass, so there must be just one.
        f"optim {optimizer!r}": "lomo" in optimizer.lower() or "layerwise" in optimizer.lower(),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def joins_rows(config: Mapping[str, Any]) -> bool:
    """Whether an entropy bonus, a router loss or a quantile of entropies joins the rows of a batch.

    A `router_aux_loss_coef` that is left out counts as none, although the model may then set it.
    """
    names = ("entropy_coef", "use_adaptive_entropy", "router_aux_loss_coef")
    return any(config.get(name) for name in names) or config.get("top_entropy_quantile", 1.0) < 1.0


def _has_own_loss(trainer: GRPOTrainer) -> bool:
    """Whether a subclass has a loss of its own, or one around ours, such as a multiple: it would see the last part."""
    from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer

    known = {AdaptiveGRPOTrainer, *GRPOTrainer.__mro__}
    others = [vars(kind) for kind in type(trainer).__mro__ if kind not in known]
    return any("compute_loss" in own or "_compute_loss" in own for own in others)
