"""Entries of METRICS: scores of label grids and of the latents behind them (`metrics/labels.py`)."""

from __future__ import annotations

from mlkit.metrics.metric import HIGHER, LOWER, Metric

LABELS: tuple[Metric, ...] = (
    *(
        Metric(
            key,
            name,
            unit,
            better,
            f"{key}|{protocol}|z-mean|mean-of-grids|v1",
            summary,
            decimals,
            detail=key.startswith("recall_"),
        )
        for key, name, unit, better, protocol, summary, decimals in (
            (
                "accuracy",
                "Accuracy",
                "",
                HIGHER,
                "cells-without-padding",
                "Share of a grid's cells that are right; to be read beside the majority share.",
                4,
            ),
            (
                "majority_share",
                "Majority share",
                "",
                HIGHER,
                "cells-without-padding|majority-of-training",
                "Accuracy of always answering the class that is most frequent in training; a property of the data.",
                4,
            ),
            (
                "accuracy_gain",
                "Accuracy - majority",
                "",
                HIGHER,
                "cells-without-padding|majority-of-training",
                "Accuracy less majority share: 0 for a model that knows nothing but the most frequent class.",
                4,
            ),
            (
                "object_accuracy",
                "Non-background accuracy",
                "",
                HIGHER,
                "cells-not-of-the-majority-class",
                "Share of the cells that are not background (of the most frequent class) that are right.",
                4,
            ),
            (
                "balanced_accuracy",
                "Balanced accuracy",
                "",
                HIGHER,
                "classes-of-the-grid",
                "Mean recall of the classes that a grid has: a large background counts once.",
                4,
            ),
            (
                "exact_match",
                "Exact match",
                "",
                HIGHER,
                "cells-without-padding",
                "Share of the grids in which every cell is right.",
                4,
            ),
            (
                "ce_nat",
                "Cross-entropy",
                "nat",
                LOWER,
                "unweighted|sum-of-cells",
                "Plain cross-entropy of a grid, whatever loss was trained on; no likelihood without the KL term.",
                2,
            ),
            (
                "kl_nat",
                "KL",
                "nat",
                LOWER,
                "sum-of-dimensions",
                "KL divergence of the posterior from N(0, 1), what the latent tells of a grid; 0 is collapse.",
                3,
            ),
            (
                "kl_per_dim",
                "KL per dimension",
                "nat",
                HIGHER,
                "mean-of-dimensions",
                "The same, mean over the latent dimensions.",
                4,
            ),
            *(
                (
                    f"recall_{index}",
                    f"Recall {index}",
                    "",
                    HIGHER,
                    "grids-with-this-class",
                    f"Share of the cells of class {index} that are right, mean of the grids that have some.",
                    3,
                )
                for index in range(10)
            ),
        )
    ),
)
