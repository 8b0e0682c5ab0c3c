"""Pushing a run to the Hub while it trains: what fails is a warning and tried again, so that no Hub costs the run."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import get_token, set_client_factory
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tinyzero_trl.training.trl_internals import hub_api, hub_client

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 300.0  # huggingface_hub itself waits for ever for a Hub that takes a connection and never answers
CONNECT_TIMEOUT_S = 15.0

Result = TypeVar("Result")


class RetriedPushes:
    """What may fail of a trainer's pushes: each failure is a warning, which shows no token, and is tried again."""

    pauses_s: Sequence[float] = (10.0, 60.0)

    def __init__(self, args: TrainingArguments) -> None:
        self._args = args

    def create_repository(self, create: Callable[[], None]) -> None:
        """Create the repository if it is missing; on failure the trainer's `hub_model_id` stays None."""
        set_client_factory(_client_with_timeouts)
        self._attempt(create, "the repository cannot be reached", "it is asked again at every push")

    def push_checkpoint(self, push: Callable[[], None], push_in_progress: Any) -> None:
        """Start a push in the background. Each uploads the complete folder, so the next makes up for the last."""
        self.report_failures(push_in_progress)
        self._attempt(push, "a push could not start", "the next checkpoint is pushed together with this one")

    def report_failures(self, push_in_progress: Any) -> None:
        """Say which background pushes failed, and forget them; Trainer would forget them without a word.

        Args:
            push_in_progress: Trainer's `PushInProgress`, or None.
        """
        if push_in_progress is None:
            return
        for job in [job for job in push_in_progress.jobs if job.done()]:
            push_in_progress.jobs.remove(job)
            if (error := job.exception()) is not None:
                self._warn("a push failed", error, "the next one makes up for it")

    def push_run(self, trainer: Trainer, push: Callable[[], Result], **options: Any) -> Any:
        """Save the model and upload the run's folder; None if the Hub did not take it. Every rank must call it.

        Args:
            trainer: asked for its repository, and to save its model where the Hub is not reached.
            push: Trainer's own, which does both.
            **options: what else `push_again` takes; a revision of None is `args.hub_revision`.
        """
        if not trainer.is_world_process_zero():  # saving is the work of all ranks, pushing that of one
            return push()
        if reached_repository(trainer, options["token"]) is None:
            trainer.save_model(_internal_call=True)
        elif (pushed := self._attempt(push, "the push failed", "trying again")) is not None:
            return pushed
        options["revision"] = options["revision"] or self._args.hub_revision
        return self.push_again(partial(reached_repository, trainer, options["token"]), **options)

    def push_again(
        self,
        reach_repository: Callable[[], str | None],
        *,
        commit_message: str | None,
        token: str | None,
        revision: str | None,
    ) -> Any:
        """Upload the run's folder after each of `pauses_s` seconds until it succeeds, or warn how to do it by hand.

        The upload alone: the model is saved, and saving it once more would need the other ranks.

        Args:
            reach_repository: the id of the repository, or None while the Hub is not reached.
            commit_message: of the upload.
            token: one to use in place of `args.hub_token`.
            revision: the branch to upload to; None is the main one.

        Returns:
            What the upload returned; None if the Hub did not take it.
        """
        folder, name = str(self._args.output_dir), None
        for pause_s in self.pauses_s:
            time.sleep(pause_s)
            if (name := reach_repository()) is None:
                continue
            pushed = self._attempt(
                lambda name=name: hub_api().upload_folder(  # type: ignore[misc]
                    repo_id=name,
                    folder_path=folder,
                    commit_message=commit_message,
                    token=token or self._args.hub_token,
                    ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"],
                    revision=revision,
                ),
                "the push failed again",
                "trying again",
            )
            if pushed is not None:
                return pushed
        logger.warning(
            "The run is complete in %s, but not on the Hub. Later: hf upload %s %s . --exclude '%s-*'",
            folder,
            name or self._args.hub_model_id or Path(folder).name,
            folder,
            PREFIX_CHECKPOINT_DIR,
        )
        return None

    def _attempt(self, action: Callable[[], Result], what: str, then: str) -> Result | None:
        try:
            return action()
        except Exception as error:
            self._warn(what, error, then)
            return None

    def _warn(self, what: str, error: BaseException, then: str) -> None:
        """One line: what failed, why (with the cause that huggingface_hub wraps), and what comes of it."""
        causes = [error, *([error.__cause__] if error.__cause__ else [])]
        lines = [f"{type(each).__name__}: {(str(each).strip().splitlines() or [''])[0]}"[:300] for each in causes]
        why = ", because of ".join(dict.fromkeys(lines))
        for secret in (self._args.hub_token, get_token()):
            why = why.replace(secret, "<token>") if secret else why
        logger.warning("Hub: %s (%s); %s.", what, why, then)


def reached_repository(trainer: Trainer, token: str | None = None) -> str | None:
    """The id of the trainer's repository; as long as there is none, the Hub is asked again."""
    if trainer.hub_model_id is None:
        trainer.init_hf_repo(token)
    return trainer.hub_model_id


def _client_with_timeouts() -> Any:
    client = hub_client()
    client.timeout = type(client.timeout)(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return client
