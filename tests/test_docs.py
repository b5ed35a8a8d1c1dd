"""The documentation is true: pages are current, links lead somewhere, commands parse, code on a page really runs."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
WALKTHROUGH = DOCS / "add-a-task.md"  # its commands belong to a task that only this page has; they are run below


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fenced(text: str, *languages: str) -> Iterator[str]:
    """Yield the fenced blocks of a page that are in one of the languages."""
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M):
        if language in languages:
            yield body


def prose(path: Path) -> str:
    """Return a page without its code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "code", text)


def shell_lines(text: str) -> list[str]:
    """Return the commands of the shell blocks of a page, continued lines joined, without prompts."""
    joined = "\n".join(fenced(text, "sh", "bash", "console")).replace("\\\n", " ")
    return [line.strip().removeprefix("$ ") for line in joined.splitlines() if line.strip()]


def run(arguments: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder with a cache and settings of its own; fail with what it said."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLKIT_")}
    own = {"OMP_NUM_THREADS": "1", "MLKIT_CACHE_DIR": str(folder / "cache"), "COLUMNS": "100"}
    done = subprocess.run(
        arguments, cwd=folder, env=kept | own | env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


# ---- generated pages ------------------------------------------------------------------------------------------


def module_at(path: Path) -> ModuleType:
    """Return a file that is no part of a package as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return module_at(DOCS / "generate.py")


def test_the_generated_pages_are_current() -> None:
    run([sys.executable, str(DOCS / "generate.py"), "--check"], ROOT)


def test_a_stale_page_is_named_and_exits_with_1(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "pages", lambda: {DOCS / "cli.md": "another text"})
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    before = (DOCS / "cli.md").read_bytes()
    assert generate.main() == 1
    assert capsys.readouterr().err == "docs/cli.md is stale; run: python docs/generate.py\n"
    assert (DOCS / "cli.md").read_bytes() == before


def test_the_page_of_commands_has_every_option_of_every_command(generate: ModuleType) -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}
    for name in ("train", "resume", "eval grid", "infer sar", "dataset build sar", "compare"):
        words = [sys.executable, "-m", "mlkit", *name.split(), "--help"]
        help_text = run(words, ROOT, COLUMNS="200", NO_COLOR="1").stdout
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", help_text.split("Options", 1)[1])) - {"--help"}
        assert options
        missing = {option for option in options if f"`{option}`" not in sections[f"mlkit {name}"]}
        assert not missing, f"{name}: {missing}"


def test_figures_of_a_benchmark_reach_their_page(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = tmp_path / "bench"
    (bench / "results").mkdir(parents=True)
    for name in ("fast", "slow"):
        (bench / f"{name}.py").write_text(f'"""How {name} it is.\n\n    python bench/{name}.py\n"""\n')
    result = {
        "bench": "fast",
        "command": "python bench/fast.py",
        "commit": "0123456789abcdef",
        "date": "2026-11-21",
        "machine": "two cores",
        "figures": {"ratio to a bare loop": {"value": 0.98765, "unit": "x", "goal": ">= 0.98"}},
    }
    (bench / "results" / "fast.json").write_text(json.dumps(result))
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    block = generate.benchmarks_block()
    assert "| ratio to a bare loop | 0.9877 x | >= 0.98 |" in block
    assert "`python bench/fast.py`, commit `0123456789ab`, 2026-11-21, two cores" in block
    assert block.count("not measured yet") == 1 and block.index("### slow") < block.index("not measured yet")


def test_a_comparison_reaches_the_page_of_its_task(generate: ModuleType, tmp_path: Path) -> None:
    assert "Not measured yet" in generate.comparison_block(tmp_path)
    means = {"psnr": 20.123, "ssim": 0.6456, "enl_ratio": 1.5, "epi": 0.25}
    facts = {"values_ratio": 16.0, "bits_per_px": 2.0}
    first = {"name": "a", "step": 1000, "parameters": 2_257_809, "facts": facts, "means": means, "criteria": []}
    criterion = {"metric": "psnr", "sentence": "PSNR >= baseline + 1.5 dB", "passed": False, "value": 0.5, "reason": ""}
    gain = {"mean": 0.5, "low": 0.4, "high": 0.6, "verdict": "better"}
    content = {
        "metrics": list(means),
        "num_images": 40,
        "split": "validation",
        "dataset_label": "simulated",
        "dataset_sha256": "f" * 64,
        "notes": ["b: a note"],
        "rows": [
            first | {"improvement_over_first": {}},
            first | {"name": "b", "improvement_over_first": {"psnr": gain}, "criteria": [criterion]},
        ],
    }
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    block = generate.comparison_block(tmp_path)
    assert "| a | 2.26 M | 20.12 | 0.6456 | 1.50 | 0.250 | 1/16 | 2.00 | - | - |" in block
    assert "| b | 2.26 M | 20.12 | 0.6456 | 1.50 | 0.250 | 1/16 | 2.00 | +0.50 [+0.40, +0.60] dB | better |" in block
    assert "| b | PSNR >= baseline + 1.5 dB | fail | 0.50 dB |" in block
    assert "40 validation images, simulated data, data set `ffffffffffff`, steps: a 1,000, b 1,000." in block


# ---- links and commands ---------------------------------------------------------------------------------------


def slugs(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        found.add(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_link_and_picture_leads_somewhere(path: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        if not place.exists() or (anchor and anchor not in slugs(place)):
            dead.append(target)
    assert not dead


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    listed = {(DOCS / name).resolve() for name in re.findall(r"\]\(([^)#\s]+)\)", index)}
    unlisted = [page for page in DOCS.rglob("*.md") if page not in listed and "experiments" not in page.parts]
    assert unlisted == [DOCS / "README.md"]


def documented_commands() -> list[tuple[str, str]]:
    found = []
    for path in PAGES:
        if path == WALKTHROUGH:
            continue
        lines = shell_lines(path.read_text(encoding="utf-8"))
        lines += re.findall(r"`(mlkit [^`\n]+)`", path.read_text(encoding="utf-8"))
        for line in lines:
            command = re.sub(r"^(?:\w+=\S+ +)*(?:accelerate launch .*?-m +|python -m +)?(?=mlkit )", "", line)
            placeholder = re.search(r"\.\.\.|\b[A-Z]{3,}\b|\|", re.sub(r"\s#.*", "", command))
            if command.startswith("mlkit ") and not placeholder:
                found.append((page_name(path), command))
    return found


def test_there_are_commands_to_read() -> None:
    pages = {page for page, _ in documented_commands()}
    assert {"README.md", "docs/quickstart.md", "docs/cli.md", "docs/tasks/sar.md"} <= pages


@pytest.mark.parametrize(("page", "line"), documented_commands())
def test_every_command_in_the_docs_is_one_that_mlkit_takes(page: str, line: str) -> None:
    import typer

    from mlkit.cli import app
    from mlkit.preset_files import chain_of, list_presets
    from mlkit.presets import resolve_preset

    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="mlkit")
    words = shlex.split(line, comments=True)[1:]
    whole = len(words)
    while words and hasattr(command, "list_commands") and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"{page}: there is no '{name}' in: {line}"
    if not words or words in (["--help"], ["--version"], ["--install-completion"]) or len(words) == whole:
        return  # a group or command that is only named
    try:
        found = command.make_context("mlkit", list(words))
    except Exception as error:
        raise AssertionError(f"{page}: {line}: {error}") from error
    preset = found.params.get("preset")
    if preset in list_presets():
        chain = chain_of(preset)
        for one in chain.links if chain else (preset,):
            resolve_preset(one, assignments=found.params.get("assign") or ())
    else:
        assert preset is None or preset.endswith(".toml"), f"{page}: no preset '{preset}'"


def test_the_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.M))
    assert {"demo", "test"} <= named <= targets


# ---- pages against the code -----------------------------------------------------------------------------------


def test_the_sentences_in_troubleshooting_are_those_of_mlkit() -> None:
    constants = [
        node.value
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    headings = re.findall(r"^### (`.*)$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    quoted = [sentence for heading in headings for sentence in re.findall(r"`([^`]+)`", heading)]
    assert len(quoted) > 20
    assert [sentence for sentence in quoted if not any(sentence in text for text in constants)] == []


def test_the_exit_codes_of_the_page_are_those_of_the_errors() -> None:
    from mlkit import errors

    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text.split("## Exit codes")[1], re.M)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MlkitError)]
    assert listed == {kind.exit_code for kind in kinds} | {0, 1, 130}


def test_the_layers_of_the_page_are_those_that_are_tested() -> None:
    # "tasks.sar" stands for all tasks on the page
    layers = [
        {name for name in layer if not name.startswith("tasks.") or name == "tasks.sar"}
        for layer in module_at(ROOT / "tests" / "test_layers.py").LAYERS
    ]
    section = (DOCS / "architecture.md").read_text(encoding="utf-8").split("## Layers")[1]
    drawn = [set(re.split(r"  +", line)[0].split(", ")) for line in next(fenced(section, "text")).splitlines()]
    assert drawn == layers[::-1]


def test_the_parameter_counts_of_the_sar_page_are_those_of_the_models() -> None:
    from mlkit.tasks.sar.model import RECEPTIVE_RADIUS_PX, build_autoencoder

    text = (DOCS / "tasks" / "sar.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| .* \| ([\d,]+) \| (\d+) px \|$", text, re.M)
    assert len(rows) == 3
    for arch, width, count, radius in rows:
        model = build_autoencoder(arch, int(width), 16)
        assert sum(value.numel() for value in model.parameters()) == int(count.replace(",", ""))
        assert RECEPTIVE_RADIUS_PX[arch] == int(radius)


# ---- code on the pages ----------------------------------------------------------------------------------------


def section(title: str) -> str:
    """Return a section of the walkthrough."""
    return WALKTHROUGH.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the quickstart's run `first`, cut to three updates and with averaged weights."""
    folder = tmp_path_factory.mktemp("trained")
    mlkit = [sys.executable, "-m", "mlkit"]
    run([*mlkit, *shlex.split("dataset build sar --out data/sample")], folder)
    small = "--max-steps 3 --precision fp32 --set train.channels_last=false --set train.ema_decay=0.5"
    train = f"train --preset sar_tiny --data data/sample --name first {small} --set eval.max_samples=4 --quick-test"
    (snippet,) = fenced(section("Without a task"), "python")
    (folder / "mine.py").write_text(snippet, encoding="utf-8")
    scorer = """ --set 'eval.scorer="mine:edge_error"'"""
    run([*mlkit, *shlex.split(train + scorer)], folder, PYTHONPATH=str(folder))
    return folder


def test_the_scorer_of_the_page_gives_a_value_an_image(trained: Path) -> None:
    report = json.loads((trained / "runs" / "first" / "ckpt-3" / "eval.json").read_text(encoding="utf-8"))
    values = report["scores"]["edge_error"]
    assert len(values) == len(report["ids"]) and all(0 < value < 1 for value in values)


def test_the_tally_of_the_page_is_one_and_counts_as_it_says() -> None:
    import torch

    from mlkit.task import Tallies

    (snippet,) = fenced(section("What a task may add"), "python")
    namespace: dict[str, Any] = {}
    exec(snippet, namespace)
    task = type("Task", (), {"tally": namespace["tally"]})()
    assert isinstance(task, Tallies)
    counted = task.tally()
    for noisy in (torch.zeros(3, 1, 2, 2), torch.full((1, 1, 2, 2), 0.08)):
        counted.add({}, {"noisy": noisy})
    assert counted.scores() == {"mean_noisy": pytest.approx(0.02)}
    assert counted.warnings() == ["dark: the mean is 0.020 of 1"]


def test_the_weights_load_in_plain_torch_as_the_page_says(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mlkit.commands.opened import open_model

    monkeypatch.chdir(trained)
    (code,) = fenced((DOCS / "checkpoint-format.md").read_text(encoding="utf-8"), "python")
    assert "mlkit" not in code
    names: dict[str, Any] = {}
    exec(compile(code, "checkpoint-format.md", "exec"), names)
    own = open_model(trained / "runs" / "first" / "ckpt-3", torch.device("cpu"))
    assert (trained / "runs" / "first" / "ckpt-3" / "ema.safetensors").is_file()
    torch.testing.assert_close(names["made"], own.net(names["unit"]), rtol=0, atol=0)


def test_the_checkpoint_page_names_every_file_and_key(trained: Path) -> None:
    checkpoint = trained / "runs" / "first" / "ckpt-3"
    text = (DOCS / "checkpoint-format.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`\n]+)`", text))
    files = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    keys = {
        key
        for name in ("checkpoint.json", "training_state.json", "eval.json")
        for key in json.loads((checkpoint / name).read_text(encoding="utf-8"))
    }
    assert "ema.safetensors" in files and len(keys) > 20
    assert (files | keys) - named == set()


def test_the_architecture_page_names_every_file_of_a_run(trained: Path) -> None:
    drawn = (DOCS / "architecture.md").read_text(encoding="utf-8").split("## On disk")[1]
    for path in (trained / "runs" / "first").iterdir():
        assert re.sub(r"\d+", "<step>", path.name) in drawn


def test_the_sixth_task_of_the_walkthrough_trains_resumes_and_infers(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    text = WALKTHROUGH.read_text(encoding="utf-8")
    shutil.copytree(ROOT / "src" / "mlkit", tmp_path / "src" / "mlkit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    written = []
    for block in fenced(text.split("## Without a task")[0], "python", "toml"):
        head, body = block.split("\n", 1)
        place = tmp_path / head.removeprefix("# ")
        if place.name == "__init__.py":  # the one line that changes
            old = place.read_text(encoding="utf-8")
            body, changes = re.subn(r"^TASKS = .*$", body.strip(), old, flags=re.M)
            assert changes == 1
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(body, encoding="utf-8")
        written.append(place.name)
    assert written == ["__init__.py", "settings.py", "dataset.py", "task.py", "cli.py", "denoise_tiny.toml"]
    (tmp_path / "src" / "mlkit" / "tasks" / "denoise" / "__init__.py").touch()
    noise = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noisy.png")

    lines = shell_lines(text.split("## 7. Run it")[1].split("## 8.")[0])
    assert [line.split()[1] for line in lines] == ["train", "resume", "eval", "infer"]
    # One process for all of them: torch is imported once.
    driver = "import sys, json\nfrom mlkit.cli import app\n"
    driver += "for words in json.loads(sys.argv[1]):\n    app(words, prog_name='mlkit', standalone_mode=False)\n"
    run(
        [sys.executable, "-c", driver, json.dumps([shlex.split(line)[1:] for line in lines])],
        tmp_path,
        PYTHONPATH=str(tmp_path / "src"),
    )
    made = tmp_path / "runs" / "denoise_tiny"
    info = json.loads((made / "ckpt-6" / "checkpoint.json").read_text(encoding="utf-8"))
    assert info["task"] == "denoise" and info["step"] == 6 and info["scores"]["psnr"] > 10
    assert list(made.glob("ckpt-*/grid.png"))
    with Image.open(tmp_path / "cleaned" / "noisy.png") as cleaned:
        assert cleaned.size == (56, 40)
