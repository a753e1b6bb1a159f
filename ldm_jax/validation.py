"""Held-out numbers and pictures of a run: the same pictures and noise every time."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import (
    control,
    control_fidelity,
    inputs,
    inspection,
    judge_loss,
    knobs,
    pictures,
    sharding,
    train_step,
    trees,
)

BINS = 10  # of the timesteps
SEED = 1_000_003  # of the fixed noise


class Validator:
    """Compiled once; judges the average (EMA) where the run keeps one."""

    def __init__(self, config, system, mesh, frozen):
        self._config, self._system, self._mesh = config, system, mesh
        self._frozen = frozen
        everywhere = sharding.replicated(mesh)
        self._told = tuple(system.heldout or system.batch)
        self._validate = jax.jit(system.validate, out_shardings=everywhere)
        self._draw = jax.jit(self._pictures, out_shardings=everywhere)
        self._whole = jax.jit(lambda batch: batch, out_shardings=everywhere)
        self._batches = None
        hinted = system.sample and config.control.hints
        self._watch = control_fidelity.Watch(config) if hinted else None

    def numbers(self, state):
        """Means over the validation pictures; the loss also by bins of t."""
        params = self._params(state)
        rows = [
            jax.device_get(self._validate(params, keys, self._only_told(batch)))
            for keys, batch in self._fixed()
        ]
        rows = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        t = rows.pop("t", None)
        fields = {name: np.float32(np.mean(values)) for name, values in rows.items()}
        if t is not None:
            bins = t * BINS // self._config.schedule.num_timesteps
            by_bin = [rows["loss_simple"][bins == i] for i in range(BINS)]
            fields["loss_by_t"] = [
                np.float32(np.mean(x)) if len(x) else None for x in by_bin
            ]
        return fields

    def draw(self, state, writer, step):
        """A sheet of pictures to TensorBoard and to workdir/pictures.

        Of what obeys a hint also how well it does.
        """
        keys, batch = self._fixed()[0]
        out = self._draw(self._params(state), keys, self._only_told(batch))
        out = np.asarray(out)
        if self._watch:
            seen = {name: batch[name] for name in ("image", *self._watch.needs)}
            seen = jax.device_get(self._whole(seen))  # all rows, of other hosts too
            writer.write(step, "control", self._watch.numbers(out[:, -1], seen))
        out = out[: self._config.train.pictures]  # [pictures, panels of each, ...]
        count, panels = out.shape[:2]
        columns = panels * int(np.ceil(np.sqrt(count / panels)))
        sheet = pictures.grid(np.concatenate(out), columns)
        writer.images(step, "pictures", sheet)

    def _pictures(self, params, keys, batch):
        system = self._system
        if system.sample:
            x = system.sample(params, keys, batch, knobs.of(self._config))
            drawn = pictures.to_uint8(x)
            hints = [batch[name] for name in batch if name.startswith(control.HINT)]
            return jnp.stack([*hints, drawn], axis=1)
        x = batch["image"]
        if system.judge:
            return jnp.stack([x, *_seen(system, params, batch)], axis=1)
        x_hat = system.decode(params, system.encode(params, keys, pictures.to_float(x)))
        return jnp.stack([x, pictures.to_uint8(x_hat)], axis=1)

    def _only_told(self, batch):
        """Without what only the judges of a hint read."""
        return {name: batch[name] for name in self._told}

    def _params(self, state):
        return trees.merge(self._frozen, state.ema or state.params)

    def _fixed(self):
        """[(keys, batch)] of the held-out split, read once."""
        if self._batches is None:
            config = self._config
            size = config.data.batch_size
            names = self._told + (self._watch.needs if self._watch else ())
            names = tuple(dict.fromkeys(names))
            with inputs.batches(config, names, "heldout") as batches:
                self._batches = [
                    (
                        train_step.picture_keys(SEED, i, size),
                        sharding.put_batch(next(batches), self._mesh),
                    )
                    for i in range(config.train.validation_batches)
                ]
        return self._batches


def _seen(system, params, batch):
    """What is true and what a judge sees, two pictures of each thing in SHOWN."""
    logits = system.judge(params, pictures.to_float(batch["image"]))
    size = batch["image"].shape[1]
    for name in filter(SHOWN.get, logits):
        for x in SHOWN[name](logits[name], batch):
            magnified = jnp.repeat(x, size // x.shape[1], axis=1)
            yield jnp.repeat(magnified, size // x.shape[2], axis=2)


def _segments(logits, batch):
    palette = jnp.asarray(inspection.PALETTE)
    numbers = batch["segmentation"], jnp.argmax(logits, axis=-1)
    return [palette[x % len(palette)] for x in numbers]


def _depths(logits, batch):
    return [_grey(x) for x in (batch["depth"], judge_loss.by_pixel(logits))]


def _joints(logits, batch):
    own = judge_loss.joints_at(batch["joints"], logits)
    likely = jax.nn.softmax(logits, axis=(1, 2))
    return [_grey(jnp.sum(x, axis=-1)) for x in (own, likely)]


def _grey(x):
    """[B, h, w], 0 black to 1 white -> uint8 [B, h, w, 3]."""
    return pictures.to_uint8(2 * jnp.repeat(x[..., None], 3, axis=-1) - 1)


# What a judge says -> (logits, batch) -> [true, seen], uint8 [B, h, w, 3] each. Things
# are more than there are colours to tell apart.
SHOWN = {"segments": _segments, "depth": _depths, "joints": _joints}
