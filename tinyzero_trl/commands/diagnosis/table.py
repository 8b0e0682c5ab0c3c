"""The findings on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tinyzero_trl.commands.diagnosis import Finding
from tinyzero_trl.runs.environment import describe_environment


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print versions and devices, what works, and the commands that fix the rest."""
    environment = describe_environment()
    versions = "  ".join(f"{name} {found}" for name, found in environment["versions"].items())
    console.print(f"Python {environment['python']}  {versions}")
    console.print(f"{environment['platform']}, {environment['cpu_count']} CPUs, {escape(_devices())}\n")
    table = Table("", "works", "version", "checked, or why not", box=None)
    for found in findings:
        works = "[green]yes[/green]" if found.works else "[red]no[/red]"
        table.add_row(found.check.name, works, found.version or "", escape(found.detail))
    console.print(table)
    failed = [found for found in findings if not found.works]
    console.print("\nWhat fixes the rest:" if failed else "\nEverything works.")
    for found in failed:
        console.print(f"  {found.check.name}: {escape(found.fix or '')}", soft_wrap=True)


def _devices() -> str:
    """The GPUs with their memory; asking them must not end the report."""
    try:
        import torch

        cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in cards) or "no GPU"
    except Exception as error:
        return f"GPUs unknown ({type(error).__name__}: {error})"
