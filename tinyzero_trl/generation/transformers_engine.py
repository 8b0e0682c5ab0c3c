"""Transformers' own `generate` as an engine, with a batch that becomes smaller while its rows finish."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers import StopStringCriteria

from tinyzero_trl.generation.compacting import Generation
from tinyzero_trl.generation.engine import Engine, EngineSetup, SampledBatch, Sampling
from tinyzero_trl.generation.interception import own_settings_aside
from tinyzero_trl.generation.prompts import padded_left
from tinyzero_trl.generation.sampling import RowSampler, generation_settings
from tinyzero_trl.models.loading import load_model


class TransformersEngine(Engine):
    """Samples one padded batch per call. The rows that go on to a longer limit keep their cache."""

    def __init__(self, setup: EngineSetup) -> None:
        super().__init__(setup)
        self._model = load_model(setup.model_path) if setup.model is None else setup.model

    def start(self, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
        """See `Engine`. The model's mode, its own generation settings and the random state stay as they are."""
        device = self._model.device
        draws = sampling.temperature > 0 and sampling.seeds is not None
        stops = StopStringCriteria(self.setup.tokenizer, list(sampling.stop_strings)) if sampling.stop_strings else None
        with self._alone():
            generation = Generation(
                self._model,
                *padded_left(prompt_ids, sampling.pad_token_id, device),
                generation_settings(sampling),
                RowSampler(sampling, device).of_rows if draws else None,
                stops,
            )
            return start_generation(generation, prompt_ids, sampling, limit)

    def extend(self, batch: SampledBatch, rows: Sequence[int], limit: int) -> SampledBatch:
        """See `Engine`. Rows that do not go on now cannot go on later: their cache is gone."""
        with self._alone():
            return extend_generation(batch, rows, limit)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Put the model in evaluation mode, without generation settings of its own."""
        training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode(), own_settings_aside(self._model):
                yield
        finally:
            self._model.train(training)


def start_generation(
    generation: Generation, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int
) -> SampledBatch:
    """The first stage of a batch that `generate` samples."""
    generation.run(limit)
    prompts = [list(ids) for ids in prompt_ids]
    finished = generation.finished.tolist()
    return SampledBatch(prompts, generation.completion_ids(), finished, limit, sampling, state=generation)


def extend_generation(batch: SampledBatch, rows: Sequence[int], limit: int) -> SampledBatch:
    """A further stage, with the cache of the rows that go on."""
    generation: Generation = batch.state
    if rows:
        generation.keep(rows)
        generation.run(limit)
    finished = generation.finished.tolist()
    return replace(batch, completion_ids=generation.completion_ids(), finished=finished, limit=limit)
