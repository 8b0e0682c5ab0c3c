"""Private names that training relies on: an upgrade without one of them fails here, once and by name."""

import ast
import inspect
from pathlib import Path

import pytest
from accelerate.state import GradientState
from huggingface_hub.utils import _http
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState
from transformers import Qwen2Config
from transformers.utils import hub
from trl import GRPOTrainer

from tinyzero_trl.training import trl_internals

TRAINING = Path(trl_internals.__file__).parent

# Methods of a stock trainer that `WindowController` wraps; `test_trl.py` pins their signatures.
WRAPPED = {"_generate_single_turn", "_generate_and_score_completions", "_calculate_rewards"}


@pytest.mark.parametrize(
    "assignment",
    [
        "self._buffered_inputs = None",
        "self._step = 0",
        "self._tokenizer = processing_class",
        "self._metrics = {",
        "self._pending_extra_logs = ",
        "self._pending_metrics = ",
        "self._entropy_bonus_enabled = ",
        "self._last_loaded_step = -1",
        "self._current_train_step_time = 0.0",
        "self._entropy_window_stats = None",
    ],
)
def test_the_trainer_of_trl_sets_the_attribute(assignment: str) -> None:
    assert assignment in inspect.getsource(GRPOTrainer.__init__)


def test_a_micro_batch_is_taken_from_the_buffer_by_the_step() -> None:
    source = inspect.getsource(inspect.unwrap(GRPOTrainer._prepare_inputs))
    assert "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]" in source
    assert "self._buffered_inputs = [" in source, "a new list for each rollout is how a new rollout is known"


def test_completions_are_made_as_stages_make_them() -> None:
    """`as_completions` and `as_turns` repeat these lines."""
    source = inspect.getsource(GRPOTrainer._generate)
    for line in (
        'if is_conversational({"prompt": prompts[0]}):',
        'getattr(self._tokenizer, "response_template", None) is not None',
        'getattr(self._tokenizer, "response_schema", None) is not None',
        "[parse_response(self._tokenizer, ids, prefix=prompt_ids[i], tools=per_prompt_tools[i])]",
        "per_prompt_tools = [self.tools] * len(prompts)",
        'completions = [[{"role": "assistant", "content": content}] for content in contents]',
        "completions = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)",
    ):
        assert line in source


def test_the_multimodal_inputs_of_trl_are_those_that_are_left_alone() -> None:
    prepared = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    optional = {line.split('"')[1] for line in prepared.splitlines() if line.strip().startswith('output["')}
    by_row = {"old_per_token_logps", "importance_sampling_ratio", "sampling_per_token_logps", "ref_per_token_logps"}
    inputs = set(trl_internals.MULTIMODAL_INPUTS)
    assert inputs <= optional
    # The rest never comes without the pixels.
    rest = {"pixel_attention_mask", "spatial_shapes", "image_sizes", "num_tiles"}
    assert optional - by_row - {"tool_mask"} - inputs == rest


@pytest.mark.parametrize(
    ("tied", "missing", "left"),
    [
        (True, ["head.weight"], []),
        (True, ["head.weight", "head.bias"], ["head.bias"]),
        (True, ["embedding.weight", "head.weight"], ["embedding.weight", "head.weight"]),
        (False, ["head.weight"], ["head.weight"]),
    ],
)
def test_a_weight_is_missing_where_no_tied_one_has_come(tied: bool, missing: list[str], left: list[str]) -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    if tied:
        model["head"].weight = model["embedding"].weight
    state = {name: weight for name, weight in model.state_dict().items() if name not in missing}
    result = model.load_state_dict(state, strict=False)
    assert sorted(trl_internals.without_tied(result, model).missing_keys) == left


def test_a_configuration_names_its_attention() -> None:
    assert trl_internals.attention_of(Qwen2Config()) == ""
    assert trl_internals.attention_of(Qwen2Config(**{"attn_implementation": "sdpa"})) == "sdpa"


def test_accelerate_and_the_hub_client_have_what_they_had() -> None:
    assert list(inspect.signature(GradientState._set_sync_gradients).parameters) == ["self", "sync_gradients"]
    assert inspect.signature(_http.default_client_factory).parameters == {}
    assert inspect.signature(hub.hf_api).parameters == {}
    assert hasattr(trl_internals.hub_api(), "upload_folder")


def test_fsdp2_returns_outputs_in_the_type_that_its_module_says() -> None:
    assert FSDPModule._get_fsdp_state.__annotations__["return"] in (FSDPState, "FSDPState")
    assert "self._mp_policy.output_dtype" in inspect.getsource(FSDPState._cast_output_dtype)


def test_private_names_of_others_are_read_in_one_module_alone() -> None:
    """A leading underscore on anything but `self`, `cls`, `super()` or a name of ours belongs into `trl_internals`."""
    for file in TRAINING.rglob("*.py"):
        if file.name == "trl_internals.py":
            continue
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not str(node.module).startswith("tinyzero_trl"):
                path = [*str(node.module).split("."), *(alias.name for alias in node.names)]
                assert not any(part.startswith("_") and part != "__future__" for part in path), f"{file}: {path}"
            is_private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr not in WRAPPED
            if is_private and not node.attr.startswith("__"):
                owner = ast.unparse(node.value)
                # argparse has no public list of its arguments
                assert owner in ("self", "cls", "super()", "sys", "parser"), (
                    f"{file}, line {node.lineno}: {owner}.{node.attr}"
                )
