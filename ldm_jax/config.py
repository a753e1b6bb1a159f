"""Every knob, once. A task file in `configs/` states only what differs.

The trees are locked: an unknown key is an error that names the nearest one. The
functions here are the bases, one per task; `check` is called by every task file
and again by every entry point, after the command line's overrides.
"""

import ml_collections

from ldm_jax import config_rules, names


def _data():
    return dict(
        name="",  # picture source, a key of data.datasets.DATASETS
        path="",  # of "packed", "paired" and "tfds": their folder
        crop="center",  # of their pictures, a key of data.transforms.CROPS
        resize="bicubic",  # what follows it, a key of data.transforms.RESIZES
        flip=False,  # half of them
        image_size=256,  # pixels, square
        batch_size=48,  # global: over all devices and hosts
        workers=0,  # grain processes that prepare examples; 0: threads only
        latents="",  # folder by ldm_jax.encode to train from, instead of pictures
        texts=False,  # read there what is said of captions too: encode --texts
        degradation="pil_bicubic",  # to "low_res", a key of data.degrade.DEGRADATIONS
        holes="",  # to in-paint, a key of data.masks.FREE; "": the data set's own
    )


def _first_stage():
    return dict(
        kind="kl",  # a key of models.autoencoder.FIRST_STAGES
        channels=128,  # width of the finest level
        mult=(1, 2, 4),  # width of each level, in channels; factor 2^(levels - 1)
        blocks=2,  # residual blocks per level
        attention=(0, 0, 0),  # 1 where a level attends
        mid_attention=True,
        z_channels=3,  # of the bottleneck
        embed_channels=3,  # of the latent
        codes=0,  # in the codebook of kind "vq"
        dropout=0.0,
        groups=32,  # of GroupNorm
        dtype="float32",  # of the arithmetic
    )


def _unet():
    return dict(
        out_channels=3,  # the latent's; a judge's, of all that it reads
        channels=192,  # width of level 0
        mult=(1, 2, 4),  # width of each level, in channels
        blocks=2,  # residual blocks per level
        depths=(1, 1, 1),  # attention blocks, by level
        mid_depth=1,  # the same in the middle
        attention="transformer",  # or "plain": AttentionBlock
        positions=False,  # tell "transformer" where each pixel is; not the originals'
        heads=0,  # attention heads; 0: as head_channels says
        head_channels=32,  # channels per head; 0: as heads says
        scale_shift=False,
        resblock_updown=False,
        dropout=0.0,
        groups=32,  # of GroupNorm
        remat=False,
        dtype="float32",
    )


def _optim():
    return dict(
        optimizer="adamw",  # a key of optim.OPTIMIZERS
        lr=1e-4,  # final rate: never scaled by the batch or by the devices
        schedule="constant",  # a key of optim.SCHEDULES
        warmup_steps=10_000,  # of the schedules "warmup" and "warmup_cosine"
        decay_steps=400_000,  # the step at which "warmup_cosine" ends
        start_factor=1e-6,  # times lr: where the warm-up starts
        final_factor=1.0,  # times lr: where "warmup_cosine" ends
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.01,  # torch's default for AdamW, Muon's here; "adam" has none
        clip_norm=0.0,  # largest norm of the gradients; 0: not clipped
    )


def _train():
    return dict(
        steps=400_000,
        init="",  # a .safetensors by ldm_jax.convert or .export to start from
        redrawn=(),  # path patterns; what is drawn anew, whatever that file holds
        trainable=("unet", "cond_stage"),  # path patterns; the rest is frozen
        frozen_dtype="float32",  # in which train.init's frozen rest is held
        accumulate=1,  # micro-batches per step; the batch is a multiple of it
        ema_decay=0.9999,  # warmed up as (1 + n) / (10 + n); 0: no such average
        ema_std=0.0,  # the power average instead: its width over the steps done
        max_bad_steps=10,  # abort at a log step after so many non-finite in a row
        log_every=50,
        checkpoint_every=1_000,
        keep_checkpoints=2,
        validate_every=1_000,
        validation_batches=4,
        picture_every=1_000,  # sample grids, from fixed noise
        pictures=16,  # in a grid; at most one batch
    )


def _parallel():
    return dict(
        fsdp=1,  # devices that share one copy of the parameters
    )


def latent_diffusion():
    """Second stage: a UNet on the latents of a frozen first stage."""
    c = ml_collections.ConfigDict(
        dict(
            task="latent_diffusion",
            seed=0,
            data=_data(),
            schedule=dict(
                num_timesteps=1000,
                beta_start=0.0015,  # linear in the square root
                beta_end=0.0195,
                zero_terminal=False,  # no signal at T - 1: needs predicts v or z_0
            ),
            first_stage=dict(
                **_first_stage(),
                weights="",  # its .safetensors, by ldm_jax.export or .convert
                scale=1.0,  # times the latent; must equal the one in that file
            ),
            cond_stage=dict(
                kind="none",  # a key of models.conditioners.CONDITIONERS; each
                # kind reads those of the knobs below that it takes
                drop=0.0,  # share of training examples that are given the null
                vocabulary="",  # "text": word pieces, one a line; "clip": its merges
                vocab=30_522,  # tokens of that vocabulary; "text": the file's lines
                length=77,  # tokens
                width=1280,  # of the context
                depth=32,
                heads=8,
                head_channels=64,
                pooled=False,  # the first token joins the time embedding too
                null_tokens=(2, 3),  # the empty caption, in "text" [CLS] [SEP]; of
                # "clip" also (): its null is zeros in place of what the encoders say
                encoders=(),  # of "clip": keys of models.clip.ENCODERS
                skip=(),  # of each encoder: how many of its last blocks are left out
                final_norm=(),  # of each encoder: whether its last norm follows
                micro=(),  # sizes told beside the pooled text: conditioners.MICRO
                cleaning="nfc",  # or "ftfy": how "clip" normalises a text
                classes=0,  # of "label", the null among them; of "segmentation"
                stages=0,  # of "segmentation", "low_res": the map is 2^stages smaller
                inpaint="",  # "ldm" or "sd": mask and masked picture join z_t
                dtype="float32",
            ),
            unet=_unet(),
            control=dict(
                hints=(),  # keys of data.hints.HINTS: a ControlNet of that name each
                init=(),  # files of branches that go on, for each; "" and (): none
                channels=(16, 32, 96, 256),  # of the hint's encoder, by level
                connections="zero",  # how they start: models.controlnet.CONNECTIONS
                lite=False,  # one convolution in place of each block
                only_mid=False,  # hints are not heard in the skips
            ),
            loss=dict(
                predicts="eps",  # what the network outputs: eps, v or z_0
                norm="l2",  # or "l1"
                min_snr=0.0,  # the gamma of min-SNR weights, often 5; 0: all alike
            ),
            optim=_optim(),
            train=_train(),
            sample=dict(
                sampler="ddim",  # a key of samplers.SAMPLERS
                grid="ldm",  # a key of grids.GRIDS
                steps=200,
                eta=0.0,  # of DDIM
                posterior=0.0,  # of DDPM: 0 beta-tilde, 1 beta
                scale=1.0,  # classifier-free guidance; 1: none
                guide="",  # .safetensors of a weaker model to lead away from, not null
                guidance="cfg",  # how it mixes, a key of guidance.RULES
                shape="constant",  # of scale - 1 over t, a key of guidance.SHAPES
                interval=(0.0, 1.0),  # of the noise range, in which it acts
                rescale=0.0,  # share of it by which v gets back its own contrast
                apg_radius=0.0,  # of "apg": largest change of z_0; 0: any
                apg_parallel=0.0,  # of "apg": share kept of what only adds contrast
                threshold=0.0,  # quantile of pixels cut to [-1, 1]; 0: none
                strength=1.0,  # share of the steps, where a picture is begun with
                branches=(),  # .safetensors of each of control.hints; (): all are here
                hint_strengths=(),  # of each of control.hints; (): 1
                hint_weighting="even",  # by connection: a key of control.WEIGHTINGS
                decode_batch=0,  # latents decoded at once; 0: all of a batch
            ),
            parallel=_parallel(),
        )
    )
    return c.lock()


def autoencoder():
    """First stage: encoder and decoder against a patch discriminator."""
    c = ml_collections.ConfigDict(
        dict(
            task="autoencoder",
            seed=0,
            data=_data(),
            first_stage=_first_stage(),
            discriminator=dict(
                channels=64,  # of its first layer
                depth=3,  # the originals' n_layers
                norm="batch",  # a key of models.discriminator.NORMS
            ),
            loss=dict(
                perceptual="vgg16",  # LPIPS net, by `ldm_jax.fetch lpips`
                perceptual_weight=1.0,  # 0: without, and no net is needed
                learn_logvar=False,  # the reconstruction's scale, for kind "kl"
                kl_weight=1e-6,  # of kind "kl"
                codebook_weight=1.0,  # of kind "vq", as the three below
                beta=0.25,  # of the commitment
                legacy_beta=False,  # of the codebook's term instead: released models
                restart_after=0,  # steps without use that restart a code; 0: never
                disc_loss="hinge",  # a key of losses.DISCRIMINATOR
                disc_weight=0.5,  # times the adaptive weight; 0: discriminator rests
                disc_start=50_001,  # the first step with the discriminator
                disc_warmup=0,  # steps in which disc_weight is reached from there
                r1_weight=0.0,  # of the real pictures' gradient penalty
                lecam_weight=0.0,  # of LeCam's regularisation of the logits
            ),
            optim=_optim(),
            train=_train(),
            parallel=_parallel(),
        )
    )
    c.optim.update(optimizer="adam", lr=4.5e-6, betas=(0.5, 0.9))
    c.train.update(trainable=("first_stage", "discriminator"))
    return c.lock()


def judge():
    """A judge: what is at each place of a picture, as things and segments."""
    c = ml_collections.ConfigDict(
        dict(
            task="judge",
            seed=0,
            data=_data(),
            judge=dict(
                patch=4,  # pixels a side of a place: the UNet sees places
                reads=("things", "segments"),  # keys of judge_loss.HEADS
            ),
            unet=_unet(),
            loss=dict(  # what is not read has none
                balance=0.5,  # an object's pixels count its area^-balance
                things_weight=1.0,  # of the things' cross-entropy
                segments_weight=0.5,  # of the segments' cross-entropy
                depth_weight=1.0,  # of the depths' absolute error
                joints_weight=1.0,  # of the visible joints' cross-entropy over places
            ),
            optim=_optim(),
            train=_train(),
            parallel=_parallel(),
        )
    )
    # 268 things, the last of them "none", and 14 segments: data.labels.
    c.unet.update(out_channels=282, attention="plain")
    c.train.update(trainable=("unet",))
    return c.lock()


def demo(steps):
    """`latent_diffusion` as the demos have it: 64x64 pictures, two cores, minutes.

    The first stage ships with the project. As in LDM, but narrow, transformers know
    where their pixels are, v is predicted, and Muon trains, in `steps` steps.
    """
    c = latent_diffusion()
    c.data.update(image_size=64, batch_size=32)
    c.first_stage.update(channels=32, mult=(1, 1, 2), blocks=1, groups=4)
    c.first_stage.update(z_channels=4, embed_channels=4)
    c.first_stage.update(weights="demo:first_stage.safetensors", scale=0.947729)
    c.unet.update(out_channels=4, channels=48, mult=(1, 2, 2), blocks=1, groups=8)
    c.unet.update(depths=(0, 1, 0), head_channels=24, scale_shift=True, positions=True)
    c.loss.predicts = "v"
    c.optim.update(optimizer="muon", lr=2e-3, betas=(0.9, 0.99), clip_norm=1.0)
    c.optim.update(schedule="warmup_cosine", warmup_steps=100)
    c.optim.update(decay_steps=steps, final_factor=0.02)
    c.train.update(steps=steps, ema_decay=0.999, log_every=20, checkpoint_every=250)
    c.train.update(validate_every=500, picture_every=1_000)
    c.sample.update(grid="trailing", steps=30)
    return c


# LDM's first stages (Rombach et al., 2022, table 8): widths by level, last levels that
# attend, latent channels, codes. Nine are as released; vq-f2 and vq-f32 were not: their
# latents and codebooks are the paper's, and their widths go on as the others' do.
STAGES = {
    "kl-f4": ((1, 2, 4), 0, 3, 0),
    "kl-f8": ((1, 2, 4, 4), 0, 4, 0),
    "kl-f16": ((1, 1, 2, 2, 4), 1, 16, 0),
    "kl-f32": ((1, 1, 2, 2, 4, 4), 2, 64, 0),
    "vq-f2": ((1, 2), 0, 2, 2048),
    "vq-f4": ((1, 2, 4), 0, 3, 8192),
    "vq-f4-noattn": ((1, 2, 4), 0, 3, 8192),
    "vq-f8": ((1, 2, 2, 4), 1, 4, 16_384),
    "vq-f8-n256": ((1, 2, 2, 4), 1, 4, 256),
    "vq-f16": ((1, 1, 2, 2, 4), 1, 8, 16_384),
    "vq-f32": ((1, 1, 2, 2, 4, 4), 2, 32, 16_384),
}


def stage(name):
    """Knobs of the section first_stage: a key of STAGES, or "f1", which are pixels."""
    if name == "f1":
        return dict(kind="identity", mult=(1,), attention=(0,))
    mult, attends, width, codes = names.pick(STAGES, name)
    return dict(
        kind="vq" if codes else "kl",
        mult=mult,
        attention=(0,) * (len(mult) - attends) + (1,) * attends,
        mid_attention=name != "vq-f4-noattn",
        z_channels=width,
        embed_channels=width,
        codes=codes,
    )


BASES = {
    "latent_diffusion": latent_diffusion,
    "autoencoder": autoencoder,
    "judge": judge,
}


def check(c):
    """The same config, locked; or an error in words, before anything is built.

    Raises ValueError or TypeError, naming the key: for keys that differ from the
    base's, values of another type than the base's, None, and for values that
    contradict each other.
    """
    if c.task not in BASES:
        raise ValueError(f"task {c.task!r} must be one of {sorted(BASES)}")
    config_rules.same_keys(c, BASES[c.task]())
    config_rules.same_types(c, BASES[c.task]())
    config_rules.cross_field(c)
    return c.lock()
