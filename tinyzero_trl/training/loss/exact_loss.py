"""TRL's loss from less work: the same gradient without padding and without rows that teach nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import Tensor, nn
from trl import GRPOTrainer

from tinyzero_trl.models.architectures import depends_on_width, is_plain_decoder
from tinyzero_trl.training.loss import collectives
from tinyzero_trl.training.loss import micro_batches as batching
from tinyzero_trl.training.loss.loss_metrics import PassMetrics
from tinyzero_trl.training.loss.micro_batches import ComputeCounts, MicroBatch, Row
from tinyzero_trl.training.loss.packing import packed_scores

logger = get_logger(__name__)

# Inputs whose first axis counts images, tiles or patches: batches that hold them go to TRL as they are.
_MULTIMODAL_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "image_position_ids",
    "num_images",
    "token_type_ids",
    "mm_token_type_ids",
)


class ExactLossTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` that spends forward and backward passes only where they can move the policy.

    What it changes of its parent, each time by wrapping the parent's method:

    - `_compute_loss` (training): rows without gradient are left out, the others ordered by length and cut into
      passes of at most `args.max_tokens_per_micro_batch` positions (None: one pass), each trimmed to its own
      longest prompt and completion. The weighted sum of their losses has the parent's gradient up to rounding,
      for every `loss_type`. All passes but the last are propagated here: one at a time in memory.
    - `_get_per_token_logps_and_entropies` without gradient (old and reference log-probabilities): the same
      ordering, cutting and trimming. Masked tokens get 0.
    - Both kinds of pass take their rows end to end, without any padding, where `args.padding_free` says so or, if it is
      None, where the model attends by FlashAttention. Their budget then counts tokens.
    - In the first optimizer step on a rollout the policy is the old one: its own log-probabilities stand in for those
      that were computed in other passes, so that every importance ratio is exactly 1 and not 1 up to rounding.
    - `_prepare_inputs`: rows are dealt out by length among the micro-batches of one optimizer step; not for
      `bnpo`, where it matters which rows share a micro-batch.
    - The loss's own metrics (`entropy`, `kl`, `clip_ratio/*`, ...) are weighted by tokens over an optimizer
      step and not averaged over calls. They cover the rows that were computed, not those left out.

    Rows are left out (`args.skip_zero_advantage_rows`) only where that is exact: without a trained token, or with
    an advantage of exactly zero while `beta` is 0. Where the loss is no sum over rows (an entropy bonus, the
    router's auxiliary loss, an entropy quantile) micro-batches stay whole and are only trimmed. Left padding is
    trimmed, and rows are packed, for the models of `architectures` alone; nothing is trimmed where positions depend on
    the width of the pass. Every rank makes the same number of passes: each runs collectives.
    """

    args: Any  # a GRPOConfig with `max_tokens_per_micro_batch`, `skip_zero_advantage_rows` and `padding_free`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        self._is_plain, self._depends_on_width = is_plain_decoder(model), depends_on_width(model.config)
        self._is_padding_free = self._wants_no_padding(model.config)
        self._indivisible_because = self._why_indivisible()
        self._pass_metrics = PassMetrics(is_sequence_level=self.importance_sampling_level == "sequence")
        self._compute_counts = ComputeCounts()
        self._pass_logps: Tensor | None = None
        self._log_ratios: list[Tensor] = []
        self._log_ratios_step = -1
        self._rollout_step = -1
        self._say_which_rows_stay()

    def pop_log_ratios(self) -> Tensor:
        """New minus old log-probability of this rank's trained tokens in the latest optimizer step.

        Flat, on the trainer's device; measured by the optimizer's own passes, so without the rows left out.
        """
        log_ratios, self._log_ratios = self._log_ratios, []
        return torch.cat(log_ratios) if log_ratios else torch.empty(0, device=self.accelerator.device)

    def pop_compute_counts(self) -> ComputeCounts:
        """What this rank's training passes were spent on since the last call."""
        counts, self._compute_counts = self._compute_counts, ComputeCounts()
        return counts

    def _wants_no_padding(self, model_config: Any) -> bool:
        """Positions that start again must be enough to part the rows, and no loss of a router may see them as one."""
        wanted = self.args.padding_free
        if wanted is None:
            wanted = "flash" in (model_config._attn_implementation or "")
        possible = self._is_plain and not self.aux_loss_enabled
        if self.args.padding_free and not possible:
            kind = model_config.model_type
            logger.warning(
                f"padding_free has no effect: it takes a plain decoder (this is {kind!r}) without an "
                "adapter that acts by place, and no router_aux_loss_coef."
            )
        return wanted and possible

    def _why_indivisible(self) -> str | None:
        """The first setting under which the loss of a micro-batch is no weighted sum of the losses of its parts."""
        optimizer = str(self.args.optim)
        reasons = {
            "an entropy bonus": self._entropy_bonus_enabled,
            "router_aux_loss_coef": self.aux_loss_enabled,
            "top_entropy_quantile": self.top_entropy_quantile < 1.0,
            f"loss_type {self.loss_type!r}": self.loss_type not in batching.LOSS_NORMALISERS,
            # Such optimizers step inside the backward pass, so there must be just one.
            f"optim {optimizer!r}": "lomo" in optimizer.lower() or "layerwise" in optimizer.lower(),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def _say_which_rows_stay(self) -> None:
        because = self._indivisible_because or ("beta" if self.beta != 0.0 else None)
        if because and self.args.skip_zero_advantage_rows:
            logger.warning(f"skip_zero_advantage_rows has no effect: with {because} those rows have a gradient.")

    # -- the training loss ----------------------------------------------------------------------------------

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        if not model.training or _is_multimodal(inputs):
            return super()._compute_loss(model, inputs)
        if self._log_ratios_step != self.state.global_step:
            self._log_ratios, self._log_ratios_step = [], self.state.global_step
        if self.state.global_step == self._rollout_step:
            inputs = {name: value for name, value in inputs.items() if name != "old_per_token_logps"}
        rows = _measure(inputs)
        plan = self._plan(rows, inputs["advantages"])
        self._count(rows, plan)
        *inner_passes, last_pass = zip(plan, self._sizes_on_all_ranks(plan), strict=True)
        propagated = torch.zeros((), device=self.accelerator.device)
        for part, sizes in inner_passes:
            with collectives.accumulating_only(self.accelerator, model):
                loss = self._share_of_loss(model, inputs, rows, part, sizes)
                collectives.propagate(self.accelerator, loss)
            propagated += loss.detach()
        loss = self._share_of_loss(model, inputs, rows, *last_pass)
        if self.accelerator.sync_gradients:
            self._pass_metrics.flush(self._metrics["train"])
        # Trainer propagates what it gets: the value is the whole loss, the gradient what is still missing.
        return loss + propagated

    def _plan(self, rows: Sequence[Row], advantages: Tensor) -> list[MicroBatch]:
        if self._indivisible_because:
            return [MicroBatch(tuple(rows))]
        moving = self._moving_rows(rows, advantages)
        return self._in_step(self._cut(moving), rows)

    def _moving_rows(self, rows: Sequence[Row], advantages: Tensor) -> Sequence[Row]:
        if not self.args.skip_zero_advantage_rows:
            return rows
        return batching.moving_rows(rows, advantages, has_kl_term=self.beta != 0.0)

    def _share_of_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        rows: Sequence[Row],
        part: MicroBatch,
        sizes: tuple[float, ...],
    ) -> Tensor:
        """The parent's loss of a part, weighted; its log-ratios and metrics are put aside."""
        taken = self._take(inputs, part)
        global_tokens, global_rows = sizes
        with (
            self._pass_metrics.collect(self._metrics["train"], tokens=global_tokens, rows=global_rows),
            collectives.gathering_unequal_rows(self.accelerator, len(rows), as_missing=part.is_filler),
        ):
            loss = super()._compute_loss(model, taken)
        logps, self._pass_logps = self._pass_logps, None
        assert logps is not None, "the parent's loss no longer asks _get_per_token_logps_and_entropies"
        if not part.is_filler:
            log_ratios = logps - taken.get("old_per_token_logps", logps)
            self._log_ratios.append(log_ratios[_trained_mask(taken).bool()])
        weighs = self._indivisible_because is None
        return loss * batching.loss_weight(self.loss_type, part, rows) if weighs else loss

    def _sizes_on_all_ranks(self, plan: Sequence[MicroBatch]) -> list[tuple[float, ...]]:
        """Trained tokens and rows of each pass, for the weights of its metrics."""
        sizes = [(float(part.trained_tokens), 0.0 if part.is_filler else float(len(part.rows))) for part in plan]
        return collectives.summed_over_ranks(self.accelerator, sizes)

    def _count(self, rows: Sequence[Row], plan: Sequence[MicroBatch]) -> None:
        computed = sum(len(part.rows) for part in plan if not part.is_filler)
        self._compute_counts += ComputeCounts(
            rows=len(rows),
            rows_skipped=len(rows) - computed,
            tokens=sum(part.tokens for part in plan),
            positions=sum(part.tokens if self._is_padding_free else part.positions for part in plan),
        )

    def _cut(self, rows: Sequence[Row], max_rows: int | None = None) -> list[MicroBatch]:
        budget = self.args.max_tokens_per_micro_batch
        return batching.cut(rows, max_tokens=budget, max_rows=max_rows, padded=not self._is_padding_free)

    def _in_step(self, plan: Sequence[MicroBatch], rows: Sequence[Row]) -> list[MicroBatch]:
        """The plan with as many passes as that of the rank that needs most, at least one."""
        count = collectives.largest_on_any_rank(self.accelerator, max(1, len(plan)))
        return batching.spread(plan, count, rows)

    # -- passes without gradient ----------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        parent = super()._get_per_token_logps_and_entropies
        score = self._packed_scores if self._is_padding_free and not _is_multimodal(options) else parent
        if torch.is_grad_enabled():
            outputs = score(model, input_ids, attention_mask, logits_to_keep, batch_size, **options)
            self._pass_logps = outputs[0].detach()
            return outputs
        if any(option is not None and option is not False for option in options.values()):
            return parent(model, input_ids, attention_mask, logits_to_keep, batch_size, **options)
        inputs = {
            "prompt_ids": input_ids[:, :-logits_to_keep],
            "prompt_mask": attention_mask[:, :-logits_to_keep],
            "completion_ids": input_ids[:, -logits_to_keep:],
            "completion_mask": attention_mask[:, -logits_to_keep:],
        }
        rows = _measure(inputs)
        scored = [row for row in rows if row.completion_tokens]
        plan = self._cut(scored, max_rows=None if self.args.max_tokens_per_micro_batch else batch_size)
        logps = torch.zeros(input_ids.size(0), logits_to_keep, device=input_ids.device)
        for part in self._in_step(plan, rows):
            taken = self._take(inputs, part)
            ids = torch.cat([taken["prompt_ids"], taken["completion_ids"]], dim=1)
            mask = torch.cat([taken["prompt_mask"], taken["completion_mask"]], dim=1)
            width = taken["completion_ids"].size(1)
            part_logps, _, _ = score(model, ids, mask, width)
            if not part.is_filler:
                logps[part.indices, :width] = part_logps.to(logps.dtype)
        return logps, None, None

    def _packed_scores(
        self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        """The parent's scores of text, from one row without padding."""
        with self.accelerator.autocast():
            return *packed_scores(model, input_ids, attention_mask, logits_to_keep), None

    def _take(self, inputs: Mapping[str, Any], part: MicroBatch) -> dict[str, Any]:
        return batching.take(
            inputs,
            part,
            trim_prompts=self._is_plain,
            trim_completions=not self._depends_on_width,
            multiple_of=self.args.pad_to_multiple_of or 1,
        )

    # -- the rows of an optimizer step ----------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        buffered = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        step_size, steps = self.args.gradient_accumulation_steps, self.args.steps_per_generation
        if self._buffered_inputs is buffered:
            return inputs
        self._rollout_step = self.state.global_step
        # Micro-batches of one optimizer step lie side by side in the buffer only if it holds whole steps.
        is_regroupable = step_size > 1 and steps % step_size == 0 and self.loss_type != "bnpo"
        if not is_regroupable or self._indivisible_because:
            return inputs
        if _is_multimodal(inputs):
            return inputs
        starts = range(0, steps, step_size)
        dealt = [self._deal_by_length(self._buffered_inputs[start : start + step_size]) for start in starts]
        self._buffered_inputs = [batch for batches in dealt for batch in batches]
        return self._buffered_inputs[self._step % steps]

    def _deal_by_length(self, batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The longest rows into the first micro-batches, those without gradient into the last."""
        merged = batching.concatenate(batches)
        rows = _measure(merged)
        moving = batching.longest_first(self._moving_rows(rows, merged["advantages"]))
        idle = batching.longest_first(set(rows).difference(moving))
        order = [row.index for row in (*moving, *idle)]
        size = len(order) // len(batches)
        starts = range(0, len(order), size)
        return [batching.select_rows(merged, order[start : start + size]) for start in starts]


def _is_multimodal(inputs: Mapping[str, Any]) -> bool:
    return any(inputs.get(name) is not None for name in _MULTIMODAL_INPUTS)


def _trained_mask(inputs: Mapping[str, Any]) -> Tensor:
    """(B, C): 1 where a token enters the loss, which the results of tools do not."""
    completion_mask: Tensor = inputs["completion_mask"]
    return completion_mask * inputs["tool_mask"] if "tool_mask" in inputs else completion_mask


def _measure(inputs: Mapping[str, Any]) -> list[Row]:
    return batching.measure_rows(inputs["prompt_mask"], inputs["completion_mask"], _trained_mask(inputs))
