"""Every mutation of every shape, and what cannot be written where."""

from __future__ import annotations

from . import accumulation, amp, ddp, gan, hf_accelerate, hf_trainer, lightning_fit, lightning_manual, no_loader, plain

ALL = (plain, amp, accumulation, gan, no_loader, ddp, hf_trainer, hf_accelerate, lightning_fit, lightning_manual)
SHAPES = tuple(module.shape for module in ALL)
MUTATIONS = tuple(mutation for shape in SHAPES for mutation in shape.mutations)

#: What a shape needs beside torch.
NEEDS = {
    "hf_trainer": ("transformers", "accelerate"),
    "hf_accelerate": ("transformers", "accelerate"),
    "lightning_fit": ("lightning",),
    "lightning_manual": ("lightning",),
}
