"""What samples a rollout, and where its completions end."""

from collections.abc import Callable, Collection
from typing import Any

from transformers import PreTrainedTokenizerBase, StopStringCriteria

from tinyzero_trl.generation.compacting import compacting_batches
from tinyzero_trl.generation.vllm_on_cpu import adapt_vllm_to_cpu
from tinyzero_trl.tasks.rewards import completion_text
from tinyzero_trl.training.config import AdaptiveGRPOConfig

ANSWER_END = "</answer>"


def prepare_engine(args: AdaptiveGRPOConfig) -> None:
    """What must be set before TRL builds the engine: vLLM ends completions by its own arguments, and adapts to CPUs."""
    if not args.use_vllm:
        return
    if args.stop_at_answer:
        given: Any = args.generation_kwargs or {}
        args.generation_kwargs = {**given, "stop": [ANSWER_END], "include_stop_str_in_output": True}
    if args.vllm_mode == "colocate" and args.device.type == "cpu":
        adapt_vllm_to_cpu()


class Rollouts:
    """Samples completions that end at the engine's limit, at an end token, or with their answer.

    `generate` lets finished completions leave its batch (`generation.compacting`), as vLLM does by itself. With
    `args.stop_at_answer` a completion also ends with its answer, without an end token.

    Attributes:
        seed: of this rank's sampling. Ranks that share an engine (tensor parallelism) have the same: each of them
            samples every token, so they must draw alike.
    """

    def __init__(
        self,
        args: AdaptiveGRPOConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_tokens: Collection[int],
        process_index: int,
    ) -> None:
        ranks_per_engine = args.vllm_tensor_parallel_size if args.use_vllm else 1
        self.seed = args.seed + process_index // ranks_per_engine
        self._tokenizer = tokenizer
        self._end_tokens = frozenset(end_tokens)
        self._stops_at_answer = args.stop_at_answer
        stops_rows = args.stop_at_answer and not args.use_vllm
        self._answer_ends = StopStringCriteria(tokenizer, [ANSWER_END]) if stops_rows else None

    def sample(self, generate: Callable[[], Any], model: Any) -> Any:
        """What `generate` returns: token ids of the completions and more. It runs `model.generate`, or vLLM."""
        with compacting_batches(model, self._answer_ends):
            completion_ids, *others = generate()
        if self._answer_ends:
            completion_ids = [self._without_padding_after_answer(ids) for ids in completion_ids]
        return completion_ids, *others

    def is_truncated(self, ids: list[int], completion: Any) -> bool:
        """Whether a completion was cut. TRL also takes a padding token for an end, but a sampled one ends nothing."""
        if ids and ids[-1] in self._end_tokens:
            return False
        return not (self._stops_at_answer and ANSWER_END in completion_text(completion))

    def _without_padding_after_answer(self, ids: list[int]) -> list[int]:
        """A row that ended without an end token is padded to its batch, and TRL takes the padding for tokens."""
        kept = len(ids)
        while kept and ids[kept - 1] == self._tokenizer.pad_token_id:
            kept -= 1
        return ids[:kept] if ANSWER_END in str(self._tokenizer.decode(ids)) else ids
