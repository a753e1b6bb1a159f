"""What a run writes down: metrics.jsonl, TensorBoard, sheets, a line of progress."""

import json
import math
import os
import pathlib
import sys
import time

import jax
import numpy as np
import tensorboardX
import tqdm

from ldm_jax import pictures


def due(step, every):
    """Whether a periodic action is due at this step."""
    return step % every == 0


class Writer:
    """Appends rows to workdir/metrics.jsonl and scalars and images to TensorBoard.

    restored_step: the step that the run goes on from; later rows of a run that was
    killed are dropped, all rows where it is None. Only process 0 writes. Everything at
    the top level of a row is deterministic; what is not belongs in `timing`.
    """

    def __init__(self, workdir, restored_step=None):
        self._file = self._board = None
        if jax.process_index() != 0:
            return
        self._workdir = workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        last = -1 if restored_step is None else restored_step
        _drop_after(path, last)
        self._file = path.open("a", encoding="utf-8")
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=last + 1
        )

    def write(self, step, kind, fields, timing=None):
        """One row: kind 'train', 'validation', ...; numbers, strings, lists, dicts."""
        if self._file is None:
            return
        row = {"step": int(step), "kind": kind}
        clash = {*row, "timing"} & set(fields)
        if clash:
            raise ValueError(f"a metrics field may not be called {sorted(clash)}")
        row |= {name: plain(value) for name, value in fields.items()}
        if timing:
            row["timing"] = {name: plain(value) for name, value in timing.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in {**fields, **(timing or {})}.items():
            if np.ndim(value) == 0 and isinstance(plain(value), int | float):
                self._board.add_scalar(f"{kind}/{name}", float(value), int(step))

    def images(self, step, name, grid):
        """One sheet, uint8 [H, W, 3], to TensorBoard and workdir/NAME/STEP.png."""
        if self._board is None:
            return
        self._board.add_image(name, np.asarray(grid), int(step), dataformats="HWC")
        folder = self._workdir / name
        folder.mkdir(exist_ok=True)
        pictures.save_png(folder / f"{int(step):07}.png", grid)

    def close(self):
        if self._file is not None:
            self._file.close()
            self._board.close()


def plain(value):
    """JSON for a value, floats exact (repr); 'nan', 'inf', '-inf' where not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str | bool | int | None):
        return value
    array = np.asarray(value)
    if array.ndim:
        return [plain(item) for item in array]
    number = array.astype(np.float64).item() if array.dtype.kind in "fV" else None
    if number is None:
        return array.item()
    return number if math.isfinite(number) else str(number)


def read(path):
    """The rows of a metrics.jsonl; a torn last line (kill -9) is left out."""
    path = pathlib.Path(path)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not JSON") from error
    return rows


def _drop_after(path, step):
    """Rewrites the file without the rows after a step."""
    if not path.exists():
        return
    rows = [row for row in read(path) if row["step"] <= step]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    os.replace(temporary, path)


class Meter:
    """Speed since the last reading: images a second, share of time waiting for data."""

    def __init__(self, batch_size, clock=time.perf_counter):
        self._batch_size, self._clock = batch_size, clock
        self._steps, self._waited, self._since = 0, 0.0, clock()

    def add(self, data_wait):
        """Counts one step that waited `data_wait` seconds for its batch."""
        self._steps += 1
        self._waited += data_wait

    def elapsed(self):
        """Seconds since the last reading."""
        return self._clock() - self._since

    def read(self):
        """{'images_per_s', 'step_s', 'data_wait'}, and starts anew."""
        elapsed = max(self.elapsed(), 1e-9)
        rates = {
            "images_per_s": self._steps * self._batch_size / elapsed,
            "step_s": elapsed / max(self._steps, 1),
            "data_wait": self._waited / elapsed,
        }
        self._steps, self._waited, self._since = 0, 0.0, self._clock()
        return rates


class Progress:
    """A line on stderr: steps, ETA, images/s, data wait. Rare where nobody watches."""

    def __init__(self, total, initial, batch_size):
        self._interval = 1.0 if sys.stderr.isatty() else 60.0
        self._meter = Meter(batch_size)
        self._bar = tqdm.tqdm(
            total=total,
            initial=initial,
            mininterval=self._interval,
            miniters=1,
            dynamic_ncols=True,
            unit="step",
            disable=jax.process_index() != 0,
        )

    def update(self, data_wait, note=""):
        """One step done, after waiting `data_wait` seconds; note: e.g. the loss."""
        self._meter.add(data_wait)
        if self._meter.elapsed() >= self._interval:
            rates = self._meter.read()
            speed = f"{rates['images_per_s']:.1f} images/s"
            wait = f"data wait {rates['data_wait']:.0%}"
            text = ", ".join(filter(None, (speed, wait, note)))
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    def close(self):
        self._bar.close()
