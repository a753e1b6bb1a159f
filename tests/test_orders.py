"""Prompts from files: lines, objects, tables, and what is wrong with them."""

import pytest

from ldm_jax import orders


def read(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return orders.read(path)


def test_each_line_is_a_prompt(tmp_path):
    rows = read(tmp_path, "a.txt", "\ufeffa fox\n\n  an owl \r\na café")
    assert rows == [{"prompt": "a fox"}, {"prompt": "an owl"}, {"prompt": "a café"}]


def test_objects_say_more(tmp_path):
    text = '{"prompt": "a fox", "seed": 7, "scale": 4.5}\n\n{"prompt": ""}\n'
    rows = read(tmp_path, "a.jsonl", text)
    assert rows == [{"prompt": "a fox", "seed": 7, "scale": 4.5}, {"prompt": ""}]


def test_lines_end_where_files_say(tmp_path):
    """Not at what Python also takes for the end of a line."""
    fox = "a fox\u2028in snow"
    assert read(tmp_path, "a.txt", f"{fox}\nan owl") == [
        {"prompt": fox},
        {"prompt": "an owl"},
    ]
    (row,) = read(tmp_path, "a.csv", f"prompt,seed\r\n{fox},3\r\n")
    assert row == {"prompt": fox, "seed": 3}


def test_tables_say_the_same_and_an_empty_cell_says_nothing(tmp_path):
    text = 'prompt,seed,negative_prompt\n"a fox, red",7,\nan owl,,blurry\n'
    rows = read(tmp_path, "a.csv", text)
    assert rows == [
        {"prompt": "a fox, red", "seed": 7},
        {"prompt": "an owl", "negative_prompt": "blurry"},
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", " \n\n", "a.txt has no prompts"),
        ("a.jsonl", "", "a.jsonl has no prompts"),
        ("a.csv", "prompt,seed\n", "a.csv has no prompts"),
        ("a.md", "a fox", "end in .txt, .jsonl, .csv"),
        ("a.txt", b"\xff\xfe", "not in UTF-8"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt"', "a.jsonl, line 2: "),
        ("a.jsonl", '["a fox"]', "line 1: .* is no object of prompt, "),
        ("a.jsonl", '{"text": "a fox"}', 'line 1: it has no "prompt", only .*text'),
        ("a.jsonl", '{"prompt": "a", "sede": 1}', "did you mean 'seed'"),
        ("a.jsonl", '{"prompt": "a", "seed": 1.5}', "line 1: seed: 1.5 is no whole"),
        ("a.jsonl", '{"prompt": "a", "seed": -1}', "seed: -1 is not in 0"),
        ("a.jsonl", '{"prompt": 3}', "prompt: 3 is no text"),
        ("a.jsonl", '{"prompt": "a", "seed": 1e999}', "line 1: seed: inf is no number"),
        ("a.jsonl", '{"prompt": "a", "scale": NaN}', "scale: nan is no number"),
        ("a.jsonl", '{"prompt": "a", "scale": true}', "scale: True is no number"),
        ("a.csv", "prompt,scale\na fox,much\n", "line 2: scale: .*much"),
        ("a.csv", "prompt\na fox,red\n", "line 2: it has more than the 1 columns"),
    ],
)
def test_what_is_wrong_is_told_by_file_and_line(tmp_path, name, text, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, name, text)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt"):
        orders.read(tmp_path / "none.txt")


def test_settings_are_python_or_text():
    assert orders.setting("rescale=0.7") == ("rescale", 0.7)
    assert orders.setting("interval=(0.2,0.8)") == ("interval", (0.2, 0.8))
    assert orders.setting("guide=a=b.safetensors") == ("guide", "a=b.safetensors")
    with pytest.raises(ValueError, match="must be KEY=VALUE"):
        orders.setting("rescale")


def test_margins_are_four_numbers():
    assert orders.margins(["1", " 2", "0", "30"]) == (1, 2, 0, 30)
    for said in (["1", "2"], ["1", "2", "3", "-4"], ["a", "2", "3", "4"]):
        with pytest.raises(ValueError, match="must be four numbers of pixels"):
            orders.margins(said)
