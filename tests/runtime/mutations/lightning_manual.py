"""Every bug of `fixtures/runtime/lightning_manual.py`."""

from __future__ import annotations

from mutation import AUTOCAST, BFLOAT, SCALER, SEVERAL, Shape, after, before, drop, inside

shape = Shape("lightning_manual")
STEP = "        optimizer.step()\n"
ZERO = "        optimizer.zero_grad()\n"
TERMS = "        reconstruction = F.mse_loss(rebuilt, x)\n        classification = F.cross_entropy(logits, y)\n"
TOTAL = "        loss = reconstruction + classification\n"
FORWARD = "        rebuilt, logits = self(x)\n" + TERMS + TOTAL
BACKWARD = "        self.manual_backward(loss)\n"
CLIP = '        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")\n'
SCHEDULE = "        scheduler.step()\n"
GET_SCHEDULE = "        scheduler = self.lr_schedulers()\n"
EXPONENTIAL = "torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)"
OPTIMIZERS = "    def configure_optimizers(self):\n"
MANUAL = "        self.automatic_optimization = False\n"
VALIDATION = "    def validation_step(self, batch, batch_idx):\n"
MADE = after(MANUAL, f"        self.scaler = {SCALER}\n")
SCALED = (BACKWARD, "        self.scaler.scale(loss).backward()\n")
UNSCALED = before(CLIP, "        self.scaler.unscale_(optimizer.optimizer)\n")
STEPPED = (STEP, "        self.scaler.step(optimizer.optimizer)\n        self.scaler.update()\n")
FIT = "trainer.fit("

shape.breaks("scheduler-never-stepped", drop(SCHEDULE), at="scheduler = torch")
shape.breaks(
    "scheduler-before-optimizer",
    drop(SCHEDULE),
    before("    def on_train_epoch_end", "    def on_train_epoch_start(self):\n        self.lr_schedulers().step()\n\n"),
)
shape.breaks(
    "scheduler-wrong-cadence",
    (EXPONENTIAL, "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)"),
    drop(SCHEDULE),
    after(STEP, "        self.lr_schedulers().step()\n"),
    ("def __init__(self, features, lr)", "def __init__(self, features, lr, epochs)"),
    after(MANUAL, "        self.epochs = epochs\n"),
    ("lr=args.lr)\n", "lr=args.lr, epochs=args.epochs)\n"),
)
shape.breaks("plateau-without-metric", (EXPONENTIAL, "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)"), at="scheduler.step()")
shape.breaks("loss-passed-as-epoch", (SCHEDULE, '        scheduler.step(self.trainer.callback_metrics["train_loss_epoch"].item())\n'))
shape.breaks("scaler-never-used", MADE)
shape.breaks("fp16-without-scaler", inside(AUTOCAST, FORWARD), at="manual_backward")
shape.breaks("backward-in-autocast", inside(BFLOAT, FORWARD + BACKWARD))
shape.breaks("scaler-without-autocast", MADE, SCALED, UNSCALED, STEPPED)
shape.breaks("scaler-incomplete", MADE, inside(AUTOCAST, FORWARD), SCALED, drop(CLIP), at="optimizer.step()")
shape.breaks("clip-before-unscale", MADE, inside(AUTOCAST, FORWARD), SCALED, STEPPED, at="clip_gradients")
shape.breaks(
    "unscale-outside-boundary",
    MADE,
    inside(AUTOCAST, FORWARD),
    SCALED,
    UNSCALED,
    STEPPED,
    before(CLIP, "        self.scaler.unscale_(optimizer.optimizer)  # again\n"),
)
shape.breaks(
    "accumulation-not-scaled",
    drop(ZERO),
    after(STEP, ZERO),
    inside("if (batch_idx + 1) % 2 == 0:", CLIP + STEP + ZERO),
    at=("manual_backward", "loss = "),
)
shape.breaks("backward-without-step", drop(STEP), at=("manual_backward", "optimizer = "))
shape.breaks("clip-after-step", drop(CLIP), after(STEP, CLIP))
shape.breaks("missing-zero-grad", drop(ZERO), at=("optimizer.step()", "manual_backward", "optimizer = "))
shape.breaks("zero-grad-before-step", drop(ZERO), after(BACKWARD, ZERO))
shape.breaks(
    "optimizer-before-parameters",
    before(OPTIMIZERS, "    def on_train_start(self):\n        self.head = nn.Linear(16, 4)\n\n"),
    also=("parameter-without-gradient",),
)
shape.breaks("step-without-backward", drop(BACKWARD), at=("optimizer.step()", "optimizer = "))
shape.breaks("gradient-cut", (BACKWARD, "        self.manual_backward(torch.tensor(loss.item(), requires_grad=True))\n"))
shape.breaks(
    "eval-without-eval-mode",
    before(VALIDATION, "    def on_validation_epoch_start(self):\n        self.train()\n\n"),
    ("        rebuilt, logits = self(x)\n        self.log", "        rebuilt, logits = self(x)  # held out\n        self.log"),
)
shape.breaks(
    "train-mode-not-restored",
    (GET_SCHEDULE, "        self.eval()\n" + GET_SCHEDULE),
    at=("rebuilt, logits = self(x)", FIT),
)
shape.breaks(
    "softmax-before-cross-entropy",
    ("self.decoder(code), self.head(code)", "self.decoder(code), self.head(code).softmax(dim=1)"),
    at="F.cross_entropy",
)
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (
        "        classification = F.cross_entropy(logits, y)\n",
        "        classification = F.binary_cross_entropy_with_logits(logits.sigmoid(), F.one_hot(y, 4).float())\n",
    ),
)
shape.breaks(
    "loss-graph-retained",
    after(MANUAL, "        self.running = 0.0\n"),
    after(BACKWARD, "        self.running += loss\n"),
    at=("rebuilt, logits = self(x)", "classification = ", "reconstruction = "),
)
shape.breaks("loss-term-unused", (TOTAL, "        loss = reconstruction\n"), at="classification = ", also=("parameter-without-gradient",))
shape.breaks(
    "probability-log",
    ("        classification = F.cross_entropy(logits, y)\n", "        classification = F.nll_loss(logits.softmax(dim=1), y)\n"),
)
shape.breaks(
    "parameter-never-changes",
    before(
        "        scheduler = torch",
        "        kept = self.head.weight.detach().clone()\n"
        "        optimizer.register_step_post_hook(lambda *_: self.head.weight.data.copy_(kept))\n",
    ),
    at=("optimizer = ", "optimizer.step()", "trainer.fit("),
)
shape.breaks("parameter-not-optimised", ("Adam(self.parameters()", "Adam(self.head.parameters()"))
shape.breaks(
    "parameter-without-gradient", ("code = self.encoder(x)", "code = self.encoder(x).detach()"), at=("optimizer = ", "module = ", FIT)
)
shape.breaks(
    "loss-not-finite", (TOTAL, "        loss = reconstruction + torch.log(logits).mean() + classification\n"), at="manual_backward"
)
shape.cannot("Lightning runs `validation_step` without gradients", "eval-without-no-grad")
shape.cannot("Lightning refuses a schedule of an optimizer that it is not given", "scheduler-on-replaced-optimizer")
shape.cannot("each batch is a step: there is no accumulation", "horizon-ignores-accumulation")
shape.cannot("it runs in one process", *SEVERAL)
