"""What to write in place of a field that does not exist: names of older TRL, of Transformers and of other libraries."""

import difflib
from collections.abc import Iterable

from tinyzero_trl.training.recipe.renamed import RENAMED

_RENAMED = {
    # Transformers and TRL, in later versions
    **RENAMED,
    # and in earlier ones
    "torch_dtype": "dtype",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "vllm_max_model_len": "vllm_max_model_length",
    "vllm_guided_decoding_regex": "vllm_structured_outputs_regex",
    "use_flash_attention_2": "attn_implementation",
    "attn_impl": "attn_implementation",
    # other libraries
    "model": "model_name_or_path",
    "model_id": "model_name_or_path",
    "model_name": "model_name_or_path",
    "model_path": "model_name_or_path",
    "dataset_name": "dataset",
    "dataset_path": "dataset",
    "train_files": "dataset",
    "system_prompt": "prompt_template",
    "template": "prompt_template",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "total_epochs": "num_train_epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "max_new_tokens": "max_completion_length",
    "max_tokens": "max_completion_length",
    "response_length": "max_completion_length",
    "max_response_length": "max_completion_length",
    "n": "num_generations",
    "rollout_n": "num_generations",
    "group_size": "num_generations",
    "num_return_sequences": "num_generations",
    "num_samples": "num_generations",
    "kl_coef": "beta",
    "kl_loss_coef": "beta",
    "init_kl_coef": "beta",
    "cliprange": "epsilon",
    "clip_range": "epsilon",
    "clip_ratio": "epsilon",
    "clip_ratio_high": "epsilon_high",
    "grad_clip": "max_grad_norm",
    "clip_grad": "max_grad_norm",
    "ppo_epochs": "num_iterations",
    "num_ppo_epochs": "num_iterations",
    "lora_rank": "lora_r",
    "lora_target": "lora_target_modules",
    "max_window": "window_max",
    "min_window": "window_min",
    "initial_window": "window_initial",
}
_ADVICE = {
    "max_prompt_length": "remove it: this TRL cuts no prompts; prompt and completion must fit the model's positions",
    "max_length": "set max_completion_length, the most tokens of a completion; this TRL cuts no prompts",
    "max_seq_length": "set max_completion_length, the most tokens of a completion; this TRL cuts no prompts",
    "warmup_ratio": "set warmup_steps: below 1 it is that share of all steps",
    "logging_dir": "remove it: trackers write into output_dir; TENSORBOARD_LOGGING_DIR moves TensorBoard's files",
    "overwrite_output_dir": "set resume: never to start over; earlier records are not mixed with new ones",
    "group_by_length": "remove it: problems are drawn in groups, in an order of their own",
    "save_safetensors": "remove it: weights are always saved as safetensors",
    "reward_funcs": "remove it: the task brings its reward functions; choose with task and reward_shaping",
    "reward_model": "remove it: the task brings its reward functions; choose with task and reward_shaping",
    "window_size": "did you mean window_initial (the first window) or window_max (the largest)?",
    "window_sizes": "did you mean window_initial (the first window) or window_max (the largest)?",
    "window": "did you mean window_initial (the first window) or window_max (the largest)?",
    "wandb_project": "remove it, and set WANDB_PROJECT in the environment",
    "vllm_device": "remove it: vLLM shares the devices of training (vllm_mode: colocate), or is a server of its own",
    "vllm_dtype": "remove it: vLLM takes the dtype of the model",
}
_ALIKE = 0.85  # share of letters in common from which on a name is taken for a spelling mistake


def advice_for_unknown(name: str, known: Iterable[str]) -> str:
    """What to do about a field that does not exist; no hint at all is better than a wrong one.

    Args:
        name: the field that was given.
        known: the fields that exist.
    """
    if name in _ADVICE:
        return _ADVICE[name]
    if name in _RENAMED:
        return f"its name here is {_RENAMED[name]}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
    return f"did you mean {close[0]}?" if close else "remove it"
