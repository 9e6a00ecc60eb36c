"""Every bug of `fixtures/runtime/amp.py`."""

from __future__ import annotations

from mutation import AUTOCAST, SEVERAL, Shape, after, before, drop, inside

shape = Shape("amp")
STEP = "            self.scaler.step(self.optimizer)\n"
ZERO = "            self.optimizer.zero_grad(set_to_none=True)\n"
BACKWARD = "            self.scaler.scale(loss).backward()\n"
UNSCALE = "            self.scaler.unscale_(self.optimizer)\n"
CLIP = "            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)\n"
UPDATE = "            self.scaler.update()\n"
SCHEDULE = "            self.scheduler.step()\n"
BATCHES = "        for x, y in self.train_loader:\n"
LOSS = "                loss = self.criterion(logits, y)\n"
REGION = f"            {AUTOCAST}\n                logits = self.model(x)\n{LOSS}"
ONE_CYCLE = (
    "torch.optim.lr_scheduler.OneCycleLR(\n"
    "            self.optimizer, max_lr=args.lr, epochs=args.epochs, steps_per_epoch=len(train_loader)\n        )"
)
MADE = '        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)\n'
UNSCALED_LOOP = (drop(UNSCALE), (BACKWARD, "            loss.backward()\n"), (STEP, "            self.optimizer.step()\n"), drop(UPDATE))

shape.breaks("scheduler-never-stepped", drop(SCHEDULE), at="self.scheduler = ")
shape.breaks("scheduler-before-optimizer", drop(SCHEDULE), after(BATCHES, SCHEDULE))
shape.breaks("scheduler-wrong-cadence", drop(SCHEDULE), after("            valid = self.validate()\n", SCHEDULE))
shape.breaks(
    "plateau-without-metric", (ONE_CYCLE, "torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer)"), at="self.scheduler.step()"
)
shape.breaks(
    "scheduler-on-replaced-optimizer",
    before(
        "        for epoch in range", "        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.args.lr, momentum=0.8)\n"
    ),
    at="self.scheduler",
)
shape.breaks("loss-passed-as-epoch", (SCHEDULE, "            self.scheduler.step(loss.item())\n"))
shape.breaks("scaler-never-used", *UNSCALED_LOOP, at="self.scaler = ")
shape.breaks("fp16-without-scaler", *UNSCALED_LOOP, drop(MADE), at="torch.autocast")
shape.breaks("backward-in-autocast", (REGION + BACKWARD, REGION + "    " + BACKWARD))
shape.breaks(
    "scaler-without-autocast",
    (REGION, REGION.replace(AUTOCAST, 'with torch.autocast("cpu", dtype=torch.float16, enabled=False):')),
    at=("self.scaler = ", "self.scaler.scale"),
)
shape.breaks(
    "scaler-incomplete",
    drop(UNSCALE),
    drop(CLIP),
    (STEP, "            self.optimizer.step()\n"),
    drop(UPDATE),
    at="self.scaler.scale",
    also=("loss-not-finite",),
    name="step",
)
shape.breaks("scaler-incomplete", drop(UPDATE), at=("self.scaler.step", "self.scaler.scale", "self.scaler = "), name="update")
shape.breaks("clip-before-unscale", drop(UNSCALE), at="clip_grad_norm_")
shape.breaks("unscale-outside-boundary", before(UNSCALE, UNSCALE.replace("\n", "  # again\n")), at="unscale_")
shape.breaks(
    "accumulation-not-scaled",
    drop(ZERO),
    (BATCHES, "        for i, (x, y) in enumerate(self.train_loader):\n"),
    after(UPDATE, ZERO),
    inside("if (i + 1) % 2 == 0:", UNSCALE + CLIP + STEP + UPDATE + ZERO + SCHEDULE),
    at=("scale(loss).backward()", "loss = "),
    also=("horizon-ignores-accumulation",),
)
shape.breaks("clip-after-step", drop(CLIP), after(STEP, CLIP))
shape.breaks("missing-zero-grad", drop(ZERO), at=("self.scaler.step", "backward()", "self.optimizer = "))
shape.breaks("zero-grad-before-step", drop(ZERO), after(CLIP, ZERO))
shape.breaks(
    "optimizer-before-parameters",
    before("        for epoch in range", "        self.model.head = nn.Linear(64, 4)\n"),
    also=("parameter-without-gradient",),
)
shape.breaks(
    "gradient-cut", (LOSS, "                loss = torch.tensor(self.criterion(logits, y).item(), requires_grad=True)\n"), at="backward()"
)
shape.breaks("eval-without-eval-mode", drop("        self.model.eval()\n"), at="logits = self.model(x)")
shape.breaks(
    "eval-without-no-grad",
    (
        "        with torch.no_grad():\n            for x, y in self.valid_loader:\n",
        "        if True:\n            for x, y in self.valid_loader:\n",
    ),
    at=("logits = self.model(x)", "def validate"),
)
shape.breaks("train-mode-not-restored", drop("        self.model.train()\n"), at=("logits = self.model(x)", "self.model.eval()"))
shape.breaks(
    "softmax-before-cross-entropy",
    ("        return self.head(self.body(x))\n", "        return self.head(self.body(x)).softmax(dim=1)\n"),
    at="self.criterion(",
)
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (LOSS, "                loss = nn.BCEWithLogitsLoss()(logits.sigmoid(), nn.functional.one_hot(y, 4).float())\n"),
)
shape.breaks(
    "loss-graph-retained", ("            total += loss.item()\n", "            total += loss\n"), at=("logits = self.model(x)", "loss = ")
)
shape.breaks("loss-term-unused", after(LOSS, "                energy = nn.functional.mse_loss(logits, torch.zeros_like(logits))\n"))
shape.breaks("probability-log", (LOSS, "                loss = nn.NLLLoss()(logits.softmax(dim=1), y)\n"))
shape.breaks(
    "parameter-never-changes",
    before(
        "        for epoch in range",
        "        kept = self.model.head.weight.detach().clone()\n"
        "        self.optimizer.register_step_post_hook(lambda *_: self.model.head.weight.data.copy_(kept))\n",
    ),
    at=("self.scaler.step", "self.optimizer = "),
)
shape.breaks("parameter-not-optimised", ("SGD(model.parameters()", "SGD(model.head.parameters()"))
shape.breaks(
    "parameter-without-gradient", ("self.head(self.body(x))", "self.head(self.body(x).detach())"), at=("self.optimizer = ", "model = ")
)
shape.breaks("loss-not-finite", (LOSS, "                loss = self.criterion(logits, y) + 0.01 * torch.log(logits).mean()\n"), at="loss")
shape.cannot("a loss that is scaled and never stepped is `scaler-incomplete`", "backward-without-step")
shape.cannot("the scaler refuses to step without gradients", "step-without-backward")
shape.cannot("each batch is a step: there is no accumulation", "horizon-ignores-accumulation")
shape.cannot("it runs in one process", *SEVERAL)
