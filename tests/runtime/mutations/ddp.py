"""Every bug of `fixtures/runtime/ddp.py`."""

from __future__ import annotations

from mutation import AUTOCAST, BFLOAT, SCALER, Shape, after, before, drop, inside

shape = Shape("ddp")
STEP = "        optimizer.step()\n"
ZERO = "        optimizer.zero_grad()\n"
LOSS = "        loss = criterion(model(x), y)\n"
BACKWARD = "        loss.backward()\n"
CLIP = "        nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
SCHEDULE = "        scheduler.step()\n"
STEP_LR = "torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)"
EPOCHS = "    for epoch in range(args.epochs):\n"
OPTIMIZER = "    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)\n"
MADE = after("    total = 0.0\n", f"    scaler = {SCALER}\n")
SCALED = (BACKWARD, "        scaler.scale(loss).backward()\n")
UNSCALED = before(CLIP, "        scaler.unscale_(optimizer)\n")
STEPPED = (STEP, "        scaler.step(optimizer)\n        scaler.update()\n")
NO_GRAD = "    with torch.no_grad():\n        for x, y in loader:\n"

shape.breaks("scheduler-never-stepped", drop(SCHEDULE), at="scheduler = ")
shape.breaks("scheduler-before-optimizer", drop(SCHEDULE), after(EPOCHS, SCHEDULE))
shape.breaks(
    "scheduler-wrong-cadence",
    (STEP_LR, "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)"),
    ("def train_epoch(model, loader, optimizer, criterion)", "def train_epoch(model, loader, optimizer, criterion, scheduler)"),
    drop(SCHEDULE),
    after(STEP, SCHEDULE),
    ("train_epoch(model, train_loader, optimizer, criterion)", "train_epoch(model, train_loader, optimizer, criterion, scheduler)"),
)
shape.breaks("plateau-without-metric", (STEP_LR, "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)"), at="scheduler.step()")
shape.breaks("scheduler-on-replaced-optimizer", before(EPOCHS, OPTIMIZER.replace("0.9", "0.8")), at="scheduler")
shape.breaks("loss-passed-as-epoch", (SCHEDULE, "        scheduler.step(valid)\n"))
shape.breaks("scaler-never-used", MADE)
shape.breaks("fp16-without-scaler", inside(AUTOCAST, LOSS), at="loss.backward()")
shape.breaks("backward-in-autocast", inside(BFLOAT, LOSS + BACKWARD))
shape.breaks("scaler-without-autocast", MADE, SCALED, UNSCALED, STEPPED)
shape.breaks("scaler-incomplete", MADE, inside(AUTOCAST, LOSS), SCALED, drop(CLIP), at="optimizer.step()")
shape.breaks("clip-before-unscale", MADE, inside(AUTOCAST, LOSS), SCALED, STEPPED, at="clip_grad_norm_")
shape.breaks(
    "unscale-outside-boundary",
    MADE,
    inside(AUTOCAST, LOSS),
    SCALED,
    UNSCALED,
    STEPPED,
    before(CLIP, "        scaler.unscale_(optimizer)  # again\n"),
)
shape.breaks(
    "accumulation-not-scaled",
    drop(ZERO),
    ("    for x, y in loader:\n" + LOSS, "    for i, (x, y) in enumerate(loader):\n" + LOSS),
    after(STEP, ZERO),
    inside("if (i + 1) % 2 == 0:", CLIP + STEP + ZERO),
    at="loss.backward()",
)
shape.breaks("backward-without-step", drop(STEP), at=("loss.backward()", "optimizer = "))
shape.breaks("clip-after-step", drop(CLIP), after(STEP, CLIP))
shape.breaks("missing-zero-grad", drop(ZERO), at=("optimizer.step()", "loss.backward()", "optimizer = "))
shape.breaks("zero-grad-before-step", drop(ZERO), after(BACKWARD, ZERO))
shape.breaks(
    "optimizer-before-parameters",
    drop(OPTIMIZER),
    before("    model = DDP(network)\n", OPTIMIZER.replace("model", "network") + "    network.head = nn.Linear(32, 4)\n"),
    also=("parameter-without-gradient",),
)
shape.breaks("step-without-backward", drop(BACKWARD), at=("optimizer.step()", "optimizer = "))
shape.breaks(
    "gradient-cut", (LOSS, "        loss = torch.tensor(criterion(model(x), y).item(), requires_grad=True)\n"), at="loss.backward()"
)
shape.breaks("eval-without-eval-mode", drop("    model.eval()\n"), at="total += criterion(model(x), y)")
shape.breaks(
    "eval-without-no-grad",
    (NO_GRAD, NO_GRAD.replace("with torch.no_grad()", "if True")),
    ("total += criterion(model(x), y)", "total += criterion(model(x), y).item()"),
    at="def validate",
)
shape.breaks("train-mode-not-restored", drop("    model.train()\n"), at=("loss = criterion(model(x), y)", "model.eval()"))
shape.breaks("softmax-before-cross-entropy", (LOSS, "        loss = criterion(model(x).softmax(dim=1), y)\n"))
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (LOSS, "        loss = nn.functional.binary_cross_entropy_with_logits(model(x).sigmoid(), nn.functional.one_hot(y, 4).float())\n"),
)
shape.breaks("loss-graph-retained", ("        total += loss.item()\n", "        total += loss\n"), at="loss = criterion(")
shape.breaks(
    "loss-term-unused",
    (
        LOSS,
        "        logits = model(x)\n"
        "        spread = nn.functional.mse_loss(logits, torch.zeros_like(logits))\n"
        "        loss = criterion(logits, y)\n",
    ),
)
shape.breaks("probability-log", (LOSS, "        loss = nn.functional.nll_loss(model(x).softmax(dim=1), y)\n"))
shape.breaks(
    "sampler-epoch-not-set", drop("        sampler.set_epoch(epoch)\n"), at=("sampler = ", "train_loader = ", "for x, y in loader")
)
shape.breaks(
    "loader-without-distributed-sampler",
    drop("    sampler = DistributedSampler(train_set, shuffle=True, drop_last=True)\n"),
    ("args.batch_size, sampler=sampler)", "args.batch_size, shuffle=True, drop_last=True)"),
    drop("        sampler.set_epoch(epoch)\n"),
    at=("train_loader = ", "for x, y in loader"),
)
shape.breaks(
    "parameter-never-changes",
    before(
        EPOCHS,
        "    kept = network.head.weight.detach().clone()\n"
        "    optimizer.register_step_post_hook(lambda *_: network.head.weight.data.copy_(kept))\n",
    ),
    at=("optimizer.step()", "optimizer = "),
)
shape.breaks("parameter-not-optimised", ("SGD(model.parameters()", "SGD(network.head.parameters()"))
shape.breaks(
    "parameter-without-gradient",
    ("self.head(self.body(x))", "self.head(self.body(x).detach())"),
    ("DDP(network)", "DDP(network, find_unused_parameters=True)"),
    at=("optimizer = ", "network = "),
)
shape.breaks(
    "loss-not-finite", (LOSS, "        logits = model(x)\n        loss = criterion(logits, y) + torch.log(logits).mean()\n"), at="loss"
)
shape.cannot("each batch is a step: there is no accumulation", "horizon-ignores-accumulation")
