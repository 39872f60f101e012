"""The Inception network whose features the Frechet and kernel distances compare.

Inception v3 (Szegedy et al. 2016) as in the TensorFlow graph of 2015-12-05 that published distances
are computed with. It departs from the paper in its pooling: averages exclude padding, and the last
block pools by the maximum. The classifier is omitted.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclegan_jax.ops import convolution

SIDE = 299
FEATURES = 2048

Array = jax.Array


class Unit(nn.Module):
    """Convolution, bias and ReLU; batch norm is folded into the first two.

    Attributes:
        features: Output channels.
        size: Height and width of the kernel.
        stride: 1 or 2.
        padded: Pad by zeros, so that the size stays the same at stride 1.
    """

    features: int
    size: tuple[int, int]
    stride: int
    padded: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map [B, H, W, C] to [B, H', W', features]."""
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        rows, columns = ((k // 2, k // 2) if self.padded else (0, 0) for k in self.size)
        # On CPUs XLA is slow only without padding; the other form of all layers would take three
        # times as long to compile for no gain.
        form: convolution.Form | None = "direct" if self.padded or self.stride == 2 else None
        y = convolution.convolve(x, kernel, stride=self.stride, padding=(rows, columns), form=form)
        return nn.relu(y + bias)


def _unit(
    x: Array,
    name: str,
    features: int,
    height: int = 1,
    width: int | None = None,
    *,
    stride: int = 1,
    padded: bool = True,
) -> Array:
    """Apply a unit within the calling module; the kernel is square unless a width is given."""
    size = (height, height if width is None else width)
    return Unit(features, size, stride, padded and stride == 1, name=name)(x)


class _BlockA(nn.Module):
    """Block at 35x35 with kernels of 1, 3 and 5; the pooled branch has `pool` channels."""

    pool: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = _unit(x, "branch1x1", 64)
        five = _unit(_unit(x, "branch5x5_1", 48), "branch5x5_2", 64, 5)
        three = _unit(_unit(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, 3)
        three = _unit(three, "branch3x3dbl_3", 96, 3)
        pooled = _unit(_average(x), "branch_pool", self.pool)
        return jnp.concatenate([one, five, three, pooled], -1)


class _BlockB(nn.Module):
    """Block from 35x35 to 17x17."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = _unit(x, "branch3x3", 384, 3, stride=2)
        double = _unit(_unit(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, 3)
        double = _unit(double, "branch3x3dbl_3", 96, 3, stride=2)
        return jnp.concatenate([three, double, _halve(x)], -1)


class _BlockC(nn.Module):
    """Block at 17x17 with kernels of 1x7 and 7x1 and `middle` channels between them."""

    middle: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = _unit(x, "branch1x1", 192)
        seven = _unit(x, "branch7x7_1", self.middle)
        seven = _unit(seven, "branch7x7_2", self.middle, 1, 7)
        seven = _unit(seven, "branch7x7_3", 192, 7, 1)
        double = _unit(x, "branch7x7dbl_1", self.middle)
        double = _unit(double, "branch7x7dbl_2", self.middle, 7, 1)
        double = _unit(double, "branch7x7dbl_3", self.middle, 1, 7)
        double = _unit(double, "branch7x7dbl_4", self.middle, 7, 1)
        double = _unit(double, "branch7x7dbl_5", 192, 1, 7)
        pooled = _unit(_average(x), "branch_pool", 192)
        return jnp.concatenate([one, seven, double, pooled], -1)


class _BlockD(nn.Module):
    """Block from 17x17 to 8x8."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = _unit(_unit(x, "branch3x3_1", 192), "branch3x3_2", 320, 3, stride=2)
        seven = _unit(_unit(x, "branch7x7x3_1", 192), "branch7x7x3_2", 192, 1, 7)
        seven = _unit(seven, "branch7x7x3_3", 192, 7, 1)
        seven = _unit(seven, "branch7x7x3_4", 192, 3, stride=2)
        return jnp.concatenate([three, seven, _halve(x)], -1)


class _BlockE(nn.Module):
    """Block at 8x8 with kernels of 1x3 beside 3x1; pools by the maximum or the average."""

    maximum: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = _unit(x, "branch1x1", 320)
        three = _unit(x, "branch3x3_1", 384)
        double = _unit(_unit(x, "branch3x3dbl_1", 448), "branch3x3dbl_2", 384, 3)
        pooled = nn.max_pool(x, (3, 3), padding="SAME") if self.maximum else _average(x)
        branches = [
            one,
            _unit(three, "branch3x3_2a", 384, 1, 3),
            _unit(three, "branch3x3_2b", 384, 3, 1),
            _unit(double, "branch3x3dbl_3a", 384, 1, 3),
            _unit(double, "branch3x3dbl_3b", 384, 3, 1),
            _unit(pooled, "branch_pool", 192),
        ]
        return jnp.concatenate(branches, -1)


class Inception(nn.Module):
    """Network from images to features, with the module names of the published weights."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map float32 [B, 299, 299, 3] in [-1, 1] to features [B, 2048], at least 0."""
        x = _unit(x, "Conv2d_1a_3x3", 32, 3, stride=2)
        x = _unit(x, "Conv2d_2a_3x3", 32, 3, padded=False)
        x = _halve(_unit(x, "Conv2d_2b_3x3", 64, 3))
        x = _unit(x, "Conv2d_3b_1x1", 80)
        x = _halve(_unit(x, "Conv2d_4a_3x3", 192, 3, padded=False))
        for letter, pool in (("b", 32), ("c", 64), ("d", 64)):
            x = _BlockA(pool, name=f"Mixed_5{letter}")(x)
        x = _BlockB(name="Mixed_6a")(x)
        for letter, middle in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = _BlockC(middle, name=f"Mixed_6{letter}")(x)
        x = _BlockD(name="Mixed_7a")(x)
        x = _BlockE(maximum=False, name="Mixed_7b")(x)
        x = _BlockE(maximum=True, name="Mixed_7c")(x)
        return x.mean((1, 2))


def _halve(x: Array) -> Array:
    """Pool by the maximum of 3x3 at stride 2."""
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _average(x: Array) -> Array:
    """Pool by the mean of 3x3 at stride 1, padding excluded."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
