"""Batches of several sizes through MicroCLIP, compiled and not: the same features, and how often it was compiled."""

import torch

from clipos_lightning.clip.loading import load_backbone

EVERY = frozenset({"clip", "vv", "local"})

if __name__ == "__main__":
    torch.set_num_threads(1)
    plain, compiled = load_backbone(), load_backbone()
    compiled.compile_tower()
    for count in (8, 8, 3, 8, 1):
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        ours, expected = compiled.encode_image(pixels, EVERY), plain.encode_image(pixels, EVERY)
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(ours, name), value, rtol=0, atol=1e-5)
    counters = torch._dynamo.utils.counters
    print(f"{counters['stats']['unique_graphs']} graph, {len(counters['graph_break'])} breaks")
