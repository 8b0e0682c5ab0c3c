"""TRL's loss from less work: the same gradient without padding and without rows that have none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin
from trl import GRPOTrainer

from tinyzero_trl.training.loss import collectives, micro_batches, slicing
from tinyzero_trl.training.loss.loss_metrics import LossMetrics
from tinyzero_trl.training.loss.micro_batches import ComputeCounts, MicroBatch, Row
from tinyzero_trl.training.loss.packing import packed_log_probs
from tinyzero_trl.training.loss.step_figures import StepFigures
from tinyzero_trl.training.loss.traits import LossTraits
from tinyzero_trl.training.trl_internals import Inputs, is_multimodal, keep_outputs_whole

ComputeLoss = Callable[[nn.Module, Inputs], Tensor]
LogProbs = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probabilities (B, C), entropies (B, C) and the router's loss, as TRL's `_get_per_token_logps_and_entropies`."""


class _LossCall(NamedTuple):
    """What `_compute_loss` of TRL was called with, and the rows that it was called for."""

    compute_loss: ComputeLoss
    model: nn.Module
    inputs: Inputs
    rows: Sequence[Row]
    metrics: dict[str, list[float]]


class ExactLoss:
    """TRL's loss and log-probabilities, computed only where they can move the model.

    - `regroup_by_length`: rows of similar length share a micro-batch of an optimizer step; not for `bnpo`, where it
      matters which rows share one.
    - `backward_all_but_last`: rows without gradient are left out, the others ordered by length and cut into
      micro-batches of at most `traits.max_tokens` positions (None: one micro-batch), each trimmed to its own longest
      prompt and completion. The weighted sum of their losses has TRL's gradient up to rounding, for every `loss_type`.
      All but the last are propagated here: one at a time in memory.
    - `log_probs` without gradient (old and reference log-probabilities): the same ordering, cutting and trimming.
      Masked tokens get 0.
    - Both take rows end to end, without any padding, where `traits.is_padding_free`. Budgets then count tokens.
    - In the first optimizer step on a rollout the model is the old one: its own log-probabilities stand in for those
      that were computed in other micro-batches, so that every importance ratio is exactly 1 and not 1 up to rounding.
    - The loss's own metrics (`entropy`, `kl`, `clip_ratio/*`, ...) are weighted by tokens over an optimizer
      step and not averaged over calls. They cover the rows that were computed, not those left out.

    Rows are left out only where that is exact: without a trained token, or with an advantage of exactly zero and
    without a KL term. Where the loss is no sum over rows (`traits.indivisible_because`) batches stay complete and are
    only trimmed. Every rank computes the same number of micro-batches: each runs collectives.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        """Any trainer whose `__init__` has run. Its log-probabilities keep their type under FSDP2, too."""
        keep_outputs_whole(trainer)
        self._accelerator = trainer.accelerator
        self._traits = LossTraits.of(trainer)
        self.sees_images = isinstance(trainer.processing_class, ProcessorMixin)
        self._metrics = LossMetrics(is_sequence_level=self._traits.is_sequence_level)
        self.start_over()

    def start_over(self) -> None:
        """Forget what an interrupted optimizer step has left; a training begins."""
        self._metrics.clear()
        self.figures = StepFigures()
        self._log_probs: Tensor | None = None  # of the trained model, from the latest forward pass with gradient
        self._rollout_step = -1

    # -- the rows of an optimizer step ----------------------------------------------------------------------

    def regroup_by_length(self, batches: list[Inputs], batches_per_step: int, step: int) -> list[Inputs]:
        """The micro-batches of a new rollout, rows of similar length side by side.

        Args:
            batches: what TRL has cut a generation batch into, in the order in which they are trained on.
            batches_per_step: how many of them one optimizer step accumulates.
            step: the optimizer step that comes next.
        """
        self._rollout_step = step
        # The batches of one optimizer step lie side by side only if there are complete steps.
        is_regroupable = batches_per_step > 1 and len(batches) % batches_per_step == 0
        depends_on_batch = self._traits.loss_type == "bnpo" or self._traits.indivisible_because
        if not is_regroupable or depends_on_batch or is_multimodal(batches[0]):
            return batches
        steps = [batches[start : start + batches_per_step] for start in range(0, len(batches), batches_per_step)]
        return [batch for of_step in steps for batch in self._regrouped(of_step)]

    def _regrouped(self, batches: Sequence[Inputs]) -> list[Inputs]:
        """The longest rows into the first batches, those without gradient into the last."""
        merged = slicing.concatenate(batches)
        rows = _measure(merged)
        with_gradient = micro_batches.longest_first(self._rows_with_gradient(rows, merged["advantages"]))
        without = micro_batches.longest_first(set(rows).difference(with_gradient))
        order = [row.index for row in (*with_gradient, *without)]
        size = len(order) // len(batches)
        return [slicing.select_rows(merged, order[start : start + size]) for start in range(0, len(order), size)]

    # -- the training loss ----------------------------------------------------------------------------------

    def backward_all_but_last(
        self,
        compute_loss: ComputeLoss,
        model: nn.Module,
        inputs: Inputs,
        *,
        step: int,
        metrics: dict[str, list[float]],
    ) -> Tensor:
        """The loss of `inputs`; what its gradient still lacks is left to whoever calls `backward` on it.

        Args:
            compute_loss: TRL's own loss.
            model: the trained one, in training mode.
            inputs: one batch of TRL's: prompts (B, P), completions (B, C), advantages (B,), ...
            step: the optimizer step.
            metrics: the lists to which `compute_loss` appends its figures.
        """
        if self._has_images_anywhere(inputs):
            return compute_loss(model, inputs)
        self.figures.start(step)
        if step == self._rollout_step:
            inputs = {name: value for name, value in inputs.items() if name != "old_per_token_logps"}
        rows = _measure(inputs)
        plan = self._plan(rows, inputs["advantages"])
        self._count(rows, plan)
        call = _LossCall(compute_loss, model, inputs, rows, metrics)
        *inner, last = zip(plan, self._sizes_on_all_ranks(plan), strict=True)
        propagated = torch.zeros((), device=self._accelerator.device)
        for micro_batch, sizes in inner:
            with collectives.accumulating_only(self._accelerator, model):
                loss = self._share_of_loss(call, micro_batch, sizes)
                collectives.propagate(self._accelerator, loss)
            propagated += loss.detach()
        loss = self._share_of_loss(call, *last)
        if self._accelerator.sync_gradients:
            self._metrics.flush(metrics)
        # Trainer propagates what it gets: the value is the loss of all rows, the gradient what is still missing.
        return loss + propagated

    def _plan(self, rows: Sequence[Row], advantages: Tensor) -> list[MicroBatch]:
        if self._traits.indivisible_because:
            return [MicroBatch(tuple(rows))]
        return self._in_step(self._cut(self._rows_with_gradient(rows, advantages)), rows)

    def _rows_with_gradient(self, rows: Sequence[Row], advantages: Tensor) -> Sequence[Row]:
        if not self._traits.skips_rows:
            return rows
        return micro_batches.rows_with_gradient(rows, advantages, has_kl_term=self._traits.has_kl_term)

    def _share_of_loss(self, call: _LossCall, micro_batch: MicroBatch, sizes: tuple[float, ...]) -> Tensor:
        """TRL's loss of a micro-batch, weighted; its log-ratios and metrics are put aside."""
        taken = self._take(call.inputs, micro_batch)
        tokens_on_all_ranks, rows_on_all_ranks = sizes
        with (
            self._metrics.collect(call.metrics, tokens=tokens_on_all_ranks, rows=rows_on_all_ranks),
            collectives.figures_of_unequal_rows(self._accelerator, len(call.rows), is_dummy=micro_batch.is_dummy),
        ):
            loss = call.compute_loss(call.model, taken)
        log_probs, self._log_probs = self._log_probs, None
        assert log_probs is not None, "TRL's loss no longer asks _get_per_token_logps_and_entropies"
        if not micro_batch.is_dummy:
            log_ratios = log_probs - taken.get("old_per_token_logps", log_probs)
            self.figures.add_log_ratios(log_ratios[_trained_mask(taken).bool()])
        if self._traits.indivisible_because:
            return loss
        return loss * micro_batches.loss_weight(self._traits.loss_type, micro_batch, call.rows)

    def _sizes_on_all_ranks(self, plan: Sequence[MicroBatch]) -> list[tuple[float, ...]]:
        """Trained tokens and rows of each micro-batch, for the weights of its metrics."""
        sizes = [(float(each.trained_tokens), 0.0 if each.is_dummy else float(len(each.rows))) for each in plan]
        return collectives.summed_over_ranks(self._accelerator, sizes)

    def _count(self, rows: Sequence[Row], plan: Sequence[MicroBatch]) -> None:
        computed = sum(len(each.rows) for each in plan if not each.is_dummy)
        self.figures.add_counts(
            ComputeCounts(
                rows=len(rows),
                rows_skipped=len(rows) - computed,
                tokens=sum(each.tokens for each in plan),
                positions=sum(each.tokens if self._traits.is_padding_free else each.positions for each in plan),
            )
        )

    def _cut(self, rows: Sequence[Row], max_rows: int | None = None) -> list[MicroBatch]:
        padded = not self._traits.is_padding_free
        return micro_batches.cut(rows, max_tokens=self._traits.max_tokens, max_rows=max_rows, padded=padded)

    def _in_step(self, plan: Sequence[MicroBatch], rows: Sequence[Row]) -> list[MicroBatch]:
        """The plan with as many micro-batches as that of the rank that needs most, at least one."""
        count = collectives.largest_on_any_rank(self._accelerator, max(1, len(plan)))
        return micro_batches.bring_to_count(plan, count, rows)

    def pop_figures(self) -> dict[str, float]:
        """`actor/` and `compute/` figures of the latest optimizer step over all ranks; every rank must call it."""
        return self.figures.pop(self._accelerator, self._traits.clip_range)

    # -- log-probabilities ----------------------------------------------------------------------------------

    def log_probs(
        self,
        compute: Callable[..., LogProbs],
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **options: Any,
    ) -> LogProbs:
        """Log-probabilities of the completions: with gradient the loss's own, without one cut as the loss is.

        Args:
            compute: TRL's own function of the same further arguments.
            model: the trained one or the reference.
            input_ids: prompts padded on the left and completions padded on the right, (B, P + C).
            attention_mask: 1 where there is a token, (B, P + C).
            logits_to_keep: C.
            batch_size: most rows at once, where no budget of tokens is set.
            options: inputs of multimodal models, and whether entropies and the router's loss are wanted.
        """
        packs = self._traits.is_padding_free and not is_multimodal(options)
        own: Callable[..., LogProbs] = self._packed_log_probs if packs else compute
        if torch.is_grad_enabled():
            outputs = own(model, input_ids, attention_mask, logits_to_keep, batch_size, **options)
            self._log_probs = outputs[0].detach()
            return outputs
        wants_more = any(option is not None and option is not False for option in options.values())
        if self._has_images_anywhere(options) or wants_more:
            return compute(model, input_ids, attention_mask, logits_to_keep, batch_size, **options)
        inputs = {
            "prompt_ids": input_ids[:, :-logits_to_keep],
            "prompt_mask": attention_mask[:, :-logits_to_keep],
            "completion_ids": input_ids[:, -logits_to_keep:],
            "completion_mask": attention_mask[:, -logits_to_keep:],
        }
        rows = _measure(inputs)
        not_empty = [row for row in rows if row.completion_tokens]
        plan = self._cut(not_empty, max_rows=None if self._traits.max_tokens else batch_size)
        log_probs = torch.zeros(input_ids.size(0), logits_to_keep, device=input_ids.device)
        for micro_batch in self._in_step(plan, rows):
            taken = self._take(inputs, micro_batch)
            ids = torch.cat([taken["prompt_ids"], taken["completion_ids"]], dim=1)
            mask = torch.cat([taken["prompt_mask"], taken["completion_mask"]], dim=1)
            width = taken["completion_ids"].size(1)
            found, _, _ = own(model, ids, mask, width)
            if not micro_batch.is_dummy:
                log_probs[micro_batch.indices, :width] = found.to(log_probs.dtype)
        return log_probs, None, None

    def _has_images_anywhere(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the batch of any rank holds images: then all take theirs whole, and none waits for another."""
        has_images = is_multimodal(inputs)
        return bool(collectives.largest_on_any_rank(self._accelerator, has_images)) if self.sees_images else has_images

    def _packed_log_probs(
        self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *_: Any, **__: Any
    ) -> LogProbs:
        """TRL's log-probabilities of text, from one row without padding."""
        with self._accelerator.autocast():
            with_bounds = self._traits.gives_bounds
            return *packed_log_probs(model, input_ids, attention_mask, logits_to_keep, with_bounds=with_bounds), None

    def _take(self, inputs: Mapping[str, Any], micro_batch: MicroBatch) -> Inputs:
        return slicing.take(
            inputs,
            micro_batch,
            trim_prompts=self._traits.trims_prompts,
            trim_completions=self._traits.trims_completions,
            multiple_of=self._traits.multiple_of,
        )


def _trained_mask(inputs: Mapping[str, Any]) -> Tensor:
    """(B, C): 1 where a token enters the loss, which the results of tools do not."""
    completion_mask: Tensor = inputs["completion_mask"]
    return completion_mask * inputs["tool_mask"] if "tool_mask" in inputs else completion_mask


def _measure(inputs: Mapping[str, Any]) -> list[Row]:
    return micro_batches.measure_rows(inputs["prompt_mask"], inputs["completion_mask"], _trained_mask(inputs))
