"""Whether the trackers that `report_to` names can be used. W&B without an account records on this machine alone."""

import logging
import os

from packaging.version import Version
from transformers.integrations import get_reporting_integration_callbacks

from tinyzero_trl.messages import text_of
from tinyzero_trl.training.config import AdaptiveGRPOConfig

logger = logging.getLogger(__name__)

_MODE = "WANDB_MODE"
_OLDEST_WANDB = Version("0.30")


def check_trackers(training: AdaptiveGRPOConfig) -> None:
    """Require what `report_to` names to be installed. To read a recipe does not need it, to train does.

    Raises:
        ValueError: a tracker that is not installed.
    """
    for tracker in get_reporting_integration_callbacks(training.report_to):
        try:
            tracker()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"report_to: {training.report_to} cannot be used ({error}); or give tensorboard") from None


def use_wandb_offline_without_account(training: AdaptiveGRPOConfig) -> None:
    """A recipe that names W&B runs without an account: the run is then kept here, and can be uploaded later.

    Raises:
        ValueError: W&B is too old to say whether there is an account.
    """
    if "wandb" not in (training.report_to or ()):
        return
    import wandb

    if os.environ.get(_MODE, "online") not in ("online", "shared"):
        return
    if Version(wandb.__version__) < _OLDEST_WANDB:
        raise ValueError(
            f"report_to: wandb {wandb.__version__} cannot be asked for an account without a prompt; pip install "
            f"'wandb>={_OLDEST_WANDB}', or set {_MODE}=offline"
        )
    try:
        reason = "" if wandb.login(prompt=False) else "no API key is known here"
    except wandb.errors.Error as error:
        reason = text_of(error)
    if reason:
        os.environ[_MODE] = "offline"
        wandb.teardown()  # the question has made it read its settings, which it does once
        logger.warning(
            "report_to: wandb records on this machine alone (%s); to upload, run `wandb login` before training or "
            "`wandb sync` after it",
            reason,
        )
