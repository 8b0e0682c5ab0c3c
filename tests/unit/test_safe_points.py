"""When a checkpoint is let through, and what a signal does before, while and after there is something to save."""

import io
import signal
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from tinyzero_trl.training.callbacks.safe_points import EXIT_STOPPED_BY_SIGNAL, SaveBetweenRollouts, StopOnSignal


def rollouts_of(steps: int) -> SimpleNamespace:
    """Arguments of stock TRL: as many micro-batches of a rollout, each an optimizer step."""
    steady = {"num_iterations": 1, "gradient_accumulation_steps": 1, "eval_strategy": "steps"}
    return SimpleNamespace(steps_per_generation=steps, **steady)


def steps_saved(due: set[int], *, per_rollout: int, last: int, start: int = 0) -> list[int]:
    callback, args, saved = SaveBetweenRollouts(), rollouts_of(per_rollout), []
    callback.on_train_begin(args, TrainerState(global_step=start), TrainerControl())
    for step in range(start + 1, last + 1):
        control = TrainerControl(should_save=step in due, should_training_stop=step == last)
        callback.on_step_end(args, TrainerState(global_step=step), control)
        assert control.should_log == (control.should_save and step < last), (
            "what is saved is logged, the end by Trainer"
        )
        saved += [step] if control.should_save else []
    return saved


@pytest.mark.parametrize(
    ("due", "per_rollout", "expected"),
    [
        ({3, 6, 9}, 1, [3, 6, 9]),
        ({3, 6, 9}, 4, [4, 8, 10]),  # 9 waits for 12, but training ends at 10
        ({1, 2, 3}, 4, [4]),
        ({4, 8}, 4, [4, 8]),
        ({10}, 4, [10]),
        (set(), 4, []),
    ],
)
def test_a_save_waits_for_the_end_of_its_rollout(due: set[int], per_rollout: int, expected: list[int]) -> None:
    assert steps_saved(due, per_rollout=per_rollout, last=10) == expected


def test_rollouts_are_counted_from_where_training_starts() -> None:
    """A run that ended in the middle of a rollout, at step 10, starts there with another one."""
    assert steps_saved({12}, per_rollout=4, start=10, last=30) == [14]


class Run:
    """A run of rollouts of two optimizer steps, on one rank."""

    def __init__(self) -> None:
        self.stop, self.state = StopOnSignal(), TrainerState()
        self.args = rollouts_of(2)

    def fire(self, event: str, **facts) -> TrainerControl:
        control = TrainerControl()
        getattr(self.stop, event)(self.args, self.state, control, **facts)
        return control

    def step(self) -> TrainerControl:
        self.state.global_step += 1
        return self.fire("on_step_end")


def stops(control: TrainerControl) -> bool:
    assert control.should_save == control.should_training_stop, "never stops without saving"
    return control.should_training_stop


def test_a_run_is_stopped_between_rollouts_and_says_how_to_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run()
    run.fire("on_train_begin")
    assert [stops(run.step()) for _ in range(3)] == [False] * 3
    assert not stops(run.step())
    run.step()
    run.stop._on_signal(signal.SIGTERM, None)
    assert not run.stop.was_stopped
    assert stops(run.step())
    run.fire("on_train_end")
    assert run.stop.was_stopped
    assert capfd.readouterr().err.splitlines() == [
        "SIGTERM: stopping with a checkpoint once this rollout has been learned from; again stops at once",
        "stopped after step 6; to go on, give the same command with --resume auto (from Python: resume='auto')",
    ]


def test_a_run_that_was_stopped_can_go_on_in_the_same_process() -> None:
    """As in a notebook, where the same trainer trains again."""
    run = Run()
    run.fire("on_train_begin")
    run.stop._on_signal(signal.SIGINT, None)
    assert [stops(run.step()) for _ in range(2)] == [False, True]
    run.fire("on_train_end")
    run.fire("on_train_begin")
    assert not run.stop.was_stopped
    assert [stops(run.step()) for _ in range(4)] == [False] * 4
    run.stop._on_signal(signal.SIGINT, None)
    assert [stops(run.step()) for _ in range(2)] == [False, True]


def test_a_signal_during_an_evaluation_still_gets_the_checkpoint_of_its_step() -> None:
    run = Run()
    run.fire("on_train_begin")
    assert not stops(run.step()) and not stops(run.step())
    run.stop._on_signal(signal.SIGINT, None)
    assert stops(run.fire("on_evaluation_end", evaluation=None))

    middle = Run()
    middle.fire("on_train_begin")
    middle.step()
    middle.stop._on_signal(signal.SIGINT, None)
    assert not stops(middle.fire("on_evaluation_end", evaluation=None)), "in the middle of a rollout"
    assert stops(middle.step())


def test_where_nothing_is_left_to_save_a_signal_ends_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    starting = Run()
    with pytest.raises(SystemExit) as stopped:
        starting.stop._on_signal(signal.SIGTERM, None)
    assert stopped.value.code == EXIT_STOPPED_BY_SIGNAL == 75

    before_the_first_step = Run()
    before_the_first_step.state.global_step = 4  # continued from there
    before_the_first_step.fire("on_train_begin")
    before_the_first_step.stop._on_signal(signal.SIGTERM, None)
    with pytest.raises(SystemExit):
        before_the_first_step.fire("on_evaluation_end", evaluation=None)

    finished = Run()
    finished.fire("on_train_begin")
    finished.fire("on_train_end")
    with pytest.raises(SystemExit):
        finished.stop._on_signal(signal.SIGINT, None)
    assert "SIGINT: stopped; start the same command again" in capfd.readouterr().err


def test_a_second_signal_has_its_default_effect_unless_it_is_the_first_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda process, number: sent.append(number))
    monkeypatch.setattr("signal.signal", lambda number, handler: sent.append(handler))
    run = Run()
    run.fire("on_train_begin")
    run.stop._on_signal(signal.SIGINT, None)
    run.stop._on_signal(signal.SIGINT, None)  # passed on by a launcher
    assert sent == []
    run.stop._received_at_s -= 60
    run.stop._on_signal(signal.SIGTERM, None)
    assert sent == [signal.SIG_DFL, signal.SIGTERM]


def test_listening_takes_over_both_signals() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop = StopOnSignal()
    try:
        stop.listen()
        assert {signal.getsignal(number) for number in before} == {stop._on_signal}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_is_acknowledged_where_the_error_stream_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's stream has no `fileno`, and a process without a console has no stream."""
    run, stream = Run(), io.StringIO()
    run.fire("on_train_begin")
    monkeypatch.setattr("sys.stderr", stream)
    run.stop._on_signal(signal.SIGINT, None)
    assert "SIGINT: stopping with a checkpoint" in stream.getvalue()
    monkeypatch.setattr("sys.stderr", None)
    run.step()
    assert stops(run.step())
    run.fire("on_train_end")
    assert run.stop.was_stopped
