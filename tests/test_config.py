import helpers
import pytest
import tiny_stable_diffusion

from ldm_jax import config, config_rules, config_saved


@pytest.fixture(params=sorted(config.BASES))
def base(request):
    return config.BASES[request.param]()


@pytest.fixture
def c():
    return helpers.tiny_config()


def test_a_base_keeps_its_own_rules(base):
    checked = config.check(base)
    assert checked is base and checked.is_locked


def test_a_misspelt_key_is_an_error_with_the_nearest_name(c):
    with pytest.raises(AttributeError, match='Did you mean "channels".*"chanels"'):
        c.unet.chanels = 3
    with pytest.raises(KeyError, match='Did you mean "channels".*"chanels"'):
        c.unet.update(chanels=3)
    with pytest.raises(AttributeError, match='Did you mean "optim"'):
        c.optin = 1


def test_a_replaced_section_is_found(c):
    """Assigning a section whole is accepted and drops the lock: check compares keys."""
    c.unet = dict(chanels=3)
    with pytest.raises(ValueError) as caught:
        config.check(c)
    words = str(caught.value)
    assert "unet.chanels (did you mean unet.channels?)" in words
    assert "missing keys: " in words and "unet.mult" in words
    assert ".update(...)" in words


def test_a_missing_section_is_found(c):
    with c.unlocked():
        del c.loss
    with pytest.raises(ValueError, match="missing keys: loss.min_snr, loss.norm"):
        config.check(c)


def test_an_unknown_task_is_named(c):
    c.task = "diffusion"
    with pytest.raises(ValueError, match="'diffusion'.*autoencoder.*latent_diffusion"):
        config.check(c)


def test_none_is_refused(c):
    with c.ignore_type():
        c.unet.channels = None
    with pytest.raises(TypeError, match="unet.channels is None"):
        config.check(c)


def test_a_wrong_type_in_a_file_is_refused(c):
    with pytest.raises(TypeError, match="channels"):
        c.unet.channels = "abc"


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("unet", "channels", 8.0, "unet.channels is 8.0 .float., .* type int"),
        ("unet", "remat", 1, "unet.remat is 1 .int., .* type bool"),
        ("unet", "mult", 3, "unet.mult is 3 .int., .* type tuple"),
        ("data", "name", 3, "data.name is 3 .int., .* type str"),
    ],
)
def test_check_compares_types_with_the_base(c, section, key, value, words):
    with c.ignore_type():
        c[section][key] = value
    with pytest.raises(TypeError, match=words):
        config.check(c)


def test_a_whole_number_may_stand_for_a_float(c):
    with c.ignore_type():
        c.optim.lr = 1
    assert config.check(c).optim.lr == 1


BROKEN = {
    "unet.depths (0, 1) must have one entry for each level of unet.mult (1, 2, 1, 1)": {
        "unet": dict(mult=(1, 2, 1, 1)),
    },
    "unet.depths (0, 1, 1, 1) must have one entry for each level of unet.mult (1, 2)": {
        "unet": dict(depths=(0, 1, 1, 1)),
    },
    "first_stage.attention (0,) must have one entry for each level": {
        "first_stage": dict(attention=(0,)),
    },
    "data.batch_size 4 must be a multiple of train.accumulate 3": {
        "train": dict(accumulate=3),
    },
    "train.accumulate is 0, it must be at least 1": {"train": dict(accumulate=0)},
    "train.keep_checkpoints is 0, it must be at least 1": {
        "train": dict(keep_checkpoints=0),
    },
    "train.pictures is 0, it must be at least 1": {"train": dict(pictures=0)},
    "train.validation_batches is 0, it must be at least 1": {
        "train": dict(validation_batches=0),
    },
    "optim.lr is nan, it must be finite": {"optim": dict(lr=float("nan"))},
    "optim.decay_steps 2 must be more than optim.warmup_steps 2": {
        "optim": dict(schedule="warmup_cosine", decay_steps=2),
    },
    "sample.eta 0.5 is of the sampler 'ddim', sample.sampler is 'ddpm'": {
        "sample": dict(sampler="ddpm", eta=0.5),
    },
    "sample.posterior 1.0 is of the sampler 'ddpm'": {"sample": dict(posterior=1.0)},
    "unet.mid_depth 2 must be 0 or 1 where unet.attention is 'plain'": {
        "unet": dict(attention="plain", mid_depth=2),
    },
    "cond_stage.kind 'text' is not heard: it needs": {
        "unet": dict(depths=(0, 0), mid_depth=0),
    },
    "with a depth above 0, or cond_stage.pooled": {"unet": dict(attention="plain")},
    "sample.scale 2.0 does nothing where cond_stage.kind is 'none'": {
        "cond_stage": dict(kind="none", drop=0.0),
    },
    "sample.rescale 0.7 does nothing where cond_stage.kind is 'none'": {
        "cond_stage": dict(kind="none", drop=0.0),
        "sample": dict(scale=1.0, rescale=0.7),
    },
    "schedule.beta_start -0.1 and schedule.beta_end 0.0195 must be between": {
        "schedule": dict(beta_start=-0.1),
    },
    "schedule.beta_end 0.001 must be between 0 and 1 and not fall": {
        "schedule": dict(beta_end=0.001),
    },
    "train.pictures 5 must be at most data.batch_size 4": {
        "train": dict(pictures=5),
    },
    "exactly one of unet.heads 2 and unet.head_channels 8 must be 0": {
        "unet": dict(heads=2),
    },
    "exactly one of unet.heads 0 and unet.head_channels 0 must be 0": {
        "unet": dict(head_channels=0),
    },
    "unet width 8 (channels times 1) must be a multiple of 3 (unet.heads)": {
        "unet": dict(heads=3, head_channels=0),
    },
    "unet width 8 (channels times 1) must be a multiple of 16 (unet.head_channels)": {
        "unet": dict(head_channels=16),
    },
    "unet.channels 8 times 1 of unet.mult must be a multiple of unet.groups 3": {
        "unet": dict(groups=3),
    },
    "first_stage.channels 6 times 1 of first_stage.mult must be a multiple of": {
        "first_stage": dict(channels=6),
    },
    "data.image_size 17 must be a multiple of 4 for this model (first stage factor 2, "
    "UNet levels 2); the nearest are 16 and 20": {"data": dict(image_size=17)},
    "data.image_size 18 must be a multiple of 4 for this model": {
        "data": dict(image_size=18),
    },
    "the nearest is 4": {"data": dict(image_size=3)},
    "cond_stage.encoders ('clip_l',) does nothing where cond_stage.kind is 'text', "
    "only where it is 'clip': it must be ()": {
        "cond_stage": dict(encoders=("clip_l",)),
    },
    "cond_stage.skip (1,) does nothing": {"cond_stage": dict(skip=(1,))},
    "cond_stage.final_norm (True,) does": {"cond_stage": dict(final_norm=(True,))},
    "cond_stage.micro ('crop',) does nothing": {"cond_stage": dict(micro=("crop",))},
    "cond_stage.cleaning 'ftfy' does nothing where cond_stage.kind is 'text', only "
    "where it is 'clip': it must be 'nfc'": {"cond_stage": dict(cleaning="ftfy")},
    "cond_stage.classes 9 does nothing where cond_stage.kind is 'text', only where it "
    "is 'label' or 'segmentation' or 'layout': it must be 0": {
        "cond_stage": dict(classes=9)
    },
    "cond_stage.classes 0 must be above 0 and, times the 16": {
        "cond_stage": dict(kind="layout", vocab=8192, length=92),
    },
    "cond_stage.vocab 100, which must be 5 or more and no square": {
        "cond_stage": dict(kind="layout", vocab=100, length=92, classes=3),
    },
    "cond_stage.classes 600 must be above 0 and, times the 16": {
        "cond_stage": dict(kind="layout", vocab=8192, length=92, classes=600),
    },
    "cond_stage.classes 257 must be 1 to 256": {
        "cond_stage": dict(kind="segmentation", classes=257, stages=1, drop=0.0),
        "sample": dict(scale=1.0),
    },
    "sample.scale 2.0 leads away from a null that cond_stage.drop 0": {
        "cond_stage": dict(kind="label", classes=9, drop=0.0),
    },
    "cond_stage.length 78 must be 3 for each object and 2 for the crop": {
        "cond_stage": dict(kind="layout", vocab=8192, length=78, classes=9),
    },
    "cond_stage.stages 1 does nothing where cond_stage.kind is 'label', only where it "
    "is 'segmentation' or 'low_res'": {
        "cond_stage": dict(kind="label", classes=9, stages=1),
    },
    "cond_stage.pooled True does nothing where cond_stage.kind is 'label'": {
        "cond_stage": dict(kind="label", classes=9, pooled=True),
    },
    "cond_stage.null_tokens is empty: where cond_stage.kind is 'text'": {
        "cond_stage": dict(null_tokens=()),
    },
    "unet.out_channels 3 must equal first_stage.embed_channels 4": {
        "unet": dict(out_channels=3),
    },
    "unet.attention 'plian' must be 'transformer' or 'plain'": {
        "unet": dict(attention="plian"),
    },
    "train.ema_decay 1.0 must be in [0, 1)": {"train": dict(ema_decay=1.0)},
    "train.ema_std 0.3 must be 0 or in [0.001, 0.28]": {"train": dict(ema_std=0.3)},
    "train.ema_std 1e-05 must be 0 or in": {"train": dict(ema_std=1e-5)},
    "unet.positions is of unet.attention 'transformer'": {
        "unet": dict(attention="plain", positions=True),
    },
    "must be a multiple of 4 for unet.positions": {
        "unet": dict(channels=6, groups=2, head_channels=2, positions=True),
    },
    "loss.min_snr 5.0 weighs squared errors": {"loss": dict(min_snr=5.0, norm="l1")},
    "two kinds of average: one of them must be 0": {"train": dict(ema_std=0.1)},
    "loss.min_snr -1.0 must be 0": {"loss": dict(min_snr=-1.0)},
    "where loss.predicts 'eps' does not determine": {
        "schedule": dict(zero_terminal=True)
    },
    "loss.min_snr 5.0 gives the last step": {
        "schedule": dict(zero_terminal=True),
        "loss": dict(predicts="v", min_snr=5.0),
    },
    "sample.grid 'ldm' begins below the last step": {
        "schedule": dict(zero_terminal=True),
        "loss": dict(predicts="v"),
        "sample": dict(grid="ldm"),
    },
    "sample.sampler 'heun' divides by the signal": {
        "schedule": dict(zero_terminal=True),
        "loss": dict(predicts="v"),
        "sample": dict(grid="trailing", sampler="heun"),
    },
    "sample.eta 7.0 must be in [0, 1]": {"sample": dict(eta=7.0)},
    "sample.interval (0.2,) must be two shares": {"sample": dict(interval=(0.2,))},
    "sample.rescale 1.5 must be in [0, 1]": {"sample": dict(rescale=1.5)},
    "sample.strength 0.0 must be above 0": {"sample": dict(strength=0.0)},
    "sample.decode_batch -1 must be 0 (off) or above": {
        "sample": dict(decode_batch=-1)
    },
    "sample.apg_radius 2.0 is of the guidance 'apg'": {"sample": dict(apg_radius=2.0)},
    "sample.threshold 0.99 cuts to the range of pixels": {
        "sample": dict(threshold=0.99)
    },
    "sample.guidance 'cfg_pp' is of samplers that renoise": {
        "sample": dict(guidance="cfg_pp", sampler="unipc", scale=0.5)
    },
    "sample.guidance 'cfg_pp' has a scale in [0, 1] (not 2.0)": {
        "sample": dict(guidance="cfg_pp")
    },
    "cond_stage.drop 1.5 must be in [0, 1]": {"cond_stage": dict(drop=1.5)},
    "data.batch_size is 0, it must be at least 1": {"data": dict(batch_size=0)},
    "train.log_every is 0, it must be at least 1": {"train": dict(log_every=0)},
    "sample.steps is 0, it must be at least 1": {"sample": dict(steps=0)},
    "optim.warmup_steps is -1, it must be at least 1": {
        "optim": dict(warmup_steps=-1),
    },
}


BROKEN_CLIP = {
    "cond_stage.encoders is empty": dict(encoders=()),
    "cond_stage.encoders ('clip_l', 'clip_l') must differ from each other": dict(
        encoders=("clip_l", "clip_l")
    ),
    "cond_stage.encoders (1, 2) must hold nothing but str": dict(encoders=(1, 2)),
    "cond_stage.micro (1,) must hold nothing but str": dict(micro=(1,)),
    "cond_stage.skip (1, 1.0) must hold nothing but int": dict(skip=(1, 1.0)),
    "cond_stage.skip (True, 1) must hold nothing but int": dict(skip=(True, 1)),
    "cond_stage.skip (1, -1) must be 0 or more": dict(skip=(1, -1)),
    "cond_stage.skip (1,) must have one entry for each of": dict(skip=(1,)),
    "cond_stage.final_norm (0, 1) must hold nothing but bool": dict(final_norm=(0, 1)),
    "cond_stage.classes 9 does nothing": dict(classes=9),
    "cond_stage.cleaning 'nfd' must be 'nfc' or 'ftfy'": dict(cleaning="nfd"),
}


@pytest.mark.parametrize("words", BROKEN_CLIP)
def test_the_knobs_of_clip_are_held_to_their_rules(words):
    c = tiny_stable_diffusion.get_config("xl-base")
    c.cond_stage.update(BROKEN_CLIP[words])
    with pytest.raises(ValueError) as caught:
        config.check(c)
    assert words in str(caught.value)


def test_the_nearest_sizes_are_named():
    c = config.latent_diffusion()
    c.first_stage.update(mult=(1, 2, 4, 4), attention=(0, 0, 0, 0))
    c.unet.update(mult=(1, 2, 4, 4), depths=(1, 1, 1, 0))
    c.data.image_size = 520
    with pytest.raises(ValueError) as caught:
        config.check(c)
    assert str(caught.value) == (
        "data.image_size 520 must be a multiple of 64 for this model (first stage "
        "factor 8, UNet levels 4); the nearest are 512 and 576"
    )
    stage = helpers.tiny_autoencoder_config()
    stage.data.image_size = 33
    with pytest.raises(
        ValueError, match=r"of 2 for this model \(first stage factor 2\)"
    ):
        config.check(stage)


@pytest.mark.parametrize("words", BROKEN)
def test_values_that_contradict_each_other_are_refused_in_words(c, words):
    for section, changes in BROKEN[words].items():
        c[section].update(changes)
    with pytest.raises(ValueError) as caught:
        config.check(c)
    assert words in str(caught.value)


def test_what_a_tuple_holds_has_its_type_too(c):
    c.unet.depths = (0, 1.5)
    with pytest.raises(TypeError, match=r"unet.depths is \(0, 1.5\)"):
        config.check(c)


@pytest.mark.parametrize("make", [helpers.tiny_config, helpers.tiny_autoencoder_config])
def test_text_brings_the_same_config_back(make):
    c = make()
    again = config_saved.from_json(config_saved.to_json(c))
    assert again == c and again.is_locked
    assert config_rules.flat(again) == config_rules.flat(c)
    assert config_saved.to_json(again) == config_saved.to_json(c)


def test_text_is_checked_too(c):
    text = config_saved.to_json(c).replace('"chann', '"chunn')
    with pytest.raises(ValueError, match="unet.chunnels .did you mean unet.channels"):
        config_saved.from_json(text)


def test_text_is_held_to_the_types_too(c):
    text = config_saved.to_json(c).replace('"lr": 0.001', '"lr": true')
    with pytest.raises(TypeError, match="optim.lr is True .bool., .* type float"):
        config_saved.from_json(text)


def test_a_dict_that_is_older_than_a_knob_takes_the_bases_value():
    c = config.latent_diffusion()
    old = c.to_dict()
    del old["cond_stage"]["pooled"], old["parallel"]
    old["unet"]["channels"] = 64
    found = config_saved.from_dict(old)
    assert found.cond_stage.pooled is c.cond_stage.pooled
    assert found.parallel.fsdp == c.parallel.fsdp
    assert found.unet.channels == 64
    old["unet"]["chanels"] = 64
    with pytest.raises(ValueError, match="unet.chanels"):
        config_saved.from_dict(old)
