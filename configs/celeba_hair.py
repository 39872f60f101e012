r"""Black hair to blond hair and back, on the faces of CelebA.

    python main.py --config configs/celeba_hair.py --workdir runs/celeba_hair \
        --config.data.dir=celeba

Reproduces: the original's networks with reflection padding in every padded layer (transposed
convolutions have none) and scores through a sigmoid. Discriminators are updated first; there is
neither an identity loss nor an image pool; one epoch at a low, constant learning rate, in bfloat16.
Weights start from PyTorch's defaults: the published code calls its own initialisation in a way that
has no effect.

Data: CelebA (Liu et al. 2015; mmlab.ie.cuhk.edu.hk/projects/CelebA.html, also on Kaggle), with the
faces in `img_align_celeba` and the table `list_attr_celeba.csv` or `.txt`, together in one folder.
48,472 faces have black hair and 29,980 blond hair; the others are not used. Faces are resized to
256x256. There is no test set.

Result: 48,472 updates. Samples show the first training images, and the last strips are the round
trips of the trained networks. There are no metrics.

Deviations: faces are resized bilinearly by Pillow, there by OpenCV: from 178x218 to 256x256, the
results differ by at most 1 of 255, in a fifth of the values. The sample of step n shows the batch
of update n, there that of update n + 1, both by the networks after n updates.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Return the configuration (parameters: generator 11,378,179, discriminator 2,764,737)."""
    config = default.get_config()
    config.precision = "bfloat16"
    config.generator.variant = "resnet9_reflect"
    config.discriminator.variant = "patch_reflect"
    config.discriminator.sigmoid = True
    config.init.name = "torch_default"

    config.loss.identity = 0.0
    config.pool_size = 0
    config.update_first = "discriminators"
    config.optimizer.learning_rate = 1e-5
    config.schedule.name = "constant"
    config.schedule.constant_epochs = 1
    config.schedule.decay_epochs = 0

    config.data.source = "celeba"
    config.data.attribute_a = "Black_Hair"
    config.data.attribute_b = "Blond_Hair"
    config.data.load_size = 256
    config.data.crop_size = 256
    config.data.interpolation = "bilinear"
    config.data.flip_alike = True
    config.data.pairing = "serial"

    config.sample_every_steps = 100
    config.sample_at_start = True
    config.sample_batch = True
    return config
