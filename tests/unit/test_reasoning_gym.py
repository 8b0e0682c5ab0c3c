"""Every data set of reasoning-gym as a task: its right answers earn 1, hostile ones neither win nor hang."""

import ast
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyzero_trl.evaluation.trained_by import TrainedBy
from tinyzero_trl.tasks import get_task
from tinyzero_trl.tasks.config import config_class, task_config
from tinyzero_trl.tasks.datasets import read_examples, to_dataset
from tinyzero_trl.tasks.parquet import write_splits
from tinyzero_trl.tasks.reasoning_gym import library
from tinyzero_trl.tasks.reasoning_gym.labels import difficulty_label
from tinyzero_trl.tasks.reasoning_gym.options import options_class
from tinyzero_trl.tasks.reasoning_gym.task import task_class
from tinyzero_trl.tasks.registry import runs_code

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed; pip install 'tinyzero-trl[reasoning-gym]'")

DATA_SETS = sorted(library.data_sets())
SAFE = [name for name in DATA_SETS if name not in library.EVALUATES_COMPLETIONS]
PACKAGE = Path(inspect.getfile(importlib.import_module("reasoning_gym"))).parent


def named(name: str) -> str:
    return f"reasoning_gym{'_unsafe' if name in library.EVALUATES_COMPLETIONS else ''}:{name}"


def answered(answer: str) -> str:
    return f"some thought</think> <answer> {answer} </answer>"


@pytest.fixture(autouse=True)
def fixed_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")


def right_answer(name: str, example: dict[str, Any]) -> str:
    """The library's own, which for some data sets stands in the metadata alone."""
    metadata = library.from_plain(example["metadata"])
    elsewhere = {
        "graph_color": lambda: json.dumps(metadata["possible_answer"]),
        "propositional_logic": lambda: metadata["example_answer"],
        "rubiks_cube": lambda: metadata["example_correct_answer"],
    }
    return str(elsewhere[name]() if name in elsewhere else example["answer"])


@pytest.mark.parametrize("name", DATA_SETS)
def test_right_answers_earn_one_after_a_file(name: str) -> None:
    """In a prompt of each template, and after the JSON that files and training columns hold."""
    task = get_task(named(name))
    [example] = [json.loads(json.dumps(each)) for each in task.generate(1, seed=1)]
    assert example["question"].strip() in str(task.prompt(example, "base"))
    assert "<answer>" in task.prompt(example, "chat")[1]["content"]
    assert isinstance(task.difficulty(example), str)
    assert task.score(answered("no idea"), example).reward == task.score("no tags", example).reward == 0
    if name not in ("boxnet", "rush_hour"):  # the library has no solution of these
        assert task.score(answered(right_answer(name, example)), example) == (1.0, "correct")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("word_sorting", {"transformation": kind}) for kind in ("lowercase", "uppercase", "randomcase")),
        ("aiw", {"task_types": ["friends"], "task_type_weights": [1.0]}),
        ("arc_agi", {"rotations": ["180"], "rotations_weights": [0.5, 0.5]}),
        ("basic_arithmetic", {"format_style": "natural", "whitespace": "random"}),
        ("complex_arithmetic", {"operations": ["*"], "operations_weights": [1.0]}),
    ],
)
def test_right_answers_earn_one_with_options_that_are_choices(name: str, options: dict[str, Any]) -> None:
    task = get_task(named(name), options)
    [example] = [json.loads(json.dumps(each)) for each in task.generate(1, seed=1)]
    assert example["metadata"]["options"].keys() == options.keys()
    assert task.score(answered(right_answer(name, example)), example) == (1.0, "correct")
    assert task.read(example) == example


def test_a_choice_is_written_as_the_library_names_it() -> None:
    [example] = get_task("reasoning_gym:word_sorting").generate(1, seed=0, transformation="lowercase")
    assert example["metadata"]["options"] == {"transformation": "lowercase"}


def test_options_that_no_scorer_can_be_made_with_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a reward of 0 for every answer."""
    task = get_task("reasoning_gym:word_sorting")
    [example] = task.generate(1, seed=0)
    example["metadata"]["options"] = {"transformation": "TextTransformation.LOWERCASE"}
    message = r"^task: reasoning_gym:word_sorting refuses transformation: .*; change them"
    for use in (lambda: task.read(example), lambda: task.score(answered("a"), example)):
        with pytest.raises(ValueError, match=message):
            use()
    monkeypatch.setattr(library, "to_plain", lambda value: example["metadata"]["options"])
    with pytest.raises(ValueError, match=message):
        task.generate(1, seed=0, transformation="lowercase")


HOSTILE = [
    *("1e999999999", "9" * 19_000, "0x" + "f" * 19_000, "(" * 15_000, "[" * 15_000, "1 " * 9_000, "a=1," * 4_000),
    *("R999999999", "U9 " * 5_000, "F+999999999", "¬" * 400, "(A ∧ " * 4_000, "nan", "inf", "1/0", "\ud800", "\0"),
    *("1/" + "9" * 4_000, '["w,A,B"]', "5 days, 9", "٣", "9:9:9.9", "x" * 30_000),
]


@pytest.fixture
def deadline() -> Iterator[None]:
    """Twenty seconds of computation for all texts and one data set; a tenth of a second is usual."""

    def stop(*_: Any) -> None:
        raise BaseException("scoring took too long")

    began_at, before = time.process_time(), signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 20)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)
    assert time.process_time() - began_at < 20, "some scorers catch whatever is raised"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # NumPy's, of texts that hold no numbers
@pytest.mark.parametrize("name", SAFE)
def test_no_text_wins_hangs_or_raises(name: str, deadline: None) -> None:
    task = get_task(f"reasoning_gym:{name}")
    [example] = task.generate(1, seed=1)
    won = [text[:20] for text in HOSTILE if task.score(answered(text), example).reward == 1]
    assert won in ([], ["1/9999999999999999999"[:20]]) if name == "coin_flip" else won == []  # a tolerance of 1e-4


def test_scorers_that_evaluate_text_are_refused_by_name() -> None:
    for name, function in library.EVALUATES_COMPLETIONS.items():
        with pytest.raises(ValueError, match=rf"^task: the scorer of 'reasoning_gym:{name}' runs .* by {function[:4]}"):
            get_task(f"reasoning_gym:{name}")
        assert runs_code(f"reasoning_gym_unsafe:{name}")
    assert not runs_code("reasoning_gym:chain_sum") and runs_code("mine:Task") and not runs_code("countdown")


def test_the_lists_name_every_scorer_that_evaluates() -> None:
    """Modules of data sets that call a function which runs text, against those that are known to."""
    running = {"eval", "exec", "parse_expr", "sympify", "literal_eval"}
    own = {"basic_arithmetic", "codeio", "propositional_logic"}  # their own problems, or a parser of their own
    found = set()
    for name, (kind, _) in library.data_sets().items():
        tree = ast.parse(Path(inspect.getfile(kind)).read_text(encoding="utf-8"))
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {getattr(call, "id", getattr(call, "attr", "")) for call in calls}
        if names & running:
            found.add(name)
    assert found == {*library.EVALUATES_COMPLETIONS, *library.EVALUATES_ROWS, *own}


def test_a_run_alone_allows_no_evaluation() -> None:
    run = TrainedBy(Path("config.yaml"), {"task": "reasoning_gym_unsafe:n_queens"})
    with pytest.raises(ValueError, match=r"is code; if you trust it, let it run by --task"):
        run.task_config(None, None)
    assert run.task_config("reasoning_gym_unsafe:n_queens", None).task == "reasoning_gym_unsafe:n_queens"
    config = {"task": "reasoning_gym:chain_sum", "max_terms": 3, "partial_scores": True}
    assert TrainedBy(Path("config.yaml"), config).task_config(None, None).make_task().settings.partial_scores


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chainsum", "'reasoning_gym:chainsum' is no data set of reasoning-gym; did you mean reasoning_gym:chain_sum"),
        ("", "is no data set of reasoning-gym; use one of ab, acre"),
        ("composite", "'reasoning_gym:composite' mixes other data sets"),
        ("game_of_life_halting", "has a scorer that gives every answer 1"),
        ("countdown", "our own task countdown does not"),
    ],
)
def test_a_name_that_is_no_task_is_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        get_task(f"reasoning_gym:{name}")
    assert "\n" not in str(refusal.value)


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    task_class.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ValueError, match=r"not installed; pip install 'tinyzero-trl\[reasoning-gym\]'"):
        get_task("reasoning_gym:ab")


# --- options ----------------------------------------------------------------------------------------------------


def test_options_reach_the_library_and_the_scorer(tmp_path: Path) -> None:
    config = task_config(task="reasoning_gym:chain_sum", min_terms=3, max_terms=3, max_digits=1)
    examples = config.make_task().generate(8, seed=0, **config.task_options())
    assert {example["metadata"]["num_terms"] for example in examples} == {3}
    assert {config.make_task().difficulty(example) for example in examples} == {"num_terms 3"}
    assert examples[0]["metadata"]["options"] == {"min_terms": 3, "max_terms": 3, "max_digits": 1}
    loose = get_task("reasoning_gym:decimal_arithmetic")
    [rough] = loose.generate(1, seed=0, max_num_decimal_places=1, min_num_decimal_places=1)
    nearly = answered(str(float(rough["answer"]) + 0.09))
    assert loose.score(nearly, rough).reward == 1, "the tolerance of the options that made the example"
    rough["metadata"].pop("options")
    assert loose.score(nearly, rough).reward == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_terms": 1}, r"task: reasoning_gym:chain_sum refuses max_terms: 1 \(.*\); change them"),
        ({"operands": [3]}, "operands: .* has no effect on the task reasoning_gym:chain_sum"),
    ],
)
def test_options_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_config(task="reasoning_gym:chain_sum", **values)


def test_options_that_fail_when_drawing_are_named() -> None:
    message = r"^task: reasoning_gym:aiw refuses task_types: \['friends'\] \(The number of weights .*\); change them$"
    with pytest.raises(ValueError, match=message):
        get_task("reasoning_gym:aiw", {"task_types": ["friends"]}).generate(1, seed=0)


def test_a_choice_that_there_is_not_is_refused_with_its_field() -> None:
    for name, option, value in (("word_sorting", "transformation", "lower"), ("aiw", "task_types", ["foes"])):
        with pytest.raises(
            ValueError, match=rf"^task: reasoning_gym:{name} refuses {option}: .* is not a valid .*change"
        ):
            task_config(task=f"reasoning_gym:{name}", **{option: value})


def test_no_option_has_the_name_of_a_recipes_field() -> None:
    from dataclasses import fields

    from trl import ModelConfig

    from tinyzero_trl.training.config import AdaptiveGRPOConfig

    taken = {each.name for kind in (AdaptiveGRPOConfig, ModelConfig) for each in fields(kind)}
    for name in DATA_SETS:
        assert not taken & {each.name for each in fields(options_class(name))}, name
        config_class(named(name))


# --- scores and labels ------------------------------------------------------------------------------------------


def test_partial_scores_are_rewards_only_where_asked_for() -> None:
    name = "reasoning_gym:chain_sum"
    [example] = get_task(name).generate(1, seed=0)
    text = answered(f"it is {example['answer']}")  # the library pays for an answer among other words
    assert get_task(name).score(text, example) == (0.0, "partial-score")
    reward, reason = get_task(name, {"partial_scores": True}).score(text, example)
    assert 0 < reward < 1 and reason == "partial-score"


def verdicts(name: str, gold: str, answers: list[str], **metadata: Any) -> list[str]:
    task = get_task(f"reasoning_gym:{name}", {"partial_scores": True})
    [example] = task.generate(1, seed=0)
    example |= {"answer": gold, "metadata": {**example["metadata"], **metadata}}
    scores = [task.score(answered(answer), example) for answer in answers]
    assert all((score.reward == 1) == (score.reason == "correct") for score in scores)
    return [answer for answer, score in zip(answers, scores, strict=True) if score.reward == 1]


def test_a_probability_is_no_first_part_of_itself() -> None:
    right, wrong = ["0.65625", "21/32", ".6563"], ["0", "0.0", "0.6", "0.65", "0.656", "-0.65625", "1/3"]
    assert verdicts("coin_flip", "0.65625", [*right, *wrong]) == right


def test_a_small_probability_may_have_an_exponent() -> None:
    """The library writes its own answers so."""
    assert verdicts("coin_flip", "6.103515625e-05", ["6.103515625e-05", "1e999999999", "1e-9999"]) == [
        "6.103515625e-05"
    ]


def test_a_candidate_beside_the_right_one_is_wrong() -> None:
    gold, beside = "177,910,656.017", ["177910656.026", "177910656.02"]
    assert verdicts("number_format", gold, ["177910656.017", gold, *beside], solution=177910656.017) == [
        "177910656.017",
        gold,
    ]


def test_sorted_numbers_are_those_that_were_to_be_sorted() -> None:
    gold, right = (
        "['-3.0', '1.5', '20.25']",
        ["['-3', '1.5', '20.25']", "[-3.0, 1.54, 20.25]", '["-3", "1.5", "20.250"]'],
    )
    nan, off = "[NaN, NaN, NaN]", "['-2.1', '2.4', '21.15']"
    wrong = [nan, "['nan', 'nan', 'nan']", off, "[-3, 1.5, 20.26]", "[-3, 1.5]", "[true, 1.5, 20.25]", "[-3, 1.5, 20]"]
    assert verdicts("number_sorting", gold, [*right, *wrong], direction="ascending") == right


def test_a_word_with_more_behind_it_is_another_word() -> None:
    for letters in range(3, 11):
        word = "abcdefghij"[:letters]
        assert verdicts("spell_backward", word, [word, f"{word}zzz", f"{word} or not"]) == [word]


def test_numbers_of_word_problems_have_their_sign() -> None:
    right = ["-5", "-5.0", "\N{MINUS SIGN}5"]
    assert verdicts("gsm_symbolic", "-5", [*right, "5", "-5 or 3", "it is -5"]) == right
    assert verdicts("gsm_symbolic", "1762.5", ["1,762.5", "$1762.50", "1762", "-1762.5"]) == ["1,762.5", "$1762.50"]
    task = get_task("reasoning_gym:gsm_symbolic")
    [example] = task.generate(1, seed=0)
    assert task.read(example) == example
    with pytest.raises(ValueError, match=r"^answer: 'a few' is no number; correct it, or remove the row$"):
        task.read({**example, "answer": "a few"})


def test_a_score_above_one_is_no_success() -> None:
    """calendar_arithmetic divides by what may be -1, and gives any other number e to the power of 40."""
    metadata = {"task": "recurring_event_day", "source_dataset": "calendar_arithmetic"}
    assert verdicts("calendar_arithmetic", "-1", ["-1", "7", "-8", "0"], **metadata) == ["-1"]


@pytest.mark.parametrize(
    ("metadata", "chosen", "label"),
    [
        ({"difficulty": {"a": (1, 4), "n": (2, 6)}, "n": 4}, "", "n 4"),
        ({"difficulty": {"n": (1, 100)}, "n": 20}, "", "n 1 to 20"),
        ({"difficulty": {"n": [1, 100]}, "n": 100}, "", "n 81 to 100"),
        ({"difficulty": {"p": (0.0, 1.0)}, "p": 0.5}, "", "p 0.4 to 0.6"),
        ({"difficulty": {"n": 8}, "n": 8}, "", ""),
        ({"difficulty": 1.0}, "", "difficulty 1.0"),
        ({}, "", ""),
        ({"kind": "even", "difficulty": {"n": (2, 6)}, "n": 4}, "kind", "kind even"),
        ({"kind": None, "difficulty": {"n": (2, 6)}, "n": 4}, "kind", ""),
    ],
)
def test_the_label_has_few_values(metadata: dict[str, Any], chosen: str, label: str) -> None:
    assert difficulty_label(metadata, chosen) == label


def test_a_label_that_the_metadata_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^difficulty_label: .missing. is no entry of .*; choose one of k, n$"):
        difficulty_label({"difficulty": {"n": (2, 6)}, "n": 4, "k": 1}, "missing")


# --- examples ---------------------------------------------------------------------------------------------------


def test_files_hold_what_scoring_needs(tmp_path: Path) -> None:
    name = "reasoning_gym:arc_1d"
    task = get_task(name)
    train, test = task.generate(3, seed=1), task.generate(2, seed=2)
    write_splits(tmp_path, {"train": train, "test": test}, task=name, template="base")
    assert read_examples(str(tmp_path), task=name) == train
    rows = to_dataset(train, task=task, template="chat")
    assert rows.column_names == ["prompt", "question", "answer", "metadata", "difficulty"]
    with pytest.raises(ValueError, match="an example of reasoning-gym's 'arc_1d'; train with task"):
        read_examples(str(tmp_path), task="reasoning_gym:gcd")
    sums = get_task("reasoning_gym:number_sorting").generate(1, seed=0)
    (tmp_path / "rows.jsonl").write_text(json.dumps(sums[0]))
    with pytest.raises(ValueError, match=r"hands the problem of a file to eval\(\); if you trust the file"):
        read_examples(str(tmp_path / "rows.jsonl"), task="reasoning_gym:number_sorting")
    assert read_examples(str(tmp_path / "rows.jsonl"), task="reasoning_gym_unsafe:number_sorting") == sums


def test_examples_that_differ_between_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED")
    with pytest.raises(ValueError, match="reasoning-gym's word_ladder gives other examples in each process"):
        get_task("reasoning_gym:word_ladder").generate(1, seed=0)


@pytest.mark.slow
def test_all_others_are_the_same_in_every_process() -> None:
    program = (
        "import sys, hashlib; from tinyzero_trl.tasks import get_task\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, hashlib.sha256(repr(get_task(name).generate(2, seed=5)).encode()).hexdigest())\n"
    )
    names = [named(name) for name in DATA_SETS if name not in library.DEPENDS_ON_HASHES]
    seen = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", program, *names]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stderr
        seen.add(done.stdout)
    assert len(seen) == 1


def test_the_same_seed_gives_the_same_examples_and_splits_share_none() -> None:
    task = get_task("reasoning_gym:letter_counting")
    assert task.generate(5, seed=3) == task.generate(5, seed=3) != task.generate(5, seed=4)
    known = {task.key(example) for example in task.generate(20, seed=3)}
    assert not known & {task.key(example) for example in task.generate(20, seed=3, exclude=known)}


@pytest.mark.parametrize(
    "metadata",
    [
        *({"(items)": [[[1], 2]]}, {"(tuple)": 3}, {"(items)": [1]}, {"(tuple)": [1]}),
        *({"options": given} for given in (3, [1], {"seed": 1}, {"(items)": [[{"(tuple)": [1]}, 2]]})),
    ],
)
def test_metadata_that_nobody_wrote_are_one_line(metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^metadata: .* (was|were) not written by this program \("):
        get_task("reasoning_gym:basic_arithmetic").read({"question": "1 + 1", "answer": "2", "metadata": metadata})


@pytest.mark.parametrize(
    ("name", "options"),
    [("count_primes", {"min_n": 10**14, "max_n": 10**15}), ("spell_backward", {"data_file": "/nowhere/words.txt"})],
)
def test_options_of_a_row_make_the_library_neither_sieve_nor_read_a_file(name: str, options: dict[str, Any]) -> None:
    task = get_task(f"reasoning_gym:{name}")
    example = task.read({"question": "q", "answer": "7", "metadata": {"options": options}})
    assert task.score(answered("7"), example).reward == 1
