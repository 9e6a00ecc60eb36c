"""What only a run can tell: gradients used twice, parameters that stand still, graphs kept, losses left out, modes and probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
from watching import Watched, watch

pytest.importorskip("torch", reason="the probes watch a real torch")

LOOP = """
model = Net()
opt = torch.optim.{optimizer}(model.parameters(), lr=0.01)
for epoch in range(9):
    for x, y in DataLoader(data(), batch_size=4):
        {before}
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        {after}
"""


def loop(folder: Path, before: str = "pass", after: str = "pass", optimizer: str = "SGD") -> Watched:
    return watch(folder, LOOP.format(before=before, after=after, optimizer=optimizer))


def test_a_gradient_used_twice_is_stale(tmp_path: Path) -> None:
    part = loop(tmp_path).part
    stale = [[part.params()[p] for p in s["stale"]] for s in part.of("step")]
    assert stale[0] == [] and stale[1:] == [["fc.weight", "fc.bias", "out.weight", "out.bias"]] * 6
    assert part.of("event", action="grad-cleared") == []


@pytest.mark.parametrize(
    "clears",
    [
        "for p in model.parameters(): p.grad = None",
        "for p in model.parameters(): p.grad is not None and p.grad.zero_()",
        "model.zero_grad()",
        "opt.zero_grad(set_to_none=False)",
    ],
)
def test_however_it_is_zeroed_nothing_is_stale(tmp_path: Path, clears: str) -> None:
    part = loop(tmp_path, before=clears).part
    assert [s["stale"] for s in part.of("step")] == [[]] * 7
    by_hand = part.of("event", action="grad-cleared")
    zeroing = part.of("event", action="zero_grad")
    if "for p" in clears:
        assert zeroing == [] and [sorted(e["arguments"]["of"]["params"]) for e in by_hand] == [[1, 2, 3, 4]] * 6
        order = part.actions("grad-cleared", "backward", "step")
        assert order[2:5] == ["grad-cleared", "backward", "step"], "written before the event at which it was noticed"
    else:
        assert by_hand == [] and len(zeroing) == 8, "one for each step, and one before the run is stopped"
        kinds = {t["id"]: t["kind"] for t in part.of("thing")}
        assert {kinds[e["thing"]] for e in zeroing} == {"module" if "model" in clears else "optimizer"}


def test_two_optimizers_of_a_gan_are_clean(tmp_path: Path) -> None:
    part = watch(
        tmp_path,
        """
        G, D = nn.Linear(3, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        g, d = torch.optim.Adam(G.parameters(), lr=0.01), torch.optim.Adam(D.parameters(), lr=0.01)
        one, zero = torch.ones(4, 1), torch.zeros(4, 1)
        for epoch in range(9):
            for x, _ in DataLoader(data(), batch_size=4):
                D.zero_grad()
                F.binary_cross_entropy_with_logits(D(x), one).backward()
                fake = G(torch.randn(4, 3))
                F.binary_cross_entropy_with_logits(D(fake.detach()), zero).backward()
                d.step()
                G.zero_grad()
                F.binary_cross_entropy_with_logits(D(fake), one).backward()
                g.step()
        """,
    ).part
    steps = part.of("step")
    assert len(steps) >= 6 and all(s["stale"] == s["unchanged"] == s["none"] == [] for s in steps)
    end = part.one("end")
    assert end["never_gradient"] == end["not_optimised"] == []
    assert len(part.things("module")) == 2 and len(part.of("pass")) >= 1
    assert all(len(r["alive"]) <= 3 for r in part.of("retained"))


def test_parameters_left_out_frozen_or_unreached(tmp_path: Path) -> None:
    part = watch(
        tmp_path,
        """
        model = Net()
        model.extra = nn.Linear(4, 4)   # used, but not given to the optimizer
        model.dead = nn.Linear(4, 4)    # given, never used
        model.fc.bias.requires_grad_(False)
        opt = torch.optim.SGD([*model.fc.parameters(), *model.out.parameters(), *model.dead.parameters()], lr=0.1)
        for x, y in DataLoader(data(), batch_size=4):
            opt.zero_grad()
            F.cross_entropy(model.extra(model(x)), y).backward()
            opt.step()
        head = nn.Linear(16, 4)
        model.out = head
        opt.add_param_group({"params": head.parameters()})
        """,
    ).part
    names = part.params()
    end = part.one("end")
    assert {names[p] for p in end["not_optimised"]} == {"extra.weight", "extra.bias"}
    assert {names[p] for p in end["never_gradient"]} >= {"dead.weight", "dead.bias"}
    step = part.of("step")[0]
    assert {names[p] for p in step["none"]} == {"fc.bias", "dead.weight", "dead.bias"}
    reached = part.of("event", action="backward")[0]["arguments"]["loss"]["reached"]
    assert {names[p] for p in reached} == {"fc.weight", "out.weight", "out.bias", "extra.weight", "extra.bias"}
    replaced = part.one("event", action="replaced")
    assert replaced["arguments"]["name"] == "out" and len(replaced["arguments"]["params"]) == 2
    assert len(part.one("event", action="add_param_group")["arguments"]["params"]) == 2


def test_parameters_that_do_not_move(tmp_path: Path) -> None:
    part = watch(
        tmp_path,
        """
        model = Net()
        kept = model.fc.weight.detach().clone()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in DataLoader(data(), batch_size=4):
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            kept = model.fc.weight.detach().clone()
            opt.step()
        slow = torch.optim.SGD(model.parameters(), lr=1e-30)
        for x, y in DataLoader(data(), batch_size=4):
            slow.zero_grad()
            F.cross_entropy(model(x), y).backward()
            slow.step()
        """,
    ).part
    fast, slow = (t["id"] for t in part.things("optimizer"))
    assert [s["unchanged"] for s in part.of("step", optimizer=fast)] == [[]] * 3
    changed = [s["changed"] for s in part.of("step", optimizer=slow)]
    assert changed and set(changed) <= {0}


def test_an_embedding_whose_sample_misses_the_change(tmp_path: Path) -> None:
    part = watch(
        tmp_path,
        """
        table = nn.Embedding(20000, 8)
        opt = torch.optim.SGD(table.parameters(), lr=0.1)
        for i in range(6):
            opt.zero_grad()
            table(torch.tensor([3, 5, 7])).square().sum().backward()
            opt.step()
        """,
    ).part
    assert [s["unchanged"] for s in part.of("step")][1:] == [[]] * 5, "compared in full after the sample stood still once"


@pytest.mark.parametrize(
    ("keeps", "grows"),
    [
        ("total = total + loss", True),
        ("history.append(loss)", True),
        ("total = total + loss.item()", False),
        ("history.append(loss.detach())", False),
    ],
)
def test_graphs_that_stay_alive(tmp_path: Path, keeps: str, grows: bool) -> None:
    text = "total, history = 0, []\n" + LOOP.format(before="opt.zero_grad()", after=keeps, optimizer="SGD")
    part = watch(tmp_path, text).part
    most = max(len(r["alive"]) for r in part.of("retained"))
    assert (most >= 6) if grows else (most == 1)


def test_a_loss_left_out_of_the_total(tmp_path: Path) -> None:
    part = watch(
        tmp_path,
        """
        model = Net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in DataLoader(data(), batch_size=4):
            opt.zero_grad()
            out = model(x)
            main = F.cross_entropy(out, y)
            aside = F.mse_loss(out, torch.zeros_like(out))
            third = F.l1_loss(out, torch.zeros_like(out), reduction="sum")
            (main + 0.1 * third).backward()
            opt.step()
        """,
    ).part
    losses = {e["n"]: e["arguments"]["function"] for e in part.of("event", action="loss")}
    used = [losses[e["arguments"]["loss_n"]] for e in part.of("event", action="loss-used")]
    assert sorted(set(used)) == ["cross_entropy", "l1_loss"]
    backward = part.of("event", action="backward")[0]["arguments"]["loss"]
    assert backward["functions"] == ["cross_entropy", "l1_loss"] and (backward["divided"], backward["sum"]) == (False, False)
    components = part.of("step")[0]["components"]
    assert set(components) == {"cross_entropy", "mse_loss", "l1_loss"}
    assert part.of("step")[0]["loss"] == pytest.approx(components["cross_entropy"] + 0.1 * components["l1_loss"], rel=1e-6)
    assert part.of("event", action="loss")[2]["arguments"]["reduction"] == "sum"


def test_what_a_loss_is_given(tmp_path: Path) -> None:
    part = watch(
        tmp_path,
        """
        model = Net()
        x, y = data()[:8]
        F.cross_entropy(torch.softmax(model(x), 1), y)
        F.cross_entropy(torch.log_softmax(model(x), 1), y)
        F.nll_loss(model(x), y)
        F.cross_entropy(model(x), y)
        F.binary_cross_entropy_with_logits(torch.sigmoid(model(x)), torch.full((8, 4), 2.0))
        nn.CrossEntropyLoss()(torch.softmax(model(x), 1)[:, :, None].expand(8, 4, 3), y[:, None].expand(8, 3))
        """,
    ).part
    soft, log, nll, plain, binary, spread = [e["observed"] for e in part.of("event", action="loss")]
    assert soft["sums_to_one"] and soft["nonnegative"] and soft["maker"] == "SoftmaxBackward0"
    assert log["log_probabilities"] and log["maker"] == "LogSoftmaxBackward0" and not log["sums_to_one"]
    assert nll["out_of_range"] is True
    assert not any(plain[k] for k in ("sums_to_one", "nonnegative", "log_probabilities", "out_of_range"))
    assert binary["nonnegative"] and binary["maximum"] <= 1 and binary["out_of_range"]
    assert spread["sums_to_one"] is True


def test_modes_and_gradient_contexts_of_forwards(tmp_path: Path) -> None:
    part = watch(
        tmp_path,
        """
        model = Net()
        x, y = data()[:8]
        model.eval()
        model(x)
        @torch.no_grad()
        def check():
            return model(x)
        check()
        with torch.inference_mode():
            model(x)
        model.drop.train()
        with torch.set_grad_enabled(False):
            model(x)
        model.train()
        model.fc.eval()
        nn.Softmax(dim=1)(x)
        """,
    ).part
    seen = [e["observed"] for e in part.of("event", action="forward")]
    assert [(o["training"], o["grad"], o["sensitive_training"], o["sensitive_eval"]) for o in seen] == [
        (False, True, 0, 1),
        (False, False, 0, 1),
        (False, False, 0, 1),
        (False, False, 1, 0),
    ]
    assert [o["requires_grad_output"] for o in seen] == [True, False, False, False]
    assert {o["batch"] for o in seen} == {8}
    names = {c["id"]: c["name"] for c in part.of("context")}
    around = [[names[c] for c in e["contexts"]] for e in part.of("event", action="forward")]
    assert around == [[], ["no_grad"], ["inference_mode"], ["set_grad_enabled"]]
    modes = [(e["action"], e["arguments"]) for e in part.of("event") if e["action"] in ("train", "eval")]
    assert modes == [
        ("eval", {"mode": False}),
        ("train", {"mode": True, "part": "drop"}),
        ("train", {"mode": True}),
        ("eval", {"mode": False, "part": "fc"}),
    ]


def test_checkpointed_parts_are_no_roots(tmp_path: Path) -> None:
    part = watch(
        tmp_path,
        """
        from torch.utils.checkpoint import checkpoint
        class Deep(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)
            def forward(self, x):
                return self.b(checkpoint(self.a, x, use_reentrant=REENTRANT))
        model = Deep()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for REENTRANT in (False, True):
            for x, y in DataLoader(data(), batch_size=4):
                opt.zero_grad()
                F.cross_entropy(model(x.requires_grad_()), y).backward()
                opt.step()
        """,
    ).part
    assert [t["type"] for t in part.things("module")] == ["__main__.Deep"]
    assert part.actions("forward", "backward", "step") == ["forward", "backward", "step"] * 6


def test_examples_of_the_first_batch(tmp_path: Path) -> None:
    part = watch(tmp_path, LOOP.format(before="opt.zero_grad()", after="pass", optimizer="SGD"), examples=3).part
    examples = part.of("examples")
    assert [e["step"] for e in examples] == list(range(7))
    assert all(len(e["loss"]) == len(e["prediction"]) == len(e["target"]) == 3 for e in examples)
    assert set(examples[0]["target"]) <= {0, 1, 2, 3} and all(isinstance(p, int) for p in examples[0]["prediction"])
