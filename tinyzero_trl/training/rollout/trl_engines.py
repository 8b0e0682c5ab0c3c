"""TRL's own ways to sample a rollout, as engines: each wraps the one call that TRL makes, so that it can pause."""

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from accelerate.utils import gather_object

from tinyzero_trl.generation.compacting import Generation
from tinyzero_trl.generation.engine import Engine, EngineSetup, SampledBatch, Sampling
from tinyzero_trl.generation.transformers_engine import extend_generation, start_generation
from tinyzero_trl.replacing import replaced


class GenerateEngine(Engine):
    """`model.generate`. The rows that go on keep their cache."""

    def __init__(self, setup: EngineSetup, generation: Generation) -> None:
        super().__init__(setup)
        self._generation = generation

    def start(self, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
        """See `Engine`. How to sample stands in the settings that TRL has given `generate`."""
        return start_generation(self._generation, prompt_ids, sampling, limit)

    def extend(self, batch: SampledBatch, rows: Sequence[int], limit: int) -> SampledBatch:
        """See `Engine`."""
        return extend_generation(batch, rows, limit)


class _ByTokenIds(Engine):
    """An engine of TRL that is called anew for each stage, with prompts and completions so far."""

    ends_without_token = True

    def _batch(
        self,
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        limit: int,
        logprobs: list[list[float]] | None = None,
    ) -> SampledBatch:
        completions = [list(ids) for ids in completion_ids]
        finished = [len(ids) < limit or self._has_ended(ids, sampling) for ids in completions]
        return SampledBatch([list(ids) for ids in prompt_ids], completions, finished, limit, sampling, logprobs)

    def _has_ended(self, ids: list[int], sampling: Sampling) -> bool:
        text = self.setup.tokenizer.decode(ids) if sampling.stop_strings else ""
        return ids[-1] in sampling.end_token_ids or any(stop in text for stop in sampling.stop_strings)


class ContinuousBatchingEngine(_ByTokenIds):
    """Transformers' continuous batching.

    Args:
        setup: of the trained model.
        generate_batch: the model's own.
        generation_config: how TRL samples.
        options: what else TRL gives `generate_batch`.
    """

    def __init__(
        self, setup: EngineSetup, generate_batch: Callable[..., Any], generation_config: Any, options: dict[str, Any]
    ) -> None:
        super().__init__(setup)
        self._generate_batch, self._config, self._options = generate_batch, generation_config, options

    def start(self, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
        """See `Engine`."""
        config = copy.deepcopy(self._config)
        config.max_new_tokens = limit
        outputs = self._generate_batch(list(prompt_ids), generation_config=config, **self._options)
        return self._batch(prompt_ids, [output.generated_tokens for output in outputs.values()], sampling, limit)

    @staticmethod
    def outputs(batch: SampledBatch) -> dict[int, Any]:
        """A batch as `generate_batch` returns it."""
        return {row: SimpleNamespace(generated_tokens=ids) for row, ids in enumerate(batch.completion_ids)}


class ColocatedVllmEngine(_ByTokenIds):
    """vLLM beside the training process. Within a rollout its prefix cache spares reading a completion again.

    Args:
        setup: of the trained model.
        generation: TRL's `VLLMGeneration`.
        generate: its method.
        options: what else TRL gives it.
    """

    def __init__(
        self, setup: EngineSetup, generation: Any, generate: Callable[..., Any], options: dict[str, Any]
    ) -> None:
        super().__init__(setup)
        self._vllm, self._generate, self._options = generation, generate, options

    def start(self, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
        """See `Engine`."""
        # Ranks that share an engine must give it equally many prompts.
        shared = self._vllm.tensor_parallel_size > 1
        missing = max(gather_object([len(prompt_ids)])) - len(prompt_ids) if shared else 0
        prompts = [*prompt_ids, *[[sampling.pad_token_id]] * missing]
        with replaced(self._vllm, "max_completion_length", limit):
            _, completion_ids, logprobs, _ = self._generate(prompts=prompts, **self._options)
        rows = len(prompt_ids)
        sampled = [[token[0] for token in row] for row in logprobs[:rows]]
        return self._batch(prompt_ids, completion_ids[:rows], sampling, limit, sampled)

    def extend(self, batch: SampledBatch, rows: Sequence[int], limit: int) -> SampledBatch:
        """See `Engine`."""
        if not rows and self._vllm.tensor_parallel_size > 1:
            self.start([], batch.sampling, limit - batch.limit)  # the other ranks of the engine wait for this one
        return super().extend(batch, rows, limit)

    @staticmethod
    def outputs(batch: SampledBatch) -> tuple[Any, ...]:
        """A batch as `VLLMGeneration.generate` returns it."""
        assert batch.logprobs is not None
        return batch.prompt_ids, batch.completion_ids, [[[each] for each in row] for row in batch.logprobs], None
