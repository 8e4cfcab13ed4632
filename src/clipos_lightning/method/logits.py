"""What scores compare features with: class prompts, and further texts that some methods have."""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..types import Texts, WordTexts
from .reference import Reference


@dataclass(frozen=True)
class ExtraTexts:
    """Texts that a detector compares images with beside its C class prompts and "unknown"; most methods have none.

    Attributes:
        further: G further prompts of each class, one class after another, then again, (G C, D).
        negatives: texts that are none of the classes: words, or learned prompts, (N, D).
        local_map: W of methods that compare L2-normalised W f_i, in place of the local features f_i, with ``further``,
            (D, D).

    Example:
        >>> extra = ExtraTexts(negatives=torch.eye(2))
        >>> extra.rows, extra.tensors
        (2, {'negatives': tensor([[1., 0.],
                [0., 1.]])})
    """

    further: Texts | None = None
    negatives: WordTexts | None = None
    local_map: Float[Tensor, "dim dim"] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that there are, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def rows(self) -> int:
        """Number of further and negative texts."""
        return sum(len(texts) for texts in (self.further, self.negatives) if texts is not None)

    def to(self, device: torch.device) -> "ExtraTexts":
        """A copy on a device."""
        return ExtraTexts(**{name: tensor.to(device) for name, tensor in self.tensors.items()})

    def detach(self) -> "ExtraTexts":
        """A copy without gradients."""
        return ExtraTexts(**{name: tensor.detach() for name, tensor in self.tensors.items()})

    def only(self, further: bool, negatives: bool) -> "ExtraTexts":
        """The part that is needed."""
        return replace(self, further=self.further if further else None, negatives=self.negatives if negatives else None)

    def mapped(self, patches: Float[Tensor, "*items dim"]) -> Float[Tensor, "*items dim"]:
        """L2-normalised W f_i, for the comparison of local features with ``further``."""
        return patches if self.local_map is None else F.normalize(patches @ self.local_map.T, dim=-1)


NO_EXTRA = ExtraTexts()


@dataclass
class Logits:
    """Cosines and logits of features against one detector's prompts.

    Attributes:
        cosine: to the C class prompts, in [-1, 1], (..., C).
        unknown: cosine to "unknown", (...,); None if the detector has no such prompt.
        scale: s of the model; logits are s times cosines.
        temperature: T of mcm.
        feature: the features themselves, L2-normalised, (..., D); None if no score compares them with images.
        memory: ID images to compare the features with; None if the detector keeps none.
        negatives: cosines to N texts that are none of the classes, (..., N); None if the detector has none.
        further: cosines to G further prompts of each class, (..., G, C); None if the detector has none.
        group_size: of neg_label's groups of them.

    Example:
        >>> z = Logits(torch.tensor([[0.3, 0.1]]), unknown=torch.tensor([0.2]), scale=10.0)
        >>> z.logits, z.unknown_logit
        (tensor([[3., 1.]]), tensor([2.]))
    """

    cosine: Float[Tensor, "*items classes"]
    unknown: Float[Tensor, "*items"] | None
    scale: float
    temperature: float = 1.0
    feature: Float[Tensor, "*items dim"] | None = None
    memory: Reference | None = None
    negatives: Float[Tensor, "*items words"] | None = None
    further: Float[Tensor, "*items groups classes"] | None = None
    group_size: int = 100

    @property
    def logits(self) -> Float[Tensor, "*items classes"]:
        """l_c = s cos(f, t_c), (..., C)."""
        return self.scale * self.cosine

    @property
    def unknown_logit(self) -> Float[Tensor, "*items"]:
        """l_u = s cos(f, t_unknown), (...,)."""
        assert self.unknown is not None, "this detector has no unknown prompt"
        return self.scale * self.unknown


def prompt_logits(
    feature: Float[Tensor, "*items dim"],
    text: Texts,
    classes: int,
    scale: float,
    t: float = 1.0,
    memory: Reference | None = None,
    extra: ExtraTexts = NO_EXTRA,
    group_size: int = 100,
    local: bool = False,
) -> Logits:
    """Cosines of features to C class prompts, to "unknown" if ``text`` has one more row, and to further texts.

    Args:
        feature: L2-normalised, (..., D).
        text: (C, D), or (C + 1, D) with "unknown" last.
        classes: C.
        scale: s of the model.
        t: temperature of mcm.
        memory: ID images to compare with; None: none.
        extra: further and negative texts.
        group_size: of neg_label's groups of words.
        local: whether these are local features, which ``extra.local_map`` is for.

    Example:
        >>> z = prompt_logits(torch.tensor([[1.0, 0.0]]), torch.eye(2), classes=1, scale=10.0)
        >>> z.cosine, z.unknown
        (tensor([[1.]]), tensor([0.]))
    """
    cosine = feature @ text.T
    unknown = cosine[..., classes] if len(text) > classes else None
    found = Logits(cosine[..., :classes], unknown, scale, t, feature, memory, group_size=group_size)
    if extra.negatives is not None:
        found.negatives = feature @ extra.negatives.T
    if extra.further is not None:
        compared = extra.mapped(feature) if local else feature
        found.further = (compared @ extra.further.T).unflatten(-1, (-1, classes))
    return found
