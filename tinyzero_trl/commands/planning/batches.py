"""How many prompts, completions, tokens and passes a recipe makes of a number of GPUs. Standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPlan:
    """One rollout and the optimizer steps made of it, over all GPUs unless a name says otherwise."""

    completions: int
    num_generations: int
    optimizer_steps: int
    micro_batches: int  # of one GPU in one optimizer step
    passes: int  # of one micro-batch when every row is of full length
    prompt_tokens: int
    first_window: int
    last_window: int

    @property
    def prompts(self) -> int:
        """Problems in a rollout, each answered `num_generations` times."""
        return self.completions // self.num_generations

    @property
    def completions_per_step(self) -> float:
        """Completions that one optimizer step learns from."""
        return self.completions / self.optimizer_steps

    def tokens(self, window: int) -> int:
        """Prompt and completion tokens of a rollout in which every completion fills the window."""
        return self.completions * (self.prompt_tokens + window)


def batch_plan(
    *,
    gpus: int,
    per_device_train_batch_size: int,
    steps_per_generation: int,
    gradient_accumulation_steps: int,
    num_iterations: int,
    num_generations: int,
    max_tokens_per_micro_batch: int | None,
    prompt_tokens: int,
    first_window: int,
    last_window: int,
) -> BatchPlan:
    """TRL's arithmetic: a rollout is `steps_per_generation` micro-batches of a GPU, used `num_iterations` times."""
    rows = per_device_train_batch_size
    row_tokens = prompt_tokens + last_window
    rows_in_pass = rows if max_tokens_per_micro_batch is None else max(1, max_tokens_per_micro_batch // row_tokens)
    return BatchPlan(
        completions=gpus * rows * steps_per_generation,
        num_generations=num_generations,
        optimizer_steps=steps_per_generation * num_iterations // gradient_accumulation_steps,
        micro_batches=gradient_accumulation_steps,
        passes=-(-rows // rows_in_pass),
        prompt_tokens=prompt_tokens,
        first_window=first_window,
        last_window=last_window,
    )
