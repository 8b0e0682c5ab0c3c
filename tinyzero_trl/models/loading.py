"""How models and tokenizers are loaded: precision, attention, no remote code, no pickle, errors of one line."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from tinyzero_trl.messages import first_line_of
from tinyzero_trl.models import gguf
from tinyzero_trl.models.adapters import base_of_adapter
from tinyzero_trl.models.names import is_path
from tinyzero_trl.models.softcap import attention_with_softcap
from tinyzero_trl.runs.checkpoints import checkpoint_to_resume
from tinyzero_trl.runs.hub_access import offline_if_silent
from tinyzero_trl.runs.records import CONFIG

SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
"""What every `from_pretrained` of weights is called with: a model folder is data, and no program."""


def default_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype() -> torch.dtype:
    """bfloat16 on a CUDA device, float32 on the CPU."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def dtype_name() -> str:
    """`default_dtype()` as vLLM and people write it."""
    return str(default_dtype()).removeprefix("torch.")


def load_model(path: str) -> Any:
    """A causal language model on `default_device()` in `default_dtype()`, with FlashAttention 2 if it works.

    Raises:
        ValueError: if it cannot be loaded.
    """
    flash = is_flash_attn_2_available() and default_dtype() == torch.bfloat16
    # bars would be drawn wherever standard error goes; here they are for terminals
    with nullcontext() if sys.stderr.isatty() else without_bars():
        base = base_of_adapter(path)
        model = load(
            AutoModelForCausalLM.from_pretrained,
            base or path,
            **SAFE,
            dtype=default_dtype(),
            attn_implementation=attention_with_softcap(load_model_config(path), "flash_attention_2" if flash else None),
        )
        if base is not None:
            load(model.load_adapter, path)
    return model.to(default_device())


def load_trainable_adapter(path: str, **settings: Any) -> Any:
    """The adapter in a folder on its base model, to be trained on.

    Args:
        path: a folder for which `base_of_adapter` finds a base model.
        **settings: of the base model's `from_pretrained`.

    Raises:
        ValueError: PEFT is not installed, or base model or adapter cannot be loaded.
    """
    if find_spec("peft") is None:
        raise ValueError(f"model: {path!r} is an adapter, and peft is not installed; pip install 'tinyzero-trl[peft]'")
    from peft import PeftModel

    base = load(AutoModelForCausalLM.from_pretrained, str(base_of_adapter(path)), **settings)
    return load(partial(PeftModel.from_pretrained, base, is_trainable=True), path)


def load_generation_config(path: str, **settings: Any) -> GenerationConfig:
    """What a loaded model has as `generation_config`: its own file's, or one made of the model's configuration.

    Raises:
        ValueError: the file is damaged, or there is no model.
    """
    path = base_of_adapter(path) or path
    try:
        return load(GenerationConfig.from_pretrained, path, **settings)
    except ValueError as error:
        if isinstance(error.__cause__, OSError):
            return GenerationConfig.from_model_config(load_model_config(path, **settings))
        raise


def load_model_config(path: str, **settings: Any) -> PreTrainedConfig:
    """The configuration of a model folder or Hub id, without its weights; of an adapter's folder that of its base.

    Raises:
        ValueError: if there is none.
    """
    return load(AutoConfig.from_pretrained, base_of_adapter(path) or path, trust_remote_code=False, **settings)


def load_tokenizer(path: str, **settings: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id.

    Raises:
        ValueError: if there is none that knows a word.
    """
    tokenizer = load(AutoTokenizer.from_pretrained, path, trust_remote_code=False, **settings)
    if not tokenizer("1 + 2")["input_ids"]:  # what Transformers makes of a folder without a tokenizer's files
        raise ValueError(f"model: {path!r} has no tokenizer; copy tokenizer.json and tokenizer_config.json beside it")
    return tokenizer


def give_end_token(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig) -> None:
    """Let a tokenizer without an end token have that of the model's generation settings, for training.

    Raises:
        ValueError: the model has none either, so that no completion could end.
    """
    if tokenizer.eos_token_id is not None:
        return
    ends = generation_config.eos_token_id
    end = ends[0] if isinstance(ends, list) and ends else ends
    if not isinstance(end, int) or (token := tokenizer.convert_ids_to_tokens(end)) is None:
        raise ValueError(
            "model: neither its tokenizer nor its generation_config.json has an end token, so that no completion could "
            "end; set eos_token in tokenizer_config.json, or tokenizer.eos_token in Python"
        )
    tokenizer.eos_token = token


def check_model(path: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> None:
    """Find out whether the weights fit their configuration and the tokenizer, without reading the weights.

    Transformers starts missing weights at random and goes on; nobody wants such a model trained or measured.

    Raises:
        ValueError: weights that are damaged, pickled, missing or of other shapes, or a token without an embedding.
    """
    path = base_of_adapter(path) or path
    largest, embedded = max(tokenizer.get_vocab().values()), config.get_text_config().vocab_size
    if largest >= embedded:
        raise ValueError(
            f"model: {path!r} embeds {embedded} tokens and its tokenizer knows a token {largest}; "
            "give a folder whose model and tokenizer belong together"
        )
    if is_deepspeed_zero3_enabled() or is_fsdp_enabled():  # they load in ways of their own
        return
    loading = {**SAFE, **settings, "device_map": "meta", "output_loading_info": True, "ignore_mismatched_sizes": True}
    with _silent_transformers():
        _, found = load(AutoModelForCausalLM.from_pretrained, path, **loading)
    for problem, weights in (("lacks", found["missing_keys"]), ("has other shapes for", found["mismatched_keys"])):
        if weights:
            raise ValueError(
                f"model: {path!r} {problem} {len(weights)} weights of its config.json, such as {_first(weights)}; "
                "give a folder that was saved whole"
            )


def positions_of(model_config: PreTrainedConfig) -> int | None:
    """How many positions a model knows; None where its configuration sets no limit."""
    return getattr(model_config.get_text_config(), "max_position_embeddings", None)


def check_room(positions: int | None, longest_prompt_tokens: int, max_completion_length: int) -> None:
    """Prompt and completion must fit the positions that the model knows.

    Raises:
        ValueError: they do not.
    """
    if positions is not None and longest_prompt_tokens >= positions:
        raise ValueError(
            f"prompts: one of {longest_prompt_tokens} tokens leaves no room in the model's {positions} positions; "
            "shorten it, or choose another model"
        )
    if positions is not None and longest_prompt_tokens + max_completion_length > positions:
        raise ValueError(
            f"max_completion_length: {max_completion_length} tokens after a prompt of {longest_prompt_tokens} "
            f"exceed the model's {positions} positions; use at most {positions - longest_prompt_tokens}"
        )


def _first(weights: Iterable[Any]) -> str:
    """The first name; a weight of another shape comes with its shapes."""
    return min(weight if isinstance(weight, str) else weight[0] for weight in weights)


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """No bar and no table: what is found is said in one line of our own."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        with without_bars():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def without_bars() -> Iterator[None]:
    """Transformers draws no loading bar within it."""
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            transformers_logging.enable_progress_bar()


def load(loader: Callable[..., Any], path: str, **settings: Any) -> Any:
    """Call one of transformers' loaders, its many-line errors turned into one line with the remedy.

    Raises:
        ValueError: whatever the loader raises: a damaged folder may bring about anything.
    """
    remedy = _remedy(path)
    if (not path or is_path(path) or Path(path).is_file()) and not Path(path or "?").is_dir():
        raise ValueError(f"model: {path!r} is no folder; {remedy}")
    _check_finished(path)
    try:
        with offline_if_silent(path):
            return loader(path, **settings)
    except Exception as error:
        raise ValueError(f"model: {path!r} cannot be loaded ({first_line_of(error)}); {remedy}") from error


def _check_finished(path: str) -> None:
    """Raise ValueError for the folder of a run that has not ended: only its checkpoints hold a model."""
    if any(Path(path, name).is_file() for name in ("config.json", "adapter_config.json")):
        return
    unfinished = f"model: {path!r} is a run that is not finished and holds no model yet"
    if checkpoint := checkpoint_to_resume("auto", path):
        raise ValueError(f"{unfinished}; give its newest complete checkpoint, {checkpoint!r}")
    if Path(path, CONFIG).is_file():
        raise ValueError(f"{unfinished}, nor a complete checkpoint; let it train on")


def _remedy(path: str) -> str:
    """What to give instead; of a folder that holds GGUF files and no model, the file itself."""
    files = sorted(Path(path or "?").glob(f"*{gguf.SUFFIX}"))
    if files and not Path(path, "config.json").is_file():
        return f"give the GGUF file itself, {str(files[0])!r}"
    return "give a folder with a saved model (safetensors) and its tokenizer, a Hub id, or 'embedded'"
