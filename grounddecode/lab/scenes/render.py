"""Scenes to look at: single pictures and a contact sheet with the objects' names."""

from pathlib import Path

from PIL import Image, ImageDraw

from grounddecode.lab.dataset import file_name
from grounddecode.lab.world import Scene, scenes

_ZOOM, _COLUMNS, _LINE = 3, 4, 12


def render(n: int, out: Path, split: str = "evaluation") -> list[Path]:
    """Write the first `n` scenes of a split and `sheet.png` into `out`; returns the paths, the sheet first."""
    if n < 1:
        raise ValueError(f"The number of scenes was {n}; give one or more.")
    drawn = scenes(split, n)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "sheet.png"]
    contact_sheet(drawn).save(paths[0])
    for scene in drawn:
        paths.append(out / file_name(scene))
        scene.image.save(paths[-1])
    return paths


def contact_sheet(drawn: list[Scene]) -> Image.Image:
    """All scenes at three times their size with their objects in words; faint ones carry a question mark."""
    columns = min(_COLUMNS, len(drawn))
    side = drawn[0].image.width * _ZOOM
    tile, height = side + 8, side + 4 * _LINE + 8
    sheet = Image.new("RGB", (columns * tile, -(-len(drawn) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, scene in enumerate(drawn):
        x, y = index % columns * tile, index // columns * height
        sheet.paste(scene.image.resize((side, side), Image.Resampling.NEAREST), (x, y))
        names = [t.category + ("?" if t.salience < 45 else "") for t in scene.objects]
        lines = [f"{scene.scene}:", *(", ".join(names[i : i + 3]) for i in range(0, len(names), 3))]
        for row, line in enumerate(lines):
            pen.text((x + 2, y + side + 2 + row * _LINE), line, fill="black")
    return sheet
