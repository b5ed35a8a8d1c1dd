"""Inference: reconstructions in the format of their file, samples, walks along the latent, refusals in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit.errors import DataError
from mlkit.tasks.bvae.infer import _most_changing, reconstruct_file, sample_prior, single_grid, traverse
from mlkit.tasks.bvae.model import BetaVae
from mlkit.tasks.bvae.readers import read_grids
from mlkit.tasks.bvae.settings import BvaeModel

PREPARED = {"classes": 10, "side": 10, "background": 0}
TASK = {"train": [{"input": [[0, 1], [2, 3]], "output": [[4] * 10] * 7}], "test": [{"input": [[9]]}]}


def _expected(net: BetaVae, labels: list[list[int]]) -> list[list[int]]:
    """Return the reconstruction, computed on a square that is padded by hand."""
    square = torch.full((1, 10, 10), 10)
    height, width = len(labels), len(labels[0])
    square[0, :height, :width] = torch.tensor(labels)
    with torch.no_grad():
        return net(square)[0].argmax(dim=1)[0, :height, :width].tolist()  # type: ignore[no-any-return]


def test_a_task_is_reconstructed_in_its_own_form(net: BetaVae, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(TASK))
    result = reconstruct_file(net, PREPARED, path, tmp_path / "out")
    made = json.loads((tmp_path / "out" / "t_reconstructed.json").read_text())
    pair = TASK["train"][0]
    assert made["train"][0]["input"] == _expected(net, pair["input"])
    assert made["train"][0]["output"] == _expected(net, pair["output"])
    assert made["test"] == [{"input": _expected(net, [[9]])}]
    read_grids(result.path, 10)  # a result can be given again
    assert result.num_grids == 3 and result.picture.name == "t_compare.png"
    with Image.open(result.picture) as picture:
        assert min(picture.size) > 300
    right = [np.mean(np.array(made) == np.array(given)) for made, given in _pairs(made, TASK)]
    assert result.accuracy == pytest.approx(float(np.mean(right)))
    assert result.majority_share == pytest.approx((0.25 + 0 + 0) / 3)


def _pairs(made: dict, given: dict) -> list[tuple[list, list]]:  # type: ignore[type-arg]
    return [
        (made["train"][0]["input"], given["train"][0]["input"]),
        (made["train"][0]["output"], given["train"][0]["output"]),
        (made["test"][0]["input"], given["test"][0]["input"]),
    ]


@pytest.mark.parametrize(("name", "shape"), [("a.npy", (4, 6)), ("b.npy", (2, 5, 5)), ("c.png", (8, 3))])
def test_arrays_and_images_come_back_as_such(net: BetaVae, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).integers(0, 10, shape).astype(np.uint8)
    if name.endswith(".npy"):
        np.save(tmp_path / name, labels)
    else:
        Image.fromarray(labels).save(tmp_path / name)
    result = reconstruct_file(net, PREPARED, tmp_path / name, tmp_path / "out")
    made = np.load(result.path) if name.endswith(".npy") else np.asarray(Image.open(result.path))
    assert made.shape == shape and made.dtype == np.uint8
    first = labels if labels.ndim == 2 else labels[0]
    assert (made if made.ndim == 2 else made[0]).tolist() == _expected(net, first.tolist())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[[0, 12]]", "{path}, g: class 12 at row 0, column 1 is out of range; with 10 classes labels are 0 to 9"),
        ("[[0, 1], [2]]", "{path}, g: rows differ in length, row 0 has 2 cells and row 1 has 1"),
        ("", "{path} is empty"),
        (json.dumps([[0] * 12] * 2), "{path}, g has 12 x 2 cells; this model takes up to 10 x 10"),
    ],
)
def test_bad_grids_are_refused_in_a_sentence_and_nothing_is_written(
    net: BetaVae, tmp_path: Path, content: str, told: str
) -> None:
    path = tmp_path / "g.json"
    path.write_text(content)
    with pytest.raises(DataError) as raised:
        reconstruct_file(net, PREPARED, path, tmp_path / "out")
    assert raised.value.problems == (told.format(path=path),)
    assert not (tmp_path / "out").exists()


def test_a_result_is_replaced_only_when_that_is_asked_for(net: BetaVae, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text("[[0, 1]]")
    reconstruct_file(net, PREPARED, path, tmp_path / "out")
    with pytest.raises(
        DataError, match=r"g_reconstructed\.json exists; give another --out, or --overwrite to replace it"
    ):
        reconstruct_file(net, PREPARED, path, tmp_path / "out")
    reconstruct_file(net, PREPARED, path, tmp_path / "out", overwrite=True)


def test_samples_are_a_function_of_seed_and_number(net: BetaVae, tmp_path: Path) -> None:
    three, five, other = (
        sample_prior(net, count, tmp_path / f"{count}-{seed}", seed=seed) for count, seed in ((3, 1), (5, 1), (3, 2))
    )
    made = [json.loads(drawn.file.read_text()) for drawn in (three, five, other)]
    assert made[0] == made[1][:3] != made[2]
    assert np.array(made[1]).shape == (5, 10, 10)
    assert five.picture.is_file() and five.num == 5
    assert len(read_grids(five.file, 10)) == 5


def test_a_walk_changes_one_dimension_and_starts_from_the_grid(net: BetaVae, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text("[[0, 1, 5], [2, 3, 5]]")
    grid = single_grid(net, path)
    drawn = traverse(net, grid, tmp_path / "out")
    content = json.loads(drawn.file.read_text())
    assert content["from"] == "g" and len(content["dimensions"]) == drawn.num == 6 and drawn.picture.is_file()
    square = torch.full((1, 10, 10), 10)
    square[0, :2, :3] = torch.tensor([[0, 1, 5], [2, 3, 5]])
    with torch.no_grad():
        z = net.encode(square)[0]
        z[0, 4] = content["values"][1]
        expected = net.decode(z).argmax(dim=1)[0, :2, :3].tolist()
    assert content["dimensions"][4]["grids"][1] == expected
    whole = traverse(net, None, tmp_path / "prior")
    assert np.array(json.loads(whole.file.read_text())["dimensions"][0]["grids"]).shape == (7, 10, 10)


def test_a_walk_through_a_map_shows_each_channel_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = BetaVae(BvaeModel(side=10, layout="map", channels=4, latent=3)).eval()
    drawn = traverse(net, None, tmp_path)
    dimensions = json.loads(drawn.file.read_text())["dimensions"]
    assert len(dimensions) == 3 * 3 * 3  # a side of 10 has 3 sites
    shown = _most_changing(net, [dimension["changed_share"] for dimension in dimensions])
    assert sorted(index // 9 for index in shown) == [0, 1, 2]
    for index in shown:
        channel = dimensions[index // 9 * 9 : index // 9 * 9 + 9]
        assert dimensions[index]["changed_share"] == max(other["changed_share"] for other in channel)
    assert drawn.num == 3
    with Image.open(drawn.picture) as image:
        assert image.height < image.width
