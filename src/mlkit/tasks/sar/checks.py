"""What a rehearsal checks of a SAR dataset: that scenes lie within the dB range, and are not twice in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mlkit.data.checking import DataChecks, Limit
from mlkit.data.duplicates import Picture, picture_of
from mlkit.data.manifest import DatasetManifest
from mlkit.data.store import Store, open_array, values_path
from mlkit.files import sha256_json
from mlkit.tasks.sar.source import SCENES

_MOST_OUTSIDE = 0.5  # share of a scene's pixels; percentiles of all scenes leave about 0.01 outside
_LOOKED_AT = 512  # rows and columns of a scene


def data_checks(data: DatasetManifest) -> DataChecks:
    """Return the checks of a dataset of patches."""
    store = Store(data.folder, SCENES)
    scenes = data.details["scenes"]
    low, high = float(data.preprocessing["db_min"]), float(data.preprocessing["db_max"])

    def place(number: int) -> str:
        return f"{values_path(data.folder, SCENES)}: scene {scenes[number]['name']}"

    def contents(limit: Limit) -> Iterator[str]:
        for number in limit.spread(len(scenes)):
            db = _part(store, number)
            known = db[np.isfinite(db)]
            outside = float(((known < low) | (known > high)).mean()) if known.size else 1.0
            if not known.size:
                yield f"{place(number)} has no value that is not masked; leave the file out and build again"
            elif outside > _MOST_OUTSIDE:
                yield (
                    f"{place(number)} has another scale: {100 * outside:.0f} % of it lies outside {low:.1f} to "
                    f"{high:.1f} dB, its median is {float(np.median(known)):.1f}; build it with the right --kind"
                )

    def pictures(limit: Limit) -> Iterator[Picture]:
        used: dict[str, set[int]] = {}
        for part in ("train", "validation"):
            table = open_array(data.folder / f"{part}.npy", "patch table")
            used[part] = {row[0] for row in table.tolist()}  # scene, y, x, ...
        for number in limit.spread(len(scenes)):
            # Scenes with equal areas for validation may show one place, such as two dates; a mirrored one may not.
            origin = sha256_json([scenes[number][key] for key in ("height", "width", "validation_areas")])
            for part in used:
                if number in used[part]:
                    yield picture_of(part, place(number), _part(store, number), origin)

    def where(part: str, sample_id: str) -> str:
        return f"{values_path(data.folder, SCENES)}: {part} patch {sample_id}"

    return DataChecks(contents=contents, where=where, pictures=pictures)


def _part(store: Store, number: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return about 512 x 512 pixels spread over a scene, in dB."""
    height, width = store.shape(number)
    values = store[number][:: max(1, height // _LOOKED_AT), :: max(1, width // _LOOKED_AT)]
    return np.asarray(values, np.float32)
