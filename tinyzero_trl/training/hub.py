"""Pushing a run to the Hub while it trains: what fails is a warning and tried again, so that no Hub costs the run."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import get_token, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils.hub import hf_api

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 300.0  # huggingface_hub itself waits for ever for a Hub that takes a connection and never answers
CONNECT_TIMEOUT_S = 15.0


class PatientPushTrainer(Trainer):
    """`transformers.Trainer` whose pushes to the Hub may fail.

    What it changes of its parent, each time by wrapping the parent's method:

    - `init_hf_repo`: a Hub that cannot be reached or refuses is a warning; it is asked again at every push.
    - `_push_from_checkpoint`: so is a push that cannot start. A push that failed in the background, which the parent
      forgets, is reported at the next one. Each push uploads the whole folder, so the next makes up for the last.
    - `_finish_current_push`: the same report.
    - `push_to_hub`: tried again after each of `push_pauses_s` seconds, then a warning with the command that uploads
      the folder by hand. Returns None if nothing was pushed.

    Warnings show no token.
    """

    push_pauses_s: Sequence[float] = (10.0, 60.0)

    def init_hf_repo(self, token: str | None = None) -> None:
        """Create the repository if it is missing; on failure `hub_model_id` stays None."""
        self.push_in_progress: Any = None
        set_client_factory(_client_with_timeouts)
        try:
            super().init_hf_repo(token)
        except Exception as error:
            self._warn("the repository cannot be reached", error, "it is asked again at every push")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero():
            return
        try:
            if self._is_reached():
                self._report_failed_push()
                super()._push_from_checkpoint(checkpoint_folder)
        except Exception as error:
            self._warn("a push could not start", error, "the next checkpoint is pushed together with this one")

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._report_failed_push()

    def wait_for_pushes(self) -> None:
        """Let a push that is under way finish, before the files that it uploads change."""
        if self.is_world_process_zero():
            self._finish_current_push()

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save, write the card and upload the run's folder; None if the Hub did not take it."""
        if not self.is_world_process_zero():  # saving is the work of all ranks, pushing that of one
            return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        if not self._is_reached(token):
            self.save_model(_internal_call=True)
        else:
            try:
                return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
            except Exception as error:
                self._warn("the push failed", error, "trying again")
        return self._push_again(commit_message, token, revision or self.args.hub_revision)

    def _push_again(self, commit_message: str | None, token: str | None, revision: str | None) -> Any:
        """The upload alone: the model is saved, and saving it once more would need the other ranks."""
        folder = str(self.args.output_dir)
        for pause_s in self.push_pauses_s:
            time.sleep(pause_s)
            if not self._is_reached(token):
                continue
            try:
                return hf_api().upload_folder(
                    repo_id=str(self.hub_model_id),
                    folder_path=folder,
                    commit_message=commit_message,
                    token=token or self.args.hub_token,
                    ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"],
                    revision=revision,
                )
            except Exception as error:
                self._warn("the push failed again", error, "trying again")
        name = self.hub_model_id or self.args.hub_model_id or Path(folder).name
        logger.warning(
            "The run is complete in %s, but not on the Hub. Later: hf upload %s %s . --exclude '%s-*'",
            *(folder, name, folder, PREFIX_CHECKPOINT_DIR),
        )
        return None

    def _is_reached(self, token: str | None = None) -> bool:
        if self.hub_model_id is None:
            self.init_hf_repo(token)
        return self.hub_model_id is not None

    def _report_failed_push(self) -> None:
        """Say which background pushes failed, and forget them."""
        push = getattr(self, "push_in_progress", None)
        if push is None:
            return
        for job in [job for job in push.jobs if job.done()]:
            push.jobs.remove(job)
            if (error := job.exception()) is not None:
                self._warn("a push failed", error, "the next one makes up for it")

    def _warn(self, what: str, error: BaseException, then: str) -> None:
        """One line: what failed, why (with the cause that huggingface_hub wraps), and what comes of it."""
        causes = [error, *([error.__cause__] if error.__cause__ else [])]
        lines = [f"{type(each).__name__}: {(str(each).strip().splitlines() or [''])[0]}"[:300] for each in causes]
        why = ", because of ".join(dict.fromkeys(lines))
        for secret in (self.args.hub_token, get_token()):
            why = why.replace(secret, "<token>") if secret else why
        logger.warning("Hub: %s (%s); %s.", what, why, then)


def _client_with_timeouts() -> httpx.Client:
    client = default_client_factory()
    client.timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return client
