"""Parameters that stay as they are: `train.freeze`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from mlkit.errors import SettingsError, did_you_mean, listing
from mlkit.task import Task, bare_model


def build_net(task: Task, *, bare: bool = False) -> nn.Module:
    """Return a fresh network with the parameters frozen that `train.freeze` names.

    Args:
        task: the task.
        bare: a checkpoint's weights will follow, so those that the task starts with need not be there.

    Raises:
        SettingsError: for each name that matches no parameter, and when nothing is left to train.
    """
    net = bare_model(task) if bare else task.build_model()
    freeze(net, task.settings.train.freeze)
    return net


def freeze(net: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters that the patterns match, such as "encoder.*"; raises as `build_net`."""
    parameters = dict(net.named_parameters())
    unknown = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in parameters)]
    if unknown:
        raise SettingsError(*(_unknown(pattern, list(parameters)) for pattern in unknown))
    for name, value in parameters.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            value.requires_grad_(False)
    if patterns and not any(value.requires_grad for value in parameters.values()):
        raise SettingsError(f"train.freeze = {list(patterns)} leaves no parameter to train; freeze fewer")


def held_layers(net: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Return the normalisation layers whose parameters are all frozen by the patterns.

    A frozen layer that went on counting its running statistics would compute something else after all.
    """
    return [
        layer
        for prefix, layer in net.named_modules()
        if getattr(layer, "running_mean", None) is not None
        and (names := [f"{prefix}.{name}" if prefix else name for name, _ in layer.named_parameters(recurse=False)])
        and all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names)
    ]


def _unknown(pattern: str, names: Sequence[str]) -> str:
    parts = [name.split(".") for name in names]
    modules = {".".join(part[:depth]) for part in parts for depth in range(1, len(part))}
    near = did_you_mean(pattern, [*names, *(f"{module}.*" for module in sorted(modules))])
    return f"train.freeze: '{pattern}' matches no parameter{near}; there are {listing(names, 6)}"
