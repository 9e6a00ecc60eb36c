"""Every bug of `fixtures/runtime/plain.py`."""

from __future__ import annotations

from mutation import AUTOCAST, BFLOAT, SCALER, SEVERAL, Shape, after, before, drop, inside

shape = Shape("plain")
STEP = "        optimizer.step()\n"
ZERO = "        optimizer.zero_grad()\n"
BACKWARD = "        loss.backward()\n"
CLIP = "        nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
SCHEDULE = "        scheduler.step()\n"
COSINE = "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)"
EPOCHS = "    for epoch in range(args.epochs):\n"
TERMS = "        classification = F.cross_entropy(logits, labels)\n        activity = F.mse_loss(features, torch.zeros_like(features))\n"
MOVED = "        images, labels = images.to(device), labels.to(device)\n"
FORWARD = "        logits, features = model(images)\n" + TERMS
KEPT = ("logits, features = model(images)", "classification = ", "activity = ", "loss = ")
TOTAL = "        loss = classification + 0.01 * activity\n"
MADE = after("    total = 0.0\n", f"    scaler = {SCALER}\n")
SCALED = (BACKWARD, "        scaler.scale(loss).backward()\n")
UNSCALED = before(CLIP, "        scaler.unscale_(optimizer)\n")
STEPPED = (STEP, "        scaler.step(optimizer)\n        scaler.update()\n")
OPTIMIZER = "    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)\n"

shape.breaks("scheduler-never-stepped", drop(SCHEDULE), at="scheduler = ")
shape.breaks("scheduler-before-optimizer", drop(SCHEDULE), after(EPOCHS, SCHEDULE))
shape.breaks(
    "scheduler-wrong-cadence",
    ("def train_epoch(model, loader, optimizer, device)", "def train_epoch(model, loader, optimizer, scheduler, device)"),
    drop(SCHEDULE),
    after(STEP, SCHEDULE),
    ("train_epoch(model, train_loader, optimizer, args", "train_epoch(model, train_loader, optimizer, scheduler, args"),
)
shape.breaks("plateau-without-metric", (COSINE, "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)"), at="scheduler.step()")
shape.breaks("scheduler-on-replaced-optimizer", before(EPOCHS, OPTIMIZER.replace("lr)", "lr, weight_decay=0.05)")), at="scheduler")
shape.breaks("loss-passed-as-epoch", (SCHEDULE, "        scheduler.step(valid_loss)\n"))
shape.breaks("scaler-never-used", MADE)
shape.breaks("fp16-without-scaler", inside(AUTOCAST, FORWARD), at="loss.backward()")
shape.breaks("backward-in-autocast", inside(BFLOAT, FORWARD + TOTAL + BACKWARD))
shape.breaks("scaler-without-autocast", MADE, SCALED, UNSCALED, STEPPED)
shape.breaks("scaler-incomplete", MADE, inside(AUTOCAST, FORWARD), SCALED, drop(CLIP), at="optimizer.step()")
shape.breaks("clip-before-unscale", MADE, inside(AUTOCAST, FORWARD), SCALED, STEPPED, at="clip_grad_norm_")
shape.breaks(
    "unscale-outside-boundary",
    MADE,
    inside(AUTOCAST, FORWARD),
    SCALED,
    UNSCALED,
    STEPPED,
    before(CLIP, "        scaler.unscale_(optimizer)  # again\n"),
)
shape.breaks(
    "accumulation-not-scaled",
    drop(ZERO),
    ("    for images, labels in loader:\n" + MOVED + FORWARD, "    for i, (images, labels) in enumerate(loader):\n" + MOVED + FORWARD),
    after(STEP, ZERO),
    inside("if (i + 1) % 2 == 0:", CLIP + STEP + ZERO),
    at=("loss.backward()", "loss = "),
)
shape.breaks("backward-without-step", drop(STEP), at=("loss.backward()", "optimizer = "))
shape.breaks("clip-after-step", drop(CLIP), after(STEP, CLIP))
shape.breaks("missing-zero-grad", drop(ZERO), at=("optimizer.step()", "loss.backward()", "optimizer = "))
shape.breaks("zero-grad-before-step", drop(ZERO), after(BACKWARD, ZERO))
shape.breaks("optimizer-before-parameters", before(EPOCHS, "    model.head = nn.Linear(8 * 16, 4)\n"), also=("parameter-without-gradient",))
shape.breaks("step-without-backward", drop(BACKWARD), at=("optimizer.step()", "optimizer = "))
shape.breaks(
    "gradient-cut",
    (TOTAL, "        loss = torch.tensor((classification + 0.01 * activity).item(), requires_grad=True)\n"),
    at="loss.backward()",
)
shape.breaks("eval-without-eval-mode", drop("    model.eval()\n"), at="logits, _ = model(images)")
shape.breaks("eval-without-no-grad", drop("@torch.no_grad()\n"), at=("logits, _ = model(images)", "def validate"))
shape.breaks("train-mode-not-restored", drop("    model.train()\n"), at=("logits, features = model(images)", "model.eval()"))
shape.breaks(
    "softmax-before-cross-entropy",
    ("        classification = F.cross_entropy(logits,", "        classification = F.cross_entropy(logits.softmax(1),"),
)
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (
        "        classification = F.cross_entropy(logits, labels)",
        "        classification = F.binary_cross_entropy_with_logits(logits.sigmoid(), F.one_hot(labels, 4).float())",
    ),
)
shape.breaks("loss-graph-retained", ("total += loss.item()", "total += loss"), at=KEPT)
shape.breaks("loss-term-unused", (TOTAL, "        loss = classification\n"), at="activity = ")
shape.breaks(
    "probability-log", ("        classification = F.cross_entropy(logits,", "        classification = F.nll_loss(logits.softmax(1),")
)
shape.breaks(
    "parameter-never-changes",
    before(
        EPOCHS,
        "    kept = model.head.weight.detach().clone()\n"
        "    optimizer.register_step_post_hook(lambda *_: model.head.weight.data.copy_(kept))\n",
    ),
    at=("optimizer.step()", "optimizer = "),
)
shape.breaks("parameter-not-optimised", ("AdamW(model.parameters()", "AdamW(model.head.parameters()"))
shape.breaks(
    "parameter-without-gradient",
    ("features = self.features(images)", "features = self.features(images).detach()"),
    at=("optimizer = ", "model = "),
)
shape.breaks(
    "loss-not-finite",
    ("        activity = F.mse_loss(features, torch.zeros_like(features))", "        activity = torch.log(features).mean()"),
    at="loss",
)
shape.cannot("each batch is a step: there is no accumulation", "horizon-ignores-accumulation")
shape.cannot("it runs in one process", *SEVERAL)
