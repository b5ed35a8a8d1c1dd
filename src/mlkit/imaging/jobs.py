"""Which images a call is to work on, and in which folders its results go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mlkit.errors import DataError, MlkitError, listing
from mlkit.imaging.inputs import INPUT_SUFFIXES, inputs


def placed(
    given: Sequence[str], out: Path, is_result: Callable[[str], bool], suffixes: Sequence[str] = INPUT_SUFFIXES
) -> list[tuple[Path, Path]]:
    """Return (image, folder of its results) for what was given; a folder's structure is kept below `out`.

    Args:
        given: images, folders and glob patterns.
        out: folder for the results; what lies in it is no input, unless it is named itself.
        is_result: tells from a name without suffix that an earlier call made the file.
        suffixes: of the images that folders and patterns stand for.

    Raises:
        DataError: when nothing is found.
    """
    named = {Path(item) for item in given}
    folders = [path for path in named if path.is_dir()]
    found = inputs(given, suffixes)
    # Results of an earlier call into a folder of images are no images.
    found = [path for path in found if path in named or not (is_result(path.stem) or _lies_in(path, out, folders))]
    if not found:
        raise DataError(f"{listing(list(given))} holds only results of earlier calls; give images")
    return [(path, out / _place(path, folders)) for path in found]


def refuse_equal_names(targets: Iterable[tuple[Path, Sequence[Path]]]) -> None:
    """Refuse (image, its results) that would write over one another.

    Raises:
        MlkitError: when two images would become one file.
    """
    first: dict[Path, Path] = {}
    for path, made in targets:
        for target in made:
            twin = first.setdefault(target, path)
            if twin != path:
                raise MlkitError(f"{twin} and {path} would both become {target}; give each its own --out")


def _lies_in(path: Path, out: Path, folders: Sequence[Path]) -> bool:
    """Return whether an image lies in `out`, where that is a folder within the given ones."""
    place = out.absolute()
    inside = any(folder.absolute() in place.parents for folder in folders if folder in path.parents)
    return inside and place in path.absolute().parents


def _place(path: Path, folders: Sequence[Path]) -> Path:
    """Return the folder of an image below the given folder that it was found in; the current one for single files."""
    above = [folder for folder in folders if folder in path.parents]
    return path.parent.relative_to(min(above, key=lambda folder: len(folder.parts))) if above else Path()
