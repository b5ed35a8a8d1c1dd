"""Write what the pages of docs/ take from the code and from measurements, so that neither can drift.

    python docs/generate.py            write cli.md, metrics.md, settings.md and the marked blocks of other pages
    python docs/generate.py --check    change nothing; exit with 1 and name every file that is stale

A marked block lies between `<!-- generated: NAME -->` and `<!-- end generated -->`; everything else on such a page is
written by hand. Nothing here imports torch.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mlkit.cli import app
from mlkit.commands.keys import type_words
from mlkit.errors import SettingsError
from mlkit.metrics import METRICS, metric_table_markdown
from mlkit.preset_files import chain_of, list_presets
from mlkit.presets import resolve_preset
from mlkit.report.values import MISSING, format_count, format_value
from mlkit.tasks import available_tasks, settings_class

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
NOTE = "<!-- Written by docs/generate.py; change the code, then run: python docs/generate.py -->"
_COMPLETION = ("--install-completion", "--show-completion", "--help")


def pages() -> dict[Path, str]:
    """Return every generated file with what it should hold."""
    made = {DOCS / "cli.md": cli_page(), DOCS / "metrics.md": metrics_page(), DOCS / "settings.md": settings_page()}
    made[DOCS / "benchmarks.md"] = filled(DOCS / "benchmarks.md", {"benchmarks": benchmarks_block()})
    sar = DOCS / "tasks" / "sar.md"
    blocks = {"sar comparison": comparison_block(DOCS / "experiments" / "sar"), "sar presets": presets_block("sar")}
    blocks["sar codec"] = figures_block("sar_codec")
    made[sar] = filled(sar, blocks)
    tries = DOCS / "experiments" / "sar" / "README.md"
    made[tries] = filled(tries, {"sar tries": sar_tries(), "sar rounding": sar_rounding()})
    sr = DOCS / "tasks" / "sr.md"
    blocks = {"sr presets": presets_block("sr"), "sr results": sr_results_block(), "sr memory": sr_memory_block()}
    made[sr] = filled(sr, blocks)
    bvae = DOCS / "tasks" / "bvae.md"
    made[bvae] = filled(bvae, {"bvae presets": presets_block("bvae"), "bvae results": bvae_results_block()})
    options = DOCS / "experiments" / "bvae" / "README.md"
    made[options] = filled(options, bvae_options())
    demosaic = DOCS / "tasks" / "demosaic.md"
    blocks = {"demosaic presets": presets_block("demosaic"), "demosaic results": demosaic_results_block()}
    made[demosaic] = filled(demosaic, blocks)
    lens = DOCS / "tasks" / "lens.md"
    made[lens] = filled(lens, {"lens presets": presets_block("lens"), "lens results": lens_results_block()})
    lines = DOCS / "experiments" / "lens" / "README.md"
    made[lines] = filled(lines, lens_lines())
    lens_card = ROOT / "src" / "mlkit" / "tasks" / "lens" / "embedded" / "README.md"
    made[lens_card] = filled(lens_card, {"lens card": lens_card_block()})
    questions = DOCS / "experiments" / "demosaic" / "README.md"
    made[questions] = filled(questions, demosaic_questions())
    model_card = ROOT / "src" / "mlkit" / "tasks" / "demosaic" / "embedded" / "README.md"
    made[model_card] = filled(model_card, {"demosaic card": demosaic_card_block()})
    card = ROOT / "src" / "mlkit" / "tasks" / "sr" / "embedded" / "README.md"
    made[card] = filled(card, {"sr card": sr_scores_table(("bicubic", "base SR", "LoRA SR"))})
    return made


def stale(made: Mapping[Path, str]) -> list[Path]:
    """Return the files whose content differs from what they should hold."""
    return [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def filled(path: Path, blocks: Mapping[str, str]) -> str:
    """Return a page with its marked blocks replaced; a block that the page lacks is an error."""
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        start, end = f"<!-- generated: {name} -->", "<!-- end generated -->"
        head, found, rest = text.partition(start)
        assert found and end in rest, f"{path} has no block '{name}'"
        text = head + start + "\n" + block.strip() + "\n" + rest[rest.index(end) :]
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; a bar inside a cell is escaped."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]


# ---- the command line -----------------------------------------------------------------------------------------


def cli_page() -> str:
    """Return cli.md: every command with its options, as the help pages have them."""
    root = typer.main.get_command(app)
    lines = [
        NOTE,
        "",
        "# Commands",
        "",
        "What `mlkit COMMAND --help` says, on one page. `-h` is `--help`. Any command takes `--traceback`, which shows",
        "where an error came from instead of one sentence. `mlkit --install-completion` sets up completion in the",
        "shell, also of preset and run names; `mlkit --version` prints the version. `python -m mlkit` is `mlkit`.",
        "",
        "Results are printed on stdout, progress and remarks on stderr; `--json` makes the result one JSON object.",
        "[Exit codes](architecture.md#exit-codes) say how a command ended. An option without a default is off, or has",
        "the value of the preset.",
        "",
        *table(
            ("environment variable", "default", "what it moves"),
            (
                ("`MLKIT_DATA_DIR`", "`data`", "where `--data NAME` looks when there is no such folder here"),
                ("`MLKIT_RUNS_DIR`", "`runs`", "where runs are written and names of runs are looked up"),
                ("`MLKIT_CACHE_DIR`", "`~/.cache/mlkit`", "where the embedded samples are built"),
            ),
        ),
        "",
        "They move files; no environment variable changes a number.",
    ]
    planned = []
    for path, command in commands(root):
        name = " ".join(("mlkit", *path))
        if (command.help or "").startswith("(not in this version"):
            planned.append(f"`{name}`")
        else:
            lines += ["", f"## {name}", "", *_command(command, path)]
    if planned:
        lines += ["", "## Not in this version", "", f"These say so in one sentence: {', '.join(planned)}."]
    return "\n".join(lines) + "\n"


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below a group with its words, in the order of the help."""
    context = group.context_class(group, info_name=path[-1] if path else "mlkit")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def _command(command: Any, path: tuple[str, ...]) -> list[str]:
    text = _plain(command.help or "")
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not _is_completion(param)]
    hints = typing.get_type_hints(command.callback, include_extras=True)
    usage = " ".join(["mlkit", *path, *(_argument_name(one) for one in arguments), "[OPTIONS]"])
    lines = ["```text", usage, "```", "", *_paragraphs(text)]
    if arguments:
        rows = [(f"`{_argument_name(one)}`", _plain(one.help or ""), _required(one)) for one in arguments]
        lines += ["", *table(("argument", "meaning", ""), rows)]
    rows = [
        (
            ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts)),
            _value_words(one, hints.get(one.name)),
            _default(one),
            _plain(one.help or "").partition("[default:")[0].strip(),
        )
        for one in options
    ]
    return [*lines, "", *table(("option", "value", "default", "meaning"), rows)]


def _is_completion(param: Any) -> bool:
    return any(name in _COMPLETION for name in param.opts)


def _argument_name(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _required(param: Any) -> str:
    return "required" if param.required else "optional"


def _default(param: Any) -> str:
    if param.required:
        return "required"
    told = re.search(r"\[default: (.*)\]", _plain(param.help or ""))  # where the default is no plain value
    if told:
        return told[1]
    value = param.default
    if value is None or value is False or value == () or callable(value):
        return ""
    shown = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value).lower()
    env = f" (or `{param.envvar}`)" if getattr(param, "envvar", None) else ""
    return (f"`{shown}`" if value is not True else "on") + env


def _value_words(param: Any, hint: Any) -> str:
    if getattr(param, "is_flag", False) or param.secondary_opts:
        return ""
    if param.metavar:
        return f"`{param.metavar}`"
    return type_words(hint).replace("list of path", "path, repeatable")


def _plain(text: str) -> str:
    """Return help text without Rich's markup escapes."""
    return text.replace("\\[", "[").strip()


def _paragraphs(text: str) -> list[str]:
    """Return a docstring as Markdown: paragraphs, and its examples as one shell block."""
    prose, _, examples = text.partition("Examples:")
    lines = []
    for paragraph in prose.strip().split("\n\n"):
        lines += [" ".join(paragraph.split()), ""]
    given = [line.strip() for line in examples.splitlines() if line.strip()]
    return [*lines, "```sh", *given, "```"] if given else lines[:-1]


# ---- metrics and settings -------------------------------------------------------------------------------------


def metrics_page() -> str:
    """Return metrics.md from the METRICS table."""
    details = [key for key, metric in METRICS.items() if metric.detail]
    return f"""{NOTE}

# Metrics

Every score has a unit, a direction, and a signature that names all that moves its value: what is compared, border,
range, window, how images are averaged, version of the protocol. `mlkit compare` ranks scores only where the signatures
are equal. Scores are kept per image; the number of a checkpoint is their mean over the images that have a finite one.

{metric_table_markdown()}
Implementations: `src/mlkit/metrics/image.py` (PSNR, SSIM, MS-SSIM) and `src/mlkit/metrics/sar.py` (RMSE in dB, ENL, ENL
ratio, EPI). The tests compare them with scikit-image, torchmetrics and direct sums. What the SAR metrics mean and where
they mislead stands in [tasks/sar.md](tasks/sar.md#metrics).

`loss` is never ranked: two losses have no common scale. Details (recalls of single classes, colours one by one and the
like) are left out of progress lines, and `compare` lists them in a table of their own:
{", ".join(f"`{key}`" for key in details)}.
"""


def settings_page() -> str:
    """Return settings.md: every key that a preset or `--set` may hold."""
    lines = [
        NOTE,
        "",
        "# Settings",
        "",
        "Every key of a preset, of `--set KEY=VALUE` and of a run's `settings.toml`. An unknown key is refused with",
        "the nearest known one. The last one wins: default, extended preset, preset, its `[quick_test]` table",
        "(with `--quick-test`), `--set`, flags. A value is TOML: `--set train.lr=2e-4`,",
        "`--set 'train.schedule=\"constant\"'`. TOML has no null: a key is not set where no preset names it.",
        "",
        'A preset is a TOML file with these sections; `extends = "NAME"` takes all of another preset first, and a',
        "`[quick_test]` table holds what `--quick-test` changes. A file of your own works too:",
        "`mlkit train --preset mine.toml`. Naming `train.steps` removes `train.epochs` of a preset below, and the same",
        "for `warmup_steps` and `warmup_epochs`.",
        "",
        'A file of a `task` and `chain = ["first", "second"]`, and nothing else, is a chain of presets: `mlkit train`',
        "trains one after the other, each from the best weights of the one before, as runs of their own.",
    ]
    for task in available_tasks():
        model = settings_class(task)
        lines += ["", f"## Task `{task}`", "", *_fields(model, skip_sections=True)]
        for name, field in model.model_fields.items():
            for section in _sections(field):
                about = " ".join((section.__doc__ or "").split())
                title = f"### `[{name}]`"
                if field.discriminator:
                    key = str(field.discriminator)
                    (kind,) = typing.get_args(section.model_fields[key].annotation)
                    title += f' with `{key} = "{kind}"`'
                lines += ["", title, "", about, "", *_fields(section, prefix=f"{name}.")]
    return "\n".join(lines) + "\n"


def _fields(model: type[BaseModel], *, prefix: str = "", skip_sections: bool = False) -> list[str]:
    rows = []
    for name, field in model.model_fields.items():
        if skip_sections and _sections(field):
            continue
        meaning = " ".join((field.description or "").split())
        rows.append((f"`{prefix}{name}`", type_words(field.annotation, field.metadata), _field_default(field), meaning))
    return table(("key", "value", "default", "meaning"), rows)


def _sections(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the tables that a key may hold: one, or several of which one key tells the kind; none for a value."""
    hints = typing.get_args(field.annotation) if field.discriminator else (field.annotation,)
    return [hint for hint in hints if isinstance(hint, type) and issubclass(hint, BaseModel)]


def _field_default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None or value == "":
        return "not set"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def presets_block(task: str) -> str:
    """Return the table of a task's presets."""
    rows = []
    for name, path in list_presets().items():
        if path.parent.name != task:
            continue
        head = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        purpose = head.removeprefix("Purpose:").strip().rstrip(".")
        if chain := chain_of(name):
            rows.append((f"`{name}`", purpose, "then ".join(f"`{link}` " for link in chain.links).strip(), MISSING))
            continue
        settings = resolve_preset(name).settings
        try:
            quick = resolve_preset(name, quick_test=True).settings.train
            short = (
                f"{quick.steps} of batch {quick.batch_size}" if quick.steps is not None else f"{quick.epochs:g} epochs"
            )
        except SettingsError:  # one for large machines has no quick test
            short = MISSING
        train = settings.train
        length = f"{train.steps:,} steps" if train.steps is not None else f"{train.epochs:g} epochs"
        rows.append((f"`{name}`", purpose, f"{length} of batch {train.batch_size}", short))
    return "\n".join(table(("preset", "purpose", "length", "length of `--quick-test`"), rows))


# ---- measurements ---------------------------------------------------------------------------------------------


def benchmarks_block() -> str:
    """Return a section for each script of bench/ with its own words and the figures of bench/results/, if any."""
    results: dict[str, Any] = {}
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        results[Path(str(found.get("bench", path.stem))).stem] = found
    lines: list[str] = []
    for script in sorted((ROOT / "bench").glob("*.py")):
        doc = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")), clean=False) or ""
        usage = [line.strip() for line in doc.splitlines() if re.match(r"\s{4,}.*bench/", line)]
        if script.stem.startswith("_") or not usage:
            continue  # a part of others, not a measurement
        prose = [block for block in doc.split("\n\n") if not re.match(r"\s{4,}", block)]
        lines += [f"### {script.stem}", "", *(" ".join(block.split()) + "\n" for block in prose)]
        lines += ["```sh", *usage, "```", "", *_figures(results.get(script.stem)), ""]
    return "\n".join(lines)


def figures_block(bench: str) -> str:
    """Return the figures of one script of bench/, if there are any."""
    path = ROOT / "bench" / "results" / f"{bench}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return "\n".join(_figures(found))


def _figures(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return table(("figure", "value", "goal"), [("all of them", "not measured yet", "")])
    rows = [(name, _figure(one), _goal(one)) for name, one in found["figures"].items()]
    source = f"`{found['command']}`, commit `{str(found['commit'])[:12]}`, {found['date']}, {found['machine']}"
    return [*table(("figure", "value", "goal"), rows), "", f"Measured: {source}."]


def _figure(one: Mapping[str, Any]) -> str:
    value = one.get("value")
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1e4 else f"{value:.4g}"
    return f"{value} {one.get('unit') or ''}".strip()


def _goal(one: Mapping[str, Any]) -> str:
    goal = one.get("goal")
    return "" if goal is None else str(goal)


def comparison_block(folder: Path) -> str:
    """Return the measured table in the plan's form from `comparison.json` of `mlkit compare`, if it is there."""
    path = folder / "comparison.json"
    if not path.is_file():
        return "Not measured yet: there is no `docs/experiments/sar/comparison.json`."
    found = json.loads(path.read_text(encoding="utf-8"))
    shown = (
        "psnr", "psnr_over_wall", "psnr_truth", "ssim", "enl_ratio", "epi", "enl_ratio_pooled_db", "epi_sobel_cosine",
    )  # fmt: skip
    keys = [key for key in shown if key in found["metrics"]]
    names = [f"{METRICS[key].name}{f' [{METRICS[key].unit}]' if METRICS[key].unit else ''}" for key in keys]
    rows, judged = [], []
    for row in found["rows"]:
        facts = row["facts"]
        better = row["improvement_over_first"].get("psnr")
        gain, verdict = (MISSING, MISSING) if better is None else (_gain(better), better["verdict"])
        rows.append(
            (
                row["name"],
                format_count(row["parameters"]),
                *(format_value(key, row["means"].get(key)) for key in keys),
                f"1/{facts['values_ratio']:g}" if "values_ratio" in facts else MISSING,
                f"{facts['bits_per_px']:.2f}" if "bits_per_px" in facts else MISSING,
                gain,
                verdict,
            )
        )
        words = {True: "pass", False: "fail", None: "not judged"}
        judged += [
            (row["name"], one["sentence"], words[one["passed"]], format_value(one["metric"], one["value"], unit=True))
            for one in row["criteria"]
        ]
    label = f", {found['dataset_label']} data" if found["dataset_label"] else ""
    steps = ", ".join(f"{row['name']} {row['step']:,}" for row in found["rows"])
    head = ("Model", "Params", *names, "Values", "Bits/px", "Improvement in PSNR", "Verdict")
    lines = [
        *table(head, rows),
        "",
        f"{found['num_images']} {found['split']} images{label}, data set `{found['dataset_sha256'][:12]}`, "
        f"steps: {steps}. Improvement is over the first model, with its paired 95 % interval over images.",
    ]
    if judged:
        lines += ["", *table(("Model", "Criterion", "Result", "Found"), judged)]
    if found["notes"]:
        lines += ["", *(f"- {note}" for note in found["notes"])]
    return "\n".join(lines)


def sr_memory_block() -> str:
    """Return what a training step takes on the real bases, each figure with how it is known."""
    from mlkit.tasks.sr.memory import MARKS, SUSTAINED_FLOPS, costs

    columns = list(costs())
    quantities = {
        "parameters": ("parameters of the transformer", lambda value: f"{value / 1e9:.2f} billion"),
        "adapted_layers": ("layers with an adapter", str),
        "adapter_parameters": ("parameters of the adapter", lambda value: f"{value / 1e6:.1f} million"),
        "tokens": ("tokens, image and prompt", lambda value: f"{value:,}"),
        "weights_gb": ("frozen weights", lambda value: f"{value:.1f} GB"),
        "adapter_gb": ("adapter with gradients and AdamW", lambda value: f"{value:.2f} GB"),
        "activations_gb": ("activations of one sample, with checkpointing", lambda value: f"{value:.1f} GB"),
        "total_gb": ("sum", lambda value: f"{value:.1f} GB"),
        "step_pflop": ("arithmetic of a step", lambda value: f"{value:.2f} PFLOP"),
        "step_s": (f"a step at {SUSTAINED_FLOPS / 1e12:.0f} TFLOP/s", lambda value: f"{value:.2f} s"),
    }
    heads = [f"{column.base.rpartition('/')[2]} {column.size_px} px" for column in columns]
    rows = [
        (name, *(words(getattr(column, key)) for column in columns), MARKS[key])
        for key, (name, words) in quantities.items()
    ]
    about = f"rank {columns[0].rank} on the layers `{columns[0].targets}`"
    note = f"Adapters of {about}, batch 1. Nothing here was run on a GPU."
    return "\n".join([*table(("a training step", *heads, "known by"), rows), "", note])


SR_SETS = {"set5": "Set5", "set14": "Set14", "cbsd68": "CBSD68"}


def sr_results_block() -> str:
    """Return the scores of bench/sr.py in both protocols, and what it judged and timed."""
    found = json.loads((ROOT / "bench" / "results" / "sr.json").read_text(encoding="utf-8"))
    rest = {name: one for name, one in found["figures"].items() if not re.search(r", (set\w+|cbsd68), PSNR-Y$", name)}
    judged = {name: one for name, one in found["figures"].items() if " over " in name} | rest
    return sr_scores_table() + "\n\n" + "\n".join(_figures({**found, "figures": judged}))


def sr_scores_table(ways: Sequence[str] = ()) -> str:
    """Return mean PSNR and SSIM of each way on each set, luma with a border left out and RGB, from sr.csv.

    An image that comes back exactly has no PSNR and is left out of that mean.
    """
    with (ROOT / "bench" / "results" / "sr.csv").open(encoding="utf-8", newline="") as handle:
        scores = list(csv.DictReader(handle))
    rows = []
    for way in ways or dict.fromkeys(row["way"] for row in scores):
        for of, title in SR_SETS.items():
            some = [row for row in scores if (row["way"], row["set"]) == (way, of)]
            if not some:
                continue
            means = []
            for key in ("psnr_y", "ssim_y", "psnr", "ssim", "ms_ssim", "gms"):
                values = [value for row in some if math.isfinite(value := float(row[key]))]
                means.append(format_value(key, sum(values) / len(values)))
            rows.append((way, title, *means))
    head = ("x4", "set", "PSNR-Y", "SSIM-Y", "PSNR RGB", "SSIM RGB", "MS-SSIM", "gradient similarity")
    return "\n".join(table(head, rows))


DEMOSAIC_SETS = {
    ("mcmaster18", "srgb"): "McMaster18, sRGB",
    ("mcmaster18", "linear"): "McMaster18, linear",
    ("cbsd68", "srgb"): "CBSD68, sRGB",
    ("cbsd68", "linear"): "CBSD68, linear",
    ("sample", "srgb"): "scikit-image's six, sRGB",
}


DEMOSAIC_COLUMNS = {
    "cpsnr": ("cPSNR", 2),
    "cpsnr@16": ("cPSNR, border 16", 2),
    "ssim": ("SSIM", 4),
    "texture": ("texture", 2),
    "zipper": ("zipper, %", 1),
    "cfa_harmonic_db": ("CFA harmonics, dB", 1),
    "cfa_fold": ("CFA lattice, /255", 3),
}


def demosaic_results_block() -> str:
    """Return mean scores of each way on each set from demosaic.csv, and what bench/demosaic.py judged and timed."""
    path = ROOT / "bench" / "results" / "demosaic.csv"
    if not path.is_file():
        return "Not measured yet."
    with path.open(encoding="utf-8", newline="") as handle:
        scores = list(csv.DictReader(handle))
    rows = []
    for (of, light), title in DEMOSAIC_SETS.items():
        for way in dict.fromkeys(row["way"] for row in scores):
            some = [row for row in scores if (row["way"], row["set"], row["light"]) == (way, of, light)]
            if some:
                means = {key: sum(float(row[key]) for row in some) / len(some) for key in DEMOSAIC_COLUMNS}
                rows.append(
                    (title, way, *(f"{means[key]:.{digits}f}" for key, (_, digits) in DEMOSAIC_COLUMNS.items()))
                )
    head = ("mosaics of", "way", *(name for name, _ in DEMOSAIC_COLUMNS.values()))
    found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return "\n".join([*table(head, rows), "", *_figures(found)])


LENS_PACKAGE = "the model in the package"
LENS_IN_TABLE = ("photographs, EPE", "scenes, EPE", "scenes, own frame, EPE", "EPE but for scale", ", PSNR")


def lens_results_block() -> str:
    """Return the mean errors of bench/lens.py by way and kind of picture, and what it judged and timed."""
    path = ROOT / "bench" / "results" / "lens.json"
    if not path.is_file():
        return "Not measured yet: `python bench/lens.py`."
    found = json.loads(path.read_text(encoding="utf-8"))
    judged = {name: one for name, one in found["figures"].items() if one["goal"] or not name.endswith(LENS_IN_TABLE)}
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as handle:
        scores = list(csv.DictReader(handle))
    by_way: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in scores:
        way = row["way"].partition(" #")[0]  # seeds of a stage are one line
        by_way.setdefault(way, {}).setdefault(row["of"], []).append(row)
    kinds = list(dict.fromkeys(row["of"] for row in scores))

    def mean(some: Sequence[Mapping[str, str]], key: str) -> float:
        return sum(float(row[key]) for row in some) / len(some)

    rows = []
    for way, by_kind in by_way.items():
        cells = [f"{mean(by_kind[of], 'epe_px'):.2f}, {mean(by_kind[of], 'epe_shape_px'):.2f}" for of in kinds]
        quality = [f"{mean(by_kind[of], 'psnr'):.2f}" for of in kinds[:2]]
        rows.append((way, *cells, *quality))
    head = [f"{of} ({next(row['pictures'] for row in scores if row['of'] == of)})" for of in kinds]
    lines = table(("way", *head, *(f"{of}, PSNR" for of in kinds[:2])), rows)
    return "\n".join([*lines, "", *_figures({**found, "figures": judged})])


def lens_card_block() -> str:
    """Return what the model in the package reaches, and what there is without it, of bench/lens.py."""
    path = ROOT / "bench" / "results" / "lens.json"
    if not path.is_file():
        return "Not measured yet."
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as handle:
        scores = {(row["of"], row["way"]): row for row in csv.DictReader(handle)}
    rows = []
    for of in dict.fromkeys(of for of, _ in scores):
        without, made = scores[of, "no correction"], scores[of, LENS_PACKAGE]
        cells = [f"{float(one['epe_px']):.2f} px, {float(one['psnr']):.2f} dB" for one in (without, made)]
        cells.append(f"{float(made['epe_px']) / float(without['epe_px']):.2f}")
        cells.append(f"{float(made['negative_det_pct']):.2g} %")
        rows.append((f"{of} ({made['pictures']})", *cells))
    lines = table(("mean EPE at 1000 px width, PSNR", "without", "with", "share of the error left", "folded"), rows)
    found = json.loads(path.read_text(encoding="utf-8"))["figures"]
    ways = ("before", "OpenCV, calibrated with all boards", LENS_PACKAGE)
    bends = [(way, _figure(found[name])) for way in ways if (name := f"chessboards, {way}, bend") in found]
    boards = table(("chessboards of a real camera", "bend, mean and interval"), bends) if bends else []
    return "\n".join([*lines, "", *boards])


def lens_lines() -> dict[str, str]:
    """Return the tables of docs/experiments/lens/run.py: by the size of the picture, and by how sure lines are."""
    path = DOCS / "experiments" / "lens" / "results.json"
    if not path.is_file():
        return {"lens sides": "Not measured yet.", "lens sure": "Not measured yet."}
    found = json.loads(path.read_text(encoding="utf-8"))
    kinds = ("photographs", "scenes")

    def cells(some: Mapping[str, Mapping[str, float]]) -> list[str]:
        return [f"{some[of]['epe']:.2f}, {some[of]['psnr']:.2f} dB" for of in kinds]

    any_ways = found["asked"]["0.0"]
    none = [f"{any_ways[of]['epe_without']:.2f}, {any_ways[of]['psnr_without']:.2f} dB" for of in kinds]
    counts = [f"{of} ({any_ways[of]['pictures']})" for of in kinds]
    sides = [("nothing is corrected", *none, *none)]
    sides += [(f"{side} px", *cells(ways["all"]), *cells(ways["sure"])) for side, ways in found["sides"].items()]
    sure = []
    for asked, some in found["asked"].items():
        shares = [f"{some[of]['followed']:.0%}, {some[of]['worse']:.0%}" for of in kinds]
        sure.append((asked, *cells(some), *shares))
    head = ("lines found at", *(f"{one}, always followed" for one in counts), *(f"{one}, where sure" for one in kinds))
    measured = (
        f"Mean EPE in px at 1000 px width, and PSNR. Measured: `{found['command']}`, commit `{found['commit']}`, "
        f"{found['date']}, {found['machine']}."
    )
    sure_head = ("sure from", *counts, *(f"{one}: followed, made worse" for one in kinds))
    return {
        "lens sides": "\n".join([*table(head, sides), "", measured]),
        "lens sure": "\n".join(table(sure_head, sure)),
    }


def demosaic_card_block() -> str:
    """Return mean cPSNR of LibRaw's best and of the model in the package, a row a set."""
    path = ROOT / "bench" / "results" / "demosaic.csv"
    if not path.is_file():
        return "Not measured yet."
    with path.open(encoding="utf-8", newline="") as handle:
        scores = list(csv.DictReader(handle))
    ways = ("LibRaw 3-pass", "demosaicnet", "mlkit")
    rows = []
    for (of, light), title in DEMOSAIC_SETS.items():
        means = []
        for way in ways:
            some = [float(row["cpsnr"]) for row in scores if (row["way"], row["set"], row["light"]) == (way, of, light)]
            means.append(f"{sum(some) / len(some):.2f}" if some else MISSING)
        rows.append((title, *means))
    return "\n".join(table(("mosaics of", *(f"{way}, dB" for way in ways)), rows))


def demosaic_questions() -> dict[str, str]:
    """Return the tables of the demosaicing experiments from results.json of docs/experiments/demosaic/run.py."""
    path = DOCS / "experiments" / "demosaic" / "results.json"
    names = ("start", "grid", "ssim", "forgetting", "light")
    if not path.is_file():
        return {f"demosaic {name}": "Not measured yet." for name in names}
    found = json.loads(path.read_text(encoding="utf-8"))

    def shown(scores: Mapping[str, float | None], *keys: str) -> list[str]:
        values = ((key, scores.get(key)) for key in keys)
        return [MISSING if value is None else format_value(key, value) for key, value in values]

    def last(row: Mapping[str, Any], part: str = "scores") -> Mapping[str, float]:
        return row[part][max(row[part], key=int)]

    start = {
        name: last(parts, "photos") | {"new": last(parts, "patterns")["cpsnr"]}
        for name, parts in found["start"].items()
    }
    grid = [
        (
            "before fine-tuning",
            *shown(start["base_samples"], "cpsnr", "cfa_harmonic_db", "cfa_fold"),
            *_lattices([start["base_samples"]]),
        ),
    ]
    for row in found["grid"]:
        steps = [row["scores"][step] for step in sorted(row["scores"], key=int)]
        grid.append((row["title"], *shown(last(row), "cpsnr", "cfa_harmonic_db", "cfa_fold"), *_lattices(steps)))
    balance = [
        (row["title"], *shown(last(row), "cpsnr", "ssim", "texture", "zipper", "cfa_fold", "highlight_error"))
        for row in found["ssim"]
    ]
    first = start["base"]
    forgetting = [("before fine-tuning", *shown(first, "cpsnr"), MISSING, format_value("cpsnr", first["new"]), MISSING)]
    for row in found["forgetting"]:
        old, new = last(row)["cpsnr"], last(row, "new")["cpsnr"]
        forgetting.append(
            (
                row["title"],
                format_value("cpsnr", old),
                f"{old - first['cpsnr']:+.2f}",
                format_value("cpsnr", new),
                f"{new - first['new']:+.2f}",
            )
        )
    light = [
        (row["name"], f"{row['stops']:+d} stops", *shown(row, "cpsnr", "cpsnr_linear", "highlight_error"))
        for row in found["light"]
    ]
    source = f"`{found['command']}`, commit `{found['commit']}`, {found['date']}, {found['machine']}."
    tables = {
        "start": [f"Measured: {source}"],
        "grid": table(
            ("fine-tuning", "cPSNR", "CFA harmonics", "CFA lattice", "lattice in a smooth picture, over the steps"),
            grid,
        ),
        "ssim": table(("loss", "cPSNR", "SSIM", "texture", "zipper", "CFA lattice", "highlight error"), balance),
        "forgetting": table(("fine-tuning", "photographs, cPSNR", "change", "patterns, cPSNR", "change"), forgetting),
        "light": table(("trained as", "pictures made brighter by", "cPSNR", "cPSNR linear", "highlight error"), light),
    }
    return {f"demosaic {name}": "\n".join(lines) for name, lines in tables.items()}


def sar_tries() -> str:
    """Return the table of results.json of docs/experiments/sar/run.py: a line a try, gains over the first."""
    path = DOCS / "experiments" / "sar" / "results.json"
    if not path.is_file():
        return "Not measured yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    keys = ("psnr_truth", "psnr", "psnr_wall", "ssim", "enl_ratio", "epi")
    ends = {row["name"]: [scores[max(scores, key=int)] for scores in row["runs"]] for row in found["tries"]}
    rows = []
    for row in found["tries"]:
        runs = ends[row["name"]]
        other = ends[row["against"]]
        curve = row["runs"][0]
        rows.append(
            (
                row["title"],
                format_count(row["parameters"]),
                f"{row['steps']:,} x {len(runs)}",
                f"{row['cpu_s'] / 60:.1f} min",
                *(format_value(key, _mean([scores.get(key) for scores in runs])) for key in keys),
                MISSING if row["against"] == row["name"] else _gain_of_seeds(runs, other, "psnr_truth"),
                ", ".join(f"{curve[step]['psnr_truth']:.1f}" for step in sorted(curve, key=int)),
            )
        )
    names = [METRICS[key].name for key in keys]
    head = ("try", "parameters", "steps x seeds", "one core", *names, "gain to truth", "PSNR to truth over the steps")
    source = f"`{found['command']}`, commit `{found['commit']}`, {found['date']}, {found['machine']}"
    about = "One core: of one run. A gain of several seeds has Welch's 95 % interval over them."
    return "\n".join([*table(head, rows), "", f"{about} Measured: {source}."])


def sar_rounding() -> str:
    """Return bits and PSNR of each way of docs/experiments/sar/rounding.py, means over its scenes."""
    path = DOCS / "experiments" / "sar" / "rounding.json"
    if not path.is_file():
        return "Not measured yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [(way, f"{bits:.3f}", f"{psnr:.2f} dB") for way, (bits, psnr) in found["rows"].items()]
    source = f"`{found['command']}`, commit `{found['commit']}`, {found['date']}, {found['machine']}"
    lines = table(("latents", "bit/px", "PSNR"), rows)
    return "\n".join([*lines, "", f"{found['scenes']} scenes, whole files. Measured: {source}."])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _gain_of_seeds(runs: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], key: str) -> str:
    """Return the difference of two means over seeds, with its interval where there are several of both."""
    from mlkit.evaluation.statistics import welch_interval

    values, others = ([scores[key] for scores in each] for each in (runs, other))
    if min(len(values), len(others)) < 2:
        return f"{sum(values) / len(values) - sum(others) / len(others):+.2f}"
    interval = welch_interval(others, values)
    return f"{interval.mean:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def _lattices(scores: Sequence[Mapping[str, float]]) -> tuple[str]:
    """Return the lattice in a smooth picture at each checkpoint, 1/255."""
    return (", ".join(f"{one['flat_lattice']:.3f}" for one in scores),)


BVAE_SCORES = {
    "accuracy": "accuracy",
    "gain": "over the majority share",
    "objects": "non-background",
    "exact": "exact grids",
}


def bvae_results_block() -> str:
    """Return the scores of each way from bvae.csv, with intervals over tasks, and what bench/bvae.py judged."""
    path = ROOT / "bench" / "results" / "bvae.csv"
    if not path.is_file():
        return "Not measured yet."
    with path.open(encoding="utf-8", newline="") as handle:
        scores = list(csv.DictReader(handle))
    cells: dict[str, list[str]] = {}
    for row in scores:
        mean, low, high = (f"{float(row[key]):.3f}" for key in ("mean", "low", "high"))
        cells.setdefault(row["way"], []).append(mean if low == high else f"{mean} [{low}, {high}]")
    lines = table(("held-out ARC-1 grids", *BVAE_SCORES.values()), [(way, *found) for way, found in cells.items()])
    return "\n".join([*lines, "", *_figures(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))])


BVAE_COLUMNS = {
    "accuracy": "accuracy",
    "majority_share": "majority share",
    "balanced_accuracy": "balanced accuracy",
    "object_accuracy": "non-background",
    "exact_match": "exact grids",
    "kl_per_dim": "KL, nat a dimension",
    "kl_min_dim": "smallest",
    "active_share": "active",
}
BVAE_CRITERIA = {
    "Accuracy in [0.7, 0.85]": "accuracy in [0.70, 0.85]",
    "kl_min_dim >= 0.05": "KL of each dimension above 0.05 nat",
    "largest fluctuation of the loss <= 0.1": "loss without fluctuations above 0.1",
}


def bvae_options() -> dict[str, str]:
    """Return the tables of the loss options from results.json of docs/experiments/bvae/run.py."""
    path = DOCS / "experiments" / "bvae" / "results.json"
    names = ("source", *(f"{of} {what}" for of in ("arc1", "synthetic") for what in ("scores", "criteria", "recalls")))
    if not path.is_file():
        return {f"bvae {name}": "Not measured yet." for name in names}
    found = json.loads(path.read_text(encoding="utf-8"))
    source = f"`{found['command']}`, commit `{found['commit']}`, {found['date']}, {found['machine']}."
    blocks = {"source": f"Measured: {source}"}
    for of in ("arc1", "synthetic"):
        rows = found[of]["rows"]
        scores, criteria = [], []
        for row in rows:
            shown = (_over_seeds(key, row["values"][key]) for key in BVAE_COLUMNS)
            fluctuation = MISSING if row["fluctuation"] is None else f"{row['fluctuation']:.2g}"
            updates = ", ".join(f"{steps:,}" for steps in sorted(set(row["updates"])))
            scores.append((f"`{row['preset']}`", *shown, fluctuation, f"{len(row['updates'])} x {updates}"))
            words = {True: "pass", False: "fail", None: "not judged"}
            judged = {one["sentence"]: f"{words[one['passed']]} ({_short(one['value'])})" for one in row["criteria"]}
            criteria.append((f"`{row['preset']}`", *(judged.get(sentence, MISSING) for sentence in BVAE_CRITERIA)))
        options = [row for row in rows if row["preset"].startswith("option")]
        classes = [f"recall_{index}" for index in range(10)]
        recalls = [
            (f"`{row['preset']}`", *(format_value(key, row["means"].get(key)) for key in classes)) for row in rows
        ]
        blocks[f"{of} scores"] = "\n".join(
            [
                *table(("preset", *BVAE_COLUMNS.values(), "largest fluctuation", "runs x updates"), scores),
                "",
                f"{found[of]['num_images']:,} held-out grids; the mean of the runs, in brackets the smallest and the "
                "largest; of each run the checkpoint with the best balanced accuracy.",
            ]
        )
        blocks[f"{of} criteria"] = "\n".join(table(("preset", *BVAE_CRITERIA.values()), criteria[: len(options)]))
        blocks[f"{of} recalls"] = "\n".join(table(("preset", *(f"class {index}" for index in range(10))), recalls))
    return {f"bvae {name}": blocks[name] for name in names}


def _over_seeds(key: str, values: Sequence[float | None]) -> str:
    """Return mean and range of the runs of a group."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    texts = [_short(value) for value in (sum(known) / len(known), min(known), max(known))]
    return texts[0] if texts[1] == texts[2] else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _short(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.0e}"


def _gain(better: Mapping[str, Any]) -> str:
    mean, low, high = (format_value("psnr", better[key], signed=True) for key in ("mean", "low", "high"))
    return mean if MISSING in (low, high) else f"{mean} [{low}, {high}] dB"


def main() -> int:
    """Write or check; return the exit code."""
    made = pages()
    changed = stale(made)
    names = [path.relative_to(ROOT).as_posix() for path in changed]
    if "--check" in sys.argv[1:]:
        for name in names:
            sys.stderr.write(f"{name} is stale; run: python docs/generate.py\n")
        return 1 if names else 0
    for path in changed:
        path.write_text(made[path], encoding="utf-8", newline="\n")
        sys.stdout.write(f"written: {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
