"""Loading from the Hub without a wait: a Hub that does not answer is asked once, and then the local cache alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError

# of the HTTP library that huggingface_hub uses: httpx, and from 2.0 on httpx2
_NO_ANSWER: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)


def hub_answers() -> bool:
    """Whether the Hub gives any answer within `HF_HUB_ETAG_TIMEOUT` seconds (10); never with `HF_HUB_OFFLINE`."""
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except _NO_ANSWER:
        return False
    return True


@contextmanager
def offline_if_silent(name: str) -> Iterator[bool]:
    """Within it, what is no folder here is loaded from the local cache if the Hub does not answer; yields whether so.

    The libraries that load ask six times for each file, with pauses of 1, 2, 4, 8 and 8 seconds. `HF_HUB_OFFLINE` is
    their common setting that ends this; some of their calls do not heed `local_files_only`.
    """
    before = constants.HF_HUB_OFFLINE
    offline = not Path(name).is_dir() and not hub_answers()
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield offline
    finally:
        constants.HF_HUB_OFFLINE = before
