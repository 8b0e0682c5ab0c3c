"""What an engine is: prompts in, sampled token ids out, stage by stage.

There is one protocol for the rollouts of training and for evaluation. docs/engines.md shows an engine in one file.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

ANSWER_END = "</answer>"
"""The text that ends a completion with `stop_at_answer`."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Everything that shapes which tokens are sampled, besides the model, the prompts and the limit.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: smallest probability mass to sample from; 1 is all of it.
        top_k: most tokens to sample from; 0 is all of them.
        min_p: smallest probability relative to the likeliest token's; 0 is any.
        repetition_penalty: 1 is none.
        end_token_ids: each of them ends a sequence, and is its last token.
        pad_token_id: what stands where a sequence has no token.
        stop_strings: text that ends a sequence, and stays in it.
        seeds: one per sequence, or None for the global random state. Equal seeds give equal sequences, whatever else
            is in the batch.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    end_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0
    stop_strings: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None


@dataclass(slots=True)
class SampledBatch:
    """The sequences of one batch, as far as they have been sampled.

    Args:
        prompt_ids: of each sequence.
        completion_ids: of each sequence, one token or more, its end token included.
        finished: whether each sequence has ended by itself; the others were cut, at `limit` or at the end of a stage.
        limit: most tokens that a completion could have at the last stage.
        sampling: how they were sampled.
        logprobs: of each sampled token, if the engine tells them.
        state: what the engine keeps for `extend`, such as a cache.
    """

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    finished: list[bool]
    limit: int
    sampling: Sampling
    logprobs: list[list[float]] | None = None
    state: Any = None

    @property
    def unfinished(self) -> list[int]:
        """The sequences that were cut at `limit` and could go on, ascending; not those that were left behind before."""
        lengths = map(len, self.completion_ids)
        return [
            row
            for row, (length, ended) in enumerate(zip(lengths, self.finished, strict=True))
            if not ended and length == self.limit
        ]


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """What an engine is made from.

    Args:
        tokenizer: of the model.
        model_path: folder or Hub id.
        model: the one that is trained; None in evaluation, where the engine loads `model_path` itself.
        batch_size: sequences to sample side by side, for an engine that does not decide it itself.
        max_sequence_length: tokens of the longest prompt and the longest completion together; None where that is
            not known beforehand.
    """

    tokenizer: Any
    model_path: str
    model: Any = None
    batch_size: int = 64
    max_sequence_length: int | None = None


class Engine(ABC):
    """Samples completions. A subclass implements `start`, and the rest where it can do better.

    Args:
        setup: model, tokenizer and sizes. An engine of training is made once per process, before the first rollout.
    """

    ends_without_token: ClassVar[bool] = False
    """Whether a finished completion may lack an end token, as those of TRL's engines where the context is full."""

    def __init__(self, setup: EngineSetup) -> None:
        self.setup = setup
        self.rows_per_call = setup.batch_size
        """Sequences that evaluation asks for at once. A rollout is asked for as a whole."""

    @abstractmethod
    def start(self, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
        """Sample one completion per prompt, until it ends or has `limit` tokens.

        Args:
            prompt_ids: token ids of each prompt. Training repeats a prompt once per completion of its group.
            sampling: how to sample.
            limit: most tokens of a completion.
        """

    def extend(self, batch: SampledBatch, rows: Sequence[int], limit: int) -> SampledBatch:
        """Let `rows`, all of them unfinished, go on until they end or have `limit` tokens; the others stay behind.

        There may be no rows, where only other processes have some.

        This default hands prompts and completions back to `start`. Each seed is replaced by one derived from it, so
        that no random number serves twice.
        """
        if not rows:
            return replace(batch, limit=limit)
        left = limit - batch.limit
        assert left > 0 and set(rows) <= set(batch.unfinished), "only unfinished rows go on, to a longer limit"
        further = self.start(
            [batch.prompt_ids[row] + batch.completion_ids[row] for row in rows], _further(batch, rows), left
        )
        joined = _joined(batch, rows, further, limit)
        return _cut_at_stop_strings(joined, rows, batch.limit, self.setup.tokenizer)

    def update_weights(self, model: Any) -> None:  # noqa: B027
        """Take over the weights of the model; called before a rollout if they have changed, with whole weights.

        Nothing to do for an engine that samples from `setup.model` itself.
        """


def derive_seed(*parts: int) -> int:
    """A seed in [0, 2^56) that is a fixed, well mixed function of its parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest())


def _further(batch: SampledBatch, rows: Sequence[int]) -> Sampling:
    """The sampling of `rows` from here on."""
    seeds = batch.sampling.seeds
    if seeds is None:
        return batch.sampling
    return replace(batch.sampling, seeds=tuple(derive_seed(seeds[row], batch.limit) for row in rows))


def _joined(batch: SampledBatch, rows: Sequence[int], further: SampledBatch, limit: int) -> SampledBatch:
    """`batch` with what `rows` were given `further`."""
    completions, finished = list(batch.completion_ids), list(batch.finished)
    logprobs = None if batch.logprobs is None else list(batch.logprobs)
    for index, row in enumerate(rows):
        completions[row] = completions[row] + further.completion_ids[index]
        finished[row] = further.finished[index]
        if logprobs is not None and further.logprobs is not None:
            logprobs[row] = logprobs[row] + further.logprobs[index]
    return replace(batch, completion_ids=completions, finished=finished, logprobs=logprobs, limit=limit)


def _cut_at_stop_strings(batch: SampledBatch, rows: Sequence[int], joint: int, tokenizer: Any) -> SampledBatch:
    """End `rows` with a stop string that lies across `joint` tokens, where no stage has seen the whole of it."""
    # in tokens, each of which is a byte or more
    longest = max((len(stop.encode()) for stop in batch.sampling.stop_strings), default=0)
    for row in rows:
        ids = batch.completion_ids[row]
        for length in range(joint + 1, min(joint + longest, len(ids) + 1)):
            text = tokenizer.decode(ids[max(0, joint - longest) : length])
            if any(stop in text for stop in batch.sampling.stop_strings):
                batch.completion_ids[row], batch.finished[row] = ids[:length], True
                if batch.logprobs is not None:
                    batch.logprobs[row] = batch.logprobs[row][:length]
                break
    return batch
