"""The examples of the first batch, followed over the steps: what they show is true, and looking changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
from watching import Part, watch

#: Trains with all that could be disturbed: dropout, batch statistics, a part that is kept in eval mode, a shuffled loader.
TRAIN = """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()
        self.norm = nn.BatchNorm1d(8)
        self.frozen = nn.Dropout(0.9)
    {forward}
torch.manual_seed(3)
model = Model()
model.frozen.eval()
opt = torch.optim.SGD(model.parameters(), lr=0.5)
first, told = None, []
for epoch in range(2):
    for x, y in DataLoader(data(), batch_size=16, shuffle=True):
        opt.zero_grad()
        {loss}
        loss.backward()
        x.zero_()
        opt.step()
        print(repr(loss.item()))
print(torch.rand(1).item(), [m.training for m in model.modules()])
print(float(model.norm.running_mean.sum()), int(model.norm.num_batches_tracked))
"""
FORWARD = "def forward(self, x):\n        return self.net(self.frozen(self.norm(x)))"
INSIDE = "def forward(self, x, y):\n        out = self.net(self.frozen(self.norm(x)))\n        return out, F.cross_entropy(out, y)"
FORMS = {
    "plain": (FORWARD, "loss = F.cross_entropy(model(x), y)"),
    "module": (FORWARD, "loss = nn.CrossEntropyLoss()(model(x), y)"),
    "view": (FORWARD, "loss = F.cross_entropy(model(x).view(-1, 4), y.view(-1))"),
    "second": (FORWARD.replace("return ", "return x, "), "loss = F.cross_entropy(model(x)[1], y)"),
    "dict": (FORWARD.replace("return ", "return {'logits': ").rstrip() + "}", "loss = F.cross_entropy(model(x)['logits'], y)"),
    "inside": (INSIDE, "loss = model(x, y)[1]"),
    "keyword": (INSIDE, "loss = model(y=y, x=x)[1]"),
}
CLOSURE = """
def closure():
    opt.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss
model = Net()
opt = torch.optim.SGD(model.parameters(), lr=0.5)
for x, y in DataLoader(data(), batch_size=16, shuffle=True):
    opt.step(closure)
"""

#: Not to be traced to the output of the model: something stands between.
LOST = {
    "log_softmax": (FORWARD, "loss = F.nll_loss(F.log_softmax(model(x), 1), y)"),
    "arithmetic": (FORWARD, "loss = F.cross_entropy(model(x) * 2, y)"),
    "own name": (INSIDE.replace("F.cross_entropy(out", "ce(out"), "loss = model(x, y)[1]"),
    "counts its calls": (FORWARD.replace("return ", "assert self.training; return "), "loss = F.cross_entropy(model(x), y)"),
}


def script(form: tuple[str, str]) -> str:
    head = "from torch.nn.functional import cross_entropy as ce\n"
    return head + TRAIN.replace("{forward}", form[0]).replace("{loss}", form[1])


def run(folder: Path, form: tuple[str, str], **options: object) -> tuple[Part, list[str]]:
    seen = watch(folder, script(form), steps=100, batches=100, passes=100, **options)
    assert seen.status == 0, seen.err
    return seen.part, seen.out.splitlines()


@pytest.mark.parametrize("name", FORMS)
def test_the_first_batch_is_followed_and_nothing_else_changes(tmp_path, name):
    part, told = run(tmp_path / "looked", FORMS[name], examples=3)
    rows = part.of("examples")
    assert [(row["step"], row["followed"]) for row in rows] == [(k, True) for k in range(8)]
    assert len({json.dumps(row["target"]) for row in rows}) == 1
    assert all(len(row["loss"]) == len(row["prediction"]) == 3 for row in rows)
    # At this rate of learning the weights move, and with them what is said of the same examples.
    assert len({json.dumps(row["loss"]) for row in rows}) == 8
    assert rows[-1]["loss"] != rows[0]["loss"]
    if name not in ("plain", "inside"):
        return
    plain, untouched = run(tmp_path / "plain", FORMS[name])
    assert not plain.of("examples")
    assert told == untouched, "losses, random numbers, modes and statistics are the same to the last bit"
    assert [e["action"] for e in part.of("event")] == [e["action"] for e in plain.of("event")], "the looks are no events of the program"


@pytest.mark.parametrize("name", LOST)
def test_what_cannot_be_followed_is_not_said_to_be(tmp_path, name):
    part, told = run(tmp_path / "looked", LOST[name], examples=3)
    rows = part.of("examples")
    assert len(rows) == 8 and not any(row.get("followed") for row in rows[1:])
    if name == "counts its calls":
        assert told == run(tmp_path / "plain", LOST[name])[1], "where the look fails, everything is put back too"


def test_what_is_said_is_what_the_model_gives(tmp_path):
    look = """if first is None:
            first = copy
        modes = [(m, m.training) for m in model.modules()]
        model.eval()
        with torch.no_grad():
            out = model(first[0])
            told.append([F.cross_entropy(out, first[1], reduction="none")[:3].tolist(), out.argmax(1)[:3].tolist()])
        for m, mode in modes:
            m.training = mode
        opt.step()"""
    loss = "copy = (x.clone(), y.clone()); loss = F.cross_entropy(model(x), y)"
    text = script((FORWARD, loss)).replace("opt.step()", look) + "import json\nprint(json.dumps(told))\n"
    seen = watch(tmp_path, text, steps=100, batches=100, passes=100, examples=3)
    told = json.loads(seen.out.splitlines()[-1])
    rows = seen.part.of("examples")
    assert [row["prediction"] for row in rows] == [prediction for _, prediction in told]
    assert [row["loss"] for row in rows] == [pytest.approx(loss) for loss, _ in told]


def test_a_step_with_a_closure_is_followed_from_its_first_loss_on(tmp_path):
    rows = watch(tmp_path, CLOSURE, steps=100, batches=100, passes=100, examples=3).part.of("examples")
    assert [row.get("followed") for row in rows] == [True] * 4
    assert len({json.dumps(row["target"]) for row in rows}) == 1


def test_two_optimizers_follow_the_one_that_made_the_first_step(tmp_path):
    text = """
    a, b = Net(), Net()
    opts = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (a, b)]
    for x, y in DataLoader(data(), batch_size=16):
        for model, opt in zip((a, b), opts):
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
    """
    part = watch(tmp_path, text, steps=100, batches=100, passes=100, examples=2).part
    one, other = (thing["id"] for thing in part.things("optimizer"))
    rows = part.of("examples")
    assert {row["optimizer"] for row in rows if row.get("followed")} == {one}
    assert {row["optimizer"] for row in rows if not row.get("followed")} == {other}
