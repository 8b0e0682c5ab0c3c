"""What we wrap of TRL and Transformers, pinned: an upgrade that changes it fails here, and says what to look at."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields

import pytest
from transformers import Trainer, TrainerCallback
from transformers.generation.utils import ALL_CACHE_NAMES, GenerateDecoderOnlyOutput
from transformers.trainer_callback import ExportableState
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer.utils import RepeatSampler

from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer

PINNED = {
    "_generate_and_score_completions": ["self", "inputs"],
    "prediction_step": ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["self", "model", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_init_training_state": [
        *("self", "max_steps", "num_update_steps_per_epoch", "num_train_epochs"),
        *("resume_from_checkpoint", "trial"),
    ],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "_save_checkpoint": ["self", "model", "trial"],
    "save_model": ["self", "output_dir", "_internal_call"],
    "_save_rng_state": ["self", "output_dir"],
    "_issue_warnings_after_load": ["self", "load_result"],
    "train": ["self", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "log": ["self", "logs", "start_time"],
    "_get_train_sampler": ["self", "dataset"],
    "_get_dataloader": [
        *("self", "dataset", "description", "batch_size", "sampler_fn"),
        *("is_training", "dataloader_key"),
    ],
    "_set_signature_columns_if_needed": ["self"],
    "_load_best_model": ["self"],
    "_determine_best_metric": ["self", "metrics", "trial"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "init_hf_repo": ["self", "token"],
    "_push_from_checkpoint": ["self", "checkpoint_folder"],
    "_finish_current_push": ["self"],
    "push_to_hub": ["self", "commit_message", "blocking", "token", "revision", "kwargs"],
}
LEADING = {"_get_per_token_logps_and_entropies": ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]}
PASSED_ON = {"_generate_single_turn"}  # with whatever arguments it has after the prompts


def parameters(method) -> list[str]:
    return list(inspect.signature(method).parameters)


@pytest.mark.parametrize(("name", "expected"), PINNED.items())
def test_a_wrapped_method_has_the_signature_it_was_wrapped_with(name: str, expected: list[str]) -> None:
    found = parameters(getattr(GRPOTrainer, name))
    if name in ("init_hf_repo", "push_to_hub") and "private" in found:  # Transformers from 5.24 on, passed on by name
        found.remove("private")
    assert found == expected


def test_per_token_log_probabilities_start_with_the_arguments_that_are_passed_on() -> None:
    found = parameters(GRPOTrainer._get_per_token_logps_and_entropies)
    assert found[:6] == [*LEADING["_get_per_token_logps_and_entropies"], "batch_size"]


def test_there_is_one_subclass_and_it_overrides_nothing_else() -> None:
    """Whoever wraps another method pins its signature above."""
    assert AdaptiveGRPOTrainer.__mro__[1] is GRPOTrainer
    theirs = {name for base in GRPOTrainer.__mro__ for name in vars(base)}
    overridden = {name for name, value in vars(AdaptiveGRPOTrainer).items() if callable(value) and name in theirs}
    pinned = PINNED.keys() | LEADING.keys() | PASSED_ON
    assert {name for name in overridden if not name.startswith("__")} == pinned


def test_no_name_of_ours_hides_one_of_theirs() -> None:
    """Collaborators are attributes of the trainer: none may take the place of an attribute that TRL sets."""
    ours = set(re.findall(r"self\.(\w+) = ", inspect.getsource(AdaptiveGRPOTrainer.__init__)))
    assert {"limiter", "rollouts", "groups", "loss", "guard", "evaluator", "reference", "checkpoints", "hub"} <= ours
    for base in GRPOTrainer.__mro__[:-1]:
        theirs = set(re.findall(r"self\.(\w+)(?:: [^=]+)? = ", inspect.getsource(base))) | vars(base).keys()
        assert not ours & theirs, base


def test_the_trainer_takes_what_its_parent_takes() -> None:
    ours, theirs = (inspect.signature(each.__init__).parameters for each in (AdaptiveGRPOTrainer, GRPOTrainer))
    assert [(each.name, each.kind, each.default) for each in ours.values()] == [
        (each.name, each.kind, each.default) for each in theirs.values()
    ]


@pytest.mark.parametrize(
    ("method", "phrases"),
    [
        # The window of a rollout is set on these two, and read back for every generation.
        (GRPOTrainer._generate_single_turn, ["self.generation_config", "self.vllm_generation.generate("]),
        # Which call of `generate` lets finished rows leave.
        (GRPOTrainer._generate_single_turn, ["**generate_inputs, generation_config=self.generation_config"]),
        (VLLMGeneration.generate, ["self.max_completion_length"]),
        (GRPOTrainer.__init__, ['"max_new_tokens": self.max_completion_length', "self.eos_token_ids = "]),
        # It stays the configured maximum, because this loss divides by it.
        (GRPOTrainer._compute_loss, ["self.max_completion_length", "self._get_per_token_logps_and_entropies("]),
        # A sampler that draws every order from one generator; ours seeds it anew in each epoch.
        (RepeatSampler, ["self.generator.manual_seed(seed)", "generator=self.generator"]),
        # Rewards come back gathered over all ranks, and reasons go through one method.
        (GRPOTrainer._calculate_rewards, ["rewards_per_func = gather(rewards_per_func)", "self._log_completion_extra"]),
        # Which optimizer step a rollout belongs to.
        (GRPOTrainer._prepare_inputs, ["self.args.steps_per_generation * self.num_iterations", "_buffered_inputs"]),
        # Entries of gradient_checkpointing_kwargs that PyTorch never sees; `preflight/mappings.py` judges them.
        (Trainer.train, ['gc_kwargs.pop("every_n_layers", 1)', 'gc_kwargs.pop("offload", False)']),
        # Figures that join the log of an evaluation are in what callbacks are shown, and in what is returned.
        (
            Trainer.evaluate,
            ["self.log(output.metrics)", "on_evaluate(self.args, self.state, self.control, output.metrics)"],
        ),
        # Callback state travels in trainer_state.json.
        (Trainer._save_checkpoint, ["self.state.stateful_callbacks", "ExportableState"]),
        (GRPOTrainer._save_checkpoint, ["self.create_model_card("]),
        # With a best model the ranks meet between the first part of a checkpoint and the second.
        (Trainer._save_checkpoint, ["self.save_model(output_dir, _internal_call=True)", "dist.barrier()"]),
        # A failed push in the background is silent, because nobody asks the jobs; saving pushes unless it is internal.
        (Trainer._push_from_checkpoint, ["self.push_in_progress = PushInProgress(push_jobs)", "self.hub_model_id"]),
        (Trainer.push_to_hub, ["self.save_model(_internal_call=True)", "self._finish_current_push()"]),
        (Trainer.save_model, ["if self.args.push_to_hub and not _internal_call:"]),
        (Trainer.init_hf_repo, ["self.hub_model_id = repo_url.repo_id"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_the_source_still_does_what_we_rely_on(method, phrases: list[str]) -> None:
    source = inspect.getsource(inspect.unwrap(method))
    for phrase in phrases:
        assert phrase in source, f"{method.__qualname__} no longer contains {phrase!r}"


def test_the_trainer_state_is_the_last_file_of_a_checkpoint() -> None:
    """So that a checkpoint with a readable trainer_state.json is complete."""
    source = inspect.getsource(inspect.unwrap(Trainer._save_checkpoint))
    last = source.index("TRAINER_STATE_NAME")
    for earlier in ("save_model(", "_save_optimizer_and_scheduler(", "_save_rng_state("):
        assert source.index(earlier) < last


def test_callbacks_hear_of_an_optimizer_step_before_it_is_logged_evaluated_and_saved() -> None:
    events = {name for name in vars(TrainerCallback) if name.startswith("on_")}
    assert {"on_train_begin", "on_step_begin", "on_step_end", "on_log", "on_train_end"} <= events
    assert not {"on_rollout_end", "on_policy_update", "on_evaluation_end"} & events, "our events must stay ours"
    source = inspect.getsource(inspect.unwrap(Trainer._maybe_log_save_evaluate))
    assert source.index("self.log(") < source.index("self._evaluate(") < source.index("self._save_checkpoint(")
    assert ExportableState.__name__ in [base.__name__ for base in ExportableState.__mro__]


def test_generate_takes_and_returns_its_cache_under_one_name() -> None:
    """The first of the list, which `generation/compacting.py` uses."""
    assert ALL_CACHE_NAMES[0] in {each.name for each in fields(GenerateDecoderOnlyOutput)}


def test_a_rollout_is_sampled_by_the_calls_that_ours_stand_in_for() -> None:
    """Whose arguments `training/rollout/rollouts.py` takes by name, and hands on in each stage."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(GRPOTrainer._generate_single_turn)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    found = {
        (ast.unparse(call.func), len(call.args), *sorted(keyword.arg or "**" for keyword in call.keywords))
        for call in calls
        if call.func.attr.startswith("generate")
    }
    assert found == {
        ("self.vllm_generation.generate", 0, "images", "num_generations", "profiler", "prompts"),
        ("unwrapped_model.generate_batch", 1, "continuous_batching_config", "generation_config", "progress_bar"),
        ("unwrapped_model.generate", 0, "**", "generation_config"),
    }
    assert {"images", "num_generations", "profiler", "prompts"} < set(parameters(VLLMGeneration.generate))
    assert parameters(GRPOTrainer._generate_single_turn)[1] == "prompt_ids"
