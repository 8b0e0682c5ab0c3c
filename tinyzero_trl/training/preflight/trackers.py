"""Whether the trackers that `report_to` names can be used."""

from transformers.integrations import get_reporting_integration_callbacks

from tinyzero_trl.training.config import AdaptiveGRPOConfig


def check_trackers(training: AdaptiveGRPOConfig) -> None:
    """What `report_to` names must be installed; reading a recipe does not ask for it, training does.

    Raises:
        ValueError: it is not.
    """
    for tracker in get_reporting_integration_callbacks(training.report_to):
        try:
            tracker()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"report_to: {training.report_to} cannot be used ({error}); or give tensorboard") from None
