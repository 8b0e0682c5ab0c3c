"""Plans and slices: nothing lost, nothing doubled, no budget broken, and the loss's normaliser restored."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero_trl.training.loss import micro_batches, slicing
from tinyzero_trl.training.loss.micro_batches import ComputeCounts, MicroBatch, Row

lengths = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40)).map(lambda row: (*row[:2], min(row[1:]))),
    min_size=1,
    max_size=24,
)
quick = settings(max_examples=60, deadline=None)


def rows_of(figures) -> list[Row]:
    return [Row(index, *row) for index, row in enumerate(figures)]


def padded_batch(figures) -> dict[str, torch.Tensor]:
    """A batch whose every value tells which row and which token it belongs to."""
    prompt_width, completion_width = max(row[0] for row in figures), max(1, *(row[1] for row in figures))
    prompt_mask = torch.tensor([[0] * (prompt_width - p) + [1] * p for p, _, _ in figures])
    completion_mask = torch.tensor([[1] * c + [0] * (completion_width - c) for _, c, _ in figures])
    numbers = torch.arange(len(figures)).unsqueeze(1) * 1000
    return {
        "prompt_ids": (numbers + torch.arange(prompt_width)) * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": (numbers + 500 + torch.arange(completion_width)) * completion_mask,
        "completion_mask": completion_mask,
        "tool_mask": torch.tensor([[1] * t + [0] * (completion_width - t) for _, _, t in figures]),
    }


@quick
@given(lengths)
def test_measured_rows_are_those_the_batch_was_made_of(figures):
    batch = padded_batch(figures)
    trained = batch["completion_mask"] * batch["tool_mask"]
    assert micro_batches.measure_rows(batch["prompt_mask"], batch["completion_mask"], trained) == rows_of(figures)


def test_a_completion_is_as_long_as_its_last_token_even_with_gaps():
    completion = torch.tensor([[1, 0, 1, 0]])
    (row,) = micro_batches.measure_rows(torch.tensor([[0, 1, 1]]), completion, completion)
    assert row == Row(index=0, prompt_tokens=2, completion_tokens=3, trained_tokens=2)


def test_rows_with_gradient_are_those_with_an_advantage_and_a_trained_token():
    rows = rows_of([(1, 5, 5), (1, 5, 5), (1, 5, 0), (1, 5, 5)])
    advantages = torch.tensor([0.0, -0.5, 1.0, 1e-12])
    without_kl = micro_batches.rows_with_gradient(rows, advantages, has_kl_term=False)
    assert [row.index for row in without_kl] == [1, 3]
    with_kl = micro_batches.rows_with_gradient(rows, advantages, has_kl_term=True)
    assert [row.index for row in with_kl] == [0, 1, 3]
    per_token = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    assert [row.index for row in micro_batches.rows_with_gradient(rows, per_token, has_kl_term=False)] == [1]
    assert micro_batches.rows_with_gradient([], torch.empty(0), has_kl_term=False) == []


@quick
@given(lengths, st.one_of(st.none(), st.integers(1, 300)), st.one_of(st.none(), st.integers(1, 8)), st.booleans())
def test_cut_holds_every_row_once_within_both_limits(figures, max_tokens, max_rows, padded):
    def size(micro_batch: MicroBatch) -> int:
        return micro_batch.positions if padded else micro_batch.tokens

    rows = rows_of(figures)
    plan = micro_batches.cut(rows, max_tokens=max_tokens, max_rows=max_rows, padded=padded)
    placed = [row for micro_batch in plan for row in micro_batch.rows]
    assert placed == micro_batches.longest_first(rows)
    for micro_batch in plan:
        assert max_rows is None or len(micro_batch.rows) <= max_rows
        assert max_tokens is None or size(micro_batch) <= max_tokens or len(micro_batch.rows) == 1
    # Greedy: the first row of a micro_batch would not have fitted into the micro_batch before it.
    for before, after in itertools.pairwise(plan):
        widened = MicroBatch((*before.rows, after.rows[0]))
        too_long = max_tokens is not None and size(widened) > max_tokens
        assert too_long or (max_rows is not None and len(widened.rows) > max_rows)


def test_cutting_by_length_saves_padding():
    rows = rows_of([(2, length, length) for length in (40, 3, 38, 2, 39, 1, 37, 4)])
    plan = micro_batches.cut(rows, max_tokens=170)
    assert [micro_batch.indices for micro_batch in plan] == [[0, 4, 2, 6], [7, 1, 3, 5]]
    assert sum(micro_batch.positions for micro_batch in plan) == 4 * 42 + 4 * 6
    assert MicroBatch(tuple(rows)).positions == 8 * 42


@quick
@given(lengths, st.integers(1, 100), st.integers(0, 30))
def test_spread_reaches_the_agreed_count_without_losing_rows(figures, max_tokens, more):
    rows = rows_of(figures)
    plan = micro_batches.cut(rows, max_tokens=max_tokens)
    spread = micro_batches.bring_to_count(plan, len(plan) + more, rows)
    assert len(spread) == len(plan) + more
    placed = [row for micro_batch in spread if not micro_batch.is_dummy for row in micro_batch.rows]
    assert sorted(row.index for row in placed) == list(range(len(rows)))
    dummies = [micro_batch for micro_batch in spread if micro_batch.is_dummy]
    assert not dummies or all(len(micro_batch.rows) == 1 for micro_batch in spread), (
        "a dummy while rows could still be halved"
    )
    assert all(micro_batch.tokens == micro_batch.trained_tokens == 0 for micro_batch in dummies)
    assert all(micro_batch.positions == min(row.prompt_tokens for row in rows) + 1 for micro_batch in dummies)


def test_spread_of_nothing_is_dummies_alone():
    rows = rows_of([(4, 9, 9), (2, 9, 9)])
    assert micro_batches.bring_to_count([], 2, rows) == [MicroBatch((rows[1],), is_dummy=True)] * 2


@quick
@given(lengths, st.integers(1, 100), st.integers(0, 3), st.randoms(use_true_random=False))
def test_weighted_micro_batches_add_up_to_the_loss_of_the_batch(figures, max_tokens, more, random):
    """Each loss type's own formula on the batch, against the weighted sum over micro-batches of rows with gradient."""
    rows = rows_of(figures)
    losses = [random.uniform(-1, 1) if row.trained_tokens and random.random() < 0.6 else 0.0 for row in rows]
    with_gradient = [row for row in rows if losses[row.index]]
    plan = micro_batches.cut(with_gradient, max_tokens=max_tokens)
    plan = micro_batches.bring_to_count(plan, len(plan) + more, rows)

    # Every trained token of a row has the same loss here, so a row's sum is that times its trained tokens.
    def row_mean(some_rows):
        return sum(losses[row.index] for row in some_rows) / len(some_rows)

    def row_sum(some_rows):
        return sum(losses[row.index] * row.trained_tokens for row in some_rows) / len(some_rows)

    def token_mean(some_rows):
        tokens = max(1, sum(row.trained_tokens for row in some_rows))
        return sum(losses[row.index] * row.trained_tokens for row in some_rows) / tokens

    def batch_share(some_rows):
        return sum(losses[row.index] * row.trained_tokens for row in some_rows) / 977

    formulas = {"grpo": row_mean, "sapo": row_mean, "luspo": row_sum, "dr_grpo": row_sum, "bnpo": token_mean}
    formulas |= {"dapo": batch_share, "cispo": batch_share, "vespo": batch_share}
    assert formulas.keys() == micro_batches.LOSS_NORMALISERS.keys()
    for loss_type, formula in formulas.items():
        weighted = sum(
            micro_batches.loss_weight(loss_type, micro_batch, rows) * formula(micro_batch.rows) for micro_batch in plan
        )
        assert weighted == pytest.approx(formula(rows), abs=1e-9), loss_type


@quick
@given(lengths, st.data(), st.integers(1, 8), st.booleans(), st.booleans())
def test_taken_rows_keep_their_tokens_and_lose_only_padding(figures, data, multiple_of, trim_prompts, trim_completions):
    batch, rows = padded_batch(figures), rows_of(figures)
    picked = data.draw(st.lists(st.sampled_from(rows), min_size=1, unique=True))
    micro_batch = MicroBatch(tuple(picked))
    trims = {"prompt": trim_prompts, "completion": trim_completions}
    taken = slicing.take(
        batch, micro_batch, trim_prompts=trim_prompts, trim_completions=trim_completions, multiple_of=multiple_of
    )
    for side in ("prompt", "completion"):
        full, kept = batch[f"{side}_mask"], taken[f"{side}_mask"].bool()
        for place, row in enumerate(picked):
            tokens = batch[f"{side}_ids"][row.index][full[row.index].bool()]
            assert torch.equal(taken[f"{side}_ids"][place][kept[place]], tokens)
        limit = batch[f"{side}_ids"].size(1)
        longest = micro_batch.prompt_width if side == "prompt" else micro_batch.completion_width
        width = taken[f"{side}_ids"].size(1)
        if not trims[side]:
            assert width == limit
        else:
            assert longest <= width < longest + multiple_of
            assert width == limit or width % multiple_of == 0


def test_take_treats_each_value_by_its_shape():
    figures = [(3, 6, 6), (1, 2, 2), (2, 4, 4)]
    batch = padded_batch(figures) | {
        "advantages": torch.tensor([0.1, 0.2, 0.3]),
        "old_per_token_logps": torch.arange(18.0).view(3, 6),
        "importance_sampling_ratio": torch.tensor([[1.0], [2.0], [3.0]]),
        "num_items_in_batch": torch.tensor(12),
        "names": ["a", "b", "c"],
        "ref_per_token_logps": None,
    }
    rows = rows_of(figures)
    taken = slicing.take(batch, MicroBatch((rows[2], rows[1])), trim_prompts=True)
    assert taken["advantages"].tolist() == pytest.approx([0.3, 0.2])
    assert taken["old_per_token_logps"].tolist() == [[12, 13, 14, 15], [6, 7, 8, 9]]
    assert taken["importance_sampling_ratio"].tolist() == [[3.0], [2.0]]
    assert taken["num_items_in_batch"] is batch["num_items_in_batch"]
    assert taken["names"] == ["c", "b"]
    assert taken["ref_per_token_logps"] is None
    assert taken["prompt_ids"].shape == (2, 2)


def test_a_dummy_is_one_masked_token():
    figures = [(3, 6, 6), (1, 2, 2)]
    dummy = MicroBatch((rows_of(figures)[1],), is_dummy=True)
    taken = slicing.take(padded_batch(figures), dummy, trim_prompts=True)
    assert taken["completion_mask"].tolist() == [[0]]
    assert taken["prompt_mask"].tolist() == [[1]]


def test_concatenate_and_select_deal_rows_out_again():
    batches = [
        {"prompt_ids": torch.tensor([[1], [2]]), "num_items_in_batch": torch.tensor(9), "names": ["a", "b"], "x": None},
        {"prompt_ids": torch.tensor([[3], [4]]), "num_items_in_batch": torch.tensor(9), "names": ["c", "d"], "x": None},
    ]
    merged = slicing.concatenate(batches)
    assert merged["names"] == ["a", "b", "c", "d"]
    selected = slicing.select_rows(merged, [3, 0])
    assert selected["prompt_ids"].tolist() == [[4], [1]]
    assert selected["names"] == ["d", "a"]
    assert selected["num_items_in_batch"] == 9
    assert selected["x"] is None


def test_counts_add_field_by_field():
    assert ComputeCounts(1, 2, 3, 4) + ComputeCounts(10, 20, 30, 40) == ComputeCounts(11, 22, 33, 44)
