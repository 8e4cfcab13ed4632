"""The plain implementation for comparison: what LoCoOp-style code does, written with open_clip's modules.

Every step runs the image tower, every prompt has all 77 tokens, every patch is ranked against every class.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from clipos_lightning.clip.backbone import FrozenClip

TOGETHER = 100  # prompts per backward pass: the graphs of 1,000 would need about 40 GB


def normalised(backbone: FrozenClip, images: Tensor) -> Tensor:
    """uint8 images normalised for open_clip's towers."""
    return (images.float() / 255 - backbone.mean) / backbone.std


@torch.no_grad()
def encode_image(backbone: FrozenClip, images: Tensor) -> Tensor:
    """Global features (N, D) with open_clip alone."""
    return F.normalize(backbone.clip.encode_image(normalised(backbone, images)), dim=-1)


@torch.no_grad()
def encode_local(backbone: FrozenClip, images: Tensor) -> tuple[Tensor, Tensor]:
    """LoCoOp's features: global (N, D), and local (N, P, D) from the last block's values without attention."""
    visual = backbone.clip.visual
    x = visual._embeds(normalised(backbone, images))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    width = x.shape[-1]
    value = last.ln_1(x) @ last.attn.in_proj_weight[2 * width :].T + last.attn.in_proj_bias[2 * width :]
    local = x + last.attn.out_proj(value)
    local = local + last.mlp(last.ln_2(local))
    whole, local = (F.normalize(visual.ln_post(y) @ visual.proj, dim=-1) for y in (last(x), local))
    return whole[:, 0], local[:, 1:]


class Prompts:
    """Prompts "[start] context name . [end]" padded to 77 tokens, with one learned context for all classes.

    Args:
        backbone: the frozen CLIP.
        names: class names.
        context: initial context vectors, (n, W).
    """

    def __init__(self, backbone: FrozenClip, names: list[str], context: Tensor) -> None:
        self.clip, self.context = backbone.clip, context.detach().clone().requires_grad_()
        tokens = backbone.tokenizer([f"{' '.join(['X'] * len(context))} {name}." for name in names])
        with torch.no_grad():
            embedded = self.clip.token_embedding(tokens)
        self.first, self.rest = embedded[:, :1], embedded[:, 1 + len(context) :]
        self.ends = tokens.argmax(-1)

    def __call__(self, part: slice) -> Tensor:
        """Text features of a slice of the classes, (c, D)."""
        first, rest, ends = self.first[part], self.rest[part], self.ends[part]
        x = torch.cat([first, self.context.expand(len(first), -1, -1), rest], 1) + self.clip.positional_embedding
        x = self.clip.ln_final(self.clip.transformer(x, attn_mask=self.clip.attn_mask))
        return F.normalize(x[torch.arange(len(x)), ends] @ self.clip.text_projection, dim=-1)

    def forward_backward(self, gradient: Tensor) -> Tensor:
        """Text features of all classes (C, D), some at a time; back-propagates the features' given gradient."""
        found = []
        for start in range(0, len(self.ends), TOGETHER):
            part = slice(start, start + TOGETHER)
            found.append(self(part))
            found[-1].backward(gradient[part])
            found[-1] = found[-1].detach()
        return torch.cat(found)


def locoop_loss(features: tuple[Tensor, Tensor], labels: Tensor, text: Tensor, scale: float) -> Tensor:
    """CE - 0.25 x mean entropy of the patches without the label in their top 20 % of classes (Miyai et al. 2023)."""
    whole, local = features
    loss = F.cross_entropy(scale * whole @ text.T, labels)
    probability = (scale * local @ text.T).softmax(-1).flatten(0, 1)
    top = probability.topk(max(1, round(0.2 * len(text))), dim=1).indices
    outside = ~(top == labels.repeat_interleave(local.shape[1])[:, None]).any(1)
    entropy = -(probability * probability.clamp_min(1e-30).log()).sum(1)[outside]
    return loss - 0.25 * entropy.mean() if len(entropy) else loss
