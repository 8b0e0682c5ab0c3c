"""The order of the examples depends on seed and epoch alone, so that a run which is resumed in any epoch has it."""

from trl.trainer.utils import RepeatSampler

from tinyzero_trl.training.prompt_order import EpochOrder


def sampler(seed: int | None = 5, *, shuffle: bool = True) -> RepeatSampler:
    return RepeatSampler(range(12), mini_repeat_count=2, batch_size=3, shuffle=shuffle, seed=seed)


def order(epoch: int, **options: object) -> list[int]:
    return list(EpochOrder(sampler(**options), lambda: epoch))  # type: ignore[arg-type]


def test_an_epoch_has_an_order_of_its_own_whatever_came_before() -> None:
    epoch = 0
    running = EpochOrder(sampler(), lambda: epoch)
    seen = []
    for epoch in range(3):  # noqa: B007
        seen.append(list(running))
    assert seen == [order(0), order(1), order(2)], "a run that is resumed has the order of a run without interruption"
    assert len({tuple(each) for each in seen}) == 3
    assert {tuple(sorted(each)) for each in seen} == {tuple(sorted([*range(12)] * 2))}
    assert len(running) == 24


def test_the_first_epoch_has_the_order_of_trl() -> None:
    assert order(0) == list(sampler())
    assert order(0, seed=6) != order(0)


def test_without_shuffling_every_epoch_is_the_same() -> None:
    assert order(0, shuffle=False) == order(3, shuffle=False) == [each for each in range(12) for _ in range(2)]


def test_an_epoch_that_trainer_begins_counts_although_its_state_is_behind() -> None:
    """As after an epoch that a callback has ended early."""
    running = EpochOrder(sampler(), lambda: 0)
    assert list(running) == order(0)
    running.set_epoch(1)
    assert list(running) == order(1)
