"""A plan on a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tinyzero_trl.commands.planning import Plan
from tinyzero_trl.commands.planning.memory import GIB, MemoryPlan


def print_plan(plan: Plan, console: Console) -> None:
    """Print batch arithmetic, memory by way of launching, and what to change where something does not fit."""
    shape, machines = plan.shape, plan.machines
    trained = "" if not shape.frozen_parameters else f", of which {shape.trained_parameters:,} train"
    where = f"{machines.gpus} GPU{'s' * (machines.gpus > 1)} of {machines.gpu_memory_gib:g} GiB"
    where += f" on {machines.nodes} machines" if machines.nodes > 1 else ""
    console.print(f"[bold]{escape(plan.recipe)}[/bold]: {shape.parameters:,} parameters{trained}, on {where}\n")
    console.print(_batch_table(plan))
    console.print(_memory_table(plan))
    for complaint in plan.complaints:
        console.print(f"[red]contradiction[/red]  {complaint}")
    for warning in plan.warnings:
        console.print(f"[yellow]warning[/yellow]  {warning}")
    for memory in plan.memory:
        for remedy in memory.remedies:
            console.print(f"[red]{memory.workload.way} does not fit[/red]; would do: {remedy}")
    if plan.fits:
        console.print("fits: " + ", ".join(each.workload.way for each in plan.memory if each.fits))
    console.print("An estimate, good to some tenths (formulas: tinyzero_trl/commands/planning/memory.py).")


def _batch_table(plan: Plan) -> Table:
    batch = plan.batch
    table = Table(title="One rollout, all GPUs", title_justify="left", show_header=False, box=None)
    rows = [
        ("prompts x completions", f"{batch.prompts} x {batch.num_generations} = {batch.completions}"),
        (f"tokens at the first window, {batch.first_window}", f"{batch.tokens(batch.first_window):,}"),
        (f"tokens at the largest, {batch.last_window}", f"{batch.tokens(batch.last_window):,}"),
        ("optimizer steps made of it", f"{batch.optimizer_steps} of {batch.completions_per_step:g} completions"),
        ("micro-batches in an optimizer step", f"{batch.micro_batches} on each GPU"),
        ("passes for a micro-batch of full rows", f"{batch.passes}"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def _memory_table(plan: Plan) -> Table:
    table = Table(title="\nMemory of one GPU, GiB", title_justify="left", box=None)
    table.add_column("")
    for memory in plan.memory:
        table.add_column(memory.workload.way, justify="right")
    for part in dict.fromkeys(name for memory in plan.memory for name in _parts(memory)):
        table.add_row(part, *(_gib(_parts(memory).get(part)) for memory in plan.memory))
    table.add_section()
    table.add_row("peak", *(_gib(memory.peak) for memory in plan.memory))
    table.add_row("fits", *("yes" if memory.fits else "[red]no[/red]" for memory in plan.memory))
    rows = [memory.vllm_rows for memory in plan.memory]
    if any(row is not None for row in rows):
        table.add_row("full rows in vLLM's cache", *("" if row is None else f"{row:.1f}" for row in rows))
    return table


def _parts(memory: MemoryPlan) -> dict[str, float]:
    """The parts under the name of their phase, where a phase has any of its own."""
    if not memory.rollout:
        return {**memory.states, **memory.update}
    update = {f"update: {name}": size for name, size in memory.update.items()}
    return {**memory.states, **update, **{f"rollout: {name}": size for name, size in memory.rollout.items()}}


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / GIB:.1f}"
