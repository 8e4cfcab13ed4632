"""Which patches belong to an image's class, as each method of the line finds them with the frozen prompts.

CLIP-OS (arXiv:2404.00323): S_clip, S and Delta; LoCoOp (arXiv:2306.01293): the label's rank; Mambo (2026): likeness to
a background prompt; FoBoR (2026): attention of the patches to the class token; CLIP: attention of the class token to
the patches. Nothing is trained. Pure functions; shapes as in :mod:`clipos_lightning.method.mask`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ..method.background_mask import background_map, background_patches
from ..method.losses import confidence, irrelevant_locals
from ..method.mask import MaskOptions, class_weights, min_max, similarity_map, surgery_map
from ..types import ClassTexts, ImageFeatures, Labels, PatchMap, PatchMask, PathName

PatchClasses = Int[Tensor, "batch patches"]

KIND_PATHS: frozenset[PathName] = frozenset({"clip", "vv", "local", "attention", "class_attention"})
SURGERY_KINDS = ("s", "delta")
MAP_KINDS = ("clip", *SURGERY_KINDS, "locoop", "mambo", "mambo_unknown", "fobor", "attention")


@dataclass
class LabelMap:
    """One kind of map of a batch of images, for their labels.

    Attributes:
        values: higher inside the object, in [0, 1], for Delta in [-1, 1], (B, P).
        mask: the patches that it takes for the object, (B, P).
        classes: the class of each patch, (B, P); None: the map has none.
    """

    values: PatchMap
    mask: PatchMask
    classes: PatchClasses | None = None


@dataclass
class FrozenText:
    """What the maps compare images with.

    Attributes:
        classes: the frozen class prompts, (C, D).
        backgrounds: ``mambo`` and ``mambo_unknown`` to a frozen prompt, (D,), in place of Mambo's learned one.
        scale: s of the model.
    """

    classes: ClassTexts
    backgrounds: Mapping[str, Float[Tensor, " dim"]]
    scale: float


def surgery_maps(
    features: ImageFeatures, text: ClassTexts, labels: Labels, options: MaskOptions
) -> dict[str, LabelMap]:
    """S > 0.5 and Delta > 0; a patch's class has the largest similarity, or the largest Delta.

    Args:
        features: with the paths ``clip`` and ``vv``.
        text: the frozen class prompts, (C, D).
        labels: true classes, (B,).
        options: whether S is with feature surgery.
    """
    clip, s = (features.path(name) @ text.T for name in ("clip", "vv"))  # (B, P, C)
    if options.feature_surgery:
        s = s * class_weights(features.cls, text)[:, None]
        s = s - s.mean(-1, keepdim=True)
    s_maps, clip_maps = (min_max(rearrange(x, "b p c -> (b c) p")) for x in (s, clip))  # of every class
    by_delta = rearrange(s_maps - clip_maps, "(b c) p -> b p c", b=len(s)).argmax(-1)
    surgery = surgery_map(features, text, labels, options)
    delta = surgery - similarity_map(features.path("clip"), text[labels])
    return {"s": LabelMap(surgery, surgery > 0.5, s.argmax(-1)), "delta": LabelMap(delta, delta > 0, by_delta)}


def frozen_maps(features: ImageFeatures, text: FrozenText, labels: Labels, top_k: float) -> dict[str, LabelMap]:
    """The maps without the surgery path: of plain CLIP, LoCoOp, Mambo and FoBoR, and of CLIP's attention.

    Args:
        features: with all other paths.
        text: the frozen prompts.
        labels: true classes, (B,).
        top_k: LoCoOp's K as a fraction of the classes.
    """
    classes, local = text.classes, features.path("local")
    maps = {}
    for name, patches in (("clip", features.path("clip")), ("locoop", local)):
        values = similarity_map(patches, classes[labels])
        maps[name] = LabelMap(values, values > 0.5, (patches @ classes.T).argmax(-1))
    maps["locoop"].mask = ~irrelevant_locals(local, classes, labels, top_k)
    p_y = confidence(text.scale * features.cls @ classes.T, labels)
    for name, background in text.backgrounds.items():
        given = local, classes, background, labels, p_y
        maps[name] = LabelMap(min_max(-background_map(*given)), ~background_patches(*given))
    for name, attention in (("fobor", features.attention), ("attention", features.class_attention)):
        assert attention is not None
        maps[name] = LabelMap(min_max(attention), min_max(attention) > 0.5)
    return {name: maps[name] for name in MAP_KINDS if name in maps}
