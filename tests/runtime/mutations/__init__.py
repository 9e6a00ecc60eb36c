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

#: What is not proven yet, and why: the test of each must fail, and whoever mends it takes it out.
OPEN = {
    "no_loader-scheduler-wrong-cadence": "the inner loop goes over parts of one batch, and neither side takes it for batches of an epoch",
    "ddp-loader-without-distributed-sampler": "there is no such rule yet",
    "hf_accelerate-scaler-never-used": "reading leaves scaling to Accelerate",
    "hf_trainer-scaler-never-used": "reading leaves scaling to the Trainer, and what never happens is not told by a run alone",
    "lightning_fit-scaler-never-used": "reading leaves scaling to Lightning, and what never happens is not told by a run alone",
    "lightning_manual-scaler-never-used": "reading leaves scaling to Lightning, and what never happens is not told by a run alone",
    "hf_accelerate-loss-graph-retained": "an epoch cut to three steps keeps too few graphs to tell",
    "lightning_fit-backward-without-step": "reading leaves the step to Lightning, and what never happens is not told by a run alone",
    "lightning_manual-backward-without-step": "reading leaves the step to Lightning, and what never happens is not told by a run alone",
    "lightning_manual-scheduler-wrong-cadence": "reading does not follow `lr_schedulers()`, nor can the run tell Lightning's epochs",
    "hf_trainer-horizon-ignores-accumulation": "reading leaves the schedule to the Trainer",
    "hf_accelerate-horizon-ignores-accumulation": "reading leaves the schedule to Accelerate, which moves it in a way of its own",
}
