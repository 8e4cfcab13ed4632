"""``fit --ckpt_path``: the same images, the recorded options and length; the checkpoints on the way."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from running import CPU, PHOTO_OPTIONS, Run, clipos, done, make_photos, refused, save_scene

from clipos_lightning.training.callbacks import LastCheckpoint

DEMO = ("fit", "--config", "demo.yaml")
FIVE_BATCHES = ("--data.shots", 2, "--data.batch_size", 4)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run.checkpoint, weights_only=True)
    return content


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def on_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A fit on all images but the last one of each class."""
    words = ("--data.root", photos, *PHOTO_OPTIONS, "--data.shots", 3, "--trainer.max_epochs", 1)
    return done(*DEMO, *words, "--trainer.default_root_dir", tmp_path_factory.mktemp("runs"))


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--data.shots", 1), ["--data.shots 1 (trained with 3)"]),
        (("--data.seed", 4), ["--data.seed 4 (trained with 1)"]),
        (("--data.shots", 2, "--data.seed", 4), ["--data.shots 2", "--data.seed 4", "leave them out"]),
        (("--data.views", 2), ["--data.views 2 (trained with 1)"]),
        (("--data.background", "red"), ["--data.background red"]),
        (("--data.shots", "all"), ["--data.shots all"]),
    ],
)
def test_another_draw_is_refused(options: tuple[Any, ...], named: list[str], on_photos: Run) -> None:
    run = clipos("fit", "--ckpt_path", on_photos.checkpoint, *options, "--trainer.max_epochs", 2, *CPU)
    refused(run, "other few-shot images", "train anew without --ckpt_path", *named)
    assert not Path("runs").exists()  # nothing was started


def test_the_same_images_by_other_options(on_photos: Run, photos: Path) -> None:
    moved = shutil.copytree(photos, "moved/data")
    same = ("--data.shots_file", on_photos.folder / "shots.json", "--data.root", moved)
    run = done("fit", "--ckpt_path", on_photos.checkpoint, *same, "--trainer.max_epochs", 2)
    images = [json.loads((r.folder / "shots.json").read_text())["images"] for r in (run, on_photos)]
    assert images[0] == images[1]


@pytest.mark.badinput
def test_images_that_changed_since(on_photos: Run, photos: Path) -> None:
    root = Path(shutil.copytree(photos, "changed"))
    shutil.rmtree(root / "photos/train/star")
    for i in range(5, 9):
        save_scene(root / f"photos/train/star/{i}.png", "star", i)
    for command in ("fit", "validate"):
        refused(
            clipos(command, "--ckpt_path", on_photos.checkpoint, "--data.root", root, *CPU), "not the same any more"
        )


def test_validation_and_test_do_not_mix_up_draws(on_photos: Run) -> None:
    run = clipos("validate", "--ckpt_path", on_photos.checkpoint, "--data.shots", 1, *CPU)
    refused(run, "--data.shots 1 (trained with 3); leave it out")
    for options, listed in (((), True), (("--data.shots", 1), False)):
        test = done("test", "--ckpt_path", on_photos.checkpoint, *options, "--data.limit_per_set", 2)
        assert (test.folder / "shots.json").exists() == listed


def test_options_and_length_come_back() -> None:
    given = ("--trainer.accumulate_grad_batches", 2, "--trainer.gradient_clip_val", 0.25)
    straight = done(*DEMO, *FIVE_BATCHES, *given, "--trainer.max_epochs", 3)
    half = done(*DEMO, *FIVE_BATCHES, *given, "--trainer.max_epochs", 3, "--trainer.max_steps", 4)
    refused(clipos("fit", "--ckpt_path", half.checkpoint, *CPU), "fit ran 0 steps")  # max_steps 4 is recorded
    more = done("fit", "--ckpt_path", half.checkpoint, "--trainer.max_steps", 7)
    rest = done("fit", "--ckpt_path", more.checkpoint, "--trainer.max_epochs", 3)
    assert torch.equal(rest.context, straight.context)
    recorded = [record(run)["clipos"]["trainer"] for run in (straight, rest)]
    assert recorded[0] == recorded[1]
    assert (recorded[0]["accumulate_grad_batches"], recorded[0]["gradient_clip_val"]) == (2, 0.25)


def test_a_killed_run_goes_on_to_its_recorded_end(monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*DEMO, *FIVE_BATCHES, "--trainer.max_epochs", 2)
    straight = done(*options)
    write = LastCheckpoint.write

    def killed(self: LastCheckpoint, *words: Any, **options: Any) -> None:
        write(self, *words, **options)
        if self.snapshots.latest is not None and self.snapshots.latest.steps >= 3:
            monkeypatch.setattr(LastCheckpoint, "write", lambda *_, **__: None)
            raise MemoryError

    with monkeypatch.context():
        monkeypatch.setattr(LastCheckpoint, "write", killed)
        stopped = clipos(*options, "--checkpoint_every_n_seconds", 1e-9, "--trainer.default_root_dir", "stopped", *CPU)
        assert stopped.code != 0
    monkeypatch.setattr(LastCheckpoint, "write", write)
    (checkpoint,) = Path("stopped").glob("fit-*/last.ckpt")
    resumed = done("fit", "--ckpt_path", checkpoint)
    assert torch.equal(resumed.context, straight.context)
    assert record(resumed)["global_step"] == 10


def test_a_checkpoint_without_a_length_needs_one() -> None:
    run = done(*DEMO, "--trainer.max_steps", 1)
    content = record(run)
    del content["clipos"]["trainer"]  # as in version 0.1.0
    del content["random_state"]
    torch.save(content, "old.ckpt")
    refused(clipos("fit", "--ckpt_path", "old.ckpt", *CPU), "does not record how long", "--trainer.max_epochs N")
    assert record(done("fit", "--ckpt_path", "old.ckpt", "--trainer.max_epochs", 2))["global_step"] == 2


@pytest.mark.parametrize("value", ["0", "-1", "often"])
def test_the_time_between_checkpoints_is_a_number_above_0(value: str) -> None:
    refused(clipos(*DEMO, f"--checkpoint_every_n_seconds={value}", *CPU), "checkpoint_every_n_seconds")
