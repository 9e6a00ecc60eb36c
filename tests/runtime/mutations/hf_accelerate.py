"""Every bug of `fixtures/runtime/hf_accelerate.py`."""

from __future__ import annotations

from mutation import AUTOCAST, BFLOAT, SCALER, SEVERAL, Shape, after, before, drop, inside

shape = Shape("hf_accelerate")
STEP = "                optimizer.step()\n"
ZERO = "                optimizer.zero_grad()\n"
LOSS = "                loss = criterion(model(features), labels)\n"
BACKWARD = "                accelerator.backward(loss)\n"
CLIP = "                if accelerator.sync_gradients:\n                    accelerator.clip_grad_norm_(model.parameters(), 1.0)\n"
SCHEDULE = "                scheduler.step()\n"
LINEAR = "get_linear_schedule_with_warmup(optimizer, num_warmup_steps=1, num_training_steps=updates)"
EPOCHS = "    for epoch in range(args.epochs):\n"
EVALUATION = "        model.eval()\n        right, seen = 0, 0\n"
NO_GRAD = "        with torch.no_grad():\n            for features, labels in valid_loader:\n"
ACCUMULATE = "            with accelerator.accumulate(model):\n"
LAST = "            running += loss.item()\n"
BLOCK = LOSS + BACKWARD + CLIP + STEP + SCHEDULE + ZERO

shape.breaks("scheduler-never-stepped", drop(SCHEDULE), at=("scheduler = ", "train_loader, valid_loader, scheduler"))
shape.breaks("scheduler-before-optimizer", drop(SCHEDULE), before(LOSS, SCHEDULE))
shape.breaks("scheduler-wrong-cadence", drop(SCHEDULE), before(EVALUATION, "        scheduler.step()\n"))
shape.breaks("plateau-without-metric", (LINEAR, "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)"), at="scheduler.step()")
shape.breaks(
    "scheduler-on-replaced-optimizer",
    before(EPOCHS, "    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, eps=1e-7)\n"),
    at="scheduler",
)
shape.breaks(
    "horizon-ignores-accumulation",
    ("len(train_loader) // args.accumulate * args.epochs", "len(train_loader) * args.epochs"),
    at="scheduler",
)
shape.breaks("loss-passed-as-epoch", (SCHEDULE, "                scheduler.step(loss.item())\n"))
shape.breaks("scaler-never-used", before(EPOCHS, f"    scaler = {SCALER}\n"))
shape.breaks("fp16-without-scaler", inside(AUTOCAST, LOSS), at="accelerator.backward")
shape.breaks("backward-in-autocast", inside(BFLOAT, LOSS + BACKWARD))
shape.breaks(
    "accumulation-not-scaled",
    ("for features, labels in train_loader:\n", "for i, (features, labels) in enumerate(train_loader):\n"),
    (
        "            with accelerator.accumulate(model):\n" + BLOCK,
        "".join(line[4:] + "\n" for line in (LOSS + BACKWARD).splitlines())
        + "            if (i + 1) % args.accumulate == 0:\n"
        + STEP
        + SCHEDULE
        + ZERO,
    ),
    (", gradient_accumulation_steps=args.accumulate", ""),
    at="accelerator.backward",
)
shape.breaks("backward-without-step", drop(STEP), at=("accelerator.backward", "optimizer = ", "optimizer, train_loader"))
shape.breaks("clip-after-step", drop(CLIP), after(STEP, CLIP))
shape.breaks("missing-zero-grad", drop(ZERO), at=("optimizer.step()", "accelerator.backward", "optimizer = ", "optimizer, train_loader"))
shape.breaks("zero-grad-before-step", drop(ZERO), before(CLIP, ZERO))
shape.breaks("optimizer-before-parameters", before(EPOCHS, "    model.head = nn.Linear(32, 4)\n"), also=("parameter-without-gradient",))
shape.breaks("step-without-backward", drop(BACKWARD), at=("optimizer.step()", "optimizer = "))
shape.breaks("gradient-cut", (BACKWARD, "                accelerator.backward(torch.tensor(loss.item(), requires_grad=True))\n"))
shape.breaks("eval-without-eval-mode", ("        model.eval()\n", ""), at="guesses = model(features)")
shape.breaks("eval-without-no-grad", (NO_GRAD, NO_GRAD.replace("with torch.no_grad()", "if True")), at="guesses = model(features)")
shape.breaks("train-mode-not-restored", drop("        model.train()\n"), at=("loss = criterion(model(features)", "model.eval()"))
shape.breaks("softmax-before-cross-entropy", (LOSS, "                loss = criterion(model(features).softmax(dim=1), labels)\n"))
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (LOSS, "                loss = nn.BCEWithLogitsLoss()(model(features).sigmoid(), nn.functional.one_hot(labels, 4).float())\n"),
)
shape.breaks("loss-graph-retained", (LAST, "            running += loss\n"), at="loss = criterion(")
shape.breaks(
    "loss-term-unused",
    (
        LOSS,
        "                logits = model(features)\n"
        "                spread = nn.functional.mse_loss(logits, torch.zeros_like(logits))\n"
        "                loss = criterion(logits, labels)\n",
    ),
)
shape.breaks("probability-log", (LOSS, "                loss = nn.functional.nll_loss(model(features).softmax(dim=1), labels)\n"))
shape.breaks(
    "parameter-never-changes",
    before(
        EPOCHS,
        "    kept = model.head.weight.detach().clone()\n"
        "    optimizer.optimizer.register_step_post_hook(lambda *_: model.head.weight.data.copy_(kept))\n",
    ),
    at=("optimizer.step()", "optimizer = ", "model, optimizer, train_loader"),
)
shape.breaks("parameter-not-optimised", ("AdamW(model.parameters()", "AdamW(model.head.parameters()"))
shape.breaks(
    "parameter-without-gradient",
    ("self.head(self.body(x))", "self.head(self.body(x).detach())"),
    at=("optimizer = ", "model = ", "model, optimizer"),
)
shape.breaks(
    "loss-not-finite",
    (LOSS, "                logits = model(features)\n                loss = criterion(logits, labels) + torch.log(logits).mean()\n"),
    at="loss",
)
shape.cannot("Accelerate owns the scaler: one of the user's own is never needed", "scaler-without-autocast", "scaler-incomplete")
shape.cannot("Accelerate unscales before it clips", "clip-before-unscale", "unscale-outside-boundary")
shape.cannot("it runs in one process", *SEVERAL)
