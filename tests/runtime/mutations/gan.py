"""Every bug of `fixtures/runtime/gan.py`."""

from __future__ import annotations

from mutation import AUTOCAST, BFLOAT, SCALER, SEVERAL, Shape, after, before, drop, inside

shape = Shape("gan")
STEP_D, STEP_G = "        opt_d.step()\n", "        opt_g.step()\n"
ZERO_D, ZERO_G = "        opt_d.zero_grad()\n", "        opt_g.zero_grad()\n"
BACKWARD_D, BACKWARD_G = "        loss_d.backward()\n", "        loss_g.backward()\n"
LOSS_G = "        loss_g = criterion(discriminator(fake), ones)\n"
SCHEDULE_G = "        sched_g.step()\n"
EXPONENTIAL_G = "torch.optim.lr_scheduler.ExponentialLR(opt_g, gamma=0.9)"
EPOCHS = "    for epoch in range(args.epochs):\n"
CLIP_G = "        nn.utils.clip_grad_norm_(generator.parameters(), 1.0)\n"
FAKE = "        opt_d.zero_grad()\n        fake = generator(torch.randn(len(real), latent))\n"
MADE = after("    losses = []\n", f"    scaler = {SCALER}\n")
SCALED_G = (BACKWARD_G, "        scaler.scale(loss_g).backward()\n")
STEPPED_G = (STEP_G, "        scaler.step(opt_g)\n        scaler.update()\n")
OPT_G = "    opt_g = torch.optim.Adam(generator.parameters(), lr=args.lr, betas=(0.5, 0.999))\n"
NO_GRAD = "    with torch.no_grad():\n        for (real,) in loader:\n"

shape.breaks("scheduler-never-stepped", drop(SCHEDULE_G), at="sched_g = ")
shape.breaks("scheduler-before-optimizer", drop(SCHEDULE_G), after(EPOCHS, SCHEDULE_G))
shape.breaks(
    "scheduler-wrong-cadence",
    (EXPONENTIAL_G, "torch.optim.lr_scheduler.CosineAnnealingLR(opt_g, T_max=args.epochs)"),
    ("criterion, latent):\n    generator.train()", "criterion, latent, sched_g):\n    generator.train()"),
    drop(SCHEDULE_G),
    after(STEP_G, SCHEDULE_G),
    ("opt_d, criterion, args.latent)\n        valid", "opt_d, criterion, args.latent, sched_g)\n        valid"),
)
shape.breaks("plateau-without-metric", (EXPONENTIAL_G, "torch.optim.lr_scheduler.ReduceLROnPlateau(opt_g)"), at="sched_g.step()")
shape.breaks("scheduler-on-replaced-optimizer", before(EPOCHS, OPT_G.replace("0.5", "0.9")), at="sched_g")
shape.breaks("loss-passed-as-epoch", (SCHEDULE_G, "        sched_g.step(loss_g)\n"))
shape.breaks("scaler-never-used", MADE)
shape.breaks("fp16-without-scaler", inside(AUTOCAST, LOSS_G), at="loss_g.backward()")
shape.breaks("backward-in-autocast", inside(BFLOAT, LOSS_G + BACKWARD_G))
shape.breaks("scaler-without-autocast", MADE, SCALED_G, STEPPED_G)
shape.breaks("scaler-incomplete", MADE, inside(AUTOCAST, LOSS_G), SCALED_G, at="opt_g.step()")
shape.breaks("clip-before-unscale", MADE, inside(AUTOCAST, LOSS_G), SCALED_G, before(STEP_G, CLIP_G), STEPPED_G)
shape.breaks(
    "unscale-outside-boundary",
    MADE,
    inside(AUTOCAST, LOSS_G),
    SCALED_G,
    before(STEP_G, "        scaler.unscale_(opt_g)\n" + CLIP_G + "        scaler.unscale_(opt_g)\n"),
    STEPPED_G,
)
shape.breaks(
    "accumulation-not-scaled",
    drop(ZERO_G),
    ("    for (real,) in loader:\n        ones", "    for i, (real,) in enumerate(loader):\n        ones"),
    (STEP_G, "        if (i + 1) % 2 == 0:\n            opt_g.step()\n            opt_g.zero_grad()\n"),
    at=("loss_g = ", "loss_g.backward()"),
)
shape.breaks("backward-without-step", drop(STEP_G), at=("loss_g.backward()", "opt_g = "))
shape.breaks("clip-after-step", after(STEP_G, CLIP_G))
shape.breaks("missing-zero-grad", drop(ZERO_G), at=("opt_g.step()", "loss_g.backward()", "opt_g = "), name="generator")
shape.breaks("missing-zero-grad", drop(ZERO_D), at=("opt_d.step()", "loss_d.backward()", "opt_d = "), name="discriminator")
shape.breaks("zero-grad-before-step", drop(ZERO_G), after(BACKWARD_G, ZERO_G))
shape.breaks(
    "optimizer-before-parameters", before(EPOCHS, "    generator.head = nn.Linear(32, 16)\n"), also=("parameter-without-gradient",)
)
shape.breaks("step-without-backward", drop(BACKWARD_G), at=("opt_g.step()", "opt_g = "), also=("loss-term-unused",))
shape.breaks("gradient-cut", (FAKE, FAKE.replace("latent))", "latent)).detach()")), at=("opt_g", "loss_g.backward()"))
shape.breaks("eval-without-eval-mode", drop("    generator.eval()\n"), at="            fake = generator(", name="generator")
shape.breaks("eval-without-eval-mode", drop("    discriminator.eval()\n"), at="total += criterion(discriminator(", name="discriminator")
shape.breaks(
    "eval-without-no-grad",
    (NO_GRAD, NO_GRAD.replace("with torch.no_grad()", "if True")),
    at=("            fake = generator(", "total += ", "def validate"),
)
shape.breaks("train-mode-not-restored", drop("    generator.train()\n"), at=("        fake = generator(", "generator.eval()"))
shape.breaks(
    "sigmoid-before-bce-with-logits",
    ("self.head(self.body(samples))", "torch.sigmoid(self.head(self.body(samples)))"),
    at="criterion(discriminator(",
)
shape.breaks(
    "loss-graph-retained",
    ("losses.append((loss_d.item(), loss_g.item()))", "losses.append((loss_d, loss_g))"),
    at=("        fake = generator(", "loss_real = ", "loss_fake = ", "loss_g = "),
)
shape.breaks("loss-term-unused", ("        loss_d = loss_real + loss_fake\n", "        loss_d = loss_real\n"), at="loss_fake = ")
shape.breaks("probability-log", ("nn.BCEWithLogitsLoss()", "nn.BCELoss()"), at="criterion(discriminator(")
shape.breaks(
    "parameter-never-changes",
    before(
        EPOCHS,
        "    kept = generator.head.weight.detach().clone()\n"
        "    opt_g.register_step_post_hook(lambda *_: generator.head.weight.data.copy_(kept))\n",
    ),
    at=("opt_g.step()", "opt_g = "),
)
shape.breaks("parameter-not-optimised", ("Adam(generator.parameters()", "Adam(generator.head.parameters()"), at="opt_d = ")
shape.breaks(
    "parameter-without-gradient",
    ("self.head(self.body(noise))", "self.head(self.body(noise).detach())"),
    at=("opt_g = ", "generator, discriminator = "),
)
shape.breaks("loss-not-finite", (LOSS_G, "        loss_g = -torch.log(discriminator(fake) - 1.0).mean()\n"), at="loss_g.backward()")
shape.cannot("one logit a sample: there is no cross entropy over classes", "softmax-before-cross-entropy")
shape.cannot("each batch is a step: there is no accumulation", "horizon-ignores-accumulation")
shape.cannot("it runs in one process", *SEVERAL)
