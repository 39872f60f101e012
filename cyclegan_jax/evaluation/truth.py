"""Translations of the built-in set against the known truth."""

from typing import Protocol

import numpy as np

from cyclegan_jax.evaluation import segmentation
from cyclegan_jax.evaluation.similarity import psnr


class Labelled(Protocol):
    """Images whose pixels' classes are known, as the built-in set's are."""

    palette: dict[str, list[list[int]]]

    def __getitem__(self, index: int, /) -> np.ndarray:
        """The image, uint8 [H, W, 3]."""

    def labels(self, index: int, /) -> np.ndarray:
        """Positions in the palette, uint8 [H, W]."""


def shapes_figures(
    fake_b: np.ndarray, fake_a: np.ndarray, test_a: Labelled, test_b: Labelled
) -> dict[str, float]:
    """Scores translations of the test scenes in both directions.

    Args:
        fake_b: translations of the first N images of test_a, uint8 [N, size, size, 3].
        fake_a: translations of the first N images of test_b, likewise.
        test_a: the scenes painted in A.
        test_b: the same scenes painted in B.

    Returns:
        `a_to_b/...` and `b_to_a/...` with the figures of `segmentation.scores` over sky, ground
        and object, pixels assigned by the palette of the domain translated to; `b_to_a/psnr`, the
        mean over images of the ratio in dB to domain A's painting of the scene. (Stripes may be
        right and yet elsewhere, so there is no `a_to_b/psnr`.)
    """
    figures = {}
    for direction, fakes, source, target in (
        ("a_to_b", fake_b, test_a, test_b),
        ("b_to_a", fake_a, test_b, test_a),
    ):
        truth = np.stack([source.labels(i) for i in range(len(fakes))])
        predicted = segmentation.assign(fakes, target.palette)
        for name, value in segmentation.scores(predicted, truth, tuple(target.palette)).items():
            figures[f"{direction}/{name}"] = value
    paintings = np.stack([test_a[i] for i in range(len(fake_a))])
    figures["b_to_a/psnr"] = float(np.mean(psnr(fake_a, paintings)))
    return figures
