"""Every field of a configuration, with the published CycleGAN's values.

The files in `configs/` change only what differs, and any field is overridden on the command line:
`--config.batch_size=4 --config.data.crop_size=128`. Fields that choose among named entries also
take `package.module:attribute`, an entry of the user's own (see docs/extending.md).
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Return the configuration of the original CycleGAN on horse2zebra."""
    c = ConfigDict()

    # Determines initial parameters, data order, image pools and dropout.
    c.seed = 0
    # Pairs per update over all devices together (the global batch); the original trains with 1.
    c.batch_size = 1
    # Parts in which a device's pairs pass through the networks, one after the other: less memory
    # for the same update. Must divide a device's pairs; not with batch norm. Unset: pairs one by
    # one on CPUs, where that is fastest, and all at once elsewhere.
    c.micro_batches = config_dict.placeholder(int)
    # Updates per call of the compiled program. More keep a GPU busy if updates are short; all
    # periods must be multiples of it.
    c.steps_per_dispatch = 1
    # Updates in the whole run. Unset: as many as the epochs of `schedule` need. It does not change
    # the schedule: for a rate that ends at 0 in a shorter run, set the epochs instead.
    c.num_steps = config_dict.placeholder(int)
    # Arithmetic of the networks: float32, bfloat16 (parameters, norm statistics and losses stay
    # float32), or float64 (slow; for comparing implementations).
    c.precision = "float32"
    # Kernels of training: xla, or triton (NVIDIA GPUs only), which computes an instance norm and
    # what surrounds it in one kernel where a feature map is small enough, 64x64. Its speed has not
    # been measured: compare both.
    c.kernels = "xla"
    # Work directory of another run whose networks to start from. A checkpoint of this run's own
    # takes precedence.
    c.init_from = ""

    c.generator = g = ConfigDict()
    # As published: resnet3, resnet6, resnet9, unet128, unet256. Of later systems: resnet9_reflect
    # (strided layers with reflection padding), resnet9_resize (upsampling and a convolution instead
    # of transposed convolutions), resnet9_same, resnet9_same_resize, resnet9_same_deep (padded as
    # in Keras; the last has three levels), resnet7_single (blocks of one convolution, LeakyReLU).
    g.variant = "resnet9"
    g.blocks = config_dict.placeholder(int)  # residual blocks; unset: those of the variant
    g.width = 64  # channels of the first layer; deeper ones have multiples of it
    # instance, instance_affine (with scale and bias), instance_affine_std (likewise, epsilon added
    # to the deviation), batch (statistics of the batch, affine), none
    g.norm = "instance"
    g.dropout = 0.0  # rate in residual blocks and inner U-Net layers; the original's option is 0.5
    g.remat = False  # recompute activations for gradients: less memory for a third more computation

    c.discriminator = d = ConfigDict()
    # As published: patch (70x70 pixels with 3 layers), pixel (1x1). Of later systems: patch_normed
    # (a norm on the first layer too), patch_reflect (reflection padding), patch_same (padded as in
    # Keras) and patch_strided, both without the layer of stride 1, and dense (patch_same with a
    # single score).
    d.variant = "patch"
    d.width = 64  # channels of the first layer
    d.layers = 3  # strided layers of patch: 1 sees 16x16 pixels, 2 34x34, 3 70x70, 4 142x142
    d.norm = "instance"  # as generator.norm
    d.sigmoid = False  # map scores into (0, 1); with lsgan only
    d.scales = 1  # number of discriminators, each at half the image size of the one before

    c.init = i = ConfigDict()
    # normal, xavier, kaiming, orthogonal; glorot_uniform (of Keras), torch_default (of PyTorch's
    # layers, biases too)
    i.name = "normal"
    i.gain = 0.02  # standard deviation of normal, factor of xavier and orthogonal

    c.loss = ls = ConfigDict()
    ls.mode = "lsgan"  # lsgan, vanilla (cross-entropy of logits), wgangp
    ls.adversarial = 1.0  # weight
    ls.cycle_a = 10.0  # weight of A -> B -> A
    ls.cycle_b = 10.0  # weight of B -> A -> B
    ls.identity = 0.5  # weight relative to the cycle's, as published; 0 leaves the loss out
    ls.identity_every_steps = 1  # the identity loss counts in every n-th update
    # joint: with the other losses of the generators; separate: in a step of its own after theirs,
    # in every n-th update of each epoch
    ls.identity_step = "joint"
    ls.real_label = 1.0  # label of real images in lsgan and vanilla; 0.9 is a soft label
    ls.gradient_penalty = 10.0  # weight, for losses that have one, such as wgangp
    # Further losses of the generators, comma-separated package.module:function.
    ls.extra = ""

    # Decay of running averages of the generators' parameters, which samples, metrics and
    # translations then use: 0.999 averages over about 1,000 updates; 0 keeps none.
    c.average_decay = 0.0
    # Generated images that each discriminator may see again; 0 shows only the newest.
    c.pool_size = 50
    # Side that is updated first on each batch: generators, discriminators.
    c.update_first = "generators"
    # Updates on each batch; more for the side that lags behind.
    c.generator_updates = 1
    c.discriminator_updates = 1
    # Steps of the discriminators in an update: joint (real and generated images together),
    # real_then_fake (two steps; lsgan and vanilla)
    c.discriminator_steps = "joint"

    c.optimizer = o = ConfigDict()
    o.name = "adam"  # adam, keras_adam (epsilon as in Keras 2)
    o.learning_rate = 2e-4  # of Adam for both sides
    o.beta1 = 0.5
    o.beta2 = 0.999

    c.schedule = s = ConfigDict()
    # linear, step, cosine, whose rate changes once per epoch; linear_per_update; constant; plateau
    # (on the generators' loss); plateau_published (likewise, on a loss of 0, as in the original)
    s.name = "linear"
    # linear: epochs at the full rate; cosine: epochs from the full rate to zero. A run has
    # constant + decay epochs.
    s.constant_epochs = 100
    s.decay_epochs = 100  # linear: epochs on the way to zero
    s.step_epochs = 50  # step: the rate is divided by 10 every so often
    # linear, step, cosine, plateau_published: each epoch has the rate of the one after it, as in
    # the original since July 2020; the last epoch of linear then has rate 0.
    s.stepped_first = False

    c.data = da = ConfigDict()
    # tfds (published datasets), folder (your own images), celeba (faces by attribute), shapes
    # (built in, drawn on the fly)
    da.source = "tfds"
    da.name = "horse2zebra"  # tfds: name of a cycle_gan dataset
    # tfds: where prepared datasets are kept (empty: ~/tensorflow_datasets).
    # folder: the folder with trainA, trainB, testA, testB (or list files trainA.txt, ...).
    # celeba: the folder of the faces, or its parent.
    da.dir = ""
    # folder: folders or list files of a domain, comma-separated, instead of those in dir.
    da.train_a = ""
    da.train_b = ""
    da.test_a = ""
    da.test_b = ""
    # celeba: the attribute table (empty: the one found in dir), and the attribute that the faces of
    # a domain have, or lack with a leading minus. A face that fits both belongs to A.
    da.attributes = ""
    da.attribute_a = "Black_Hair"
    da.attribute_b = "Blond_Hair"
    da.direction = "a_to_b"  # b_to_a swaps the domains
    da.channels_a = 3  # 1 converts images to grey, 3 to colour
    da.channels_b = 3
    da.bit_depth = 8  # bits per channel that the networks are given: 8 or 16
    # resize_and_crop: to load_size x load_size, then a random crop. crop: only the crop.
    # scale_width: to width load_size, keeping proportions. scale_width_and_crop: both.
    # scale_shorter_and_crop: likewise, but the shorter side. none: sides rounded to multiples of 4.
    da.transform = "resize_and_crop"
    da.load_size = 286  # pixels
    da.crop_size = 256  # pixels
    da.crop_width = config_dict.placeholder(int)  # pixels; crop_size is then the height only
    da.interpolation = "bicubic"  # of resizing: bicubic, bilinear, nearest, lanczos
    da.flip = True  # mirror left to right with probability 1/2
    da.flip_alike = False  # flip both images of a pair or neither
    # independent: B is drawn at random for each image of A. serial: A and B in step. replacement:
    # both are drawn at random, so that an epoch may repeat or omit images of A, too.
    da.pairing = "independent"
    da.epoch = "larger"  # pairs in an epoch: the size of the larger domain, or the smaller
    da.max_images = 0  # use only the first n images of each domain; 0 uses all
    da.skip_unreadable = False  # skip damaged images with a warning instead of stopping
    da.cache_gib = 4.0  # decoded and resized images kept in memory, per process
    da.threads = 4  # decoding threads, per process
    da.prefetch_batches = 4  # batches prepared ahead of the update
    da.shapes_size = 64  # shapes: pixels of a side
    da.shapes_train = 400  # shapes: training images of each domain
    da.shapes_test = 64  # shapes: test scenes, known in both domains

    c.evaluation = e = ConfigDict()
    # Comma-separated: truth (of shapes), cycle and identity (L1, PSNR, SSIM of reconstructions and
    # of identity outputs), paired (likewise, where test images of A and B share names),
    # segmentation (of label maps), fid, kid. Empty: truth, else cycle and identity.
    e.metrics = ""
    # Metric by which the best checkpoint is chosen and kept: a_to_b/fid, or fid for the mean of
    # both directions. Empty: none.
    e.best = ""
    # segmentation: the colours of domain A or B if it consists of label maps: cityscapes, facades,
    # shapes_a, shapes_b, or a file with lines of NAME RED GREEN BLUE.
    e.palette_a = ""
    e.palette_b = ""
    # fid, kid: file of the Inception weights. Empty: the published ones, downloaded once.
    e.inception = ""

    # Periods in updates; 0 switches one off. The last step of a run always counts.
    c.log_every_steps = 100
    c.sample_every_steps = 1000
    c.sample_early = False  # also every step to 100, every 10th to 1,000, every 100th to 10,000
    c.sample_at_start = False  # also before the first update
    c.sample_images = 4  # rows of a sample strip, from the test set
    c.sample_random = False  # each sample shows other images, drawn at random, not the first ones
    c.sample_batch = False  # also sample the images just trained on
    c.evaluate_every_steps = 0  # metrics of the test sets, see `evaluation`
    c.checkpoint_every_steps = 1000
    c.checkpoints_to_keep = 3  # the newest; the best and the backups are kept beside them
    c.backup_every_steps = 0  # checkpoints of these steps are kept for good
    c.profile_at_step = 0  # record a TensorBoard profile from this step on; 0 records none
    c.profile_steps = 5
    return c
