"""The pretraining script: the loss falls, it is deterministic, and open_clip loads its output."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_microclip.py"
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def run(script, tmp_path):
    def go(out: str, *more: str):
        config = tmp_path / "tiny.json"
        config.write_text(json.dumps(TINY))
        arguments = ["--config", config, "--out", tmp_path / out, "--device", "cpu", "--scenes", 60, "--batch", 16]
        return script["main"]([str(a) for a in [*arguments, "--depth", 1, *more]]), tmp_path / out

    return go


def test_learns_from_scenes_alone_and_open_clip_reads_the_file(run, tmp_path):
    losses, path = run("a.safetensors", "--steps", "60", "--lr", "0.003")
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert [p.name for p in tmp_path.glob("a.*")] == ["a.safetensors"]
    with safe_open(path, "pt") as opened:
        written = json.loads(opened.metadata()["microclip"])
    assert written == {"step": 60, "config": TINY}
    clip = open_clip.CLIP(**written["config"])
    clip.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    open_clip.add_model_config(tmp_path / "tiny.json")
    loaded = open_clip.create_model("tiny", pretrained=str(path), precision="fp32")
    for name, tensor in clip.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.slow
def test_one_seed_one_result(run):
    paths = [run(f"{i}.safetensors", "--steps", "4", "--seed", str(seed))[1] for i, seed in enumerate((5, 5, 6))]
    same, again, other = (path.read_bytes() for path in paths)
    assert same == again
    assert same != other


@pytest.mark.slow
def test_goes_on_from_given_weights(run):
    _, start = run("start.safetensors", "--steps", "4")
    _, end = run("end.safetensors", "--steps", "1", "--init", str(start), "--lr", "1e-9", "--seed", "2")
    one, other = load_file(start), load_file(end)
    torch.testing.assert_close(one["visual.proj"], other["visual.proj"], rtol=0, atol=1e-3)


def _shard(path: Path, classes: int, count: int = 24) -> None:
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        target = path.with_suffix(".jpg")
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(target)
        files.append(target.read_bytes())
    offset = np.cumsum([0, *map(len, files)])
    np.savez(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offset=offset, label=np.arange(count) % classes)


@pytest.mark.slow
def test_reads_photos(run, script, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    _shard(data / "tinyimagenet32-0.npz", 2)
    _shard(data / "cifar10-half.npz", 10)
    (data / "tinyimagenet_classes.json").write_text('[["n1", "goldfish, carp"], ["n2", "cello"]]')
    images, labels, names, first = script["read_photos"](data)
    assert images.shape == (48, 32, 32, 3)
    assert names[:3] == [("goldfish", "carp"), ("cello",), ("airplane", "plane", "jet")]
    assert (labels.min(), labels.max(), first) == (0, 11, 2)
    for k, more in enumerate(([], ["--crop", "0.3", "--colour", "0.4"])):
        losses, _ = run(f"photos-{k}.safetensors", "--data", str(data), "--steps", "8", *more)
        assert np.isfinite(losses).all()


def test_nothing_is_overwritten(script, tmp_path):
    (tmp_path / "mine.safetensors").write_text("weights of mine")
    for out in ("mine.safetensors", "nowhere/new.safetensors"):
        with pytest.raises(SystemExit) as caught:
            script["main"](["--out", str(tmp_path / out)])
        assert caught.value.code == 2
    assert (tmp_path / "mine.safetensors").read_text() == "weights of mine"


def test_augmentation_moves_and_flips_but_keeps_the_kind_of_values(script):
    torch.manual_seed(0)
    images = torch.arange(32, dtype=torch.uint8).repeat(6, 3, 32, 1)
    moved = script["augment"](images)
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
    # Along a row the values still rise or fall by one, but where the border is reflected.
    steps = (moved[:, 0, 0, 5:-5].diff(dim=1).int() + 128) % 256 - 128
    assert set(steps.unique().tolist()) == {-1, 1}


def test_a_crop_is_a_part_of_the_image_scaled_up(script):
    torch.manual_seed(0)
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8)
    images = ramp.repeat(64, 3, 32, 1)
    moved = script["crop"](images, 0.25)
    assert moved.shape == images.shape and moved.dtype == torch.uint8
    slope = (moved[:, 0, 5, 28].float() - moved[:, 0, 5, 3].float()) / 25  # 8 grey levels a pixel, times the scale
    assert (slope < 0).any() and (slope > 0).any()  # mirrored and not
    assert slope.abs().max() <= 8.1 and slope.abs().min() >= 3.9  # scales from sqrt(0.25) to 1
    assert len(slope.abs().round(decimals=1).unique()) > 10
    whole = script["crop"](images, 1.0)  # a crop of everything is the image, or its mirror image
    same = [torch.equal(w, i) or torch.equal(w, i.flip(-1)) for w, i in zip(whole, images, strict=True)]
    assert all(same)


def test_colours_change_by_no_more_than_their_strength(script):
    torch.manual_seed(0)
    grey = torch.full((64, 3, 4, 4), 100, dtype=torch.uint8)
    values = script["recolour"](grey, 0.3)[:, 0, 0, 0].float()  # contrast and saturation leave a grey image alone
    assert 70 <= values.min() < 80 and 120 < values.max() <= 130
    red = torch.zeros(64, 3, 4, 4, dtype=torch.uint8)
    red[:, 0] = 150
    seen = script["recolour"](red, 0.3).float()
    assert (seen.std(0) > 0).any() and (seen[:, 0] > seen[:, 1]).all()
    assert torch.equal(script["recolour"](red, 0.0), red)


def test_averaged_weights_lose_their_start_quickly_and_then_at_the_given_rate(script):
    """The start's share after n steps from the first: 2/11 3/12 … (n + 1)/(n + 10) = 10! (n + 1)! / (n + 10)!."""
    start, averaged = torch.ones(3), [torch.ones(3)]
    for count in range(1, 9):
        script["average"](averaged, [torch.zeros(3)], torch.tensor(count), 0.9)
    share = math.factorial(10) * math.factorial(9) / math.factorial(18)
    torch.testing.assert_close(averaged[0], share * start)
    late = [torch.ones(3)]
    for count in range(100, 120):
        script["average"](late, [torch.zeros(3)], count, 0.9)
    torch.testing.assert_close(late[0], 0.9**20 * start)
    script["average"](late, [late[0].clone()], 120, 0.9)
    torch.testing.assert_close(late[0], 0.9**20 * start)


@pytest.mark.slow
def test_averaged_weights_are_written_and_move_less(run):
    _, start = run("start.safetensors", "--steps", "1", "--lr", "1e-9")
    last, mean = (run(f"{ema}.safetensors", "--steps", "12", "--lr", "0.003", "--ema", ema)[1] for ema in ("0", "0.9"))
    begin, end, between = (load_file(path) for path in (start, last, mean))
    used = (begin["token_embedding.weight"] - end["token_embedding.weight"]).abs().sum(1) > 0
    assert 0 < int(used.sum()) < 1000
    for name in ("visual.proj", "text_projection", "token_embedding.weight"):
        far, near = ((other[name].float() - begin[name].float()).norm() for other in (end, between))
        assert 0 < near < far


@pytest.mark.parametrize(
    "wrong", [["--steps", "0"], ["--batch", "1"], ["--data", "nowhere"], ["--crop", "0"], ["--ema", "1"]]
)
def test_refuses_wrong_options(script, wrong):
    with pytest.raises(SystemExit) as caught:
        script["main"](wrong)
    assert caught.value.code == 2


def test_styles_have_their_words_in_two_of_three_captions(script):
    scenes, styles = script["render_styled"](8, 3, 32)
    assert styles == ["sketch", "blueprint", "thermal", "negative"] * 2
    assert scenes[0].image.shape == (32, 32, 3)
    assert len({scene.image.tobytes() for scene in scenes}) == 8
    rng = np.random.default_rng(0)
    facts = {"shape": "key", "color": "red", "background": "grid", "style": "thermal image"}
    captions = [script["scene_caption"](rng, facts) for _ in range(600)]
    assert 0.6 < np.mean(["thermal image" in caption for caption in captions]) < 0.73
    assert all("key" in caption and "photo" not in caption for caption in captions)
    del facts["style"]
    assert not any("thermal" in script["scene_caption"](rng, facts) for _ in range(100))


def test_every_caption_that_can_be_drawn_is_known(script):
    known = set(script["all_captions"]([("carp",)]))
    for style in ("sketch", "blueprint", "thermal image", "negative"):
        for template in script["STYLED_CAPTIONS"]:
            assert template.format(shape="boat", background="dotted", style=style) in known
    assert not any("neon" in caption or "relief" in caption for caption in known)
