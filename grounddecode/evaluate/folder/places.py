"""Where the data of a run are today: run folders and data folders are moved, and commands run from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from grounddecode.evaluate.folder.run_file import RunFile
from grounddecode.evaluate.sample import LAB_DATA


def data_folder(run_folder: Path | str, run: RunFile, moved: Path | None = None) -> Path | None:
    """The folder of a run's data: where it is seen from the run folder, else where it was given; None for the lab.

    `moved`: where somebody says that it is.
    """
    if run["data"] == LAB_DATA:
        return None
    if moved is not None:
        return moved
    given = Path(run["data"])
    place = next((place for place in _places(Path(run_folder), run) if place.is_dir()), given)
    return given if given.is_dir() and place.samefile(given) else place


def picture_file(image: str, run_folder: Path | str, run: RunFile) -> Path | None:
    """The file of a stored picture, or None where it is not there any more. Older folders name it in full."""
    roots = [*_places(Path(run_folder), run), Path(), Path(run_folder)]
    return next((root / image for root in roots if (root / image).is_file()), None)


def _places(run_folder: Path, run: RunFile) -> Iterator[Path]:
    if "data_beside" in run:
        yield run_folder / run["data_beside"]
    if run["data"] != LAB_DATA:
        yield Path(run["data"])
