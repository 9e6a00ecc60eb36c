"""The page of a run: what stands in it, that nothing of the user's can break out of it, and how a real browser shows it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from recorded import finding, learning, losses, record, rows_of, steps

from mllint.runtime import charts, html
from mllint.runtime.record import Record, part

EVIL = "<img src=x onerror=alert(1)></script><script>document.title='taken'</script>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "brave-browser")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is installed")


class Read(HTMLParser):
    """The elements of a page, and the text of those with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]
        if tag == "script":
            self._inside = known.get("id") or "own"

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._inside] = self.texts.get(self._inside, "") + data


def full() -> Record:
    """A record with everything a page shows, and with names that attack it."""
    rows = rows_of(losses(20), *learning(20, 6))
    for row in rows:
        if row["k"] == "step":
            row["components"][EVIL] = 0.5
    judged = [finding(EVIL, "confirmed", path=EVIL, message=EVIL, evidence=[EVIL], url=f"javascript:{EVIL}"), finding()]
    told = {"before": EVIL, "changes": [{"rule": EVIL, "path": EVIL, "change": EVIL}], "differences": [{"name": EVIL, "text": EVIL}]}
    head = {"id": EVIL, "command": ["python", EVIL], "notes": [EVIL], "written": [EVIL], "problem": EVIL, "output": EVIL, "ended": EVIL}
    return Record({**head, "compare": told}, (part(rows),), tuple(judged))


# ---------------------------------------------------------------- what stands in it


def test_the_page_holds_what_the_run_says():
    text = html.page(record(losses(20), *learning(20, 6), verdicts=[finding(), finding("clip-after-step", "refuted", line=33)]))
    read = Read(text)
    assert '<span class="verdict" data-verdict="confirmed">1 confirmed</span>' in text
    assert "<code>schedule</code> is never stepped" in text
    assert "20 optimizer steps, 2 passes over the data, on the CPU" in text
    figures = json.loads(read.texts["figures"])
    assert list(figures) == ["loss", "parts-1", "lr", "norm", "time-1", "memory", "examples-0"]
    assert figures["loss"]["data"][0]["y"] == losses(20)
    assert [trace["name"] for trace in figures["lr"]["data"]] == ["group 0", "group 1"]
    assert figures["lr"]["data"][1]["y"] == [0.01] * 20
    assert [trace["name"] for trace in figures["time-1"]["data"]] == ["data", "forward", "backward", "optimizer", "between"]
    assert sum(trace["y"][3] for trace in figures["time-1"]["data"]) == pytest.approx(52.0)
    assert figures["memory"]["data"][0]["y"] == pytest.approx([float(k) for k in range(20)])
    assert len(figures["examples-0"]["data"]) == 6
    assert "The first step took 520 ms and is cut off." in text
    # Example 2 is right from step 5 on; its loss at step 5 is in the title of the cell.
    row = re.search(r"<tr><td>2</td><td>2</td>(.*?)</tr>", text)[1]
    cells = re.findall(r"<td(.*?)>(\d+)</td>", row)
    assert [value for _, value in cells] == ["9"] * 5 + ["2"] * 15
    assert [("right" in how) for how, _ in cells] == [False] * 5 + [True] * 15
    assert 'title="loss 1.03, target 2"' in cells[5][0]


def test_examples_of_other_batches_are_not_joined():
    rows = learning(4, 3)
    for k, row in enumerate(rows):
        row["target"] = [k, 9, 9]
        del row["followed"]
    known = record(losses(4), *rows)
    chart = charts.charts(known)[-1]
    assert chart.title == "Loss of the first 3 examples of each batch"
    assert {trace["mode"] for trace in chart.traces} == {"markers"}
    text = html.page(known)
    assert "<th>target</th>" not in text
    cells = re.findall(r"<td class=\"heat(.*?)\"", re.search(r"<tr><td>1</td>(.*?)</tr>", text)[1])
    assert cells == [" right"] * 3 + [""], "example 1 is 9 in the first three steps"


def test_plotly_accepts_every_figure():
    go = pytest.importorskip("plotly.graph_objects")
    drawn = charts.charts(full())
    assert len(drawn) == 7
    for chart in drawn:
        figure = chart.figure()
        for shape in figure["layout"].get("shapes", []):
            assert shape.pop("meta") in ("bad", "pass")
        go.Figure(figure)


def test_values_that_are_not_finite_stay_out_of_the_data_and_are_told():
    text = html.page(record([2.0, math.nan, math.inf, 1.0]))
    figures = json.loads(Read(text).texts["figures"], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert figures["loss"]["data"][0]["y"] == [2.0, None, None, 1.0]
    assert "The loss was not finite at steps 1, 2." in text
    bad = [shape["x0"] for shape in figures["loss"]["layout"]["shapes"] if shape["meta"] == "bad"]
    assert bad == [1, 2]


def test_losses_over_decades_get_a_logarithmic_axis():
    axis = {name: chart.figure()["layout"]["yaxis"] for name, chart in ((c.name, c) for c in charts.charts(record([1000.0, 10.0, 1.0])))}
    assert axis["loss"]["type"] == "log"
    assert "type" not in charts.charts(record([3.0, 2.0, 1.0]))[0].figure()["layout"]["yaxis"]


def test_a_pass_over_the_data_is_marked_between_its_steps():
    rows = [*rows_of(losses(8))[:-3], {"k": "pass", "grad": "train", "n": 35}, {"k": "pass", "grad": "train", "n": 90}]
    shapes = charts.charts(Record({}, (part(rows),)))[0].figure()["layout"]["shapes"]
    assert [shape["x0"] for shape in shapes] == [2.5], "three steps (8, 18, 28) lie before event 35; the end of the run is no mark"


def test_each_rank_shows_its_loss():
    other = rows_of(losses(8, 2.0))
    other[0] = {**other[0], "rank": 1}
    both = Record({}, (part(rows_of(losses(8))), part(other)))
    assert [trace["name"] for trace in charts.charts(both)[0].traces] == ["loss", "loss, rank 1"]


def test_a_run_that_failed_has_its_last_words_and_no_curves():
    row = {"k": "error", "type": "ValueError", "message": "no", "frames": [["train.py", 3, "main"]]}
    text = html.page(Record({"command": ["python", "x.py"], "output": "Traceback\nboom"}, (part([{"k": "start"}, row]),)))
    assert "ValueError: no at train.py:3" in text
    assert "Traceback\nboom" in text
    assert Read(text).texts["figures"] == "{}"
    assert len(text) < 20_000, "the plotting library is left out where nothing is drawn"


def test_the_first_step_may_have_no_time_of_its_own():
    rows = rows_of(losses(4))
    for row in rows:
        if row["k"] == "step" and row["step"] == 0:
            row["seconds"]["total"] = None
    chart = next(chart for chart in charts.charts(Record({}, (part(rows),))) if chart.name == "time-1")
    assert chart.note == "The first step took 494 ms and is cut off.", "as long as its phases are together"
    assert chart.figure()["layout"]["yaxis"]["range"] == [0, pytest.approx(65.0)]


def test_one_loss_function_is_not_a_part_of_itself():
    rows = rows_of(losses(4))
    for row in rows:
        if row["k"] == "step":
            row["components"] = {"cross_entropy": row["loss"]}
    assert "parts-1" not in [chart.name for chart in charts.charts(Record({}, (part(rows),)))]
    for row in rows:
        if row["k"] == "step":
            row["components"] = {"cross_entropy": row["loss"] * 4}
    assert "parts-1" in [chart.name for chart in charts.charts(Record({}, (part(rows),)))], "it was divided"


def test_examples_stand_with_the_optimizer_they_belong_to():
    kind = {"k": "thing", "kind": "optimizer", "site": None}
    things = [{**kind, "id": 5, "type": "torch.optim.Adam"}, {**kind, "id": 6, "type": "torch.optim.SGD"}]
    seen = [{**row, "optimizer": ident} for row in learning(2, 3) for ident in (5, 6)]
    rows = [*rows_of([1.0])[:9], *things, *steps([1.0, 2.0], optimizer=5), *steps([3.0, 4.0], optimizer=6), *seen]
    known = Record({}, (part(rows),))
    drawn = [chart for chart in charts.charts(known) if chart.name.startswith("examples")]
    assert [chart.title[-5:] for chart in drawn] == [" Adam", ", SGD"]
    assert [len(chart.traces[0]["x"]) for chart in drawn] == [2, 2]
    assert "Predictions for the first batch, SGD" in html.page(known)


# ---------------------------------------------------------------- escaping


def test_nothing_of_the_users_becomes_an_element():
    text = html.page(full())
    read = Read(text)
    assert "img" not in read.tags
    assert read.tags.count("script") == 3
    assert not read.handlers
    assert read.links == ["data:,"], "a link to a rule is only made of https://"
    assert "onerror=alert(1)>" not in text
    names = [trace["name"] for trace in json.loads(read.texts["figures"])["parts-1"]["data"]]
    assert names[-1].startswith("&lt;img"), "Plotly reads tags in names"


def test_the_policy_lets_nothing_in():
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html.page(record()))
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy and "*" not in policy


# ---------------------------------------------------------------- files


def test_the_file_is_whole_or_not_there(tmp_path, monkeypatch):
    target = tmp_path / "run.html"
    html.write(record(), str(target))
    assert target.read_text(encoding="utf-8") == html.page(record())
    assert target.stat().st_size < 3_000_000
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError):
        html.write(record([1.0]), str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["run.html"]


def test_without_the_plotting_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(html.PlottingMissing, match=r"pip install 'mllint-repo\[runtime\]'"):
        html.page(record())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(html.PlottingMissing):
        html.ready()


# ---------------------------------------------------------------- a real browser

#: Told to a copy of the page without its policy: what did it ask for, and what can be seen.
LOOK = """<script>
new MutationObserver(() => {
  const root = document.documentElement;
  if (root.dataset.drawn === undefined || root.dataset.seen !== undefined) return;
  root.dataset.seen = JSON.stringify({
    asked: performance.getEntriesByType("resource").map((entry) => entry.name),
    title: document.title,
    wider: root.scrollWidth - root.clientWidth,
    lines: [...document.querySelectorAll(".scatterlayer .js-line")].filter((line) => line.getAttribute("d").length > 5).length,
    bars: [...document.querySelectorAll(".barlayer path")].filter((bar) => bar.getBBox().height > 0.5).length,
    legends: [...document.querySelectorAll(".legendtext")].map((text) => text.textContent),
    ground: getComputedStyle(document.body).backgroundColor,
    grid: getComputedStyle(document.querySelector(".gridlayer path")).stroke,
  });
}).observe(document.documentElement, {attributes: true});
</script></head>"""


def browse(path: Path, *options: str, size: str = "1280,900") -> tuple[str, list[str]]:
    """The page after its scripts have run, and what stood on the console."""
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run", "--disable-background-networking"]
    switches += ["--enable-logging=stderr", "--virtual-time-budget=20000", f"--window-size={size}"]
    switches += [f"--user-data-dir={path.parent / 'profile'}"]
    done = subprocess.run([str(BROWSER), *switches, *options, "--dump-dom", path.as_uri()], capture_output=True, timeout=120, check=False)
    log = done.stderr.decode("utf-8", "replace").splitlines()
    return done.stdout.decode("utf-8", "replace"), [line for line in log if "CONSOLE" in line]


@needs_browser
def test_a_browser_draws_every_curve_and_complains_of_nothing(tmp_path):
    path = tmp_path / "run.html"
    html.write(full(), str(path))
    dom, console = browse(path)
    assert console == []
    assert 'data-drawn="7"' in dom
    assert dom.count('class="main-svg"') >= 7


@needs_browser
@pytest.mark.parametrize(("scheme", "size"), [("light", "1280,900"), ("dark", "500,800")])
def test_what_can_be_seen(tmp_path, scheme, size):
    path = tmp_path / "run.html"
    text = html.page(full())
    # The policy would keep the page from asking: without it, whatever it would ask for is counted.
    text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1
    path.write_text(text.replace("</head>", LOOK, 1), encoding="utf-8")
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ("--blink-settings=preferredColorScheme=1",)
    dom, console = browse(path, *dark, size=size)
    assert console == []
    seen: dict[str, Any] = json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    assert seen["asked"] == []
    assert seen["title"].startswith("mllint run"), "no script of the record ran"
    assert seen["wider"] == 0, "nothing sticks out to the side"
    # The loss, its three parts and their total, two groups, a norm, two memories, six examples.
    assert seen["lines"] == 1 + 4 + 2 + 1 + 2 + 6
    assert seen["bars"] >= 60
    assert EVIL in seen["legends"]
    red = int(re.search(r"\d+", seen["ground"])[0])
    assert red < 64 if scheme == "dark" else red > 192
    assert (int(re.search(r"\d+", seen["grid"])[0]) < 96) == (scheme == "dark"), "the charts follow the scheme"


@needs_browser
def test_an_empty_page_is_shown_too(tmp_path):
    path = tmp_path / "run.html"
    html.write(Record({"command": ["python", "x.py"]}, ()), str(path))
    dom, console = browse(path)
    assert console == []
    assert "0 optimizer steps" in dom


def test_steps_of_several_optimizers_are_drawn_apart():
    kind = {"k": "thing", "kind": "optimizer", "site": None}
    things = [{**kind, "id": 5, "type": "torch.optim.Adam"}, {**kind, "id": 6, "type": "torch.optim.SGD"}]
    rows = [*rows_of([1.0])[:9], *things, *steps([1.0, 2.0], optimizer=5), *steps([3.0, 4.0], optimizer=6, lr=(0.5,))]
    drawn = {chart.name: chart for chart in charts.charts(Record({}, (part(rows),)))}
    assert [trace["name"] for trace in drawn["loss"].traces] == ["Adam", "SGD"]
    assert [trace["name"] for trace in drawn["lr"].traces] == ["Adam, group 0", "Adam, group 1", "SGD"]
    assert {"time-5", "time-6", "parts-5", "parts-6"} <= set(drawn)
