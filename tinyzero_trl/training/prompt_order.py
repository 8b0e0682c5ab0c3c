"""In which order the training problems come."""

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler


class EpochOrder(Sampler[int]):
    """TRL's `RepeatSampler` with an order that depends on seed and epoch alone.

    TRL's own continues one generator from epoch to epoch, so a run that is resumed in its second epoch would go through
    the first one's order again. Epoch 0 has TRL's order.
    """

    def __init__(self, sampler: Sampler, epoch: Callable[[], int]) -> None:
        assert isinstance(sampler, RepeatSampler), "TRL's trainer no longer repeats prompts by a RepeatSampler"
        self._sampler, self._epoch = sampler, epoch
        self._told_epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Told by Trainer before it goes through an epoch, where its data loader hands that on.

        After an epoch that a callback has ended early, the state of the trainer still says that it is in it.
        """
        self._told_epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self._sampler.shuffle:
            self._sampler.generator.manual_seed((self._sampler.seed or 0) + max(self._epoch(), self._told_epoch))
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)
