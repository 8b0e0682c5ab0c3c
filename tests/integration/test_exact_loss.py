"""The same parameters as stock TRL after three optimizer steps, from fewer and shorter rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM
from trl import GRPOTrainer

from tests.support.fixed_rollouts import (
    compare,
    differences,
    loss_figures,
    nothing_to_learn,
    parameters,
    tiny_model_path,
    train,
)
from tests.support.ranks import run_on_ranks
from tinyzero_trl import AdaptiveGRPOTrainer
from tinyzero_trl.models.varlen import TORCH_VARLEN
from tinyzero_trl.training.loss import exact_loss, slicing
from tinyzero_trl.training.loss.micro_batches import LOSS_NORMALISERS, ComputeCounts
from tinyzero_trl.training.loss.packing import packed_log_probs
from tinyzero_trl.training.loss.step_figures import StepFigures
from tinyzero_trl.training.loss.traits import packs_rows

TOLERANCE = 1e-5  # relative to the largest entry of each parameter, in fp32
LOSS_TYPES = sorted(LOSS_NORMALISERS)

# Two batches to an optimizer step, two optimizer steps to a rollout; micro-batches of at most 40 positions, while the
# longest row alone has 32.
EAGER = {"model_init_kwargs": {"attn_implementation": "eager"}}
SEVERAL_MICRO_BATCHES = {"max_tokens_per_micro_batch": 40, "num_iterations": 2}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.fixture
def kept_figures(monkeypatch):
    """The trainer takes the figures of each optimizer step; here they stay where they were collected."""
    monkeypatch.setattr(StepFigures, "pop", lambda self, accelerator, clip_range: {})


def assert_same(*, tolerance: float = TOLERANCE, **settings) -> None:
    result = compare(**settings)
    assert result["distance"] > 100 * TOLERANCE, f"stock TRL hardly moved, so equality proves nothing: {result}"
    assert result["difference"] <= tolerance, result


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_loss_type_ends_at_the_parameters_of_stock_trl(loss_type):
    assert_same(loss_type=loss_type, **SEVERAL_MICRO_BATCHES)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"beta": 0.1, "steps_per_generation": 4}, id="kl-term-and-two-steps-per-generation"),
        pytest.param({"max_tokens_per_micro_batch": None}, id="one-micro-batch"),
        pytest.param({"skip_zero_advantage_rows": False}, id="every-row"),
        pytest.param({"importance_sampling_level": "sequence", "loss_type": "grpo"}, id="sequence-level"),
        pytest.param({"with_tools": True, "loss_type": "bnpo"}, id="tool-mask"),
        pytest.param({"mask_truncated_completions": True, "beta": 0.1}, id="masked-completions"),
        pytest.param({"off_policy_mask_threshold": 0.01}, id="off-policy-mask"),
        pytest.param({"pad_to_multiple_of": 8}, id="padded-to-a-multiple"),
        pytest.param({"gradient_checkpointing": True}, id="gradient-checkpointing"),
        pytest.param({"padding_free": True}, id="padding-free"),
        pytest.param({"padding_free": True, "beta": 0.1, "loss_type": "grpo"}, id="padding-free-with-reference"),
        pytest.param({"padding_free": True, "with_tools": True, "loss_type": "bnpo"}, id="padding-free-tool-mask"),
        pytest.param({"padding_free": True, "entropy_coef": 0.1}, id="padding-free-entropy-bonus"),
        # layers are computed anew in the backward pass, from what their first call was given
        pytest.param({"padding_free": True, "gradient_checkpointing": True}, id="padding-free-checkpointing"),
        pytest.param({"padding_free": True, **EAGER}, id="padding-free-eager"),
        pytest.param({"entropy_coef": 0.1}, id="entropy-bonus"),
        pytest.param({"top_entropy_quantile": 0.5}, id="entropy-quantile"),
        # Adam divides a gradient that is all rounding by its own size, unless epsilon is well above rounding.
        pytest.param({"optim": "adamw_torch", "learning_rate": 0.01, "adam_epsilon": 1e-2}, id="adamw"),
    ],
)
def test_every_setting_ends_at_the_parameters_of_stock_trl(settings):
    assert_same(**({"loss_type": "dapo"} | SEVERAL_MICRO_BATCHES | settings))


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("num_iterations", [1, 3])
def test_grid_of_settings_ends_at_the_parameters_of_stock_trl(loss_type, beta, accumulation, num_iterations):
    assert_same(
        # The order of a sum depends on the number of threads: 1.4e-5 was seen with one (sapo, beta, three iterations).
        tolerance=2 * TOLERANCE,
        loss_type=loss_type,
        beta=beta,
        gradient_accumulation_steps=accumulation,
        num_iterations=num_iterations,
        max_tokens_per_micro_batch=60,
        learning_rate=0.1,
    )


class _Halved:
    def compute_loss(self, *args, **kwargs):
        return 0.5 * super().compute_loss(*args, **kwargs)


class _MeanOfItsOwn:
    def _compute_loss(self, model, inputs):
        ids, mask = (
            torch.cat([inputs[f"{of}_{kind}"] for of in ("prompt", "completion")], 1) for kind in ("ids", "mask")
        )
        trained = inputs["completion_mask"]
        log_probs, *_ = self._get_per_token_logps_and_entropies(model, ids, mask, trained.size(1))
        return -(log_probs * inputs["advantages"].unsqueeze(1) * trained).sum() / trained.sum()


@pytest.mark.parametrize("loss", [_Halved, _MeanOfItsOwn])
def test_a_loss_of_a_subclass_gets_the_batches_of_stock_trl(loss):
    """It would see the last micro-batch alone, or other rows side by side."""
    classes = [type(loss.__name__, (loss, base), {}) for base in (GRPOTrainer, AdaptiveGRPOTrainer)]
    stock, ours = (parameters(train(each, **SEVERAL_MICRO_BATCHES)) for each in classes)
    assert max(differences(ours, stock)) < TOLERANCE


@pytest.mark.slow
def test_two_ranks_end_at_the_parameters_of_stock_trl():
    settings = [{"loss_type": loss_type, "beta": 0.0, **SEVERAL_MICRO_BATCHES} for loss_type in LOSS_TYPES]
    settings += [
        {"loss_type": "dapo", "beta": 0.1, "max_tokens_per_micro_batch": 60, "steps_per_generation": 4},
        {"loss_type": "grpo", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    ]
    whole = {"num_iterations": 3, "max_tokens_per_micro_batch": 60}
    with_dummies = {"loss_type": "grpo", "num_iterations": 3, "max_tokens_per_micro_batch": 60, "epsilon": 0.01}
    with_dummies["reward"] = "only_the_first_of_two_ranks_learns"
    settings += [
        {"loss_type": "dapo", "beta": 0.1, **whole},
        with_dummies,
        {"importance_sampling_level": "sequence", **with_dummies},
    ]
    results = run_on_two_ranks(settings)
    for result in results:
        assert result["distance"] > 50 * TOLERANCE, result
        assert result["difference"] <= TOLERANCE, result
    for result, asked in zip(results[-3:], settings[-3:], strict=True):
        alone = loss_figures(train(AdaptiveGRPOTrainer, as_ranks=2, **asked | {"per_device_train_batch_size": 16}))
        assert len(alone) == 3 and len(alone[0]) >= 7
        for figures, expected in zip(result["figures"], alone, strict=True):
            assert figures == pytest.approx(expected, abs=2e-5), "means over the tokens of all ranks"


@pytest.mark.slow
def test_a_rank_whose_prompts_have_no_images_waits_for_none_whose_prompts_have():
    assert run_on_ranks(2, "images_by_ranks") == [2, 2]


def run_on_two_ranks(settings: list[dict]) -> list[dict[str, Any]]:
    report = run_on_ranks(2, "fixed_rollouts", json.dumps(settings))
    assert report["ranks"] == 2, "a launch that falls back to one process would prove nothing"
    return report["results"]


def test_counts_and_log_ratios_cover_the_latest_rows(kept_figures):
    trainer = train(AdaptiveGRPOTrainer, loss_type="grpo", num_iterations=3, max_tokens_per_micro_batch=60)
    counts = trainer.loss.figures.pop_counts()
    assert counts.rows == 3 * 2 * 8
    assert counts.rows_skipped == counts.rows // 2
    assert 0.7 < counts.tokens / counts.positions < 1.0
    assert trainer.loss.figures.pop_counts() == ComputeCounts()

    batch = slicing.concatenate(trainer._buffered_inputs)
    trained_tokens = int(batch["completion_mask"][batch["advantages"] != 0].sum())
    log_ratios = trainer.loss.figures.pop_log_ratios("cpu")
    assert log_ratios.shape == (trained_tokens,)
    assert 0.0 < log_ratios.std() < 0.5, "the third step on the same rows must have left the old policy a little"
    assert trainer.loss.figures.pop_log_ratios("cpu").numel() == 0


def test_without_padding_a_micro_batch_is_one_row_of_tokens_alone(monkeypatch, kept_figures):
    shapes = []

    def watched(model, input_ids, attention_mask, *args, **options):
        def note(module, args, inputs):
            shapes.append((tuple(inputs["input_ids"].shape), int(attention_mask.sum())))

        handle = model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            return packed_log_probs(model, input_ids, attention_mask, *args, **options)
        finally:
            handle.remove()

    monkeypatch.setattr(exact_loss, "packed_log_probs", watched)
    settings = {"loss_type": "grpo", "num_iterations": 3, "max_tokens_per_micro_batch": 60}
    counts = train(AdaptiveGRPOTrainer, padding_free=True, **settings).loss.figures.pop_counts()
    assert counts.positions == counts.tokens > 0
    assert shapes and all(shape == (1, tokens) for shape, tokens in shapes)
    assert max(tokens for _, tokens in shapes) <= 60
    padded = train(AdaptiveGRPOTrainer, padding_free=False, **settings).loss.figures.pop_counts()
    assert padded.tokens == counts.tokens < padded.positions


def test_attention_with_kernels_alone_packs_unasked():
    kernels = ("flash_attention_2", "kernels-community/flash-attn2", TORCH_VARLEN)
    for attention, packs in (*((name, True) for name in kernels), ("sdpa", False)):
        assert packs_rows(None, attention, can_pack=True) is packs
        assert packs_rows(None, attention, can_pack=False) is False, "absolute positions cannot start again"


def test_log_ratios_are_zero_where_the_policy_is_its_own_reference(kept_figures):
    log_ratios = train(AdaptiveGRPOTrainer, loss_type="grpo").loss.figures.pop_log_ratios("cpu")
    assert log_ratios.numel() > 0
    assert (log_ratios == 0).all()


def test_a_batch_without_signal_costs_dummies_and_moves_nothing(kept_figures):
    trainer = train(AdaptiveGRPOTrainer, loss_type="grpo", reward=nothing_to_learn)
    counts = trainer.loss.figures.pop_counts()
    assert counts.rows_skipped == counts.rows > 0
    assert counts.tokens == 0
    start = dict(Qwen2ForCausalLM.from_pretrained(tiny_model_path()).named_parameters())
    assert all(torch.equal(value, start[name]) for name, value in parameters(trainer).items())
    logged = [log for log in trainer.state.log_history if "reward" in log]
    assert logged and all("entropy" not in log and "clip_ratio/region_mean" not in log for log in logged)


def test_metrics_of_all_rows_are_means_over_tokens():
    """With one micro-batch to a step, TRL's own figures are means over tokens: ours must equal them."""
    settings = {
        "loss_type": "dapo",
        "gradient_accumulation_steps": 1,
        "num_iterations": 3,
        "beta": 0.1,
        "epsilon": 0.01,
    }
    stock = loss_figures(train(GRPOTrainer, **settings))
    ours = loss_figures(train(AdaptiveGRPOTrainer, max_tokens_per_micro_batch=60, **settings))
    assert len(stock) == 3 and len(stock[2]) == 8
    assert stock[2]["clip_ratio/region_mean"] > 0, "the third step must clip, or equality proves nothing"
    for figures, expected in zip(ours, stock, strict=True):
        assert figures == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("settings", "culprit"), [({"beta": 0.1}, "beta"), ({"entropy_coef": 0.1}, "entropy bonus")])
def test_says_why_rows_with_zero_advantage_stay(settings, culprit, caplog, kept_figures):
    caplog.set_level("INFO", logger="tinyzero_trl")
    trainer = train(AdaptiveGRPOTrainer, loss_type="dapo", optimizer_steps=1, **settings)
    messages = [record.message for record in caplog.records if "skip_zero_advantage_rows" in record.message]
    assert len(messages) == 1
    assert culprit in messages[0]
    assert trainer.loss.figures.pop_counts().rows_skipped == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss_type": "dapo", "epsilon": 0.1, "epsilon_high": 0.28}, (0.9, 1.28)),
        ({"loss_type": "cispo", "epsilon_high": 1.28}, (0.0, 1.28)),
        ({"loss_type": "sapo"}, None),
        ({"loss_type": "grpo", "importance_sampling_level": "sequence"}, None),
    ],
    ids=["dapo", "cispo", "sapo", "sequence"],
)
def test_tokens_outside_the_clip_range_are_counted_as_the_loss_clips(settings, expected):
    trainer = train(AdaptiveGRPOTrainer, num_iterations=3, **settings)
    assert trainer.loss._traits.clip_range == expected
    text = (Path(trainer.args.output_dir) / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    counted = [line.get("actor/is_clip/outside_frac") for line in lines]
    if expected is None:
        assert counted == [None] * 3
    else:
        assert counted[0] == 0 < counted[2] < 1
    if "cispo_clip_ratio" in lines[2]:
        assert 0 < lines[2]["cispo_clip_ratio"] <= counted[2], "TRL counts those with a positive advantage"


@pytest.mark.parametrize(("settings", "is_told"), [({"beta": 0.1}, False), ({"entropy_coef": 0.1}, True)])
def test_a_budget_that_a_loss_cannot_keep_is_a_warning(settings, is_told, caplog):
    train(AdaptiveGRPOTrainer, loss_type="dapo", optimizer_steps=1, max_tokens_per_micro_batch=60, **settings)
    told = [record.levelname for record in caplog.records if "max_tokens_per_micro_batch" in record.message]
    assert told == ["WARNING"] * is_told
