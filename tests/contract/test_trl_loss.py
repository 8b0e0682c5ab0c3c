"""What `ExactLoss` relies on in TRL, Transformers and Accelerate: an upgrade that changes it fails here."""

import inspect
import re

from accelerate import Accelerator
from transformers import Qwen2Config, Trainer
from trl import GRPOTrainer

from tinyzero_trl.training.loss.micro_batches import LOSS_NORMALISERS

LOSS = inspect.getsource(GRPOTrainer._compute_loss)


def test_gather_is_called_with_the_tensor_first():
    assert list(inspect.signature(Accelerator.gather).parameters) == ["self", "tensor"]


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
