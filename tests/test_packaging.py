"""Shipped configs are found in an editable install and in a wheel."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import clipos_lightning
from clipos_lightning.errors import InputError
from clipos_lightning.options.configs import config_folder, find_config, shipped_configs, shipped_grids

CHECKOUT = Path(clipos_lightning.__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "configs")


def test_configs_are_found_in_the_installed_package() -> None:
    names = shipped_configs()
    assert {"demo.yaml", "large_clip.yaml", "cifar10_1shot.yaml", "coop.yaml", "locoop.yaml"} <= names.keys()
    assert all(names.values())  # each says what it is
    assert names.keys() == {path.name for path in config_folder().glob("*.yaml")}
    assert {path.name for path in config_folder().iterdir() if path.is_dir()} == {"grids", "sweeps"}


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_yaml_with_known_sections(name: str) -> None:
    config = yaml.safe_load(find_config(name).read_text(encoding="utf-8"))
    assert config.keys() <= {"base", "model", "data", "trainer", "seed_everything"}


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
    assert f"Version {project['version']}" in (CHECKOUT / "README.md").read_text(encoding="utf-8")
    changelog = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")  # keepachangelog.com
    versions, kinds = (re.findall(pattern, changelog, re.MULTILINE) for pattern in (r"^## \[(.*?)\]", "^### (.*)"))
    assert versions[0] == "Unreleased" and project["version"] in versions
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_names_with_and_without_suffix_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("demo") == find_config("demo.yaml") == config_folder() / "demo.yaml"
    for name in ("nowhere", "./demo.yaml", "../configs/demo.yaml", "sub/demo.yaml", ""):
        with pytest.raises(InputError, match="neither a file nor a shipped config"):
            find_config(name)
    (tmp_path / "demo.yaml").write_text("")
    assert find_config("demo.yaml") == Path("demo.yaml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources."""
    if not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("not run from a checkout")
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(CHECKOUT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_configs_assets_and_every_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = Path(clipos_lightning.__file__).parent
    wanted = {
        p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.suffix != ".pyc" and p.is_file()
    }
    wanted |= {f"clipos_lightning/configs/{name}" for name in shipped_configs()}
    assert wanted <= names
    assert not any(name.startswith(("tests", "configs", "docs")) for name in names)
    assert all(any(name.endswith(f) for name in names) for f in ("licenses/LICENSE", "assets/WORDNET_LICENSE.txt"))


def test_the_installed_wheel_finds_its_own_configs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(pip, check=True, timeout=120, capture_output=True)
    where = "import clipos_lightning.options.configs as p; print(p.find_config('demo'))"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    runs = [
        subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        for words in (["-m", "clipos_lightning", "configs"], ["-c", where])
    ]
    assert [line.split()[0] for line in runs[0].stdout.splitlines()] == [*shipped_configs(), *shipped_grids()]
    assert Path(runs[1].stdout.strip()) == target / "clipos_lightning/configs/demo.yaml"
