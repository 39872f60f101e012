"""Translations of a dataset with known labels against the correct ones."""

from typing import Any, Protocol

import numpy as np

from cyclegan_jax.evaluation import segmentation
from cyclegan_jax.evaluation.results import Results
from cyclegan_jax.evaluation.similarity import psnr


class LabelledSource(Protocol):
    """A source whose pixels have known classes, such as `data.shapes.ShapesSource`.

    Images of the same index in both domains show the same scene.

    Attributes:
        palette: Colours (RGB) of each class in this domain.
    """

    palette: dict[str, list[list[int]]]

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Return an image, uint8 [H, W, 3]."""

    def labels(self, index: int, /) -> np.ndarray:
        """Return the class of each pixel as its position in the palette, uint8 [H, W]."""


def is_labelled(source: Any) -> bool:
    """Return whether a source has what `LabelledSource` asks for."""
    return hasattr(source, "palette") and hasattr(source, "labels")


def truth_results(
    fake_b: np.ndarray, fake_a: np.ndarray, test_a: LabelledSource, test_b: LabelledSource
) -> Results:
    """Compare translations of test scenes with the known labels in both directions.

    Args:
        fake_b: Translations of the first N images of test_a, uint8 [N, H, W, 3].
        fake_a: Translations of the first N images of test_b, likewise.
        test_a: Scenes in domain A.
        test_b: The same scenes in domain B.

    Returns:
        `a_to_b/NAME` and `b_to_a/NAME` for each result of `segmentation.scores`, where pixels have
        the class of the nearest colour in the target domain; and `b_to_a/psnr`, the mean PSNR in dB
        against the images of domain A. There is no `a_to_b/psnr`, since textures of the built-in
        domain B can be correct at another offset.
    """
    results: Results = {}
    for direction, fakes, source, target in (
        ("a_to_b", fake_b, test_a, test_b),
        ("b_to_a", fake_a, test_b, test_a),
    ):
        labels = np.stack([source.labels(i) for i in range(len(fakes))])
        predicted = segmentation.assign(fakes, target.palette)
        for name, value in segmentation.scores(predicted, labels, tuple(target.palette)).items():
            results[f"{direction}/{name}"] = value
    images = np.stack([test_a[i] for i in range(len(fake_a))])
    results["b_to_a/psnr"] = float(np.mean(psnr(fake_a, images)))
    return results
