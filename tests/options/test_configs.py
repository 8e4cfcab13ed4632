"""Configs and their bases: which files are applied in what order, relative names, errors in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import CPU, clipos, options_of, refused

from clipos_lightning.errors import InputError
from clipos_lightning.experiments.plan import make_plan
from clipos_lightning.options.configs import config_folder, find_config, shipped_configs, with_bases

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Writes a config below the working directory."""
    monkeypatch.chdir(tmp_path)

    def to_file(name: str, **options: Any) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(options, sort_keys=False))
        return path

    return to_file


def resolved(*configs: str | Path) -> dict[str, Any]:
    """What --print_config shows."""
    run = clipos("fit", *(word for config in configs for word in ("--config", config)), "--print_config")
    assert run.code == 0, run.err
    return yaml.safe_load(run.out)


def test_a_config_without_a_base_is_itself() -> None:
    path = find_config("scenes_1shot_micro")
    assert with_bases(path) == [(path, yaml.safe_load(path.read_text()))]


def test_bases_come_first_and_their_key_is_taken_out(write: Writer) -> None:
    first = write("first.yaml", data={"shots": 1})
    middle = write("sub/middle.yaml", base="../first.yaml", data={"shots": 2})
    last = write("last.yaml", base="sub/middle.yaml", data={"shots": 3})
    chain = with_bases(last)
    assert [path.resolve() for path, _ in chain] == [path.resolve() for path in (first, middle, last)]
    assert [options for _, options in chain] == [{"data": {"shots": shots}} for shots in (1, 2, 3)]


def test_a_base_is_looked_up_beside_its_file_then_among_the_shipped_ones(write: Writer) -> None:
    write("demo.yaml", data={"shots": 9})  # in the working directory, not beside sub/mine.yaml
    mine = write("sub/mine.yaml", base="demo.yaml")
    assert with_bases(mine)[-2][0] == config_folder() / "demo.yaml"
    write("sub/demo.yaml", data={"shots": 8})
    assert with_bases(mine)[0][0] == Path("sub/demo.yaml")
    assert with_bases(write("sub/other.yaml", base="large_clip"))[0][0] == config_folder() / "large_clip.yaml"


def test_a_file_overrides_its_base_as_a_second_config_does(write: Writer) -> None:
    options = {"data": {"shots": 2}, "model": {"context": {"words": "a"}}, "trainer": {"max_epochs": 3}}
    over, mine = write("over.yaml", **options), write("mine.yaml", base="demo.yaml", **options)
    found = resolved(mine)
    assert found == resolved("demo.yaml", over)
    assert (found["data"]["shots"], found["data"]["id"]) == (2, "scenes-blueprint")
    assert found["model"]["context"]["learn"] == "own"


def test_a_file_that_holds_only_its_base_and_one_that_holds_nothing(write: Writer) -> None:
    Path("empty.yaml").write_text("# nothing\n")
    assert resolved(write("mine.yaml", base="demo.yaml"), "empty.yaml") == resolved("demo.yaml")


def test_files_named_in_a_config_are_relative_to_it(write: Writer) -> None:
    write("sub/surgery.yaml", beta=0.25)
    write("sub/below.yaml", base="demo.yaml", model={"surgery": "surgery.yaml"})
    assert resolved(write("mine.yaml", base="sub/below.yaml"))["model"]["surgery"]["beta"] == 0.25


@pytest.mark.parametrize(
    "name",
    [n for n in shipped_configs() if yaml.safe_load(find_config(n).read_text()).get("base") == "large_clip.yaml"],
)
def test_shipped_configs_on_the_large_clips_base(name: str) -> None:
    base, own = options_of("large_clip.yaml"), yaml.safe_load(find_config(name).read_text())
    assert own.keys() == {"base", "data", "model"} and own["model"].keys() <= {"score", "image_weight"}
    found = resolved(name)
    for section in ("model", "trainer"):
        for key, value in {**base[section], **own.get(section, {})}.items():
            assert holds(found[section][key], value), (section, key)
    assert found["data"]["batch_size"] == 32 and holds(found["data"], own["data"])


def holds(found: Any, wanted: Any) -> bool:
    """All expected options have their values; further options are allowed."""
    return all(holds(found[k], wanted[k]) for k in wanted) if isinstance(wanted, dict) else found == wanted


def test_grids_resolve_bases(write: Writer) -> None:
    Path("grid.yaml").write_text(
        json.dumps({"configs": ["mine.yaml"], "seeds": [1], "rows": {"one": {"train": False}}})
    )
    write("mine.yaml", base="demo.yaml", data={"shots": 4})
    _, (cell,), _ = make_plan(Path("grid.yaml"), [], [])
    assert (cell.config.data.shots, cell.config.model.backbone) == (4, "MicroCLIP")


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "demoo.yaml"}, r"mine\.yaml: base: no config 'demoo\.yaml'.* Did you mean 'demo\.yaml'\?"),
        ({"base": ["demo.yaml"]}, r"mine\.yaml: base is \['demo\.yaml'\]: it takes one file or shipped config"),
        ({"base": None}, r"mine\.yaml: base is None"),
        ({"base": "mine.yaml"}, r"mine\.yaml: base leads back to mine\.yaml"),
        ({"base": "other.yaml"}, r"other\.yaml: base leads back to mine\.yaml"),
    ],
)
def test_wrong_bases(options: dict[str, Any], message: str, write: Writer) -> None:
    write("other.yaml", base="./mine.yaml")
    mine = write("mine.yaml", **options)
    with pytest.raises(InputError, match=message):
        with_bases(mine)
    run = clipos("fit", "--config", mine, *CPU)
    refused(run, "yaml: base")
    assert len(run.err.splitlines()) == 1


@pytest.mark.badinput
def test_options_that_follow_the_data_are_refused_in_a_base(write: Writer) -> None:
    write("below.yaml", model={"class_names": ["a"]})
    mine = write("mine.yaml", base="below.yaml")
    refused(clipos("fit", "--config", "demo.yaml", "--config", mine, *CPU), "below.yaml: model.class_names is set")


def test_the_list_of_configs_says_what_a_base_is() -> None:
    assert shipped_configs()["large_clip.yaml"].startswith("base: CLIP ViT-B/16")
