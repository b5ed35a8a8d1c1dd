"""What a user names on the command line as a list of image files."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from mlkit.errors import DataError, did_you_mean
from mlkit.imaging.images import IMAGE_SUFFIXES, list_images

INPUT_SUFFIXES = (".bmp", *IMAGE_SUFFIXES)


def inputs(paths: Sequence[str], suffixes: Sequence[str] = INPUT_SUFFIXES) -> list[Path]:
    """Return the images that files, folders and glob patterns stand for, in the given order, each once.

    A folder stands for the images in it and below it, by path; a pattern (with ** for folders at any depth) for the
    images and folders that match it. A file that is named itself counts whatever its suffix. Hidden files do not.

    Args:
        paths: as given, so that names with brackets or spaces work; "~" is the home folder.
        suffixes: of the images that folders and patterns stand for; in lower case, with the dot.

    Raises:
        DataError: naming every path that does not exist, and every folder and pattern without images.
    """
    found: dict[Path, Path] = {}
    problems: list[str] = []
    for item in paths:
        try:
            for path in _images_of(item, suffixes):
                found.setdefault(path.resolve(), path)
        except DataError as error:
            problems += error.problems
    if not paths:
        problems.append("no images were given; give files, folders or patterns such as 'photos/*.png'")
    if problems:
        raise DataError(*dict.fromkeys(problems))
    return list(found.values())


def _images_of(item: str, suffixes: Sequence[str]) -> list[Path]:
    path = Path(item).expanduser()
    try:
        if item and path.is_dir():  # without a name it would be the current folder
            return list_images(path, suffixes)
        if item and path.exists():
            return [path]
    except (OSError, ValueError) as error:  # a name that is too long, or no name
        raise DataError(f"'{item}' is no path: {getattr(error, 'strerror', None) or error}") from error
    if glob.has_magic(item):
        images = []
        for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
            matched = Path(match)
            if matched.is_file() and matched.suffix.lower() in suffixes:
                images.append(matched)
            elif matched.is_dir() and "**" not in item:
                images += sorted(image for image in matched.rglob("*") if _counts(image, matched, suffixes))
        if images:
            return images
        raise DataError(f"no images match '{item}'; files that count end in {', '.join(suffixes)}")
    near = ""
    if item and path.parent.is_dir():
        near = did_you_mean(path.name, [other.name for other in path.parent.iterdir()])
    raise DataError(f"image '{item}' does not exist{near}; give files, folders or patterns such as 'photos/*.png'")


def _counts(image: Path, folder: Path, suffixes: Sequence[str]) -> bool:
    hidden = any(part.startswith(".") for part in image.relative_to(folder).parts)
    return image.suffix.lower() in suffixes and not hidden and image.is_file()
