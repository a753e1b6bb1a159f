"""Parameters without running `init`, and the two tasks at a size for tests."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import config, paths

VOCABULARY = "demo:vocab.txt"


def random_params(shapes, scale=1.0, seed=0):
    """A tree of shapes (of jax.eval_shape) -> arrays; nothing in it is zero.

    Matrices keep the size of what passes through them at scale 1. What starts as
    zero is drawn like the rest, or a wrong layer behind it would go unseen.
    """
    gen = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = gen.standard_normal(leaf.shape, np.float32)
        name = path[-1].key
        if name == "scale":
            return jnp.asarray(1 + 0.1 * noise)
        if name == "embedding":
            return jnp.asarray(scale * noise)
        if leaf.ndim > 1:
            return jnp.asarray(scale * noise / np.sqrt(np.prod(leaf.shape[:-1])))
        return jnp.asarray(0.1 * noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def init_shapes(module, *args, **kwargs):
    """The shapes of a module's parameters, without allocating any."""
    rng = jax.random.key(0, impl="unsafe_rbg")  # the quickest to trace and compile
    return jax.eval_shape(lambda: module.init(rng, *args, **kwargs))["params"]


def fresh_params(module, *args):
    """What `init` really draws."""
    rng = jax.random.key(0, impl="unsafe_rbg")
    return jax.jit(module.init)(rng, *args)["params"]


def apply(module, params, *args, method=None, rngs=None):
    """module.apply, compiled once for each set of shapes; flags are static."""
    flags = tuple((i, a) for i, a in enumerate(args) if isinstance(a, bool))
    args = tuple(None if isinstance(a, bool) else a for a in args)
    return _compiled(module, method, flags)(params, args, rngs)


@functools.cache
def _compiled(module, method, flags):
    def run(params, args, rngs):
        args = list(args)
        for i, flag in flags:
            args[i] = flag
        return module.apply({"params": params}, *args, method=method, rngs=rngs)

    return jax.jit(run)


def count(shapes):
    """Parameters in a tree of shapes or arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def normal(seed, *shape, scale=1.0):
    """Standard normal numbers, float32."""
    gen = np.random.default_rng(seed)
    return jnp.asarray(scale * gen.standard_normal(shape), jnp.float32)


def largest_difference(a, b):
    """The largest absolute difference between two trees of arrays."""
    gaps = jax.tree.map(lambda x, y: np.abs(np.subtract(x, y)).max(initial=0), a, b)
    return float(max(jax.tree.leaves(gaps), default=0.0))


def random_batch(shapes, seed=0):
    """A batch of System.batch's shapes: pictures, and tokens of small numbers."""
    gen = np.random.default_rng(seed)

    def draw(shape):
        high = 256 if shape.dtype == np.uint8 else 20
        return jnp.asarray(gen.integers(0, high, shape.shape), shape.dtype)

    return jax.tree.map(draw, shapes)


def _tiny_first_stage(section):
    section.update(channels=8, mult=(1, 2), blocks=1, attention=(0, 0), groups=4)
    section.update(z_channels=4, embed_channels=4)


def _tiny_train(c):
    c.optim.update(lr=1e-3, warmup_steps=2, decay_steps=20)
    c.train.update(steps=4, pictures=2, log_every=1, validation_batches=1)
    c.train.update(checkpoint_every=2, validate_every=2, picture_every=2)


def tiny_config():
    """Text to image, 16x16 in the latent 8x8x4, a batch of four."""
    c = config.latent_diffusion()
    c.data.update(name="emoji_singles", image_size=16, batch_size=4)
    _tiny_first_stage(c.first_stage)
    pieces = len(paths.resolve(VOCABULARY).read_text(encoding="utf-8").split())
    c.cond_stage.update(kind="text", drop=0.25, vocabulary=VOCABULARY, vocab=pieces)
    c.cond_stage.update(length=24, width=16, depth=1, heads=2, head_channels=8)
    c.unet.update(out_channels=4, channels=8, mult=(1, 2), blocks=1, depths=(0, 1))
    c.unet.update(head_channels=8, groups=4)
    c.sample.update(grid="trailing", steps=2, scale=2.0)
    _tiny_train(c)
    return config.check(c)


def tiny_autoencoder_config():
    """The first stage on 32x32 pictures: AlexNet needs 31."""
    c = config.autoencoder()
    c.data.update(name="emoji_mixed", image_size=32, batch_size=4)
    _tiny_first_stage(c.first_stage)
    c.discriminator.update(channels=8, depth=2)
    c.loss.update(perceptual="alexnet", disc_start=2)
    _tiny_train(c)
    return config.check(c)


@contextlib.contextmanager
def compiling():
    """The names of what jax compiles meanwhile, or reads from its cache."""
    compiled = []

    def listen(event, seconds, **told):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(told["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(listen)
