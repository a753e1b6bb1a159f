"""The tier of full_steps on a tiny config: its rows, and which are made again."""

import json

import full_steps
import pytest

NAME = "tiny:"
ROW = dict(config=NAME, status="ok")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one config file."""
    folder = tmp_path_factory.mktemp("configs")
    source = "from tiny_text_to_image import get_config\n"
    (folder / "tiny.py").write_text(source)
    return folder


@pytest.fixture
def asked(folder, tmp_path, monkeypatch):
    """(told) -> whether all is well, and of which configs rows were made."""
    made = []

    def make(name, path, told):
        made.append(name)
        return dict(ROW, code=full_steps.code_of(path))

    monkeypatch.setattr(full_steps, "made", make)

    def run():
        out = tmp_path / "rows.jsonl"
        told = [f"--folder={folder}", f"--out={out}"]
        flags, asked = full_steps.arguments(told)
        fine, names = full_steps.run(asked, flags), [*made]
        made.clear()
        return fine, names, out

    return run


def test_a_process_makes_a_row(folder, tmp_path):
    out = tmp_path / "rows.jsonl"
    told = [f"--folder={folder}", f"--out={out}", NAME]
    flags, asked = full_steps.arguments(told)
    assert full_steps.run(asked, flags)
    (row,) = full_steps.rows(out)
    assert row.items() >= (ROW | dict(optimizer="adamw", unchanged=0)).items()
    assert row["code"] == full_steps.code_of(folder / "tiny.py")
    assert row["loss"] > 0 and row["grad_norm"] > 0 and row["sample_s"] > 0


def test_what_is_there_is_skipped(asked):
    assert asked()[:2] == (True, [NAME])
    assert asked()[:2] == (True, [])


def test_a_row_of_other_code_is_made_again(asked):
    *_, out = asked()
    row = full_steps.rows(out)[0]
    out.write_text(json.dumps(row | dict(code="other")) + "\n")
    assert asked()[:2] == (True, [NAME])
    assert [r["code"] for r in full_steps.rows(out)] == ["other", row["code"]]


def test_a_row_that_failed_or_was_cut_off_is_made_again(asked, folder):
    *_, out = asked()
    row = full_steps.rows(out)[0]
    failed = json.dumps(row | dict(status="failed"))
    out.write_text(f"{failed}\n{json.dumps(row)[:-3]}")
    assert asked()[:2] == (True, [NAME])
    assert [r["status"] for r in full_steps.rows(out)] == ["failed", "ok"]


def test_a_config_whose_process_dies_has_failed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(full_steps.sys, "executable", "false")
    told = [f"--folder={folder}", f"--out={tmp_path / 'rows.jsonl'}"]
    flags, asked = full_steps.arguments(told)
    assert not full_steps.run(asked, flags)
    (row,) = full_steps.rows(flags.out)
    assert (row["status"], row["error"]) == ("failed", "status 1: ")


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        full_steps.arguments(["unconditional:celebhq"])
    assert "did you mean 'unconditional:celebahq'" in capsys.readouterr().err


def test_the_code_of_a_row_is_what_is_imported():
    files = full_steps.imports(full_steps.HERE / "full_steps.py")
    assert full_steps.ROOT / "ldm_jax" / "models" / "clip.py" in files
    assert all(path.is_file() for path in files)
