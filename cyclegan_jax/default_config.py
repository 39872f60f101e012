"""Every field there is, with the published CycleGAN's values; other files change only what differs.

A run is started with `python main.py --config configs/NAME.py --workdir DIR`, and any field is
overridden on the command line: `--config.batch_size=4 --config.data.crop_size=128`.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The configuration of the original CycleGAN on horse2zebra."""
    c = ConfigDict()

    # Initial weights, data order, pool draws and dropout all follow from this number.
    c.seed = 0
    # Pairs per update over all devices together; the original trains with 1.
    c.batch_size = 1
    # Parts that a device's pairs go through the networks in, one after the other: less memory for
    # the same update. A device's pairs must be a multiple; not with batch norm. Unset: one by one
    # on CPUs, where that is fastest, and all at once elsewhere.
    c.micro_batches = config_dict.placeholder(int)
    # Updates handed to the devices at a time. More keep a GPU busy where updates are short;
    # schedules count in multiples of it.
    c.steps_per_dispatch = 1
    # Updates in the whole run. Unset: the epochs of `schedule` give the number.
    c.num_steps = config_dict.placeholder(int)
    # Arithmetic of the networks: float32, bfloat16 (parameters, norm statistics and losses stay
    # float32), or float64 (for comparing implementations; slow).
    c.precision = "float32"
    # Work directory of another run to start from. The work directory's own checkpoint comes first.
    c.init_from = ""

    c.generator = g = ConfigDict()
    # resnet3, resnet6, resnet9, unet128, unet256: as published. Variants of later systems:
    # resnet9_reflect (strided layers padded by reflection), resnet9_resize (doubled pixels and a
    # convolution where resnet9 has a transposed one), resnet9_same, resnet9_same_resize,
    # resnet9_same_deep (padded as Keras does; the last halves three times),
    # resnet7_single (blocks of one convolution, LeakyReLU).
    g.variant = "resnet9"
    g.blocks = config_dict.placeholder(int)  # residual blocks, where not those of the variant
    g.width = 64  # channels of the first layer; deeper ones are multiples of it
    # instance, instance_affine (with scale and offset), batch (statistics of the batch, affine),
    # none
    g.norm = "instance"
    g.dropout = 0.0  # rate inside residual blocks and the inner U-Net; the original's option is 0.5
    g.remat = False  # recompute activations for gradients: less memory for a third more work

    c.discriminator = d = ConfigDict()
    # patch (70x70 with 3 layers), pixel (1x1): as published. Variants of later systems:
    # patch_normed (a norm on the first layer too), patch_reflect (padded by reflection),
    # patch_same (Keras), patch_strided, both without the layer of stride 1, and dense (patch_same
    # with one score for the image).
    d.variant = "patch"
    d.width = 64  # channels of the first layer
    d.layers = 3  # strided layers: 1 of patch sees 16x16 pixels, 2 34x34, 3 70x70, 4 142x142
    d.norm = "instance"  # instance, instance_affine, batch, none
    d.sigmoid = False  # scores in (0, 1); lsgan only
    d.scales = 1  # 2: a second discriminator judges the image at half its size, and so on

    c.init = i = ConfigDict()
    i.name = "normal"  # normal, xavier, kaiming, orthogonal
    i.gain = 0.02  # standard deviation for normal, factor for xavier and orthogonal

    c.loss = ls = ConfigDict()
    ls.mode = "lsgan"  # lsgan, vanilla (cross-entropy on logits), wgangp
    ls.adversarial = 1.0  # weight
    ls.cycle_a = 10.0  # weight of A -> B -> A
    ls.cycle_b = 10.0  # weight of B -> A -> B
    ls.identity = 0.5  # weight relative to the cycle's, as published; 0 leaves the term out
    ls.identity_every_steps = 1  # the term counts only in every so-many-th update
    ls.real_label = 1.0  # what stands for real in lsgan and vanilla; 0.9 softens it
    ls.gradient_penalty = 10.0  # weight; of losses that have one, such as wgangp
    # Further losses of the generators: names of losses.EXTRA_LOSSES or package.module:function,
    # comma-separated.
    ls.extra = ""

    # Running averages of the generators' parameters, kept beside them and used for samples,
    # figures and translations: 0.999 averages over about 1,000 updates; 0 keeps none.
    c.average_decay = 0.0
    # Generated images that each discriminator may be shown again; 0 shows only the newest.
    c.pool_size = 50
    # Which networks move first on each batch: generators, discriminators.
    c.update_first = "generators"
    # Updates on each batch: more for the side that lags behind.
    c.generator_updates = 1
    c.discriminator_updates = 1

    c.optimizer = o = ConfigDict()
    o.learning_rate = 2e-4  # both Adams
    o.beta1 = 0.5
    o.beta2 = 0.999

    c.schedule = s = ConfigDict()
    s.name = "linear"  # linear, step, cosine, constant; changes once per epoch
    s.constant_epochs = 100  # linear: at the full rate; the run has constant + decay epochs
    s.decay_epochs = 100  # linear: on the way to zero
    s.step_epochs = 50  # step: divided by 10 each time these have passed

    c.data = da = ConfigDict()
    # tfds (the published sets), folder (your own images), celeba (faces by attribute), shapes
    # (built in, drawn on the fly)
    da.source = "tfds"
    da.name = "horse2zebra"  # tfds: which of its cycle_gan sets
    # tfds: where prepared sets are kept (empty: ~/tensorflow_datasets).
    # folder: the folder that holds trainA, trainB, testA, testB (or list files trainA.txt, ...).
    # celeba: the folder of the faces, or the one above.
    da.dir = ""
    # folder: a domain's own folders or list files, comma-separated, instead of those under dir.
    da.train_a = ""
    da.train_b = ""
    da.test_a = ""
    da.test_b = ""
    # celeba: the table of attributes (empty: the one found in dir), and what the faces of a domain
    # have in common, or with a minus lack; where both hold, a face belongs to A.
    da.attributes = ""
    da.attribute_a = "Black_Hair"
    da.attribute_b = "Blond_Hair"
    da.direction = "a_to_b"  # b_to_a swaps the two domains
    da.channels_a = 3  # 1 turns images grey, 3 turns them into colour
    da.channels_b = 3
    da.bit_depth = 8  # bits per channel handed to the networks: 8 or 16
    # resize_and_crop: to load_size x load_size, then a random crop. crop: the crop alone.
    # scale_width: to width load_size, keeping proportions. scale_width_and_crop: both.
    # none: only sides rounded to multiples of 4.
    da.transform = "resize_and_crop"
    da.load_size = 286  # pixels
    da.crop_size = 256  # pixels
    da.flip = True  # mirror left to right with probability 1/2
    da.flip_alike = False  # flip both images of a pair or none
    da.pairing = "independent"  # independent: B is drawn at random; serial: A and B go in step
    da.epoch = "larger"  # pairs in an epoch: as many as the larger set has, or the smaller
    da.max_images = 0  # use only this many of each set, from the first; 0 uses all
    da.skip_unreadable = False  # pass over a damaged image with a warning instead of stopping
    da.cache_gib = 4.0  # decoded and resized images kept in memory, per process
    da.threads = 4  # decoding threads, per process
    da.prefetch_batches = 4  # batches made ready ahead of the update
    da.shapes_size = 64  # shapes: pixels of a side
    da.shapes_train = 400  # shapes: training images of each domain
    da.shapes_test = 64  # shapes: scenes whose both paintings are known

    c.evaluation = e = ConfigDict()
    # With commas between: truth (of shapes), cycle and identity (L1, PSNR, SSIM of what comes back
    # and of what should stay as it is), paired (likewise, where test images of A and B share
    # names), segmentation (of label maps), fid, kid. Empty: truth, else cycle, identity.
    e.metrics = ""
    # The figure by which the best checkpoint is chosen and kept for good: a_to_b/fid, or fid for
    # the mean of both directions. Empty: none.
    e.best = ""
    # segmentation: the colours of domain A or B where it is label maps: cityscapes, facades,
    # shapes_a, shapes_b, or a file with lines of NAME RED GREEN BLUE.
    e.palette_a = ""
    e.palette_b = ""
    # fid, kid: file of the Inception weights. Empty: the published ones, fetched once.
    e.inception = ""

    # All schedules count updates; 0 switches one off. The last step of a run always counts.
    c.log_every_steps = 100
    c.sample_every_steps = 1000
    c.sample_early = False  # also each step to 100, each 10th to 1,000, each 100th to 10,000
    c.sample_images = 4  # rows of a sample strip, from the test set
    c.sample_batch = False  # also strips of the images just trained on
    c.evaluate_every_steps = 0  # figures of the test sets, see `evaluation`
    c.checkpoint_every_steps = 1000
    c.checkpoints_to_keep = 3  # the newest
    c.backup_every_steps = 0  # checkpoints of these steps are kept for good
    c.profile_at_step = 0  # record a TensorBoard profile from this step on; 0 records none
    c.profile_steps = 5
    return c
