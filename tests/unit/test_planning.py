"""The memory arithmetic against what PyTorch keeps, and the remedies against the arithmetic."""

from dataclasses import replace

import pytest
import torch

from tinyzero_trl.commands.planning.batches import batch_plan
from tinyzero_trl.commands.planning.memory import (
    GIB,
    ModelShape,
    Workload,
    layer_activation_bytes,
    memory_plan,
)
from tinyzero_trl.commands.planning.remedies import with_remedies
from tinyzero_trl.training.preflight.launch import LOST_LEARNING_RATE

# 1,000,000 weights outside ten layers of 100,000.
SHAPE = ModelShape(
    parameters=2_000_000,
    trained_parameters=2_000_000,
    outside_layers=1_000_000,
    layers=10,
    hidden=64,
    intermediate=256,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=8192,
)
WIDE = replace(SHAPE, hidden=4096, intermediate=16_384, heads=32, kv_heads=8, head_dim=128)
WORK = Workload(
    shape=SHAPE,
    way="ddp",
    gpus=4,
    gpu_memory=80 * GIB,
    prompt_tokens=100,
    max_completion_length=900,
    per_device_train_batch_size=8,
    rollout_rows=32,
    max_tokens_per_micro_batch=4000,
    gradient_checkpointing=True,
    weight_bytes=2,
    is_half=True,
    optimizer="adamw_torch_fused",
    beta=0.001,
    vllm_gpu_memory_utilization=0.5,
)


@pytest.mark.parametrize(
    ("way", "weights", "gradients", "optimizer"),
    [
        ("ddp", 2, 2, 4),
        ("zero1", 2, 2, 12 / 4),
        ("zero2", 2, 2 / 4, 12 / 4),
        ("zero3", 2 / 4, 2 / 4, 12 / 4),
        ("fsdp2", 4 / 4, 2, 8 / 4),  # before the last pass of a step, gradients are whole
    ],
)
def test_states_are_those_of_the_zero_paper(way: str, weights: float, gradients: float, optimizer: float) -> None:
    states = memory_plan(replace(WORK, way=way)).states
    found = tuple(states[name] / SHAPE.parameters for name in ("weights", "gradients", "optimizer"))
    assert found == pytest.approx((weights, gradients, optimizer))
    assert states["reference model"] == 2 * SHAPE.parameters / (4 if way in ("zero3", "fsdp2") else 1)


def test_full_precision_and_small_optimizers() -> None:
    full = replace(WORK, weight_bytes=4, is_half=False)
    for way, share, of_gradients in (("ddp", 1, 1), ("zero3", 4, 4), ("fsdp2", 4, 1)):
        states = memory_plan(replace(full, way=way)).states
        assert states["weights"] + states["optimizer"] == 12 * SHAPE.parameters / share
        assert states["gradients"] == 4 * SHAPE.parameters / of_gradients
    assert memory_plan(replace(full, optimizer="adamw_bnb_8bit")).states["optimizer"] == 2 * SHAPE.parameters
    assert memory_plan(replace(full, optimizer="sgd")).states["optimizer"] == 0
    mixed = memory_plan(replace(WORK, weight_bytes=4))
    assert mixed.states["optimizer"] == 8 * SHAPE.parameters
    assert mixed.update["half-precision weights"] == 2 * SHAPE.parameters
    assert "half-precision weights" not in mixed.rollout
    generated = memory_plan(replace(WORK, weight_bytes=4, use_vllm=False))
    assert generated.rollout["half-precision weights"] == 2 * SHAPE.parameters


def test_an_adapter_needs_no_reference_model_and_states_for_itself_alone() -> None:
    states = memory_plan(replace(WORK, shape=replace(SHAPE, trained_parameters=10_000))).states
    assert "reference model" not in states
    assert states["optimizer"] == 8 * 10_000
    assert states["weights"] == 2 * 1_990_000 + 4 * 10_000


def test_vllm_takes_its_share_and_fills_it_with_cache() -> None:
    plan = memory_plan(WORK)
    assert plan.states["vLLM (weights and KV cache)"] == 40 * GIB
    kv_bytes = 2 * 10 * 2 * 16 * 2  # keys and values, layers, heads, head size, bytes
    assert plan.vllm_cache_tokens == pytest.approx((38.5 * GIB - 2 * SHAPE.parameters) / kv_bytes)
    assert plan.vllm_rows == pytest.approx(plan.vllm_cache_tokens / 1000)
    shared = memory_plan(replace(WORK, vllm_tensor_parallel_size=2))
    free = 38.5 * GIB - SHAPE.parameters
    assert shared.vllm_cache_tokens == pytest.approx(2 * free / kv_bytes), "a head for each GPU"
    repeated = memory_plan(replace(WORK, vllm_tensor_parallel_size=4))
    free = 38.5 * GIB - SHAPE.parameters / 2
    assert repeated.vllm_cache_tokens == pytest.approx(2 * free / kv_bytes), "two heads for four GPUs"
    asleep = memory_plan(replace(WORK, vllm_enable_sleep_mode=True))
    assert asleep.peak == pytest.approx(plan.peak - sum(plan.update.values()))
    generated = memory_plan(replace(WORK, use_vllm=False))
    assert generated.rollout["KV cache (generate)"] == 32 * 1000 * kv_bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("kv_heads", "intermediate"), [(1, 160), (4, 96)])
def test_activations_are_what_autograd_keeps(dtype: torch.dtype, kv_heads: int, intermediate: int) -> None:
    from transformers import Qwen2Config, Qwen2Model

    def kept(layers: int, checkpointing: bool = False, every: int = 1) -> int:
        """Bytes that a forward pass saves for the backward pass, each storage once, weights left out."""
        config = Qwen2Config(
            vocab_size=16,
            hidden_size=64,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
        )
        model = Qwen2Model(config).to(dtype).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
        weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
        storages: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(input_ids=torch.zeros(2, 32, dtype=torch.long), use_cache=False)
        assert output.last_hidden_state.requires_grad
        return sum(storage.nbytes() for storage in storages.values())

    shape = replace(SHAPE, hidden=64, heads=4, kv_heads=kv_heads, head_dim=16, intermediate=intermediate)
    size = dtype.itemsize
    # tolerance: the logsumexp of attention and the norms' scales are padded on some CPUs
    assert (kept(3) - kept(1)) / 2 / 64 == pytest.approx(layer_activation_bytes(shape, size), rel=0.03)
    assert (kept(3, True) - kept(1, True)) / 2 / 64 == size * 64
    both = size * 64 + layer_activation_bytes(shape, size)  # of two layers the first is computed anew
    assert (kept(6, True, every=2) - kept(2, True, every=2)) / 2 / 64 == pytest.approx(both, rel=0.03)


@pytest.mark.parametrize(("every", "offload", "anew"), [(1, False, 10), (3, False, 4), (20, False, 1), (3, True, 4)])
def test_layers_that_are_not_computed_anew_keep_everything(every: int, offload: bool, anew: int) -> None:
    layer, given = layer_activation_bytes(SHAPE, 2), 0 if offload else 2 * SHAPE.hidden
    plan = memory_plan(replace(WORK, every_n_layers=every, offload=offload))
    expected = WORK.pass_positions * ((10 - anew) * layer + anew * given + layer)
    assert plan.update["activations"] == expected


def test_a_step_that_is_said_to_be_lost_is_lost() -> None:
    weight = torch.tensor(0.02, dtype=torch.bfloat16)
    assert weight - 0.9 * LOST_LEARNING_RATE == weight
    assert weight - 2.0 * LOST_LEARNING_RATE != weight


def test_passes_keep_to_the_budget_but_hold_a_row() -> None:
    assert WORK.pass_positions == 4000
    assert replace(WORK, max_tokens_per_micro_batch=10).pass_positions == 1000
    assert replace(WORK, max_tokens_per_micro_batch=None).pass_positions == 8000
    assert replace(WORK, max_tokens_per_micro_batch=10**9).pass_positions == 8000


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"shape": WIDE, "gradient_checkpointing": False, "gpu_memory": 10 * GIB}, "gradient_checkpointing: true"),
        ({"shape": WIDE, "vllm_gpu_memory_utilization": 0.75, "gpu_memory": 10 * GIB}, "vllm_enable_sleep_mode: true"),
        ({"use_vllm": False, "rollout_rows": 10**4, "gpu_memory": 14 * GIB}, "per_device_train_batch_size: 4"),
        ({"vllm_gpu_memory_utilization": 0.0001}, "vllm_gpu_memory_utilization: 0.95"),
    ],
    ids=str,
)
def test_what_does_not_fit_names_a_change_that_makes_it_fit(changed: dict, remedy: str) -> None:
    plan = with_remedies(memory_plan(replace(WORK, **changed)))
    assert not plan.fits
    assert any(text.startswith(remedy) for text in plan.remedies), plan.remedies
    assert with_remedies(memory_plan(WORK)).remedies == []


def test_a_remedy_that_names_a_value_is_enough_with_that_value() -> None:
    tight = replace(WORK, gpu_memory=4.1 * GIB, use_vllm=False, rollout_rows=1, max_tokens_per_micro_batch=8000)
    tight = replace(tight, shape=WIDE)
    plan = with_remedies(memory_plan(tight))
    [budget] = [int(text.split(": ")[1]) for text in plan.remedies if text.startswith("max_tokens_per_micro_batch")]
    assert memory_plan(replace(tight, max_tokens_per_micro_batch=budget)).fits
    assert not memory_plan(replace(tight, max_tokens_per_micro_batch=2 * budget)).fits


def test_what_nothing_mends_says_so() -> None:
    plan = with_remedies(memory_plan(replace(WORK, gpu_memory=1 * GIB)))
    assert plan.remedies == [
        "use_peft: true trains an adapter alone; else more GPUs under zero3, larger ones, or a smaller model"
    ]


def test_batches_follow_trl() -> None:
    plan = batch_plan(
        gpus=4,
        per_device_train_batch_size=8,
        steps_per_generation=32,
        gradient_accumulation_steps=16,
        num_iterations=2,
        num_generations=4,
        max_tokens_per_micro_batch=2500,
        prompt_tokens=100,
        first_window=400,
        last_window=900,
    )
    assert (plan.completions, plan.prompts, plan.optimizer_steps) == (1024, 256, 4)
    assert plan.passes == 4  # two rows of 1000 tokens fit into 2500
    assert (plan.tokens(400), plan.tokens(900)) == (512_000, 1_024_000)


def test_a_budget_is_no_remedy_where_batches_are_not_divided() -> None:
    tight = replace(WORK, shape=WIDE, gpu_memory=4.1 * GIB, use_vllm=False, rollout_rows=1)
    tight = replace(tight, max_tokens_per_micro_batch=None)
    divided, joined = (with_remedies(memory_plan(replace(tight, divides_batches=each))) for each in (True, False))
    named = [any(text.startswith("max_tokens_per_micro_batch") for text in each.remedies) for each in (divided, joined)]
    assert named == [True, False]
