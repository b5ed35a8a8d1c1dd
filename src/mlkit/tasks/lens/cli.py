"""The options of the task's verbs, each in a file of its own; torch is imported only when they run."""

from mlkit.tasks.lens.build_options import dataset_build
from mlkit.tasks.lens.infer_options import infer

__all__ = ["dataset_build", "infer"]
