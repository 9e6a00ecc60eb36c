"""Every bug of `fixtures/runtime/lightning_fit.py` that a user of automatic optimization can write."""

from __future__ import annotations

from mutation import AUTOCAST, SCALER, SEVERAL, Shape, after, before, drop, inside

shape = Shape("lightning_fit")
FORWARD = "        logits = self(x)\n        loss = F.cross_entropy(logits, y)\n"
LOSS = "        loss = F.cross_entropy(logits, y)\n"
OPTIMIZERS = "    def configure_optimizers(self):\n"
RETURN = '        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}\n'
INIT = "        self.save_hyperparameters()\n"
LOOK = "        with torch.no_grad():\n            logits = pl_module(self.x)\n"
FIT = "    trainer.fit("


def hook(signature: str, body: str) -> tuple[str, str]:
    """A hook of the module, written before its optimizers."""
    return before(OPTIMIZERS, f"    def {signature}:\n        {body}\n\n")


shape.breaks("scheduler-never-stepped", (RETURN, "        return optimizer\n"), at="scheduler = ")
shape.breaks("scaler-never-used", after(INIT, f"        self.scaler = {SCALER}\n"))
shape.breaks("fp16-without-scaler", inside(AUTOCAST, FORWARD))
shape.breaks(
    "backward-without-step",
    hook("optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure)", "optimizer_closure()"),
    at=("optimizer = ", FIT.strip()),
)
shape.breaks(
    "clip-after-step",
    hook(
        "optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure)",
        "optimizer.step(closure=optimizer_closure)\n        nn.utils.clip_grad_norm_(self.parameters(), 1.0)",
    ),
    drop("        gradient_clip_val=1.0,\n"),
)
shape.breaks("missing-zero-grad", hook("optimizer_zero_grad(self, epoch, batch_idx, optimizer)", "pass"), at=("optimizer = ", FIT.strip()))
shape.breaks("zero-grad-before-step", hook("on_before_optimizer_step(self, optimizer)", "optimizer.zero_grad()"), also=("clip-after-step",))
shape.breaks(
    "optimizer-before-parameters", hook("on_train_start(self)", "self.head = nn.Linear(32, 4)"), also=("parameter-without-gradient",)
)
shape.breaks("step-without-backward", hook("backward(self, loss)", "pass"), at=("optimizer = ", FIT.strip()))
shape.breaks("gradient-cut", (LOSS, LOSS + "        loss = torch.tensor(loss.item(), requires_grad=True)\n"), at=FIT.strip())
shape.breaks("eval-without-eval-mode", drop("        pl_module.eval()\n"), at="logits = pl_module(self.x)")
shape.breaks("eval-without-no-grad", (LOOK, LOOK.replace("with torch.no_grad()", "if True")), at="logits = pl_module(self.x)")
shape.breaks("train-mode-not-restored", drop("        pl_module.train()\n"), at=("logits = self(x)", "pl_module.eval()", FIT.strip()))
shape.breaks("softmax-before-cross-entropy", (LOSS, "        loss = F.cross_entropy(logits.softmax(dim=1), y)\n"))
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (LOSS, "        loss = F.binary_cross_entropy_with_logits(logits.sigmoid(), F.one_hot(y, 4).float())\n"),
)
shape.breaks(
    "loss-graph-retained",
    after(INIT, "        self.losses = []\n"),
    after(LOSS, "        self.losses.append(loss)\n"),
    at=("logits = self(x)", "loss = F.cross"),
)
shape.breaks("loss-term-unused", after(LOSS, "        spread = F.mse_loss(logits, torch.zeros_like(logits))\n"))
shape.breaks("probability-log", (LOSS, "        loss = F.nll_loss(logits.softmax(dim=1), y)\n"))
shape.breaks(
    "parameter-never-changes",
    before(
        "        scheduler = torch",
        "        kept = self.head.weight.detach().clone()\n"
        "        optimizer.register_step_post_hook(lambda *_: self.head.weight.data.copy_(kept))\n",
    ),
    at=("optimizer = ", "trainer.fit("),
)
shape.breaks("parameter-not-optimised", ("AdamW(self.parameters()", "AdamW(self.head.parameters()"))
shape.breaks(
    "parameter-without-gradient",
    ("self.head(self.body(x))", "self.head(self.body(x).detach())"),
    at=("optimizer = ", "module = ", FIT.strip()),
)
shape.breaks("loss-not-finite", after(LOSS, "        loss = loss + torch.log(logits).mean()\n"), at=FIT.strip())
shape.cannot(
    "Lightning steps the schedule, after the optimizer, as often as it is told",
    "scheduler-before-optimizer",
    "scheduler-wrong-cadence",
    "loss-passed-as-epoch",
    "horizon-ignores-accumulation",
)
shape.cannot("Lightning refuses a plateau schedule without `monitor`", "plateau-without-metric")
shape.cannot("Lightning refuses a schedule of an optimizer that it is not given", "scheduler-on-replaced-optimizer")
shape.cannot(
    "Lightning runs the backward pass, outside of what the user writes, and scales, unscales and clips by itself",
    "backward-in-autocast",
    "scaler-without-autocast",
    "scaler-incomplete",
    "clip-before-unscale",
    "unscale-outside-boundary",
)
shape.cannot("Lightning divides the loss", "accumulation-not-scaled")
shape.cannot("it runs in one process", *SEVERAL)
