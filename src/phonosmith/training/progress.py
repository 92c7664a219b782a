"""A progress bar on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from phonosmith.training.epochs import EpochRecord
from phonosmith.training.spec import TrainSpec


@contextmanager
def epoch_reporter(spec: TrainSpec, title: str, *, show: bool) -> Iterator[Callable[[EpochRecord], None] | None]:
    """Yield a callback that shows epoch, validation errors and learning rate; None when nothing is to be shown."""
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"train {title}", total=spec.epochs, status="")

        def report(record: EpochRecord) -> None:
            status = (
                f"F {record.valid_mae_forces_mev_per_angstrom:.1f} meV/Å, "
                f"E {record.valid_mae_energy_mev_per_atom:.2f} meV/atom, lr {record.lr:.1e}"
            )
            bar.update(task, completed=record.epoch, status=status)

        yield report
