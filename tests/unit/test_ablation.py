"""Grids: what is run, in which order, and what happens when a run fails or the grid is started again."""

import json
import sys
from pathlib import Path

import pytest

from tinyzero_trl.commands.ablation.checks import _machines_of, faults_of
from tinyzero_trl.commands.ablation.execution import run_grid
from tinyzero_trl.commands.ablation.grid import read_grid, shard_of
from tinyzero_trl.commands.main import main
from tinyzero_trl.runs.records import RunRecords, is_finished, read_run
from tinyzero_trl.training import run as training_run

PROGRAM = """
import sys
from tinyzero_trl.runs.records import RunRecords
options = {name: value for name, value in zip(sys.argv, sys.argv[1:]) if name.startswith("--")}
print("learning rate", options.get("--learning_rate"))
records = RunRecords(options["--output_dir"])
records.write_config({"recipe": options["--recipe"], "seed": int(options["--seed"]), "arguments": sys.argv[1:]})
with open(options["--output_dir"] + "/starts", "a") as starts:
    starts.write("x")
if options.get("--fail") == options["--seed"]:
    print("error: fail: 1 was asked for; leave it out")
    print("a launcher's own words")
    sys.exit(3)
if options.get("--forget") != "true":
    records.write_summary({"seed": int(options["--seed"])})
"""


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Writes a grid of a program that trains in no time; call it with the fields to change."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "train.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text("seed: 0\n", encoding="utf-8")
    fields = {
        "output": "runs",
        "seeds": [0, 1],
        "launch": [sys.executable, "train.py"],
        "common": {"learning_rate": 0.1},
        "runs": {
            "full": {"recipe": "tiny.yaml"},
            "bold": {"recipe": "tiny.yaml", "overrides": {"learning_rate": 0.2, "operands": [3, 4]}},
        },
    }

    def write(**changes):
        kept = {name: value for name, value in {**fields, **changes}.items() if value is not None}
        (tmp_path / "grid.yaml").write_text(json.dumps(kept), encoding="utf-8")  # JSON is YAML
        return tmp_path / "grid.yaml"

    return write


def starts(run):
    file = run.folder / "starts"
    return len(file.read_text(encoding="utf-8")) if file.exists() else 0


def test_seeds_advance_across_all_runs_first(grid):
    runs = read_grid(grid())
    assert [(run.name, run.seed) for run in runs] == [("full", 0), ("bold", 0), ("full", 1), ("bold", 1)]
    assert str(runs[1].folder) == "runs/bold/seed_0"


def test_a_run_may_have_seeds_of_its_own(grid):
    full, bold = {"recipe": "tiny.yaml", "seeds": [1, 5]}, {"recipe": "tiny.yaml"}
    runs = read_grid(grid(runs={"full": full, "bold": bold}))
    assert [run.label for run in runs] == ["bold, seed 0", "full, seed 1", "bold, seed 1", "full, seed 5"]
    with pytest.raises(ValueError, match=r"runs\.full\.seeds = \[1, 1\]: give a list of different"):
        read_grid(grid(runs={"full": {**full, "seeds": [1, 1]}}))


def test_a_run_is_the_launch_command_the_recipe_and_the_fields(grid):
    bold = read_grid(grid(launch=None))[1]
    *words, program = bold.launch
    assert words[:3] == ["accelerate", "launch", "--config_file"] and words[4:] == ["-m"]
    assert Path(words[3]).name == "cpu.yaml" and Path(words[3]).is_file()
    assert program == "tinyzero_trl.commands.train"
    assert bold.arguments == (
        *("--config", "tiny.yaml"),
        *("--recipe", "bold"),
        *("--learning_rate", "0.2"),  # the run's own wins over the common one
        *("--operands", "3", "4"),
        *("--seed", "0"),
        *("--output_dir", "runs/bold/seed_0"),
    )


def test_values_are_spelled_as_the_command_line_reads_them(grid):
    overrides = {
        "bf16": False,
        "window_phases": [[0, 512], [100, 1024]],
        "task": "countdown",
        "lr_scheduler_kwargs": {"a": 1},
    }
    arguments = read_grid(grid(common=overrides))[0].arguments
    assert arguments[4:-4] == (
        *("--bf16", "false"),
        *("--window_phases", "[[0, 512], [100, 1024]]"),
        *("--task", "countdown"),
        *("--lr_scheduler_kwargs", '{"a": 1}'),
    )


def test_a_grid_trains_every_run_into_its_own_folder_and_is_not_trained_twice(grid):
    runs = read_grid(grid())
    lines = []
    assert run_grid(runs, lines.append) == []
    for run in runs:
        config = read_run(run.folder).config
        assert (config["recipe"], config["seed"]) == (run.name, run.seed)
        assert config["arguments"] == list(run.arguments)
    assert (runs[1].folder / "train.log").read_text(encoding="utf-8") == "learning rate 0.2\n"
    assert lines[0] == "[1/4] full, seed 0: training, see runs/full/seed_0/train.log"
    again = []
    assert run_grid(runs, again.append) == []
    assert [line.split(": ")[1] for line in again] == ["finished before"] * 4
    assert [starts(run) for run in runs] == [1, 1, 1, 1]


def test_a_failed_run_stops_no_other_and_is_named_at_the_end(grid, capsys):
    path = grid(common={"fail": 1})
    assert main(["ablate", str(path)]) == 1
    output = capsys.readouterr()
    assert output.err == "failed: full, seed 1; bold, seed 1\n"
    assert "[3/4] full, seed 1: failed with exit status 3" in output.out
    assert "[3/4] full, seed 1: error: fail: 1 was asked for; leave it out\n" in output.out
    runs = read_grid(path)
    assert [is_finished(run.folder) for run in runs] == [True, True, False, False]
    assert main(["ablate", str(path)]) == 1
    assert [starts(run) for run in runs] == [1, 1, 2, 2]  # only what is not finished


def test_a_run_without_summary_has_failed_whatever_its_exit_status(grid):
    lines = []
    assert len(run_grid(read_grid(grid(common={"forget": True}, seeds=[0])), lines.append)) == 2
    assert "failed: left no summary" in lines[1]


def test_a_program_that_does_not_exist_is_a_failure_with_a_reason(grid):
    runs = read_grid(grid(launch=["no-such-program"], seeds=[0]))
    assert run_grid(runs, lambda line: None) == runs
    assert "no-such-program" in (runs[0].folder / "train.log").read_text(encoding="utf-8")


def test_a_finished_run_of_other_settings_does_not_pass_for_this_one(grid):
    run_grid(read_grid(grid()), lambda line: None)
    changed = read_grid(grid(common={"learning_rate": 0.3}))
    with pytest.raises(ValueError, match=r"seed_0 holds .* other settings \(learning_rate: 0.1 there, 0.3 here; see"):
        run_grid(changed, lambda line: None)
    many = read_grid(grid(common={"learning_rate": 0.3, "max_steps": 9, "top_k": 1, "beta": 0.1, "epsilon": 0.3}))
    with pytest.raises(ValueError, match=r"top_k: left out there, 1 here; 2 more; see"):
        run_grid(many, lambda line: None)


def test_a_finished_run_of_an_edited_recipe_does_not_pass_for_this_one(grid):
    runs = read_grid(grid(seeds=[0]))
    run_grid(runs, lambda line: None)
    recipe = Path(runs[0].arguments[1])
    recipe.write_text(f"# a comment changes nothing\n{recipe.read_text()}")
    run_grid(runs, lambda line: None)
    recipe.write_text(f"{recipe.read_text()}\nwarmup_steps: 3\n")
    with pytest.raises(ValueError, match=r"runs/full/seed_0 holds a run of .* as it was before it was edited: name"):
        run_grid(runs, lambda line: None)
    (runs[0].folder / "arguments.json").write_text(json.dumps(runs[0].arguments))  # as earlier versions noted it
    run_grid(runs[:1], lambda line: None)


def test_a_recipe_of_the_package_is_known_by_its_name(grid):
    runs = read_grid(grid(seeds=[0], runs={"tiny": {"recipe": "countdown_tiny"}}))
    assert run_grid(runs, lambda line: None) == run_grid(runs, lambda line: None) == []


@pytest.mark.parametrize("damage", ["removed", "[", "null"])
def test_a_run_whose_settings_are_not_known_does_not_pass_for_this_one(grid, damage):
    runs = read_grid(grid())
    run_grid(runs, lambda line: None)
    file = runs[0].folder / "arguments.json"
    file.unlink() if damage == "removed" else file.write_text(damage)
    known = "a run that no grid began" if damage == "removed" else "a run of other settings"
    with pytest.raises(ValueError, match=f"runs/full/seed_0 holds {known}"):
        run_grid(runs, lambda line: None)


def test_values_reach_the_program_as_they_are_and_no_shell_reads_them(grid, tmp_path):
    value = "$(touch owned); `touch owned` && touch owned"
    runs = read_grid(grid(common={"dataset": value}, seeds=[0]))
    run_grid(runs, lambda line: None)
    assert value in read_run(runs[0].folder).config["arguments"]
    assert not (tmp_path / "owned").exists()


def test_shards_take_whole_seeds_and_together_the_grid(grid):
    runs = read_grid(grid(seeds=[0, 1, 2]))
    first, second = shard_of(runs, "1/2"), shard_of(runs, "2/2")
    assert {run.seed for run in first} == {0, 2}
    assert {run.seed for run in second} == {1}
    assert sorted(first + second, key=runs.index) == runs


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "1/5"])
def test_unfit_shards_are_refused(grid, shard):
    with pytest.raises(ValueError, match=f"shard = '{shard}'"):
        shard_of(read_grid(grid()), shard)


def test_a_dry_run_prints_the_commands_alone(grid, capsys, tmp_path):
    assert main(["ablate", str(grid()), "--dry-run", "--shard", "1/2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(
        "train.py --config tiny.yaml --recipe full --learning_rate 0.1 --seed 0 --output_dir runs/full/seed_0"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "unknown field 'seed'; the fields are common, launch"),
        ({"output": None}, "field 'output' is missing"),
        ({"seeds": [0, 0]}, r"seeds = \[0, 0\]: give a list of different whole numbers"),
        ({"seeds": [True]}, "seeds = "),
        ({"seeds": []}, "seeds = "),
        ({"launch": "accelerate launch"}, "launch = 'accelerate launch': give a list"),
        ({"runs": {}}, "runs = {}: expected a mapping"),
        ({"runs": {"../up": {"recipe": "tiny.yaml"}}}, "'../up' is no name for a folder"),
        ({"runs": {"a": {"recipe": "gone.yaml"}}}, "runs.a.recipe = 'gone.yaml': no such file"),
        ({"runs": {"a": {"recipe": "tiny.yaml", "override": {}}}}, "runs.a: unknown field 'override'"),
        ({"common": {"seed": 1}}, "'seed' is set by the grid"),
        ({"common": {"beta": None}}, "'beta' has no value"),
        ({"common": {"--beta": 1}}, "'--beta' is no field name"),
        ({"common": [1]}, r"common = \[1\]: expected a mapping"),
    ],
)
def test_unfit_grids_are_refused_before_anything_runs(grid, capsys, changes, message):
    path = grid(**changes)
    with pytest.raises(ValueError, match=message):
        read_grid(path)
    assert main(["ablate", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_no_yaml_or_missing_ends_with_one_line(tmp_path, capsys):
    broken = tmp_path / "broken.yaml"
    broken.write_text("runs: [", encoding="utf-8")
    for path in (broken, tmp_path / "missing.yaml"):
        assert main(["ablate", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"window_slak": 0.1},
            "bold, seed 0: window_slak: unknown field on the command line; did you mean window_slack?",
        ),
        ({"num_generations": 8.5}, "bold, seed 0: num_generations: invalid int value: '8.5'"),
        ({"learning_rate": -1}, "bold, seed 0: learning_rate: -1.0 is no finite number of 0 or more"),
        ({"window_slack": -3}, "bold, seed 0: window_slack: -3.0 is below 0"),
        ({"num_generations": 7}, "bold, seed 0: num_generations: 7 does not divide the 128 completions"),
        ({"optim_args": "foo=1"}, "bold, seed 0: optim_args: 'foo' has no effect"),  # what a run checks later
        ({"sync_ref_model": True, "beta": 0}, "bold, seed 0: sync_ref_model: true has no reference model"),
        ({"report_to": "nobody"}, "bold, seed 0: report_to: "),
        ({"fp16": True, "bf16": False}, "bold, seed 0: fp16: true has no effect on a CPU"),  # as the launch file says
        ({"max_completion_length": 100000}, "exceed the model's 2048 positions"),  # of the model's files
        ({"train_size": 3}, "bold, seed 0: dataset: 3 problems are fewer than the 16 groups"),
        ({"dataset": "/nowhere/train.parquet"}, "bold, seed 0: dataset: '/nowhere/train.parquet' is no file or folder"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_what_a_run_refuses_before_it_loads_its_model_is_refused_before_the_first_run(
    grid, capsys, tmp_path, overrides, message, options
):
    runs = {"full": {"recipe": "countdown_tiny"}, "bold": {"recipe": "countdown_tiny", "overrides": overrides}}
    fields = {"common": {"report_to": "none"}, "launch": None, "runs": runs, "seeds": [0, 1, 2]}
    assert main(["ablate", str(grid(**fields)), *options]) == 2
    output = capsys.readouterr()
    assert not output.out
    [line] = output.err.splitlines()
    assert line.startswith("tinyzero-trl ablate: ") and message in line
    assert not (tmp_path / "runs").exists()


def test_every_run_with_a_fault_is_named_once_and_a_finished_one_is_not_checked(grid, capsys):
    runs = {
        name: {"recipe": "countdown_tiny", "overrides": {"window_slack": slack}}
        for name, slack in (("done", -2), ("fits", 0.1), ("low", -1), ("lower", -2))
    }
    path = grid(launch=None, common={}, runs=runs)
    for run in read_grid(path):
        if run.name == "done":
            RunRecords(run.folder).write_summary({})
    assert main(["ablate", str(path)]) == 2
    assert [line.split(": ")[1:3] for line in capsys.readouterr().err.splitlines()] == [
        ["low, seed 0", "window_slack"],
        ["lower, seed 0", "window_slack"],
    ]


def test_problems_are_made_once_for_runs_that_share_them(grid, monkeypatch):
    made = []
    load = training_run.load_problems

    def watched(task):
        made.append(task.recipe)
        return load(task)

    monkeypatch.setattr(training_run, "load_problems", watched)
    runs = {
        name: {"recipe": "countdown_tiny", "overrides": {"window_slack": slack, "train_size": size}}
        for name, slack, size in (("a", 0.1, 200), ("b", 0.2, 200), ("c", 0.2, 300))
    }
    assert faults_of(read_grid(grid(launch=None, common={}, runs=runs))) == []
    assert made == ["a", "c"]


@pytest.mark.parametrize(
    ("launch", "processes", "device"),
    [
        (["accelerate", "launch", "--config_file", "cpu", "-m", "P"], 1, "cpu"),
        (["accelerate", "launch", "--config_file", "ddp", "-m", "P"], 4, "cuda"),
        (["accelerate", "launch", "--config_file=zero2", "--num_processes=8", "-m", "P"], 8, "cuda"),
        (["taskset", "-c", "0", "python", "-m", "accelerate.commands.launch", "--num_processes", "2", "P"], 2, "cuda"),
        (["accelerate", "launch", "-m", "P"], None, "cuda"),  # a file that accelerate knows
        (["accelerate", "launch", "--config_file", "gone.yaml", "-m", "P"], None, "cuda"),
        (["python", "-m", "P"], 1, "cuda"),
        (["tinyzero-trl", "train"], 1, "cuda"),
        (["torchrun", "--nproc_per_node", "2", "P"], None, "cuda"),
        (["python", "-m", "torch.distributed.run", "P"], None, "cuda"),
        (["srun", "python", "-m", "P"], None, "cuda"),
    ],
)
def test_the_processes_of_a_launch_are_known_where_it_says_them(grid, launch, processes, device):
    assert _machines_of(read_grid(grid(launch=launch))[0].launch) == (processes, device)


def test_batches_are_checked_for_the_processes_of_the_launch(grid):
    runs = {"a": {"recipe": "countdown_tiny", "overrides": {"per_device_train_batch_size": 2, "train_size": 200}}}
    program = ["-m", "tinyzero_trl.commands.train"]
    for launch, fits in (("ddp", True), ("cpu", False)):  # 8 completions of a group over 4 processes, or over one
        path = grid(launch=["accelerate", "launch", "--config_file", launch, *program], common={}, runs=runs)
        assert (faults_of(read_grid(path)) == []) == fits
    path = grid(launch=["torchrun", "--nproc_per_node", "4", *program], common={}, runs=runs)
    assert faults_of(read_grid(path)) == [], "the number is not known"


def test_what_is_not_on_this_machine_is_left_to_the_run(grid):
    runs = {
        "model": {"recipe": "countdown_tiny", "overrides": {"model_name_or_path": "runs/made/later"}},
        "data": {"recipe": "countdown_tiny", "overrides": {"dataset": "somebody/problems"}},
    }
    assert faults_of(read_grid(grid(launch=None, common={}, runs=runs))) == []


@pytest.mark.parametrize("other", ["full", "FULL"])
def test_two_runs_share_no_folder(grid, other):
    """The second would pass for finished without being trained; not all file systems tell A from a."""
    runs = {"full": {"recipe": "tiny.yaml"}, other: {"recipe": "tiny.yaml", "overrides": {"max_steps": 3}}}
    file = grid(runs=runs)
    if other == "full":  # a number and a text are two names in YAML
        file.write_text(file.read_text().replace('"runs": {"full"', '"runs": {1: {"recipe": "tiny.yaml"}, "1"'))
    with pytest.raises(ValueError, match=r"runs: '\w+' and '\w+' would share the folder runs/\w+; rename one"):
        read_grid(file)


def test_the_order_of_fields_is_no_other_setting(grid):
    runs = {"full": {"recipe": "tiny.yaml", "overrides": {"max_steps": 3, "learning_rate": 0.1}}}
    run_grid(read_grid(grid(runs=runs, common=None)), print)
    runs["full"]["overrides"] = {"max_steps": 3}
    said = []
    run_grid(read_grid(grid(runs=runs, common={"learning_rate": 0.1})), said.append)
    assert [line.endswith("finished before") for line in said] == [True, True]


def test_a_value_that_begins_with_a_minus_is_no_option(grid):
    runs = {"full": {"recipe": "tiny.yaml", "overrides": {"window_success_threshold": -1e-05}}}
    run, *_ = read_grid(grid(runs=runs))
    assert "--window_success_threshold=-1e-05" in run.arguments
    assert run_grid([run], print) == []
    run_grid(read_grid(grid(runs=runs)), print)  # known again


def test_a_launch_file_is_found_in_either_spelling(grid):
    launches = [["accelerate", "launch", *words] for words in (["--config_file", "cpu"], ["--config_file=cpu"])]
    apart, joined = (read_grid(grid(launch=launch))[0].launch for launch in launches)
    assert joined[2] == f"--config_file={apart[3]}" and Path(apart[3]).is_file()
