"""Two processes that work together, as two hosts would: `pytest -m multiprocess`."""

import contextlib
import shutil
import socket

import commands
import pytest

from ldm_jax import checkpoint

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return commands.first_stage(tmp_path_factory.mktemp("stage") / "stage.safetensors")


def flags(workdir, stage, steps):
    return [
        *("ldm_jax.train", f"--config={commands.CONFIG}", f"--workdir={workdir}"),
        *(f"--config.first_stage.weights={stage}", "--config.parallel.fsdp=2"),
        *(f"--config.train.steps={steps}", "--config.train.checkpoint_every=100"),
        *("--config.train.validate_every=100", "--config.train.picture_every=100"),
    ]


def together(*commands_of_each):
    """Runs a command as process 0, another as 1: [(exit code, what it printed)]."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = ["--distributed", f"--coordinator=localhost:{port}", "--processes=2"]
    with contextlib.ExitStack() as stack:
        waits = []
        for i, arguments in enumerate(commands_of_each):
            arguments = [*arguments, *hosts, f"--process={i}"]
            started = commands.started(*arguments, devices=2)
            waits.append(stack.enter_context(started)[1])
        return [wait() for wait in waits]


def test_two_processes_compute_what_one_does(stage, tmp_path):
    ended = together(*[flags(tmp_path / "two", stage, 3)] * 2)
    assert [code for code, _ in ended] == [0, 0], ended
    code, printed = commands.run(*flags(tmp_path / "one", stage, 3), devices=4)
    assert code == 0, printed
    two, one = commands.rows(tmp_path / "two"), commands.rows(tmp_path / "one")
    assert [row["step"] for row in two] == [row["step"] for row in one] == [1, 2, 3, 3]
    for row, want in zip(two, one, strict=True):
        for name in {"loss", "grad_norm", "loss_simple", "loss_vlb"} & want.keys():
            assert row[name] == pytest.approx(want[name], rel=1e-5)


def test_two_processes_encode_what_one_does(stage, tmp_path):
    """One of them finds its part there and waits for the other."""

    def command(folder):
        return [
            *("ldm_jax.encode", f"--config={commands.CONFIG}", f"--out={folder}"),
            *(f"--config.first_stage.weights={stage}", "--n=12", "--shard=4"),
        ]

    code, printed = commands.run(*command(tmp_path / "one"), devices=2)
    assert code == 0, printed
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    shutil.copy(one / "latents.json", two)
    shutil.copy(next(one.glob("*-00001-of-*")), two)  # all that process 1 has to write
    ended = together(*[command(two)] * 2)
    assert [code for code, _ in ended] == [0, 0], ended
    assert "8 pictures in" in ended[0][1]
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_sigterm_to_one_process_stops_both(stage, tmp_path):
    run = flags(tmp_path, stage, 50)
    ended = together(run, ["interrupted", "SIGTERM", "row", 4, *run])
    assert [code for code, _ in ended] == [75, 75], ended
    manager = checkpoint.open(tmp_path / "checkpoints", read_only=True)
    saved = checkpoint.latest(manager)
    manager.close()
    assert commands.rows(tmp_path)[-1]["step"] == saved in (4, 5)
