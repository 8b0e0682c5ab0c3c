"""What samples a rollout, and where its completions end."""

from typing import Any

from accelerate.utils import set_seed
from transformers import StopStringCriteria

from tinyzero_trl.generation.compacting import shrinking_batches
from tinyzero_trl.generation.vllm_on_cpu import adapt_vllm_to_cpu
from tinyzero_trl.tasks.rewards import completion_text
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.fault_tolerance import GuardedTrainer

ANSWER_END = "</answer>"


class RolloutTrainer(GuardedTrainer):
    """A trainer whose completions end at a limit that may change between two rollouts, or with their answer.

    What it changes of its parents, each time by wrapping a method:

    - `__init__`: colocated vLLM runs on a CPU too, and samples with the run's seed;
    - `_generate_single_turn`: `generate` lets finished completions leave its batch (`decoding`), as vLLM does by
      itself; with `args.stop_at_answer` a completion also ends with its answer, without an end token.
    """

    args: AdaptiveGRPOConfig

    def __init__(self, model: Any, reward_funcs: Any, args: AdaptiveGRPOConfig, **kwargs: Any) -> None:
        if args.stop_at_answer and args.use_vllm:
            given: Any = args.generation_kwargs or {}
            args.generation_kwargs = {**given, "stop": [ANSWER_END], "include_stop_str_in_output": True}
        if args.use_vllm and args.vllm_mode == "colocate" and args.device.type == "cpu":
            adapt_vllm_to_cpu()
        super().__init__(model, reward_funcs, args, **kwargs)
        if self.use_vllm:  # which has seeded this process with its own number, the same for every `seed`
            set_seed(self._sampling_seed())
        stops_rows = args.stop_at_answer and not args.use_vllm
        self._answer_ends = StopStringCriteria(self._tokenizer, [ANSWER_END]) if stops_rows else None

    def _sampling_seed(self) -> int:
        """The same for ranks that share an engine (tensor parallelism): each samples every token, so draws alike."""
        ranks_per_engine = self.args.vllm_tensor_parallel_size if self.use_vllm else 1
        return self.args.seed + self.accelerator.process_index // ranks_per_engine

    def _set_completion_limit(self, tokens: int) -> None:
        """Limit completions on the engine in use. `self.max_completion_length` is a loss normaliser and stays."""
        if self.use_vllm:
            self.vllm_generation.max_completion_length = tokens
        else:
            self.generation_config.max_new_tokens = tokens

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        model = self.accelerator.unwrap_model(self.model_wrapped, keep_torch_compile=False)
        with shrinking_batches(model, self._answer_ends):
            completion_ids, *others = super()._generate_single_turn(*args, **kwargs)
        if self._answer_ends:
            completion_ids = [self._without_padding_after_answer(ids) for ids in completion_ids]
        return completion_ids, *others

    def _without_padding_after_answer(self, ids: list[int]) -> list[int]:
        """A row that ended without an end token is padded to its batch, and TRL takes the padding for tokens."""
        kept = len(ids)
        while kept and ids[kept - 1] == self._tokenizer.pad_token_id:
            kept -= 1
        return ids[:kept] if ANSWER_END in self._tokenizer.decode(ids) else ids

    def _is_truncated(self, ids: list[int], completion: Any) -> bool:
        """Whether a completion was cut. TRL also takes a padding token for an end, but a sampled one ends nothing."""
        if ids and ids[-1] in self.eos_token_ids:
            return False
        return not (self.args.stop_at_answer and ANSWER_END in completion_text(completion))
