"""What samples a rollout, and where its completions end."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from tinyzero_trl.generation.compacting import compacting_batches, replaced_generate
from tinyzero_trl.generation.completions import check_batch
from tinyzero_trl.generation.engine import ANSWER_END, Engine, EngineSetup, SampledBatch, Sampling, engine_class
from tinyzero_trl.generation.vllm_on_cpu import adapt_vllm_to_cpu
from tinyzero_trl.tasks.rewards import completion_text
from tinyzero_trl.training.config import AdaptiveGRPOConfig


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
    `args.stop_at_answer` a completion also ends with its answer, without an end token. With a registered engine in
    `args.engine` that one samples, where TRL would call `model.generate`.

    Attributes:
        seed: of this rank's sampling. Ranks that share an engine (tensor parallelism) have the same: each of them
            samples every token, so they must draw alike.

    Raises:
        ValueError: the registered engine cannot be made.
    """

    def __init__(
        self,
        args: AdaptiveGRPOConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model: Any,
        end_tokens: Collection[int],
        process_index: int,
    ) -> None:
        ranks_per_engine = args.vllm_tensor_parallel_size if args.use_vllm else 1
        self.seed = args.seed + process_index // ranks_per_engine
        self._args = args
        self._tokenizer = tokenizer
        self._end_tokens = frozenset(end_tokens)
        self._stops_at_answer = args.stop_at_answer
        self._engine = _registered_engine(args, tokenizer, model)
        self._weights_of_step: int | None = None  # that the registered engine has
        stops_rows = args.stop_at_answer and not args.use_vllm
        self._answer_ends = StopStringCriteria(tokenizer, [ANSWER_END]) if stops_rows else None

    def sample(self, generate: Callable[[], Any], model: Any, prompt_ids: Sequence[list[int]], *, step: int) -> Any:
        """Completions of a batch of prompts.

        Args:
            generate: TRL's own sampling of the batch. It runs `model.generate`, or vLLM.
            model: the policy, unwrapped.
            prompt_ids: token ids of the prompts, (B,).
            step: optimizer steps that the policy has taken.

        Returns:
            What `generate` returns: token ids of the completions, and more.
        """
        if self._engine is not None:
            return self._sample_by(self._engine, generate, model, prompt_ids, step)
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

    def _sample_by(
        self, engine: Engine, generate: Callable[[], Any], model: Any, prompt_ids: Sequence[list[int]], step: int
    ) -> Any:
        """The same by a registered engine, called where TRL calls `model.generate`: there the weights are whole."""
        sampled: list[SampledBatch] = []

        def generate_by_engine(
            *, input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **more: Any
        ) -> Any:
            if more:
                raise ValueError(f"engine: {self._args.engine!r} takes text alone, not {', '.join(more)}; leave it out")
            if step != self._weights_of_step:
                engine.update_weights(model)
                self._weights_of_step = step
            batch = engine.start(prompt_ids, self._sampling(len(prompt_ids)), generation_config.max_new_tokens)
            check_batch(engine, batch, len(prompt_ids))
            sampled.append(batch)
            return input_ids.new_tensor([[*ids, self._pad] for ids in input_ids.tolist()])  # not looked at

        with replaced_generate(model, generate_by_engine):
            _, *others = generate()
        return sampled[0].completion_ids, *others

    def _sampling(self, rows: int) -> Sampling:
        """What the recipe asks for. The seeds come from the global random state, which checkpoints hold."""
        args = self._args
        return Sampling(
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k or 0,
            min_p=args.min_p or 0.0,
            repetition_penalty=args.repetition_penalty,
            end_token_ids=tuple(sorted(self._end_tokens)),
            pad_token_id=self._pad,
            stop_strings=(ANSWER_END,) if args.stop_at_answer else (),
            seeds=tuple(torch.randint(2**56, (rows,)).tolist()),
        )

    @property
    def _pad(self) -> int:
        pad: Any = self._tokenizer.pad_token_id
        assert pad is not None, "TRL sets it"
        return int(pad)

    def _without_padding_after_answer(self, ids: list[int]) -> list[int]:
        """A row that ended without an end token is padded to its batch, and TRL takes the padding for tokens."""
        kept = len(ids)
        while kept and ids[kept - 1] == self._tokenizer.pad_token_id:
            kept -= 1
        return ids[:kept] if ANSWER_END in str(self._tokenizer.decode(ids)) else ids


def _registered_engine(args: AdaptiveGRPOConfig, tokenizer: Any, model: Any) -> Engine | None:
    """The engine that `args.engine` names, or None where TRL samples."""
    if not args.has_registered_engine:
        return None
    assert args.engine is not None
    return engine_class(args.engine)(
        EngineSetup(tokenizer, model.config.name_or_path, model, args.per_device_train_batch_size)
    )
