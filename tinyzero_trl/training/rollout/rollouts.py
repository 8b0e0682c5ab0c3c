"""What samples a rollout."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor
from transformers import StopStringCriteria
from trl import GRPOConfig

from tinyzero_trl.generation.compacting import Generation
from tinyzero_trl.generation.engine import Engine, EngineSetup, SampledBatch, Sampling
from tinyzero_trl.generation.interception import compacting_batches
from tinyzero_trl.generation.registry import make_engine
from tinyzero_trl.generation.sampling import advice_on_own_sampling, recipe_sampling
from tinyzero_trl.generation.stages import AT_ONCE, StagedBatch, Stages
from tinyzero_trl.generation.vllm_on_cpu import adapt_vllm_to_cpu
from tinyzero_trl.models.loading import give_end_token, load_generation_config
from tinyzero_trl.models.varlen import sampling_attention
from tinyzero_trl.replacing import replaced
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.preflight.mappings import check_vllm_sampling
from tinyzero_trl.training.preflight.model import check_kept_precision
from tinyzero_trl.training.preflight.stages import check_stage_model, check_stage_settings
from tinyzero_trl.training.rollout.completion_ends import CompletionEnds
from tinyzero_trl.training.rollout.trl_engines import ColocatedVllmEngine, ContinuousBatchingEngine, GenerateEngine
from tinyzero_trl.training.trl_internals import forget_rollout, tokenizer_of

logger = logging.getLogger(__name__)

_Run = Callable[[Engine, int], SampledBatch]
"""Samples the batch by an engine up to a limit in tokens, or up to the end of its next stage."""


def prepare_engine(args: AdaptiveGRPOConfig, model: Any, processing_class: Any) -> None:
    """What must be there before TRL builds the engine: vLLM where it is asked for, adapted to CPUs, and an end token.

    Raises:
        ValueError: there is no end token, or no vLLM, or vLLM refuses `generation_kwargs`.
    """
    check_vllm_sampling(args)
    if processing_class is not None:
        own = load_generation_config(model) if isinstance(model, str) else model.generation_config
        give_end_token(getattr(processing_class, "tokenizer", processing_class), own)
    if args.use_vllm and args.vllm_mode == "colocate" and args.device.type == "cpu":
        adapt_vllm_to_cpu()


class Rollouts:
    """Samples completions that end at the engine's limit, at an end token, or with a stop string.

    TRL samples, and what it calls for it is replaced while it does:

    - `model.generate` lets finished completions leave its batch (`generation.compacting`), as vLLM does by itself;
    - with a registered engine in `args.engine` that one samples, where TRL would call `model.generate`;
    - within `in_stages` a rollout pauses at some lengths, and somebody decides which completions go on. TRL is called
      once for each stage, so that in between all is as it was: a reward function may take gradients, and sample.

    Args:
        trainer: a `trl.GRPOTrainer` that is made. With vLLM this process is seeded anew, because the engine has seeded
            it by itself.

    Attributes:
        seed: of this rank's sampling. Ranks that share an engine (tensor parallelism) have the same: each of them
            samples every token, so they must draw alike.
        ends: what ends a completion.

    Raises:
        ValueError: there is no end token, the registered engine cannot be made, or sampling would change the model.
    """

    def __init__(self, trainer: Any) -> None:
        args: GRPOConfig = trainer.args
        model = trainer.model
        self.ends = CompletionEnds(trainer)
        ranks_per_engine = args.vllm_tensor_parallel_size if args.use_vllm else 1
        self.seed = args.seed + trainer.accelerator.process_index // ranks_per_engine
        check_kept_precision(args, is_float32=any(weight.dtype == torch.float32 for weight in model.parameters()))
        self._args, self._autocast = args, trainer.accelerator.autocast
        self._samples_elsewhere = (
            f"window_strategy: a rollout of {type(trainer).__name__} had no stages, since it does not sample by TRL's "
            "engines, or the model is given more than tokens, such as images; choose a strategy without stages, such "
            "as signal"
        )
        self._tokenizer = tokenizer_of(trainer)
        self._settings = trainer.vllm_generation if args.use_vllm else trainer.generation_config
        self._setup = EngineSetup(self._tokenizer, model.config.name_or_path, model, args.per_device_train_batch_size)
        self._engine_name, self._engine = "", None
        if isinstance(args, AdaptiveGRPOConfig) and args.has_registered_engine:
            self._engine_name = str(args.engine)
            self._engine = make_engine(self._engine_name, self._setup)
        self._weights_of_step: int | None = None  # that the registered engine has
        if advice := advice_on_own_sampling(model.generation_config, vars(args)):
            logger.info(advice)
        self._stages = AT_ONCE  # of the next batch
        self._stops: StopStringCriteria | None = None
        if args.use_vllm:
            set_seed(self.seed)  # vLLM has seeded this process by a number of its own, the same for every `seed`
        elif self.ends.strings:
            self._stops = StopStringCriteria(self._tokenizer, list(self.ends.strings))

    @contextmanager
    def in_stages(self, stages: Stages) -> Iterator[None]:
        """Within it, the next completions are sampled in stages. `check_stages` says whether that is possible.

        Raises:
            ValueError: the completions came from somewhere else.
        """
        self._stages = stages
        try:
            yield
            if self._stages is not AT_ONCE:
                raise ValueError(self._samples_elsewhere)
        finally:
            self._stages = AT_ONCE

    def sample(self, generate: Callable[[], Any], model: Any, prompt_ids: Sequence[list[int]], *, step: int) -> Any:
        """Completions of a batch of prompts.

        Args:
            generate: TRL's own sampling of the batch, called for each stage. It runs `model.generate`, or vLLM.
            model: the trained one, unwrapped.
            prompt_ids: token ids of the prompts, (B,).
            step: optimizer steps that the model has taken.

        Returns:
            What `generate` returns: token ids of the completions, and more.

        Raises:
            ValueError: the completions were to be sampled in stages, and `generate` asks no engine of TRL.
        """
        stages, self._stages = self._stages, AT_ONCE  # whoever is asked in between may sample, too
        batch = StagedBatch(prompt_ids, self._sampling(len(prompt_ids)), stages)
        goes_on = True
        while goes_on:
            call = self._replaced_call(model, batch.run, step, staged=stages is not AT_ONCE)
            with sampling_attention(model), self._own_stops(), call:
                completion_ids, *others = generate()
            goes_on = batch.goes_on()
        if batch.sampled:
            completion_ids = batch.sampled.completion_ids
        elif stages is not AT_ONCE:
            raise ValueError(self._samples_elsewhere)
        elif self._stops:
            completion_ids = [self.ends.without_padding(ids) for ids in completion_ids]
        return completion_ids, *others

    def check_stages(self, model: Any) -> None:
        """Whether rollouts can be sampled in stages.

        Raises:
            ValueError: they cannot; names the field and what to do.
        """
        check_stage_settings(self._args)
        if not self._args.use_vllm and self._engine is None:
            check_stage_model(model)

    def use_new_weights(self, trainer: Any) -> None:
        """The next completions are of the trainer's weights as they are now, though the step may be the same as before.

        So it is where a training begins, and where the best model takes the place of the last one.
        """
        forget_rollout(trainer)
        self._weights_of_step = None

    def _own_stops(self) -> AbstractContextManager[None]:
        """Within it, stop strings stand in TRL's settings as its engine takes them.

        vLLM has another name for them. `generate` would ask for a tokenizer, which TRL does not give it.
        """
        if not self._args.use_vllm:
            return replaced(self._settings, "stop_strings", None)
        kwargs = {key: value for key, value in self._settings.generation_kwargs.items() if key != "stop_strings"}
        if self.ends.strings:
            kwargs |= {"stop": list(self.ends.strings), "include_stop_str_in_output": True}
        return replaced(self._settings, "generation_kwargs", kwargs)

    def _replaced_call(self, model: Any, run: _Run, step: int, *, staged: bool) -> AbstractContextManager[None]:
        """Within it, the call by which TRL samples gives what `run` returns, where that differs from TRL's own."""
        if self._engine is not None:
            return replaced(model, "generate", partial(self._by_registered_engine, run, model, step))
        if not staged:
            return compacting_batches(model, self._stops, autocast=self._autocast)
        if self._args.use_vllm:
            return replaced(self._settings, "generate", partial(self._by_vllm, run, self._settings.generate))
        if self._args.use_transformers_continuous_batching:
            by_batches = partial(self._by_continuous_batching, run, model.generate_batch)
            return replaced(model, "generate_batch", by_batches)
        return compacting_batches(model, self._stops, partial(self._by_generate, run), self._autocast)

    def _by_generate(self, run: _Run, generation: Generation, limit: int) -> Tensor:
        """Samples what `model.generate` was asked for, and returns what it would."""
        sampled: Generation = run(GenerateEngine(self._setup, generation), limit).state
        return sampled.sequences

    def _by_registered_engine(
        self,
        run: _Run,
        model: Any,
        step: int,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        generation_config: Any,
        **more: Any,
    ) -> Tensor:
        """Stands in for `model.generate`: it is called where the weights are complete."""
        assert self._engine is not None
        if more:
            raise ValueError(f"engine: {self._engine_name!r} takes text alone, not {', '.join(more)}; leave it out")
        if step != self._weights_of_step:
            self._engine.update_weights(model)
            self._weights_of_step = step
        run(self._engine, generation_config.max_new_tokens)
        return torch.cat([input_ids, input_ids.new_full((len(input_ids), 1), self._pad)], dim=1)  # nobody reads it

    def _by_vllm(
        self,
        run: _Run,
        generate: Callable[..., Any],
        *,
        prompts: Any,
        images: Any,
        num_generations: int,
        **options: Any,
    ) -> Any:
        """Stands in for `generate` of TRL's `VLLMGeneration`."""
        options |= {"images": images, "num_generations": num_generations}
        engine = ColocatedVllmEngine(self._setup, self._settings, generate, options)
        return engine.outputs(run(engine, self._settings.max_completion_length))

    def _by_continuous_batching(
        self,
        run: _Run,
        generate_batch: Callable[..., Any],
        prompts: Any,
        *,
        generation_config: Any,
        **options: Any,
    ) -> Any:
        """Stands in for `model.generate_batch`."""
        engine = ContinuousBatchingEngine(self._setup, generate_batch, generation_config, options)
        return engine.outputs(run(engine, generation_config.max_new_tokens))

    def _sampling(self, rows: int) -> Sampling:
        """What the recipe asks for. A registered engine gets seeds from the random state, which checkpoints hold."""
        sampling = recipe_sampling(vars(self._args), end_token_ids=sorted(self.ends.tokens), pad_token_id=self._pad)
        return replace(sampling, seeds=tuple(torch.randint(2**56, (rows,)).tolist())) if self._engine else sampling

    @property
    def _pad(self) -> int:
        pad: Any = self._tokenizer.pad_token_id
        assert pad is not None, "TRL sets it"
        return int(pad)
