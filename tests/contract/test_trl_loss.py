"""What `ExactLoss` relies on in TRL, Transformers and Accelerate: an upgrade that changes it fails here."""

import inspect
import re

import pytest
from accelerate import Accelerator
from accelerate.state import GradientState
from transformers import Qwen2Config, Trainer
from trl import GRPOTrainer

from tinyzero_trl.training.loss.micro_batches import LOSS_NORMALISERS

LOSS = inspect.getsource(GRPOTrainer._compute_loss)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (GRPOTrainer._compute_loss, ["self", "model", "inputs"]),
        (GRPOTrainer._prepare_inputs, ["self", "generation_batch"]),
        (
            GRPOTrainer._get_per_token_logps_and_entropies,
            ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"],
        ),
        (Accelerator.gather, ["self", "tensor"]),
        (GradientState._set_sync_gradients, ["self", "sync_gradients"]),
    ],
)
def test_wrapped_methods_take_what_they_did(method, parameters):
    assert list(inspect.signature(method).parameters)[: len(parameters)] == parameters


def test_every_loss_type_of_trl_has_a_normaliser():
    branches = re.findall(r"self\.loss_type (?:==|in) (\[[^\]]*\]|\"\w+\")", LOSS)
    named = {name for branch in branches for name in re.findall(r"\"(\w+)\"", branch)}
    assert named == set(LOSS_NORMALISERS)


def test_the_loss_itself_divides_by_the_accumulation_steps():
    """Micro-batches propagated before the last are not divided again, so neither may be what Trainer propagates."""
    assert GRPOTrainer.loss_is_scaled_for_ga is True
    assert "self.current_gradient_accumulation_steps" in LOSS


def test_trainer_propagates_through_the_accelerator_and_leaves_deepspeed_unscaled():
    step = inspect.getsource(Trainer.training_step)
    assert "self.accelerator.backward(loss, **kwargs)" in step
    assert 'kwargs["scale_wrt_gas"] = False' in step


def test_every_figure_the_loss_appends_is_known():
    """A new one would be averaged over micro-batches without weights, and over dummies."""
    appended = set(re.findall(r'self\._metrics\[mode\]\["([^"]+)"\]', LOSS))
    per_batch = {"policy_loss", "entropy_coef", "aux_loss"}  # terms under which a batch is not divided
    means = {"entropy", "kl", "cispo_clip_ratio", "vespo/phi_seq_mean"}
    clips = {f"clip_ratio/{name}" for name in ("low_mean", "high_mean", "region_mean", "low_min", "high_max")}
    assert appended == per_batch | means | clips


def test_ratios_are_clipped_as_the_share_of_tokens_outside_says():
    """`traits.clip_range` repeats these lines."""
    for line in (
        "coef_2 = torch.clamp(coef_1, 1 - self.epsilon_low, 1 + self.epsilon_high)",
        "clamped_ratios = torch.clamp(coef_1, max=self.epsilon_high).detach()",
    ):
        assert line in LOSS


def test_rotary_models_say_so_in_their_configuration():
    from transformers import GPT2Config

    assert Qwen2Config().rope_parameters
    assert getattr(GPT2Config(), "rope_parameters", None) is None
