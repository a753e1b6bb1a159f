"""Two processes that work together, as two hosts would: `pytest -m multiprocess`."""

import contextlib
import shutil
import signal
import socket
import time

import commands
import pytest

from ldm_jax import checkpoint, jobs

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return commands.first_stage(tmp_path_factory.mktemp("stage") / "stage.safetensors")


@pytest.fixture(scope="module")
def exported(stage, tmp_path_factory):
    """Random weights to sample from."""
    folder = tmp_path_factory.mktemp("exported")
    code, printed = commands.run(*flags(folder / "run", stage, 1, fsdp=1))
    assert code == 0, printed
    path = folder / "model.safetensors"
    told = [f"--config={commands.CONFIG}", f"--workdir={folder / 'run'}"]
    told += [f"--config.first_stage.weights={stage}", f"--out={path}"]
    code, printed = commands.run("ldm_jax.export", *told)
    assert code == 0, printed
    return path


def flags(workdir, stage, steps, fsdp=2):
    return [
        *("ldm_jax.train", f"--config={commands.CONFIG}", f"--workdir={workdir}"),
        *(f"--config.first_stage.weights={stage}", f"--config.parallel.fsdp={fsdp}"),
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


def test_two_processes_train_the_branch_that_one_does(stage, exported, tmp_path):
    """Over a split base; each judges what is drawn by a judge of its own."""

    def command(workdir):
        return [
            *flags(workdir, stage, 2),
            *(f"--config.train.init={exported}", "--config.train.trainable=('depth',)"),
            *("--config.control.hints=('depth',)", "--config.control.channels=(4, 8)"),
            *("--config.data.image_size=64", "--config.train.validate_every=2"),
            "--config.train.picture_every=2",
        ]

    ended = together(*[command(tmp_path / "two")] * 2)
    assert [code for code, _ in ended] == [0, 0], ended
    code, printed = commands.run(*command(tmp_path / "one"), devices=4)
    assert code == 0, printed
    two, one = (commands.rows(tmp_path / name) for name in ("two", "one"))
    assert [row["kind"] for row in two] == [row["kind"] for row in one]
    assert {"train", "validation", "control"} <= {row["kind"] for row in two}
    for row, want in zip(two, one, strict=True):
        assert row.keys() == want.keys()
        for name in row.keys() - {"kind", "loss_by_t"}:
            assert row[name] == pytest.approx(want[name], rel=1e-3, abs=1e-5), name
    read = [row for row in two if "adherence_depth" in row]
    assert len(read) == 1 and -1 <= read[0]["adherence_depth"] <= 1


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


def test_hosts_that_sample_are_lost_and_started_again(exported, tmp_path):
    """500 pictures by two processes, one of them killed: the bytes of one process."""

    def command(out):
        asked = ["--prompt=a fox", "--prompt=an owl", "--n=250", "--steps=2"]
        return ["ldm_jax.sample", f"--weights={exported}", *asked, f"--out={out}"]

    def pair(out, stack):
        shares = (["--processes=2", f"--process={i}"] for i in range(2))
        started = (commands.started(*command(out), *share) for share in shares)
        return [stack.enter_context(process) for process in started]

    out = tmp_path / "two"
    with contextlib.ExitStack() as stack:
        (_, wait), (doomed, _) = pair(out, stack)
        manifest = out / "manifest.1-of-2.jsonl"
        deadline = time.monotonic() + commands.PATIENCE
        while not manifest.exists() or manifest.stat().st_size < 3_000:
            assert doomed.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        doomed.send_signal(signal.SIGKILL)
        code, printed = wait()
        assert code == 0 and "has drawn its share" in printed, printed
    rows = jobs.rows(out)
    drawn = [number for number in rows if number % 2]
    assert 20 < len(drawn) < 250 and len(rows) == 250 + len(drawn)
    before = {
        row["file"]: (out / row["file"]).stat().st_mtime_ns for row in rows.values()
    }

    with contextlib.ExitStack() as stack:
        ended = [wait() for _, wait in pair(out, stack)]
    assert [code for code, _ in ended] == [0, 0], ended
    code, printed = commands.run(*command(tmp_path / "one"))
    assert code == 0, printed
    own = {"manifest.0-of-2.jsonl", "manifest.1-of-2.jsonl"}
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names | own == {path.name for path in out.iterdir()} and len(names) > 500
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (out / name).read_bytes(), name
    for name, when in before.items():
        assert (out / name).stat().st_mtime_ns == when  # drawn once
    pictures = {(out / name).read_bytes() for name in names if name[0].isdigit()}
    assert len(pictures) == 500
