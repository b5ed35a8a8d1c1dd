"""Bases: a frozen flow-matching transformer with its autoencoder and prompt, whatever family it is of."""

from mlkit.tasks.sr.bases.base import Base
from mlkit.tasks.sr.bases.files import fingerprint_of
from mlkit.tasks.sr.bases.opening import embedded_base_folder, open_base
from mlkit.tasks.sr.bases.saving import save_base

__all__ = ["Base", "embedded_base_folder", "fingerprint_of", "open_base", "save_base"]
