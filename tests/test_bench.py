"""Every measurement of bench/ runs at a tiny size; no time is judged here."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"

# A line of each table or figure that a reader looks for; numbers follow.
RATIOS = {
    "startup": (r"mlkit --help over the stub: [\d.]+ x", r"mlkit train --help +\d+ ms +\d+ ms +[\d.]+ \("),
    "runs": (r"mlkit runs list, 20 runs: [\d.]+ s", r"mlkit presets list +\d+ ms +\d+ ms +[\d.]+ \("),
    "compare": (r"mlkit over scipy: [\d.]+ \(", r"two runs of 100 images, 6 metrics, 10,000 resamples: [\d.]+ s"),
    "report": (r"3 images of 64x64 in [\d.]+ MB", r"writing it: [\d.]+ s"),
    "step": (r"step over a bare one, 32 px, fp32: [\d.]+ x", r"32 px, fp32 .* [\d.]+ \([\d.]+ to [\d.]+\)$"),
    "ftd_step": (r"FTD step over a bare one: [\d.]+ x", r"ftd_tiny +[\d.]+ ms +[\d.]+ ms +[\d.]+ \("),
    "precision": (r"bf16 channels-last over fp32: [\d.]+ x", r"PSNR lost by it: [\d.e-]+ dB", r"the CPU names: \w+"),
    "crops": (r"slice over decoding a PNG of 1024x1536: [\d.]+ x", r"sample over a PNG of a crop: [\d.]+ x"),
    "ssim": (r"time over scikit-image's: [\d.]+ x", r"difference of the values: [\d.e-]+"),
    "order": (r"first batch of 1,000,000 samples: [\d.]+ ms", r"start of train, .* over .*: [\d.]+ x"),
    "checkpoint_cost": (r"share of training time, one every 500 steps: [\d.e-]+", r"saving +[\d.]+ s +[\d.]+%"),
    "sr": (r"bicubic, sample, PSNR-Y: [\d.]+ dB", r"bicubic +[\d.]+ +0\.\d+ +[\d.]+", r"bicubic, time: [\d.]+ s/MP"),
    "demosaic": (
        r"LibRaw 3-pass +[\d.]+ +[\d.]+ +0\.\d+",
        r"LibRaw 3-pass, sample, srgb, cPSNR: [\d.]+ dB",
        r"mlkit, planes only, time: [\d.]+ s/MP",
    ),
    "lens": (
        r"no correction, scenes, EPE: [\d.]+ px",
        r"true profile +0\.00 +0\.00",
        r"mlkit over OpenCV, float: [\d.]+ x",
    ),
    "bvae": (
        r"nearest training grid +0\.\d+ \(0\.\d+ to 0\.\d+\)",
        r"ratio of errors, over PCA of 4x4 cells: [\d.]+ x",
        r"active latent dimensions, smallest share of a run: [\d.]+",
    ),
    "sar_codec": (
        r"smoke +0\.5 bit/px +[\d,]+ B +[\d.]+ +[\d,]+ B +[\d.]+ +[+-]",
        r"first bar: gain over JPEG 2000 at 0\.5 bit/px: ",
        r"by Brotli over the range coder: [\d.]+ x",
    ),
    "demo": (r"the demo, after the installation: [\d.]+ min",),
}
WITH_DATA = ("step", "precision", "crops", "checkpoint_cost")


@pytest.fixture(scope="session")
def sar_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SAR dataset of noise: what is measured here does not depend on what the images show."""
    from mlkit.tasks.sar.dataset import build_dataset
    from mlkit.tasks.sar.settings import SarBuild

    folder = tmp_path_factory.mktemp("bench")
    (folder / "scenes").mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        np.save(folder / "scenes" / f"{number}.npy", rng.normal(-10, 3, (256, 256)).astype(np.float32))
    build = SarBuild(kind="db", patch=64, stride=64, block=64, guard=0)
    build_dataset([folder / "scenes"], folder / "data", build=build)
    return folder / "data"


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, str(BENCH / f"{script}.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=180, check=False)


def test_every_script_is_tested_and_described() -> None:
    scripts = {path.stem for path in BENCH.glob("*.py") if not path.stem.startswith("_")}
    assert scripts == set(RATIOS)
    described = (BENCH / "README.md").read_text(encoding="utf-8")
    made = re.search(r"^BENCHES := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert made
    assert set(made[1].split()) == scripts
    assert all(f"`{script}.py`" in described for script in scripts)


@pytest.mark.parametrize("script", RATIOS)
def test_smoke_runs_and_prints_its_ratios(script: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    words = ["--smoke", "--json", str(tmp_path / "result.json")]
    if script in WITH_DATA:
        words += ["--data", str(request.getfixturevalue("sar_data"))]
    if script == "demo":
        words += ["--folder", str(tmp_path / "demo")]
    done = run(script, *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for pattern in RATIOS[script]:
        assert re.search(pattern, done.stdout, re.MULTILINE), f"{pattern}\nnot in\n{done.stdout}"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["bench"] == script
    assert result["command"].startswith(f"python bench/{script}.py --smoke --json result.json")
    assert str(tmp_path.parent) not in result["command"]
    assert set(result) == {"bench", "command", "commit", "date", "machine", "figures"}
    assert result["figures"]
    for figure in result["figures"].values():
        assert set(figure) == {"value", "unit", "goal", "reached"}
        assert (figure["goal"] is None) <= (figure["reached"] is None)
    if script == "demo":
        assert_demo_tells_where_its_pictures_are(done.stdout, tmp_path / "demo")


def assert_demo_tells_where_its_pictures_are(shown: str, folder: Path) -> None:
    pictures = re.findall(r"^  (\S+\.png) ", shown, re.MULTILINE)
    assert len(pictures) == 4
    assert all(Path(picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert all(f"\n  {line}" in shown for line in ("mlkit train --preset sar_tiny", "mlkit dataset build sar --source"))
    assert all(Path(picture).is_relative_to(folder) for picture in pictures)


def test_demo_keeps_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = run("demo", "--smoke", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip() == f"{tmp_path} exists and is not from an earlier demo; move it away and try again"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_second_demo_removes_only_what_the_first_made(tmp_path: Path) -> None:
    for name in (".made-by-mlkit-demo", "runs/baseline_c16/run.json", "runs/mine/run.json"):
        path = tmp_path / "demo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    code = (
        "import sys; sys.path.insert(0, 'bench'); from pathlib import Path; from demo import Demo; "
        f"Demo(Path({str(tmp_path / 'demo')!r}), smoke=True).clear()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "removed from the earlier demo" in done.stdout
    assert not (tmp_path / "demo" / "runs" / "baseline_c16").exists()
    assert (tmp_path / "demo" / "runs" / "mine" / "run.json").exists()


def test_demo_passes_on_the_exit_code_of_a_failing_step(tmp_path: Path) -> None:
    (tmp_path / ".made-by-mlkit-demo").touch()
    (tmp_path / "runs").write_text("a file where a folder must go")
    code = (
        "import sys; sys.path.insert(0, 'bench'); from pathlib import Path; from demo import Demo; "
        f"Demo(Path({str(tmp_path)!r}), smoke=True).step('fails', 'compare', 'no', 'runs')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    plain = subprocess.run(
        [sys.executable, "-m", "mlkit", "compare", "no", "runs"],
        env=os.environ | {"MLKIT_RUNS_DIR": str(tmp_path / "runs")},
        capture_output=True,
        check=False,
    )
    assert done.returncode == plain.returncode != 0
    assert f"step 1 failed with exit code {plain.returncode}" in done.stdout


def test_a_photographs_own_lens_and_the_profile_are_undone_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back through the inverses of both, a place is where it was."""
    import torch

    from mlkit.tasks.lens.geometry import frame_of, identity_grid, profile_undistorted, undistorted_points

    monkeypatch.syspath_prepend(str(BENCH))
    from _lens_scores import with_own_lens  # type: ignore[import-not-found]

    own = torch.tensor([[-0.08, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.02]])
    profile, frame = torch.tensor([[1.03, 0.0, -0.05, 0.0, 0.0, 0.0, 0.0]]), torch.tensor([frame_of(200, 300)])
    made = with_own_lens(own, profile, frame, 24)
    back = undistorted_points(own, profile_undistorted(profile, made * frame[:, None, None]))
    torch.testing.assert_close(back.float(), identity_grid(24, 24)[None] * frame[:, None, None], atol=1e-5, rtol=0)


def test_a_recorded_command_has_no_folder_of_this_machine_and_can_be_given_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from _common import _head  # type: ignore[import-not-found]

    script, inside = str(BENCH / "lens.py"), str(BENCH / "results" / "a.json")
    monkeypatch.setattr(
        sys, "argv", [script, "--json", inside, "--checkpoint", "stage 1=/home/me/a,runs/b", "--x=/y/z"]
    )
    expected = ["--json", "bench/results/a.json", "--checkpoint", "stage 1=a,runs/b", "--x=z"]
    assert shlex.split(_head()["command"]) == ["python", "bench/lens.py", *expected]
