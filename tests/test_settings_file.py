"""settings.toml: a word for None, and a version."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlkit.errors import SettingsError
from mlkit.presets import load_settings, resolve_preset, to_toml


def test_none_is_a_word_in_toml_and_survives_the_file(tmp_path: Path) -> None:
    """A limit that was taken off must not come back as its default when a run is resumed."""
    settings = resolve_preset(
        "baseline_c16", assignments=['train.grad_clip_norm="none"', 'eval.early_stop_patience="none"']
    ).settings
    assert settings.train.grad_clip_norm is None
    assert settings.eval.early_stop_patience is None
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(settings))
    assert 'grad_clip_norm = "none"' in path.read_text()
    assert load_settings(path) == settings


def test_none_is_refused_where_a_value_is_needed() -> None:
    with pytest.raises(SettingsError, match=r"^--set: train.lr = 'none': input should be a valid number$"):
        resolve_preset("baseline_c16", assignments=['train.lr="none"'])


def test_a_newer_settings_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(resolve_preset("sar_tiny").settings).replace("format_version = 1", "format_version = 2"))
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert str(caught.value) == f"settings file {path} has format version 2, this mlkit reads up to 1; update mlkit"


def test_a_mistyped_word_from_elsewhere_is_understood_too() -> None:
    with pytest.raises(SettingsError, match=r"unknown key 'train.lerning_rate' \(did you mean 'lr'\?\)"):
        resolve_preset("sar_tiny", assignments=["train.lerning_rate=1e-3"])
