"""Every bug of `fixtures/runtime/no_loader.py`."""

from __future__ import annotations

from mutation import AUTOCAST, SEVERAL, Shape, after, before, drop

shape = Shape("no_loader")
STEP = "        scaler.step(optimizer)\n"
ZERO = "        optimizer.zero_grad(set_to_none=True)\n"
BACKWARD = "            scaler.scale(loss).backward()\n"
UNSCALE = "        scaler.unscale_(optimizer)\n"
CLIP = "        nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
UPDATE = "        scaler.update()\n"
SCHEDULE = "        scheduler.step()\n"
LOOP = "    for it in range(args.max_iters):\n"
LAMBDA = "torch.optim.lr_scheduler.LambdaLR(optimizer, lambda it: 0.55 + 0.45 * math.cos(math.pi * it / args.max_iters))"
DIVIDED = "                loss = loss / args.micro_steps\n"
REGION = f"            {AUTOCAST}\n                _, loss = model(x, y)\n{DIVIDED}"
LOSS = "        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())\n"
MADE = '    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)\n'
UNSCALED_LOOP = (drop(UNSCALE), (BACKWARD, "            loss.backward()\n"), (STEP, "        optimizer.step()\n"), drop(UPDATE))

shape.breaks("scheduler-never-stepped", drop(SCHEDULE), at="scheduler = ")
shape.breaks("scheduler-before-optimizer", drop(SCHEDULE), after(LOOP, SCHEDULE))
shape.breaks(
    "scheduler-wrong-cadence",
    (LAMBDA, "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.max_iters)"),
    drop(SCHEDULE),
    after(BACKWARD, "            scheduler.step()\n"),
)
shape.breaks("plateau-without-metric", (LAMBDA, "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)"), at="scheduler.step()")
shape.breaks(
    "scheduler-on-replaced-optimizer", before(LOOP, "    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)\n"), at="scheduler"
)
shape.breaks("loss-passed-as-epoch", (SCHEDULE, "        scheduler.step(loss.item())\n"))
shape.breaks("scaler-never-used", *UNSCALED_LOOP, at="scaler = ")
shape.breaks("fp16-without-scaler", *UNSCALED_LOOP, drop(MADE), at="torch.autocast")
shape.breaks("backward-in-autocast", (BACKWARD, "    " + BACKWARD))
shape.breaks("scaler-without-autocast", (REGION, REGION.replace(AUTOCAST, "if True:")), at=("scaler = ", "scaler.scale"))
shape.breaks(
    "scaler-incomplete", drop(UNSCALE), drop(CLIP), (STEP, "        optimizer.step()\n"), drop(UPDATE), at="scaler.scale", name="step"
)
shape.breaks("scaler-incomplete", drop(UPDATE), at=("scaler.step", "scaler.scale", "scaler = "), name="update")
shape.breaks("clip-before-unscale", drop(UNSCALE), at="clip_grad_norm_")
shape.breaks("unscale-outside-boundary", drop(UNSCALE), after(BACKWARD, "            scaler.unscale_(optimizer)\n"))
shape.breaks("accumulation-not-scaled", drop(DIVIDED), at=("scaler.scale(loss)", "_, loss = model(x, y)"))
shape.breaks("clip-after-step", drop(CLIP), after(STEP, CLIP))
shape.breaks("missing-zero-grad", drop(ZERO), at=("scaler.step", "backward()", "optimizer = "))
shape.breaks("zero-grad-before-step", drop(ZERO), before(STEP, ZERO))
shape.breaks(
    "optimizer-before-parameters",
    before(LOOP, "    model.head = nn.Linear(32, len(letters), bias=False)\n"),
    also=("parameter-without-gradient",),
)
shape.breaks(
    "gradient-cut", (DIVIDED, "                loss = torch.tensor(loss.item() / args.micro_steps, requires_grad=True)\n"), at="backward()"
)
shape.breaks("eval-without-eval-mode", drop("    model.eval()\n"), at="_, loss = model(*get_batch")
shape.breaks("eval-without-no-grad", drop("@torch.no_grad()\n"), at=("_, loss = model(*get_batch", "def estimate_loss"))
shape.breaks(
    "train-mode-not-restored", ("    model.train()\n    return out\n", "    return out\n"), at=("_, loss = model(x, y)", "model.eval()")
)
shape.breaks(
    "softmax-before-cross-entropy",
    ("self.head(self.norm(self.blocks(x, mask=mask)))", "self.head(self.norm(self.blocks(x, mask=mask))).softmax(-1)"),
    at="F.cross_entropy",
)
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (LOSS, "        loss = F.binary_cross_entropy_with_logits(logits.sigmoid(), F.one_hot(targets, logits.size(-1)).float())\n"),
)
shape.breaks(
    "loss-graph-retained",
    before(LOOP, "    history = []\n"),
    after(BACKWARD, "            history.append(loss)\n"),
    at=("_, loss = model(x, y)", "loss = F.cross"),
)
shape.breaks("loss-term-unused", after(LOSS, "        spread = F.mse_loss(logits, torch.zeros_like(logits))\n"))
shape.breaks("probability-log", (LOSS, "        loss = F.nll_loss(logits.flatten(0, 1).softmax(-1), targets.flatten())\n"))
shape.breaks(
    "parameter-never-changes",
    before(
        LOOP,
        "    kept = model.head.weight.detach().clone()\n"
        "    optimizer.register_step_post_hook(lambda *_: model.head.weight.data.copy_(kept))\n",
    ),
    at=("scaler.step", "optimizer = "),
)
shape.breaks("parameter-not-optimised", ("AdamW(model.parameters()", "AdamW(model.head.parameters()"))
shape.breaks(
    "parameter-without-gradient",
    ("self.head(self.norm(self.blocks(x, mask=mask)))", "self.head(self.norm(self.blocks(x, mask=mask)).detach())"),
    at=("optimizer = ", "model = "),
)
shape.breaks("loss-not-finite", (LOSS, LOSS.replace("\n", " + torch.log(logits).mean()\n")), at="loss")
shape.cannot("a loss that is scaled and never stepped is `scaler-incomplete`", "backward-without-step")
shape.cannot("the scaler refuses to step without gradients", "step-without-backward")
shape.cannot("there is no loader whose length a schedule could take", "horizon-ignores-accumulation")
shape.cannot("it runs in one process", *SEVERAL)
