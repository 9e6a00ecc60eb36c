"""Every bug of `fixtures/runtime/hf_trainer.py` that a user of the Trainer can write."""

from __future__ import annotations

from mutation import AUTOCAST, SCALER, SEVERAL, Shape, after, before, drop, inside

shape = Shape("hf_trainer")
LOSS = "        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)\n"
FORWARD = '        outputs = model(input_ids=inputs["input_ids"])\n        logits = outputs.logits\n'
OPTIMIZER = "    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)\n"
FOLDER = "    with tempfile.TemporaryDirectory() as folder:\n"
LOOK = "        with torch.no_grad():\n            logits = model(input_ids=self.sentences).logits\n"
METHOD = "class SmoothTrainer(Trainer):\n"

shape.breaks("scheduler-never-stepped", ("optimizers=(optimizer, schedule)", "optimizers=(optimizer, None)"), at="schedule = ")
shape.breaks("scheduler-on-replaced-optimizer", before(FOLDER, OPTIMIZER.replace("0.01", "0.1")), at="schedule = ")
shape.breaks(
    "horizon-ignores-accumulation",
    after("            per_device_train_batch_size=args.batch_size,\n", "            gradient_accumulation_steps=2,\n"),
    ("updates = len(train_set) // args.batch_size * args.epochs", "updates = len(DataLoader(train_set, args.batch_size)) * args.epochs"),
    ("import Dataset\n", "import DataLoader, Dataset\n"),
    at="schedule = ",
)
shape.breaks("scaler-never-used", before(FOLDER, f"    scaler = {SCALER}\n"))
shape.breaks("fp16-without-scaler", inside(AUTOCAST, FORWARD + LOSS))
shape.breaks(
    "optimizer-before-parameters", after(OPTIMIZER, "    model.classifier = torch.nn.Linear(32, 4)\n"), also=("parameter-without-gradient",)
)
shape.breaks(
    "zero-grad-before-step",
    before(
        "    def on_epoch_end(",
        "    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):\n        optimizer.zero_grad()\n\n",
    ),
)
shape.breaks(
    "step-without-backward",
    after(
        METHOD,
        "    def training_step(self, model, inputs, num_items_in_batch=None):\n"
        "        model.train()\n"
        "        return self.compute_loss(model, inputs).detach()\n\n",
    ),
    at=("optimizer = ", "trainer.train()"),
)
shape.breaks("gradient-cut", (LOSS, LOSS + "        loss = torch.tensor(loss.item(), requires_grad=True)\n"), at="trainer.train()")
shape.breaks("eval-without-eval-mode", drop("        model.eval()\n"), at="logits = model(input_ids=self.sentences)")
shape.breaks("eval-without-no-grad", (LOOK, LOOK.replace("with torch.no_grad()", "if True")), at="logits = model(input_ids=self.sentences)")
shape.breaks(
    "softmax-before-cross-entropy", ("logits = outputs.logits\n", "logits = outputs.logits.softmax(dim=-1)\n"), at="F.cross_entropy"
)
shape.breaks(
    "sigmoid-before-bce-with-logits",
    (LOSS, "        loss = F.binary_cross_entropy_with_logits(logits.sigmoid(), F.one_hot(labels, 4).float())\n"),
)
shape.breaks(
    "loss-graph-retained",
    after(METHOD, "    seen = []\n\n"),
    after(LOSS, "        self.seen.append(loss)\n"),
    at=("loss = F.cross", "outputs = model"),
)
shape.breaks("loss-term-unused", after(LOSS, "        spread = F.mse_loss(logits, torch.zeros_like(logits))\n"))
shape.breaks("probability-log", (LOSS, "        loss = F.nll_loss(logits.softmax(dim=-1), labels)\n"))
shape.breaks(
    "parameter-never-changes",
    before(
        FOLDER,
        "    kept = model.classifier.weight.detach().clone()\n"
        "    optimizer.register_step_post_hook(lambda *_: model.classifier.weight.data.copy_(kept))\n",
    ),
    at=("optimizer = ", "trainer.train()"),
)
shape.breaks("parameter-not-optimised", ("AdamW(model.parameters()", "AdamW(model.classifier.parameters()"))
shape.breaks(
    "parameter-without-gradient",
    (
        FORWARD,
        '        outputs = model.bert(inputs["input_ids"])\n'
        "        logits = model.classifier(outputs.pooler_output.detach())\n"
        '        outputs = {"logits": logits}\n',
    ),
    ("return (loss, outputs)", 'return (loss, {"loss": loss, **outputs})'),
    at=("optimizer = ", "model = "),
)
shape.breaks("loss-not-finite", after(LOSS, "        loss = loss + 0.01 * torch.log(logits).mean()\n"), at="trainer.train()")
shape.cannot(
    "the Trainer steps the schedule, after the optimizer, as often as it counts steps",
    "scheduler-before-optimizer",
    "scheduler-wrong-cadence",
    "plateau-without-metric",
    "loss-passed-as-epoch",
)
shape.cannot(
    "the Trainer runs the backward pass, outside of what the user writes, and scales, unscales and clips through Accelerate",
    "backward-in-autocast",
    "scaler-without-autocast",
    "scaler-incomplete",
    "clip-before-unscale",
    "unscale-outside-boundary",
)
shape.cannot("the Trainer divides the loss", "accumulation-not-scaled")
shape.cannot("the Trainer steps, clips and clears", "backward-without-step", "clip-after-step", "missing-zero-grad")
shape.cannot("the Trainer switches the model to training before every step", "train-mode-not-restored")
shape.cannot("it runs in one process", *SEVERAL)
