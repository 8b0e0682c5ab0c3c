"""All checks of a recipe before its weights are read, in order."""

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import ModelConfig

from tinyzero_trl.models.adapters import base_of_adapter
from tinyzero_trl.models.loading import (
    check_model,
    give_end_token,
    load_generation_config,
    load_tokenizer,
)
from tinyzero_trl.models.softcap import check_softcap
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.preflight.explained import check_evaluation_batch
from tinyzero_trl.training.preflight.mappings import check_offload, check_vllm_sampling
from tinyzero_trl.training.preflight.model import (
    check_adapter,
    check_continued_adapter,
    check_kept_precision,
    check_model_init_kwargs,
    check_no_field_twice,
)
from tinyzero_trl.training.preflight.optimizer import check_optimizer
from tinyzero_trl.training.preflight.problems import (
    check_chat_template_kwargs,
    check_label_column,
    check_problems,
    check_prompts,
)
from tinyzero_trl.training.preflight.reference import check_saved_reference, check_synced_reference
from tinyzero_trl.training.preflight.resuming import (
    check_architecture,
    check_optimizer_state,
    check_records,
    check_same_examples,
    check_same_model,
    example_digests,
)
from tinyzero_trl.training.preflight.stages import check_stage_settings
from tinyzero_trl.training.preflight.trackers import check_trackers, use_wandb_offline_without_account
from tinyzero_trl.windows import make_policy


def check_run(
    path: str,
    config: Any,
    training: AdaptiveGRPOConfig,
    model: ModelConfig,
    train: Dataset,
    held_out: Dataset,
    checkpoint: str | None,
) -> PreTrainedTokenizerBase:
    """All that is known of a run before its weights are read.

    Args:
        path: the folder or Hub id of the model.
        config: the configuration of the model.
        training: the settings of the run.
        model: what the recipe says of the model.
        train: the examples to train on.
        held_out: the examples of every evaluation.
        checkpoint: from which the run continues; None for a new run.

    Returns:
        The tokenizer, padding on the left.

    Raises:
        ValueError: a tracker that is not installed, a model that cannot be loaded, prompts it has no template or no
            room for, too few problems for a rollout, or a checkpoint of another recipe.
    """
    check_settings(training, model)
    use_wandb_offline_without_account(training)
    tokenizer = check_model_and_examples(path, config, training, model, train, held_out)
    check_saved_reference(training, checkpoint)
    if checkpoint is not None:
        check_architecture(checkpoint, config, training.window_strategy)
        check_optimizer_state(checkpoint)
        check_records(checkpoint, str(training.output_dir))
        check_same_model(checkpoint, path, config)
        check_same_examples(checkpoint, example_digests(train, held_out))
    return tokenizer


def check_settings(training: AdaptiveGRPOConfig, model: ModelConfig) -> None:
    """What a recipe alone says: neither its model nor its examples are read.

    Raises:
        ValueError: names field, value and remedy.
    """
    if make_policy(training.window_config()).samples_in_stages:
        check_stage_settings(training)
    check_trackers(training)
    check_optimizer(training)
    check_evaluation_batch(training)  # a recipe is evaluated before and after training, whatever its eval_strategy
    check_offload(training)
    check_vllm_sampling(training)
    check_kept_precision(training, is_float32=model.dtype == "float32")
    check_synced_reference(training, has_adapter=model.use_peft)


def check_model_and_examples(
    path: str, config: Any, training: AdaptiveGRPOConfig, model: ModelConfig, train: Dataset, held_out: Dataset
) -> PreTrainedTokenizerBase:
    """What the files of the model and the examples say; arguments and result are those of `check_run`.

    Raises:
        ValueError: names field, value and remedy.
    """
    check_problems(train, training)
    check_label_column(train.column_names, training.window_config(), training)
    prompts = [*train["prompt"][:], *held_out["prompt"][:]]
    asked, by_batches = model.attn_implementation or "", training.use_transformers_continuous_batching
    check_softcap(config, asked, continuous_batching=by_batches)
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(path, revision=model.model_revision, padding_side="left")
    give_end_token(tokenizer, load_generation_config(path, revision=model.model_revision))
    chat_options: Any = training.chat_template_kwargs
    check_chat_template_kwargs(chat_options, prompts, tokenizer)
    check_prompts(prompts, tokenizer, config, training)
    check_model(path, config, tokenizer, revision=model.model_revision)
    given: Any = training.model_init_kwargs
    check_no_field_twice(given, model)
    base = base_of_adapter(path)
    check_model_init_kwargs(base or path, given, revision=model.model_revision)
    if base is None:
        check_adapter(model, config)
    else:
        check_continued_adapter(path, model)
        check_synced_reference(training, has_adapter=True)
    return tokenizer
