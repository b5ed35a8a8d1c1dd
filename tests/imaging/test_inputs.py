"""What a user names becomes a list of image files, each once, and every mistake is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlkit.errors import DataError
from mlkit.imaging.inputs import inputs


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.tif", "sub/deep/d.webp", "sub/e.bmp", "notes.txt", ".hidden.png",
                 ".cache/x.png", "sub/.partial-y.png", "with [1] brackets.png", "Ö 写真.png", "odd.data"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(given: list[str]) -> list[str]:
    return [path.as_posix() for path in inputs(given)]


def test_files_folders_and_patterns(photos: Path) -> None:
    assert names(["b.png"]) == ["b.png"]
    assert names(["odd.data"]) == ["odd.data"]  # named, so it counts
    assert names(["sub"]) == ["sub/c.tif", "sub/deep/d.webp", "sub/e.bmp"]
    assert names(["s*"]) == ["sub/c.tif", "sub/deep/d.webp", "sub/e.bmp"]
    assert names(["*.[pJ]*"]) == ["a.JPG", "b.png", "with [1] brackets.png", "Ö 写真.png"]
    assert names(["**/*.[tw]*"]) == ["sub/c.tif", "sub/deep/d.webp"]
    assert names(["with [1] brackets.png", "Ö 写真.png"]) == ["with [1] brackets.png", "Ö 写真.png"]
    everything = ["Ö 写真.png", "a.JPG", "b.png", "sub/c.tif", "sub/deep/d.webp", "sub/e.bmp", "with [1] brackets.png"]
    assert sorted(names(["."])) == sorted(names(["**"])) == sorted(everything)


def test_the_order_is_as_given_and_each_comes_once_however_it_is_named(photos: Path) -> None:
    (photos / "link.png").symlink_to(photos / "b.png")
    assert names(["sub/e.bmp", "sub", "./b.png", "link.png", str(photos / "b.png"), "a*", "sub/../a.JPG"]) == [
        "sub/e.bmp", "sub/c.tif", "sub/deep/d.webp", "b.png", "a.JPG",
    ]  # fmt: skip


def test_the_home_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos))
    monkeypatch.setenv("USERPROFILE", str(photos))
    assert inputs(["~/b.png", "~/sub/c.*"]) == [photos / "b.png", photos / "sub" / "c.tif"]


def test_all_mistakes_are_told_at_once_with_what_would_work(photos: Path) -> None:
    (photos / "broken.png").symlink_to(photos / "gone.png")
    with pytest.raises(DataError) as caught:
        inputs(["b.pgn", "b.png", "*.gif", "empty", "nowhere/x.png", "broken.png", "", "x" * 400])
    told = caught.value.problems
    assert len(told) == 7
    assert told[0] == (
        "image 'b.pgn' does not exist (did you mean 'b.png'?); give files, folders or patterns such as 'photos/*.png'"
    )
    assert told[1].startswith("no images match '*.gif'; files that count end in .bmp, .jpeg, .jpg, .png, .tif")
    assert told[2].startswith("no images in empty; files that count end in .bmp, ")
    assert told[3].startswith("image 'nowhere/x.png' does not exist; give")
    assert told[4].startswith("image 'broken.png' does not exist")
    assert told[5].startswith("image '' does not exist") and told[6].startswith(f"'{'x' * 400}' is no path: File name")


def test_nothing_given(photos: Path) -> None:
    with pytest.raises(DataError, match="no images were given"):
        inputs([])
