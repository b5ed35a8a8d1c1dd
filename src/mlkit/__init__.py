"""mlkit: build a dataset, train, resume exactly, look, infer and compare image-reconstruction models."""

__version__ = "0.1.0"
