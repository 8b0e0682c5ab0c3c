"""How models and tokenizers are loaded: precision, attention, no remote code, no pickle, errors of one line."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging
from trl import ModelConfig

from tinyzero_trl.config import AdaptiveGRPOConfig
from tinyzero_trl.files import read_mapping

logger = logging.getLogger(__name__)

SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
"""What every `from_pretrained` of weights is called with: a model folder is data, and no program."""

# Adam moves a weight by about the learning rate; a bfloat16 weight of 0.02 moves by no less than half its spacing.
LOST_LEARNING_RATE = 0.02 * 2**-9


def model_init_kwargs(model: ModelConfig, training: AdaptiveGRPOConfig) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`; remote code and pickled weights stay off.

    Without `attn_implementation`, FlashAttention 2 is taken where it is installed beside a GPU and the weights are in
    half precision (float32 weights meet it outside autocast, in generation, where it refuses them), and Transformers'
    own choice (sdpa) otherwise; the choice is logged once.
    """
    half = model.dtype in ("bfloat16", "float16")
    attention = model.attn_implementation
    if attention is None and half and torch.cuda.is_available() and is_flash_attn_2_available():
        attention = "flash_attention_2"
    if model.attn_implementation is None:
        logger.info("attention: %s", attention or "sdpa (Transformers' default)")
    if half and not model.use_peft and training.learning_rate < LOST_LEARNING_RATE and not _keeps_float32_weights():
        logger.warning(
            "learning_rate: %g is lost in %s weights of which no float32 copy is kept; set dtype: float32 (bf16: true "
            "computes in half precision all the same), or launch with zero1 to zero3 or fsdp2",
            *(training.learning_rate, model.dtype),
        )
    given: Any = training.model_init_kwargs or {}
    return {
        **given,
        "dtype": model.dtype,
        "attn_implementation": attention,
        "revision": model.model_revision,
        **SAFE,
    }


def load_model_config(path: str, **settings: Any) -> Any:
    """The configuration of a model folder or Hub id, without its weights; of an adapter's folder that of its base.

    Raises:
        ValueError: if there is none.
    """
    return load(AutoConfig.from_pretrained, base_of_adapter(path) or path, trust_remote_code=False, **settings)


def base_of_adapter(path: str) -> str | None:
    """The model that the adapter in a folder was trained on; None if the folder holds a whole model.

    Raises:
        ValueError: if the adapter does not name it.
    """
    adapter = Path(path) / "adapter_config.json"
    if not adapter.is_file() or (Path(path) / "config.json").is_file():
        return None
    base = read_mapping(adapter).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise ValueError(f"model: {str(adapter)!r} names no base_model_name_or_path; copy the adapter's folder whole")
    return base


def load_tokenizer(path: str, **settings: Any) -> Any:
    """The tokenizer of a model folder or Hub id.

    Raises:
        ValueError: if there is none that knows a word.
    """
    tokenizer = load(AutoTokenizer.from_pretrained, path, trust_remote_code=False, **settings)
    if not tokenizer("1 + 2")["input_ids"]:  # what Transformers makes of a folder without a tokenizer's files
        raise ValueError(f"model: {path!r} has no tokenizer; copy tokenizer.json and tokenizer_config.json beside it")
    return tokenizer


def check_model(path: str, config: Any, tokenizer: Any, **settings: Any) -> None:
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


def load(loader: Any, path: str, **settings: Any) -> Any:
    """Call one of transformers' loaders, its many-line errors turned into one line with the remedy.

    Raises:
        ValueError: whatever the loader raises: a damaged folder may bring about anything.
    """
    remedy = "give a folder with a saved model (safetensors) and its tokenizer, a Hub id, or 'embedded'"
    is_path = not path or path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).is_file()
    if is_path and not Path(path or "?").is_dir():
        raise ValueError(f"model: {path!r} is no folder; {remedy}")
    try:
        return loader(path, **settings)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"model: {path!r} cannot be loaded ({reason}); {remedy}") from error


def _keeps_float32_weights() -> bool:
    """Whether the launcher asked for DeepSpeed, or for FSDP, which Accelerate gives float32 weights."""
    names = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
    return any(os.environ.get(name, "false").lower() == "true" for name in names)
