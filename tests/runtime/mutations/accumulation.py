"""Every bug of `fixtures/runtime/accumulation.py`."""

from __future__ import annotations

from mutation import AUTOCAST, BFLOAT, SCALER, SEVERAL, Shape, after, before, drop, inside

shape = Shape("accumulation")
STEP = "                optimizer.step()\n"
FIRST = "        optimizer.zero_grad()\n        for i"
ZERO = "                optimizer.zero_grad()\n"
BACKWARD = "            (loss / args.accumulate).backward()\n"
CLIP = "                nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
SCHEDULE = "                scheduler.step()\n"
LINEAR = "torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=updates)"
EPOCHS = "    for epoch in range(args.epochs):\n"
LOSS = "            loss = step_loss(model, criterion, batch, labels)\n"
RETURN = "    return criterion(logits.flatten(0, 1), tags.flatten())\n"
MADE = before(EPOCHS, f"    scaler = {SCALER}\n")
SCALED = (BACKWARD, "            scaler.scale(loss / args.accumulate).backward()\n")
UNSCALED = before(CLIP, "                scaler.unscale_(optimizer)\n")
STEPPED = (STEP, "                scaler.step(optimizer)\n                scaler.update()\n")

shape.breaks("scheduler-never-stepped", drop(SCHEDULE), at="scheduler = ")
shape.breaks("scheduler-before-optimizer", drop(SCHEDULE), before(CLIP, SCHEDULE))
shape.breaks("scheduler-wrong-cadence", drop(SCHEDULE), before("        valid = evaluate(", "        scheduler.step()\n"))
shape.breaks("plateau-without-metric", (LINEAR, "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)"), at="scheduler.step()")
shape.breaks(
    "scheduler-on-replaced-optimizer",
    before(EPOCHS, "    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, eps=1e-7)\n"),
    at="scheduler",
)
shape.breaks(
    "horizon-ignores-accumulation",
    ("len(train_loader) // args.accumulate * args.epochs", "len(train_loader) * args.epochs"),
    at="scheduler",
)
shape.breaks("loss-passed-as-epoch", (SCHEDULE, "                scheduler.step(loss.item())\n"))
shape.breaks("scaler-never-used", MADE)
shape.breaks("fp16-without-scaler", inside(AUTOCAST, LOSS), at="backward()")
shape.breaks("backward-in-autocast", inside(BFLOAT, LOSS + "            running += loss.item()\n" + BACKWARD))
shape.breaks("scaler-without-autocast", MADE, SCALED, UNSCALED, STEPPED)
shape.breaks("scaler-incomplete", MADE, inside(AUTOCAST, LOSS), SCALED, drop(CLIP), at="optimizer.step()")
shape.breaks("clip-before-unscale", MADE, inside(AUTOCAST, LOSS), SCALED, STEPPED, at="clip_grad_norm_")
shape.breaks(
    "unscale-outside-boundary",
    MADE,
    inside(AUTOCAST, LOSS),
    (BACKWARD, SCALED[1] + "            scaler.unscale_(optimizer)\n"),
    STEPPED,
)
shape.breaks("accumulation-not-scaled", (BACKWARD, "            loss.backward()\n"))
shape.breaks("backward-without-step", drop(STEP), at=("backward()", "optimizer = "))
shape.breaks("clip-after-step", drop(CLIP), after(STEP, CLIP))
shape.breaks("missing-zero-grad", (FIRST, "        for i"), drop(ZERO), at=("optimizer.step()", "backward()", "optimizer = "))
shape.breaks("zero-grad-before-step", drop(ZERO), before(CLIP, ZERO))
shape.breaks("optimizer-before-parameters", before(EPOCHS, "    model.head = nn.Linear(32, 5)\n"), also=("parameter-without-gradient",))
shape.breaks("step-without-backward", drop(BACKWARD), at=("optimizer.step()", "optimizer = "))
shape.breaks(
    "gradient-cut",
    (BACKWARD, "            (torch.tensor(loss.item(), requires_grad=True) / args.accumulate).backward()\n"),
    at="backward()",
)
shape.breaks(
    "eval-without-eval-mode", drop("    model.eval()\n"), at=("step_loss(model, criterion, tokens, tags).item()", "logits = model(tokens)")
)
shape.breaks(
    "eval-without-no-grad",
    ("    with torch.no_grad():\n        for tokens, tags in loader:\n", "    if True:\n        for tokens, tags in loader:\n"),
    at=("step_loss(model, criterion, tokens, tags).item()", "logits = model(tokens)", "def evaluate"),
)
shape.breaks(
    "train-mode-not-restored", drop("    model.train(was_training)\n"), at=("logits = model(tokens)", "model.eval()", "loss = step_loss")
)
shape.breaks("softmax-before-cross-entropy", ("self.head(states)", "self.head(states).softmax(-1)"), at="return criterion")
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (RETURN, "    return nn.functional.binary_cross_entropy_with_logits(logits.sigmoid(), nn.functional.one_hot(tags, 5).float())\n"),
)
shape.breaks(
    "loss-graph-retained",
    ("            running += loss.item()\n", "            running += loss\n"),
    at=("loss = step_loss", "logits = model", "return criterion"),
)
shape.breaks("loss-term-unused", (RETURN, "    length = nn.functional.l1_loss(logits, torch.zeros_like(logits))\n" + RETURN))
shape.breaks("probability-log", (RETURN, "    return nn.functional.nll_loss(logits.flatten(0, 1).softmax(-1), tags.flatten())\n"))
shape.breaks(
    "parameter-never-changes",
    before(
        EPOCHS,
        "    kept = model.head.weight.detach().clone()\n"
        "    optimizer.register_step_post_hook(lambda *_: model.head.weight.data.copy_(kept))\n",
    ),
    at=("optimizer.step()", "optimizer = "),
)
shape.breaks("parameter-not-optimised", ("Adam(model.parameters()", "Adam(model.head.parameters()"))
shape.breaks("parameter-without-gradient", ("self.head(states)", "self.head(states.detach())"), at=("optimizer = ", "model = "))
shape.breaks("loss-not-finite", (RETURN, RETURN.replace("\n", " + torch.log(logits).mean()\n")), at="loss")
shape.cannot("it runs in one process", *SEVERAL)
