"""``phonosmith replay``: published structures that foundations were trained on, and samples of such files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phonosmith.cli.common import DATA, JSON, SEED, answer, app, command, listed, required_seed
from phonosmith.core.progress import progress_bar

replay_app = typer.Typer(
    help="Structures foundations were trained on, for strategies that replay.", no_args_is_help=True
)
app.add_typer(replay_app, name="replay", rich_help_panel=DATA)


@command("fetch", group=replay_app)
def fetch_command(
    source: Annotated[str, typer.Argument(help="mptrj, matpes-pbe, matpes-r2scan, omat, or an address (https://…).")],
    out: Annotated[Path, typer.Option(help="Extended XYZ file to write.")],
    sha256: Annotated[str, typer.Option(help="Digest the file must have; its digest is printed in any case.")] = "",
    json_output: bool = JSON,
) -> None:
    """Download replay structures; nothing is written unless all of it came and is what it was to be.

    Example: phonosmith replay fetch mptrj --out mptrj.xyz, then phonosmith replay sample mptrj.xyz --out few.xyz
    """
    from phonosmith.flows.replay_files import fetch_replay

    with progress_bar("fetch", None) as move:
        found = fetch_replay(source, out, sha256=sha256, on_bytes=lambda done, total: move(done, total, "bytes"))
    words = f"Wrote {found.file}: {found.size / 1e6:.1f} MB from {found.url}, sha256 {found.sha256}."
    answer(found, lambda: typer.echo(words), json_output=json_output)


@command("sample", group=replay_app, formerly={"size": "n-frames"})
def sample_command(
    file: Annotated[Path, typer.Argument(help="Labelled structures (extended XYZ), of any size.")],
    out: Annotated[Path, typer.Option(help="File for the sample.")],
    n_frames: Annotated[int, typer.Option(min=1, help="Structures to draw.")] = 100,
    elements: Annotated[str, typer.Option(help="Only structures of these elements, as in Si,O.")] = "",
    seed: int = SEED,
    json_output: bool = JSON,
) -> None:
    """Draw structures at random from a file that may be too large to be read as a whole; labels are kept.

    Example: phonosmith replay sample mptrj.xyz --n-frames 100 --out few.xyz
    """
    from phonosmith.flows.replay_files import sample_replay
    from phonosmith.structures.extxyz import require_writable, write_frames

    require_writable(out)
    wanted = listed("elements", [elements]) if elements else []
    frames, found = sample_replay(file, size=n_frames, elements=wanted, seed=required_seed(seed))
    write_frames(out, frames)
    result = {"file": str(out), "n_frames": len(frames), "n_found": found}
    words = f"Wrote {out}: {len(frames)} of {found} structures."
    answer(result, lambda: typer.echo(words), json_output=json_output)
