"""Files of weights: those that users have, and those that are refused without running what is in them."""

import pickle
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from weight_files import GELU, QUICK, Code, register_tiny, same, save_archive, with_pickle

from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.clip.weights import read_weights
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")


@pytest.fixture(scope="module")
def tiny(build_clip, tmp_path_factory):
    """A small CLIP with random weights, known to open_clip under two names."""
    register_tiny(tmp_path_factory.mktemp("models"))
    return build_clip()


# ---- files that load


@pytest.mark.badinput
def test_openais_archive_loads_and_tells_its_activation(tiny, tmp_path):
    save_archive(tiny, tmp_path / "ViT.pt")
    halved = {name: tensor.half().float() for name, tensor in tiny.state_dict().items()}
    assert {tensor.dtype for tensor in read_weights(tmp_path / "ViT.pt").state.values()} == {torch.float32}
    backbone = load_backbone(QUICK, str(tmp_path / "ViT.pt"))
    assert same(backbone.clip.state_dict(), halved)
    assert (backbone.activation, backbone.note) == ("quick_gelu", "")
    with pytest.raises(InputError, match=f"activation mismatch.*use --model.backbone {QUICK}"):
        load_backbone(GELU, str(tmp_path / "ViT.pt"))


def test_a_traced_model_is_read_without_its_code(tiny, tmp_path):
    example = torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, dtype=torch.long)
    torch.jit.save(torch.jit.trace(tiny, example, check_trace=False), tmp_path / "traced.pt")
    read = read_weights(tmp_path / "traced.pt")
    assert same(read.state, tiny.state_dict())
    assert not read.openai
    with zipfile.ZipFile(tmp_path / "traced.pt") as old, zipfile.ZipFile(tmp_path / "no_code.pt", "w") as new:
        for entry in old.infolist():
            if "/code/" not in entry.filename:
                new.writestr(entry, old.read(entry))
    assert same(read_weights(tmp_path / "no_code.pt").state, tiny.state_dict())


@pytest.mark.parametrize("form", ["plain", "training", "legacy", "compiled", "bf16", "old open_clip", "safetensors"])
def test_state_dicts_of_every_form(form, tiny, tmp_path):
    state, path = tiny.state_dict(), tmp_path / "weights.pt"
    scale = state["logit_scale"]
    if form == "plain":
        torch.save(state, path)
    elif form == "training":
        prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": prefixed, "optimizer": {"state": {}}}, path)
    elif form == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "compiled":
        torch.save({"model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}}, path)
    elif form == "bf16":
        torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, path)
        state = {name: tensor.bfloat16().float() for name, tensor in state.items()}
    elif form == "old open_clip":
        torch.save(state | {"attn_mask": torch.zeros(16, 16), "logit_scale": scale[None]}, path)
    else:
        save_file(state, path)  # whatever the file is called
    assert same(load_backbone(GELU, str(path)).clip.state_dict(), state)


def test_positions_of_another_image_size(tiny, build_clip, tmp_path):
    torch.save(build_clip(vision={"image_size": 24}).state_dict(), tmp_path / "24.pt")
    with pytest.raises(InputError, match=r"positional_embedding is \(37, 32\).*\(17, 32\).*--model.image_size 24"):
        load_backbone(GELU, str(tmp_path / "24.pt"))
    loaded = load_backbone(GELU, str(tmp_path / "24.pt"), image_size=24)
    assert torch.equal(
        loaded.clip.visual.positional_embedding, torch.load(tmp_path / "24.pt")["visual.positional_embedding"]
    )
    torch.save(tiny.state_dict(), tmp_path / "16.pt")
    assert load_backbone(GELU, str(tmp_path / "16.pt"), image_size=24).grid == (6, 6)


# ---- files that are refused


def page(path, _):
    path.write_text("\n<!DOCTYPE html>\n<html><body>Sign in</body></html>")


def pointer(path, _):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def cut(path, clip):
    torch.save(clip.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def cut_archive(path, clip):
    save_archive(clip, path)
    path.write_bytes(path.read_bytes()[:-1000])


def cut_safetensors(path, clip):
    save_file(clip.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def compressed_archive(path, clip):
    save_archive(clip, path.with_name("good.pt"))
    with zipfile.ZipFile(path.with_name("good.pt")) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def spoiled(change):
    """A function that writes a file in which one tensor is changed."""
    return lambda path, clip: torch.save({**clip.state_dict(), "ln_final.weight": change(clip.ln_final.weight)}, path)


def flipped_archive(path, clip):
    save_archive(clip, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("write", "says"),
    [
        (page, "it is a web page"),
        (pointer, "it is a Git LFS pointer"),
        (lambda path, _: path.write_bytes(b""), "it is empty"),
        (lambda path, _: path.write_text("not weights"), "not a file of weights"),
        (lambda path, _: torch.save([1, 2], path), "it holds a list, not a state dict"),
        (lambda path, _: torch.save({"epoch": 1}, path), "it is not a state dict"),
        (lambda path, clip: torch.save(clip.visual.ln_post, path), r"Python objects besides tensors \(open_clip"),
        (cut, "damaged"),
        (cut_archive, "damaged"),
        (cut_safetensors, "damaged"),
        (flipped_archive, "damaged.*CRC"),
        (compressed_archive, "it has compressed tensors"),
        (spoiled(lambda t: t * torch.nan), "it is broken: ln_final.weight is sparse, complex or not finite"),
        (spoiled(lambda t: t.to_sparse()), "it is broken: ln_final.weight"),
        (spoiled(lambda t: t.to(torch.complex64)), "it is broken: ln_final.weight"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_in_one_line(write, says, tiny, tmp_path):
    write(tmp_path / "weights.pt", tiny)
    with pytest.raises(InputError, match=rf"cannot read the weights in .*weights.pt: .*{says}.*") as caught:
        load_backbone(GELU, str(tmp_path / "weights.pt"))
    assert str(caught.value).endswith("or give another with --model.pretrained FILE")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 450


@pytest.mark.parametrize("kind", ["archive", "state dict", "legacy", "module in archive"])
def test_code_in_a_file_is_not_run(kind, tiny, tmp_path):
    code, path = Code(f"touch {tmp_path / 'ran'}"), tmp_path / "evil.pt"
    if kind in ("archive", "module in archive"):
        save_archive(tiny, tmp_path / "good.pt")
        payload = {"a": code} if kind == "module in archive" else code
        with_pickle(tmp_path / "good.pt", path, pickle.dumps(payload, protocol=2))
    else:
        torch.save({"visual.proj": code}, path, _use_new_zipfile_serialization=kind != "legacy")
    with pytest.raises(InputError, match=r"Python objects besides tensors \((posix|nt).system\)") as caught:
        load_backbone(GELU, str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "torch.load", "torch.jit.load", "torch._utils._rebuild_parameter"])
def test_an_archive_gets_stand_ins_only(name, tiny, tmp_path):
    module, _, function = name.rpartition(".")
    save_archive(tiny, tmp_path / "good.pt")
    with_pickle(tmp_path / "good.pt", tmp_path / "evil.pt", f"c{module}\n{function}\n.".encode())
    with pytest.raises(InputError, match=rf"Python objects besides tensors \({name}\)"):
        read_weights(tmp_path / "evil.pt")


@pytest.mark.badinput
def test_a_tensor_larger_than_its_storage_is_refused(tiny, tmp_path):
    save_archive(tiny, tmp_path / "good.pt")
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1\ntQ"
    tensor += b"I0\n(I1000000000\nI1000\nt(I0\nI0\nt\x89NtR."  # strides of zero: a little memory seems to be much
    with_pickle(tmp_path / "good.pt", tmp_path / "large.pt", b"\x80\x02" + tensor)
    with pytest.raises(InputError, match="a tensor that is larger than its data"):
        read_weights(tmp_path / "large.pt")


# ---- weights of another model


def test_missing_and_unexpected_names(tiny, tmp_path):
    state = tiny.state_dict()
    for name in ("visual.proj", "ln_final.weight"):
        del state[name]
    torch.save(state | {"head.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError) as caught:
        load_backbone(GELU, str(tmp_path / "other.pt"))
    text = str(caught.value)
    assert f"are not of {GELU}, which has {len(tiny.state_dict())} tensors" in text
    assert "2 missing (visual.proj, ln_final.weight), 1 unexpected (head.weight)" in text
    assert text.endswith("give a file of this model with --model.pretrained FILE")


def test_a_file_of_transformers_is_named(tiny, tmp_path):
    save_file({"vision_model.embeddings.class_embedding": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"1 unexpected .*of Hugging Face transformers: take open_clip's file"):
        load_backbone(GELU, str(tmp_path / "model.safetensors"))


def test_other_sizes_name_the_first_tensor_and_the_model_that_fits(tiny, build_clip, tmp_path):
    torch.save(tiny.state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(InputError) as caught:
        load_backbone("MicroCLIP", str(tmp_path / "tiny.pt"))
    assert "of another size than MicroCLIP: positional_embedding is (16, 24) in the file and (" in str(caught.value)
    assert f"the file fits {GELU} or {QUICK}: use --model.backbone {GELU}" in str(caught.value)
    save_archive(tiny, tmp_path / "openai.pt")
    with pytest.raises(InputError, match=f"the file fits {QUICK}: use --model.backbone {QUICK}$"):
        load_backbone("MicroCLIP", str(tmp_path / "openai.pt"))
    torch.save(build_clip(vision={"width": 40}).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(InputError, match=r"visual.class_embedding is \(40,\) .*\(32,\).*tensors differ.*FILE$"):
        load_backbone(GELU, str(tmp_path / "wide.pt"))


def test_another_number_of_layers(build_clip, tiny, tmp_path):
    torch.save(build_clip(vision={"layers": 5}).state_dict(), tmp_path / "deep.pt")
    with pytest.raises(InputError, match=r"12 unexpected \(visual.transformer.resblocks.4.ln_1.weight, "):
        load_backbone(GELU, str(tmp_path / "deep.pt"))


def test_the_weights_are_checked_before_the_model_is_built(tiny, tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    build = open_clip.create_model

    def on_meta_only(*arguments, **options):
        assert options["device"] == "meta"
        return build(*arguments, **options)

    monkeypatch.setattr(open_clip, "create_model", on_meta_only)
    with pytest.raises(InputError, match="are not of"):
        load_backbone(GELU, str(tmp_path / "a.pt"))
