"""How well probabilities rank rows: the area under the ROC curve, one label against the rest.

It is the chance that a row of the label is given a higher probability of it than a row of
another, ties counting half (Hanley and McNeil 1982): 1 at best, 0.5 by guessing.

Shape letters, this file only:
    S = resamples    B = rows    L = labels    G = distinct probabilities
"""

import numpy as np

from purvey.evaluate.metrics import Floats, Ints


def label_auroc(scores_B: Floats, is_label_B: Ints, rows_SB: Ints) -> Floats:
    """Return the area of each resample, `S`; NaN where it holds rows of one side only.

    Args:
        scores_B: The label's probability for each row, or anything that rises with it.
        is_label_B: 1 where the row has the label, else 0.
        rows_SB: Row numbers of each resample.
    """
    values_G, places_B = np.unique(scores_B, return_inverse=True)
    num_cells, num_samples = 2 * len(values_G), len(rows_SB)
    cells_SB = (2 * places_B + is_label_B)[rows_SB] + num_cells * np.arange(num_samples)[:, None]
    counts = np.bincount(cells_SB.ravel(), minlength=num_cells * num_samples)
    others_SG, label_SG = np.moveaxis(counts.reshape(num_samples, -1, 2), 2, 0)
    below_SG = others_SG.cumsum(axis=1) - others_SG / 2
    pairs_S = label_SG.sum(axis=1) * others_SG.sum(axis=1)
    won_S = (label_SG * below_SG).sum(axis=1)
    areas_S: Floats = np.where(pairs_S > 0, won_S / np.maximum(1, pairs_S), np.nan)
    return areas_S


def mean_auroc(probs_BL: Floats, targets_B: Ints, rows_SB: Ints) -> Floats:
    """Return the mean area over the labels that have one, `S`; NaN where none has.

    Of two labels both have the same, which is the binary area.
    """
    areas_LS = np.stack(
        [
            label_auroc(probs_B, (targets_B == label).astype(np.int64), rows_SB)
            for label, probs_B in enumerate(probs_BL.T)
        ]
    )
    num_known_S = np.isfinite(areas_LS).sum(axis=0)
    sums_S = np.nansum(areas_LS, axis=0)
    means_S: Floats = np.where(num_known_S > 0, sums_S / np.maximum(1, num_known_S), np.nan)
    return means_S
