"""What the options of `mlkit infer sr` say of the model: a run, a checkpoint, an adapter of PEFT, or none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.checkpoint import load_weights, open_checkpoint
from mlkit.errors import CheckpointError, SettingsError
from mlkit.presets import validate
from mlkit.runs.folders import resolve_run
from mlkit.settings import Places
from mlkit.tasks.sr.settings import BaseDtype, LoraModel, SrSettings

if TYPE_CHECKING:
    import torch

    from mlkit.tasks.sr.model import LoraNet
    from mlkit.tasks.sr.restorer import Precision, Restorer

_T_LR = 0.25  # of an adapter that does not say its own


def embedded_adapter_folder() -> Path:
    """Return where the adapter in the package lies."""
    return Path(__file__).parent / "embedded" / "lora"


def open_restorer(
    checkpoint: str | None = None,
    *,
    base: str | None = None,
    base_dtype: BaseDtype | None = None,
    prompt_embeds: Path | None = None,
    device: torch.device | None = None,
    precision: Precision = "auto",
) -> Restorer:
    """Return the model of a run, a checkpoint or an adapter folder of PEFT; by default the one in the package.

    Args:
        checkpoint: run, checkpoint, or folder with adapter_config.json.
        base, base_dtype, prompt_embeds: as in the settings of the stage `lora`, in place of what the checkpoint says;
            by default the base that an adapter folder names, in fp32.
        device: where to run; the CPU by default.
        precision: as in `Restorer`.

    Raises:
        MlkitError: when there is no such run.
        CheckpointError: when it is damaged, or of another task or stage.
        DataError: when its base is absent or damaged.
    """
    import torch

    from mlkit.tasks.sr.bases import open_base
    from mlkit.tasks.sr.lora import load_adapter
    from mlkit.tasks.sr.model import DTYPES
    from mlkit.tasks.sr.restorer import Restorer

    folder = embedded_adapter_folder() if checkpoint is None else _folder_of(checkpoint)
    if checkpoint is None and not (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"this installation has no embedded adapter ({folder}); give --checkpoint")
    if (folder / "checkpoint.json").is_file():
        net = _trained(folder, base=base, base_dtype=base_dtype, prompt_embeds=prompt_embeds)
        opened, t_lr = net.base, net.t_lr
    else:
        opened = open_base(base or _base_of(folder), dtype=DTYPES[base_dtype or "fp32"], prompt_embeds=prompt_embeds)
        load_adapter(opened, folder)
        t_lr = _T_LR
    name = "the embedded adapter" if checkpoint is None else f"adapter {folder}"
    return Restorer(opened, t_lr=t_lr, device=device or torch.device("cpu"), precision=precision, name=name)


def _folder_of(checkpoint: str) -> Path:
    """Return the folder of a run, checkpoint or adapter, by path or, for runs, by name."""
    if (Path(checkpoint) / "adapter_config.json").is_file():
        return Path(checkpoint)
    return resolve_run(checkpoint, Places().runs_dir).chosen_checkpoint()


def _trained(folder: Path, *, base: str | None, base_dtype: BaseDtype | None, prompt_embeds: Path | None) -> LoraNet:
    """Return the network of a checkpoint, with averaged weights where there are some."""
    from mlkit.tasks.sr.model import LoraNet

    checkpoint = open_checkpoint(folder)
    task = checkpoint.info.get("task")
    if task != "sr":
        raise CheckpointError(f"checkpoint {folder} is of task '{task}', not 'sr'")
    try:
        settings = validate(checkpoint.info["settings"])
    except SettingsError as error:
        raise CheckpointError(*(f"checkpoint {folder} cannot be used: {told}" for told in error.problems)) from error
    assert isinstance(settings, SrSettings)
    if not isinstance(settings.model, LoraModel):
        raise CheckpointError(
            f"checkpoint {folder} is of the stage '{settings.model.kind}'; give one of the stage 'lora', trained on it "
            "with --set model.base="
        )
    changed = {"base": base, "base_dtype": base_dtype, "prompt_embeds": prompt_embeds and str(prompt_embeds)}
    # Nothing trains here, so nothing need be recomputed.
    update = {name: value for name, value in changed.items() if value is not None} | {"gradient_checkpointing": False}
    net = LoraNet(settings.model.model_copy(update=update))
    load_weights(net, checkpoint, averaged=True)
    return net


def _base_of(adapter: Path) -> str:
    """Return the base that an adapter of PEFT names.

    Raises:
        CheckpointError: when it names none.
    """
    try:
        named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"adapter {adapter / 'adapter_config.json'} is damaged: {error}") from error
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"adapter {adapter} does not say which base it is for; give --base FOLDER or HUB-ID")
    return named
