"""Imports only point down, and the rooms that must stay light load no tensor library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tinyzero_trl"
HEAVY = ("torch", "transformers", "trl")

# The three modules at the top of the package, and the rooms from the ground up; each may import those before it.
ROOMS = [
    *("messages", "plugins", "replacing"),
    *("windows", "metrics", "runs", "tasks", "models", "generation", "evaluation", "training", "commands"),
]

# What users import from the top of the package; whoever takes a name away breaks their programs.
PUBLIC = {
    *("AdaptiveGRPOConfig", "AdaptiveGRPOTrainer", "WindowController"),
    *("start_run", "finish_run"),
    *("AdaptiveWindowCallback", "Rollout", "RolloutCallback", "StopOnSignal"),
    *("RolloutObservation", "WindowConfig", "WindowPolicy"),
    *("Engine", "register_engine", "register_policy"),
    *("Task", "Score", "register_task"),
    "__version__",
}


def imported_rooms(file: Path) -> set[str]:
    """Rooms of this package that a file imports, at its top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where they point"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == PACKAGE.name else []
            names = names or [str(node.module)]
        rooms |= {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE.name}.")}
    return rooms


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_its_place() -> None:
    present = {room_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert present == set(ROOMS), "a new room needs a line in ROOMS, and one in the table of docs/architecture.md"


@pytest.mark.parametrize("room", ROOMS)
def test_imports_only_point_down(room: str) -> None:
    folder = PACKAGE / room
    for file in [*folder.rglob("*.py")] if folder.is_dir() else [folder.with_suffix(".py")]:
        up = imported_rooms(file) - set(ROOMS[: ROOMS.index(room) + 1])
        assert not up, f"{file.relative_to(PACKAGE)} imports {sorted(up)} from above"


def test_windows_need_numpy_alone() -> None:
    for file in (PACKAGE / "windows").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules = [str(node.module)] if isinstance(node, ast.ImportFrom) else modules
            for module in modules:
                top = module.split(".")[0]
                assert top in {*sys.stdlib_module_names, PACKAGE.name, "numpy"}, f"{file} imports {module}"


def test_light_rooms_load_neither_torch_nor_transformers_nor_trl() -> None:
    """In one fresh interpreter that names the first room to break the rule."""
    program = (
        "import importlib, sys\n"
        "for room in sys.argv[1:]:\n"
        "    importlib.import_module(f'tinyzero_trl.{room}')\n"
        f"    loaded = sorted(set({HEAVY}) & set(sys.modules))\n"
        "    assert not loaded, f'{room} loads {loaded}'\n"
        "print('light')\n"
    )
    rooms = [*ROOMS[:4], "runs.report", "tasks.datasets", "commands.ablation.execution", "commands.main"]
    done = subprocess.run([sys.executable, "-c", program, *rooms], capture_output=True, text=True, timeout=120)
    assert done.stdout == "light\n", done.stderr


def test_the_public_names_are_there() -> None:
    import tinyzero_trl

    assert {*tinyzero_trl.__all__} == PUBLIC
    assert {*tinyzero_trl.__all__} == {*tinyzero_trl._MODULES, "__version__"}, "one name, one module"
    for name in PUBLIC - {"__version__"}:
        assert getattr(tinyzero_trl, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        tinyzero_trl.Trainer  # noqa: B018


def test_type_checkers_and_editors_see_the_public_names() -> None:
    import tinyzero_trl

    seen = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE.name)
        for alias in node.names
    }
    assert seen == {f"{PACKAGE.name}.{module}.{name}" for name, module in tinyzero_trl._MODULES.items()}
