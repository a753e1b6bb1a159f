"""Held-out numbers and pictures of a run: the same pictures and noise every time."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import inputs, inspection, knobs, pictures, sharding, train_step, trees

BINS = 10  # of the timesteps
SEED = 1_000_003  # of the fixed noise


class Validator:
    """Compiled once; judges the average (EMA) where the run keeps one."""

    def __init__(self, config, system, mesh, frozen):
        self._config, self._system, self._mesh = config, system, mesh
        self._frozen = frozen
        everywhere = sharding.replicated(mesh)
        self._validate = jax.jit(system.validate, out_shardings=everywhere)
        self._draw = jax.jit(self._pictures, out_shardings=everywhere)
        self._batches = None

    def numbers(self, state):
        """Means over the validation pictures; the loss also by bins of t."""
        params = self._params(state)
        rows = [
            jax.device_get(self._validate(params, keys, batch))
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
        """A sheet of pictures to TensorBoard and to workdir/pictures."""
        keys, batch = self._fixed()[0]
        out = np.asarray(self._draw(self._params(state), keys, batch))
        out = out[: self._config.train.pictures]  # [pictures, panels of each, ...]
        count, panels = out.shape[:2]
        columns = panels * int(np.ceil(np.sqrt(count / panels)))
        sheet = pictures.grid(np.concatenate(out), columns)
        writer.images(step, "pictures", sheet)

    def _pictures(self, params, keys, batch):
        system = self._system
        if system.sample:
            x = system.sample(params, keys, batch, knobs.of(self._config))
            return pictures.to_uint8(x)[:, None]
        x = batch["image"]
        if system.judge:
            return jnp.stack([x, *_segments(system, params, batch)], axis=1)
        x_hat = system.decode(params, system.encode(params, keys, pictures.to_float(x)))
        return jnp.stack([x, pictures.to_uint8(x_hat)], axis=1)

    def _params(self, state):
        return trees.merge(self._frozen, state.ema or state.params)

    def _fixed(self):
        """[(keys, batch)] of the held-out split, read once."""
        if self._batches is None:
            config = self._config
            size = config.data.batch_size
            names = tuple(self._system.heldout or self._system.batch)
            with inputs.batches(config, names, "heldout") as batches:
                self._batches = [
                    (
                        train_step.picture_keys(SEED, i, size),
                        sharding.put_batch(next(batches), self._mesh),
                    )
                    for i in range(config.train.validation_batches)
                ]
        return self._batches


def _segments(system, params, batch):
    """The true segments and those that a judge sees, as colours: [B, S, S, 3] each."""
    logits = system.judge(params, pictures.to_float(batch["image"]))["segments"]
    seen, true = jnp.argmax(logits, axis=-1), batch["segmentation"]
    patch = true.shape[1] // seen.shape[1]
    seen = jnp.repeat(jnp.repeat(seen, patch, axis=1), patch, axis=2)
    palette = jnp.asarray(inspection.PALETTE)
    return [palette[x % len(palette)] for x in (true, seen)]
