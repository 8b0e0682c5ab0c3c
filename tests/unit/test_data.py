"""Data sets: generated, written, read back, refused."""

import json
import subprocess
import sys
from collections import Counter

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from tinyzero_trl.commands import main as cli
from tinyzero_trl.runs import hub_access
from tinyzero_trl.tasks import Problem, countdown, get_task
from tinyzero_trl.tasks import parquet as dataset_files
from tinyzero_trl.tasks.datasets import read_examples, to_dataset, train_test_examples

PROBLEMS = [Problem((3, 7, 5), 22), Problem((44, 19, 35, 2), 96), Problem((7, 3, 5), 16)]
COLUMNS = ["target", "nums", "data_source", "prompt", "ability", "reward_model", "extra_info", "difficulty"]


def read_problems(source, **options):
    return [Problem.of(example) for example in read_examples(source, **options)]


def write(folder, template="base", problems=PROBLEMS):
    examples = [problem.example for problem in problems]
    splits = {"train": examples, "test": examples[:1]}
    return dataset_files.write_splits(folder, splits, task="countdown", template=template)


# generated


@pytest.mark.parametrize(("task", "options"), [("countdown", {"max_number": 20}), ("multiplication", {"digits": [2]})])
def test_train_and_test_are_disjoint_and_deterministic(task, options):
    def draw(train_size, seed=1):
        return train_test_examples(task, train_size=train_size, test_size=50, seed=seed, **options)

    train, test = draw(400)
    assert (len(train), len(test)) == (400, 50)
    assert len({Problem.of(example).key for example in train + test}) == 450
    assert draw(400) == (train, test)
    assert draw(400, seed=2)[1] != test
    assert draw(100)[1] == test, "the test problems do not depend on the size of the training set"


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="test_size: 0 must be at least 1"):
        train_test_examples("countdown", train_size=1, test_size=0, seed=0)


# written and read back


@pytest.mark.parametrize("template", ["base", "qwen-instruct", "chat"])
def test_what_is_written_is_read_back(tmp_path, template):
    train, test = write(tmp_path / "new" / "folder", template)
    table = pyarrow.parquet.read_table(train)
    assert table.column_names == COLUMNS
    row = table.to_pylist()[1]
    prompt = countdown.render_prompt(PROBLEMS[1], template)
    assert row == {
        "target": 96,
        "nums": [44, 19, 35, 2],
        "data_source": "countdown",
        "prompt": prompt if template == "chat" else [{"role": "user", "content": prompt}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": {"target": 96, "numbers": [44, 19, 35, 2]}},
        "extra_info": {"split": "train", "index": 1},
        "difficulty": 4,
    }
    assert read_problems(str(train.parent), task="countdown") == PROBLEMS
    assert read_problems(str(train.parent), task="countdown", split="test") == PROBLEMS[:1]
    assert read_problems(str(train), task="countdown", limit=2) == PROBLEMS[:2]
    assert datasets.load_dataset("parquet", data_files=str(test), split="train").num_rows == 1


def test_rows_come_as_trl_wants_them():
    rows = to_dataset([problem.example for problem in PROBLEMS], task="countdown", template="chat")
    assert rows.column_names == ["prompt", "numbers", "target", "difficulty"]
    assert rows[1] == {
        "prompt": countdown.render_prompt(PROBLEMS[1], "chat"),
        "numbers": [44, 19, 35, 2],
        "target": 96,
        "difficulty": 4,
    }


def test_the_prompt_of_a_file_is_not_looked_at(tmp_path):
    """TinyZero's own files: no `difficulty`, and a prompt of theirs."""
    path = tmp_path / "train.parquet"
    table = pyarrow.table(
        {
            "target": [22],
            "nums": [[3, 7, 5]],
            "data_source": ["countdown"],
            "prompt": [[{"role": "user", "content": "A conversation between User and Assistant."}]],
            "ability": ["math"],
            "reward_model": [{"style": "rule", "ground_truth": {"numbers": [3, 7, 5], "target": 22}}],
            "extra_info": [{"index": 0, "split": "train"}],
        }
    )
    pyarrow.parquet.write_table(table, path)
    rows = to_dataset(read_examples(str(path), task="countdown"), task="countdown", template="qwen-instruct")
    assert rows["prompt"][:] == [countdown.render_prompt(PROBLEMS[0], "qwen-instruct")]


def test_json_lines_and_shards_are_read(tmp_path):
    rows = [{"numbers": list(problem.numbers), "target": problem.target} for problem in PROBLEMS]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for index, row in enumerate(rows):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / f"train-0000{index}-of-00003.parquet")
    for split in ("test", "validation", "train"):
        assert read_problems(str(tmp_path), task="countdown", split=split) == PROBLEMS
    assert read_problems(str(tmp_path), task="countdown", limit=2) == PROBLEMS[:2]


def test_a_hub_data_set_is_read_by_its_id(monkeypatch):
    def load_dataset(identifier, configuration, split):
        assert (identifier, configuration, split) in (("owner/name", None, "train"), ("owner/name", "main", "train"))
        return datasets.Dataset.from_dict({"target": [22], "nums": [[3, 7, 5]]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_access, "hub_answers", lambda: True)
    assert read_problems("owner/name", task="countdown") == PROBLEMS[:1]
    assert read_problems("owner/name:main", task="countdown") == PROBLEMS[:1], "of several configurations"


def test_a_hub_error_is_one_line(monkeypatch):
    def load_dataset(identifier, configuration, split):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_access, "hub_answers", lambda: True)
    with pytest.raises(
        ValueError,
        match=r"^dataset: 'owner/name', split 'train': no network; if it has .* owner/name:CONFIGURATION$",
    ):
        read_problems("owner/name", task="countdown")


# refused


GOOD = {"nums": [3, 7, 5], "target": 22}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"target": 22}, "nums: None must be a list"),
        ({**GOOD, "nums": "3, 7, 5"}, "nums: '3, 7, 5' must be a list"),
        ({**GOOD, "nums": [3]}, r"nums: \[3\] must hold 2 to 16"),
        ({**GOOD, "nums": [1] * 17}, "nums: .* must hold 2 to 16"),
        ({**GOOD, "nums": [3, 0]}, r"nums: \[3, 0\] must hold integers from 1"),
        ({**GOOD, "nums": [3, -1]}, r"nums: \[3, -1\] must hold integers from 1"),
        ({**GOOD, "nums": [3, 2.0]}, r"nums: \[3, 2.0\] must hold integers"),
        ({**GOOD, "nums": [3, True]}, r"nums: \[3, True\] must hold integers"),
        ({**GOOD, "nums": [3, 10**19]}, "nums: .* must hold integers from 1 to"),
        ({"nums": [3, 7]}, "target: None must be an integer"),
        ({**GOOD, "target": "22"}, "target: '22' must be an integer"),
        ({**GOOD, "target": 22.5}, "target: 22.5 must be an integer"),
    ],
)
def test_a_bad_row_is_named_with_file_row_and_field(tmp_path, row, field):
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, [GOOD, row, GOOD])))
    with pytest.raises(ValueError, match=rf"^{path}: row 2: {field}"):
        read_problems(str(path), task="countdown")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1, 2]", "must hold objects with the task's columns"),
        ("a.json", b'{"target": 22}', "must hold objects with the task's columns"),
        ("a.json", b"[", "is no valid JSON"),
        ("a.json", b"[" * 100_000, "is no valid JSON"),
        ("a.json", b'[{"target": ' + b"9" * 5000 + b"}]", "is no valid JSON"),
        ("a.json", b"\xff\xfe\x00", "is no valid JSON"),
        ("a.jsonl", b'{"target": 22}\n{', "is no valid JSON"),
        ("a.jsonl", b'{"question": 1}', r"needs the columns target and nums \(or numbers\); has \['question'\]"),
        ("a.json", b"[]", "holds no examples"),
        ("a.jsonl", b"", "holds no examples"),
        ("a.jsonl", b'{"target": 22}\n\n{"target": }\n', r"a.jsonl, line 3: is no valid JSON: .* at column 12; fix"),
        ("a.json", b'[{"target": 22},\n{]', "a.json: is no valid JSON: .* at line 2, column 2; fix"),
        ("a.jsonl", rb'{"target": "\ud800"}', "a.jsonl, line 1: is no valid JSON: .* surrogates not allowed"),
        ("a.parquet", b"PAR1", "is no readable parquet file"),
        ("a.csv", b"", "is no readable CSV file"),
        ("a.csv", b"target,nums\n1,2,3", "is no readable CSV file"),
        ("a.csv", b"target,nums,target\n1,2,3", "has the column target more than once; rename or remove one"),
        ("a.txt", b"target,nums", "is none of .parquet, .jsonl, .json, .csv"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_problems(str(path), task="countdown")
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_without_rows_is_refused(tmp_path):
    train, _ = write(tmp_path, problems=[])
    with pytest.raises(ValueError, match="holds no examples"):
        read_problems(str(train), task="countdown")


@pytest.mark.parametrize("source", ["missing", "missing.parquet", "folder/missing.jsonl", "./a/b", "a/b/c"])
def test_a_missing_source_is_refused(source):
    with pytest.raises(ValueError, match="is no file or folder here, nor the id"):
        read_problems(source, task="countdown")


def test_a_missing_split_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"has no validation\.parquet, .* choose another folder or split"):
        read_problems(str(tmp_path), task="countdown", split="validation")


def test_a_limit_is_positive(tmp_path):
    with pytest.raises(ValueError, match="limit: 0 must be at least 1"):
        read_problems(str(tmp_path), task="countdown", limit=0)


def test_products_are_checked(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"nums": [3, 4], "target": 13}]))
    with pytest.raises(ValueError, match=r"row 1: target: 13 must be the product of \[3, 4\]"):
        read_problems(str(path), task="multiplication")


# nothing half-written


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="beyond the whole numbers of 64 bits"):
        write(tmp_path / "new", problems=[PROBLEMS[0], Problem((1, 2), 2**70)])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_files(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="beyond the whole numbers of 64 bits"):
        write(tmp_path, problems=[PROBLEMS[0], Problem((1, 2), 2**70)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.parquet", "train.parquet"]
    assert read_problems(str(tmp_path), task="countdown") == PROBLEMS


# command line


def test_the_command_writes_both_files(tmp_path, capsys):
    out = tmp_path / "data"
    sizes = ["--train-size", "60", "--test-size", "7"]
    assert cli.main(["data", "countdown", "--out", str(out), *sizes, "--max-number", "20", "--seed", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{out / 'train.parquet'}: 60 problems",
        f"{out / 'test.parquet'}: 7 problems",
    ]
    assert captured.err == "", "no progress bar where no terminal is"
    problems = read_problems(str(out), task="countdown")
    assert Counter(len(problem.numbers) for problem in problems) == {3: 30, 4: 30}
    assert all(max(problem.numbers) <= 20 for problem in problems)
    assert cli.main(["data", "multiplication", "--out", str(out), *sizes, "--digits", "1"]) == 2
    assert read_problems(str(out), task="countdown") == problems


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train-size", "0"], "train_size: 0 must be at least 1"),
        (["--operands", "9"], "operands: [9] must be"),
        (["--min-number", "0"], "min_number, max_number: 0, 99 must satisfy"),
        (["--max-target", "9"], "min_target, max_target: 10, 9 must satisfy"),
        (["--seed", "-1"], "seed: -1 is negative"),
        (["--max-number", "3", "--train-size", "5000"], "could be found; ask for fewer or widen a range"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(tmp_path, capsys, options, message):
    out = tmp_path / "data"
    arguments = ["data", "countdown", "--out", str(out), "--train-size", "5", "--test-size", "5", *options]
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tinyzero-trl data: ")
    assert message in line
    assert not out.exists()


def test_a_file_in_the_way_is_reported(tmp_path, capsys):
    (tmp_path / "data").write_text("")
    sizes = ["--train-size", "5", "--test-size", "5"]
    assert cli.main(["data", "multiplication", "--out", str(tmp_path / "data"), *sizes]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("data': file exists; check the path and what lies there")


def test_writing_data_loads_no_model_library(tmp_path):
    arguments = ["data", "multiplication", "--out", str(tmp_path), "--train-size", "5", "--test-size", "5"]
    program = (
        "import sys\n"
        "from tinyzero_trl.commands import main as cli\n"
        f"assert cli.main({arguments!r}) == 0\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == "", "quiet without a terminal"


def test_a_seed_gives_the_examples_that_published_runs_were_trained_on():
    """Each split has a seed of its own; another rule would train on other problems under the same recipe."""
    train, test = train_test_examples("countdown", train_size=3, test_size=2, seed=4)
    task = get_task("countdown")
    assert test == task.generate(2, seed=8)
    assert train == task.generate(3, seed=9, exclude={task.key(example) for example in test})


def test_other_files_of_the_same_names_are_moved_aside(tmp_path, caplog):
    def write(problems):
        examples = [problem.example for problem in problems]
        return dataset_files.write_splits(tmp_path, {"train": examples}, task="countdown", template="base")

    first = write(PROBLEMS)[0].read_bytes()
    write(PROBLEMS)
    assert not (tmp_path / "_earlier").exists() and not caplog.messages, "the same again"
    write(PROBLEMS[:1])
    assert (tmp_path / "_earlier" / "1" / "train.parquet").read_bytes() == first
    assert "they lie in" in caplog.text


def test_names_of_classes_take_the_place_of_their_numbers(tmp_path):
    """Or no answer could be right: the model is asked for words."""
    yes_or_no = ClassLabel(names=["no", "yes"])
    rows = {"prompt": ["Is 0 even?", "Is 1 even?"], "answer": [1, 0], "difficulty": [0, None]}
    kinds = Features({"prompt": Value("string"), "answer": yes_or_no, "difficulty": ClassLabel(names=["easy", "hard"])})
    saved = Dataset.from_dict(rows, features=kinds)
    saved.with_format("torch").save_to_disk(tmp_path / "saved")
    saved.to_parquet(tmp_path / "rows.parquet")
    for source in ("saved", "rows.parquet"):
        examples = read_examples(str(tmp_path / source), task=get_task("prompt_answer"))
        assert [(each["answer"], each["difficulty"]) for each in examples] == [("yes", "easy"), ("no", "")]


def test_a_format_of_a_saved_data_set_changes_no_value(tmp_path):
    rows = {"prompt": ["p"], "answer": ["a"], "difficulty": [1]}
    Dataset.from_dict(rows).with_format("torch", columns=["difficulty"]).save_to_disk(tmp_path / "saved")
    [example] = read_examples(str(tmp_path / "saved"), task=get_task("prompt_answer"))
    assert (example["answer"], example["difficulty"]) == ("a", "1")


def test_a_part_of_a_data_set_does_not_pass_for_the_whole(tmp_path):
    """As an interrupted download leaves it."""
    for name in ("train-00000-of-00003.parquet", "train-00002-of-00003.parquet"):
        Dataset.from_dict({"prompt": ["p"], "answer": ["a"]}).to_parquet(tmp_path / name)
    with pytest.raises(ValueError, match=r"has 2 of 3 files such as train-00000-of-00003\.parquet; fetch the others"):
        read_examples(str(tmp_path), task=get_task("prompt_answer"), split="train")
