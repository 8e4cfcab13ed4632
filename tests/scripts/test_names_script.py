"""The script that prints the tables of docs/names.md."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "names_without_meaning.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_a_table_row_by_row(script, capsys):
    script["main"](["--only", "scenes", "--names", "codes", "true", "--shots", "1", "--seeds", "2", "--limit", "40"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["codes", "true"]
    for text, images, auto, weights in (row[3:7] for row in rows):
        assert sum(int(part.split(" × ")[1]) for part in weights.split(", ")) == 2  # a choice for each seed
        if weights in ("0 × 2", "1 × 2"):  # one end in both draws: then auto is that end
            assert auto.strip("*") == (text if weights == "0 × 2" else images)
    codes, true = (float(row[3].split(" / ")[0]) for row in rows)
    assert codes < 40 < 90 < true  # accuracy of text alone


def test_half_of_the_names(script):
    names = script["names_of"]
    assert names("half", ["cat", "dog", "owl"]) == ["cat", "B47", "owl"]
    assert names("codes", ["cat", "dog"]) == ["A12", "B47"] and names("true", ["cat"]) == ["cat"]


def test_links_to_some_classes(script, tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog", "owl"):
            (tmp_path / "cifar10-images" / split / name).mkdir(parents=True)
    links = tmp_path / "links"
    options = script["some_of_cifar10"](tmp_path, links, ["cat", "owl"])
    found = {str(p.relative_to(links)) for p in links.glob("*/*/*")}
    assert found == {f"{side}/{split}/{name}" for split in ("train", "test") for side, name in
                     (("id", "cat"), ("id", "owl"), ("out", "dog"))}  # fmt: skip
    assert options["id"] == "folder:id" and options["ood_sets"][0] == "left-out=folder:out/test"


@pytest.mark.parametrize("words", [["--only", "six"], ["--data", "/nowhere"]])
def test_what_is_not_there_is_said(script, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        script["main"](words)
    assert words[0] in capsys.readouterr().err.splitlines()[-1]
