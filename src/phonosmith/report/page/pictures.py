"""From figures to embedded pictures; a figure that cannot be drawn costs a sentence, not the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from phonosmith.report.figures.style import save_figure, webp_bytes
from phonosmith.report.page.content import Picture
from phonosmith.report.page.texts import reason_of


class Gallery:
    """Draws figures, embeds them, and keeps SVG and PNG files of them in a folder where one is given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def draw(self, name: str, make: Callable[[], Figure], alt: str, caption: str, dpi: int = 130) -> list[Picture]:
        """Return the picture of a figure, or nothing after noting why it could not be drawn; ``name``: no suffix."""
        try:
            figure = make()
            data = webp_bytes(figure, dpi)
            if self.folder is not None:
                for suffix in (".svg", ".png"):
                    save_figure(figure, self.folder / f"{name}{suffix}")
        except Exception as error:  # noqa: BLE001 - whatever one figure stumbles over, the report goes on and says it
            self.problems.append(f"{caption or name} could not be drawn: {reason_of(error)}")
            return []
        width, height = Image.open(io.BytesIO(data)).size
        source = "data:image/webp;base64," + base64.b64encode(data).decode()
        return [Picture(source, alt, caption, width, height)]
