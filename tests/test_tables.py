"""The library tables: their form, how rows are found, and that rows of a user's own join in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mllint.read.tables import KEYS, SECTIONS, Knowledge, TableError, is_pattern, read_tables, shipped_tables

TABLES = shipped_tables()
README = TABLES[0].parent / "README.md"


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return read_tables(TABLES)


def own(tmp_path: Path, text: str) -> Knowledge:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    return read_tables([*TABLES, file])


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(TableError) as caught:
        own(tmp_path, text)
    return str(caught.value)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.stem)
def test_each_table_loads_alone(table: Path) -> None:
    rows = yaml.safe_load(table.read_bytes())
    assert isinstance(rows["library"], str)
    read_tables([table])


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.stem)
def test_no_row_is_written_twice(table: Path) -> None:
    class Once(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
        keys = [k.value for k, _ in node.value if k.value != "<<"]
        assert len(keys) == len(set(keys)), f"{table.name}: twice: {sorted(k for k in keys if keys.count(k) > 1)}"
        loader.flatten_mapping(node)
        return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}

    Once.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    yaml.load(table.read_bytes(), Loader=Once)


def test_every_row_can_be_found(knowledge: Knowledge) -> None:
    """A row under a name that an alias leads away from would never be asked for."""
    for section in ("objects", "functions", "contexts", "bases", "harmless"):
        for name in getattr(knowledge, section):
            if not is_pattern(name):
                plain = name.removesuffix(".*")
                assert knowledge.canonical(plain) == plain, f"{section}: {name}"


def test_aliases_end(knowledge: Knowledge) -> None:
    for name in knowledge.aliases:
        once = knowledge.canonical(name)
        assert knowledge.canonical(once) == once, name
        assert name != knowledge.aliases[name], name


def test_every_key_is_documented() -> None:
    text = README.read_text()
    for section in SECTIONS:
        assert f"## {section}" in text, section
    for section, keys in KEYS.items():
        chapter = text.split(f"## {section}", 1)[1].split("\n## ", 1)[0]
        for key in keys:
            assert f"`{key}`" in chapter, f"{section}: {key} is not described"


def test_rows_that_point_at_parameters_name_known_ones(knowledge: Knowledge) -> None:
    for name, row in knowledge.objects.items():
        for key in ("horizon", "period", "children"):
            named = row.get(key, [])
            for entry in [named] if isinstance(named, str) else named:
                for parameter in [entry] if isinstance(entry, str) else entry:
                    assert parameter in row["parameters"], f"{name}: {key} names `{parameter}`, which is no parameter"


def test_bases_name_rows_that_exist(knowledge: Knowledge) -> None:
    for name, row in knowledge.bases.items():
        assert "row" not in row or row["row"] in knowledge.objects, name
        for hook in (*row.get("per_batch", ()), *row.get("per_epoch", ())):
            assert hook in row["hooks"], f"{name}: {hook}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("things:\n  a.B: {kind: optimizer}\n", ("own.yaml", "unknown section `things`", "objects")),
        ("objects:\n  a.B: {knd: optimizer}\n", ("own.yaml", "objects", "`a.B`", "unknown key `knd`", "kind")),
        ("functions:\n  a.f: {kind: optimizer}\n", ("own.yaml", "functions", "`a.f`", "unknown key `kind`")),
        ("methods:\n  optimizer:\n    go: {doez: [step]}\n", ("own.yaml", "methods", "`optimizer.go`", "unknown key `doez`")),
        ("contexts:\n  a.c: {nam: autocast}\n", ("own.yaml", "contexts", "`a.c`", "unknown key `nam`")),
        ("bases:\n  a.C: {hook: [x]}\n", ("own.yaml", "bases", "`a.C`", "unknown key `hook`")),
        ("objects:\n  a.B: optimizer\n", ("own.yaml", "objects", "`a.B`")),
        ("objects: [a.B]\n", ("own.yaml", "objects")),
        ("methods:\n  optimizer: [step]\n", ("own.yaml", "methods", "`optimizer`")),
        ("aliases:\n  a.B: {kind: optimizer}\n", ("own.yaml", "aliases", "`a.B`")),
        ("methods:\n  engine:\n    on: {}\n", ("own.yaml", "methods", "`True`", "quote")),
        ("harmless: {a.b: {}}\n", ("own.yaml", "harmless")),
        ("- a\n", ("own.yaml", "mapping of sections")),
        ("objects: {a: {\n", ("own.yaml", "cannot be read")),
    ],
)
def test_what_does_not_keep_the_form_is_refused(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    message = refusal(tmp_path, text)
    for word in words:
        assert word in message


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"nowhere\.yaml"):
        read_tables([tmp_path / "nowhere.yaml"])


def test_the_nearest_row_speaks(tmp_path: Path) -> None:
    table = """
objects:
  lib.*: {kind: module}
  lib.optim.*: {kind: optimizer}
  lib.optim.Strange: {kind: scheduler}
  lib.*Loss: {kind: criterion}
  lib.Half*Loss: {kind: loader}
  lib.*Model.from_*: {kind: module, factory: true}
  lib.deep.*: {}
"""
    knowledge = own(tmp_path, table)

    def kind(name: str) -> str | None:
        row = knowledge.row("objects", name)
        return None if row is None else row.get("kind", "none")

    assert kind("lib.Net") == "module"
    assert kind("lib.a.b.Net") == "module"
    assert kind("lib.optim.SGD") == "optimizer"
    assert kind("lib.optim.more.SGD") == "optimizer"
    assert kind("lib.optim.Strange") == "scheduler"
    assert kind("lib.MyLoss") == "criterion"
    assert kind("lib.optim.MyLoss") == "optimizer", "a star inside a name does not cross a dot"
    assert kind("lib.HalfMyLoss") == "loader", "the pattern with more letters before its star"
    assert knowledge.row("objects", "lib.BertModel.from_pretrained") == {"kind": "module", "factory": True}
    assert kind("lib.deep.Thing") == "none", "an empty row stops the search"
    assert kind("library.Net") is None
    assert kind("lib") is None


def test_canonical_names(knowledge: Knowledge) -> None:
    same = {
        "pytorch_lightning.LightningModule": "lightning.pytorch.LightningModule",
        "lightning.pytorch.core.module.LightningModule": "lightning.pytorch.LightningModule",
        "lightning_fabric.Fabric": "lightning.fabric.Fabric",
        "lightning.Fabric": "lightning.fabric.Fabric",
        "torch.cuda.amp.grad_scaler.GradScaler": "torch.amp.GradScaler",
        "torch.nn.modules.loss.MSELoss": "torch.nn.MSELoss",
        "transformers.optimization.get_linear_schedule_with_warmup": "transformers.get_linear_schedule_with_warmup",
        "diffusers.optimization.get_scheduler": "diffusers.get_scheduler",
        "timm.scheduler.cosine_lr.CosineLRScheduler": "timm.scheduler.CosineLRScheduler",
        "ignite.contrib.handlers.PiecewiseLinear": "ignite.handlers.PiecewiseLinear",
        "torch.optim.SGD": "torch.optim.SGD",
    }
    for name, canonical in same.items():
        assert knowledge.canonical(name) == canonical


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torch.optim.AdamW", "optimizer"),
        ("torch.optim.lr_scheduler.StepLR", "scheduler"),
        ("torch.nn.Linear", "module"),
        ("torch.nn.CrossEntropyLoss", "criterion"),
        ("torch.nn.AdaptiveLogSoftmaxWithLoss", "module"),
        ("torchvision.models.resnet18", "module"),
        ("torchvision.models.ResNet18_Weights.DEFAULT.transforms", None),
        ("transformers.AutoModelForCausalLM.from_pretrained", "module"),
        ("transformers.BertModel", "module"),
        ("transformers.models.bert.modeling_bert.BertForMaskedLM.from_pretrained", "module"),
        ("transformers.AutoTokenizer.from_pretrained", None),
        ("transformers.DataCollatorForLanguageModeling", None),
        ("transformers.TFBertModel.from_pretrained", None),
        ("transformers.get_constant_schedule", None),
        ("transformers.get_scheduler", "scheduler"),
        ("trl.SFTTrainer", "engine"),
        ("diffusers.UNet2DConditionModel.from_pretrained", "module"),
        ("diffusers.DDPMScheduler.from_pretrained", None),
        ("diffusers.DDPMScheduler", None),
        ("timm.create_model", "module"),
        ("timm.optim.create_optimizer_v2", "optimizer"),
        ("timm.scheduler.create_scheduler_v2", "scheduler"),
        ("accelerate.Accelerator", "accelerator"),
        ("lightning.fabric.Fabric", "accelerator"),
        ("deepspeed.initialize", "engine"),
        ("monai.losses.DiceLoss", "criterion"),
        ("bitsandbytes.optim.AdamW8bit", "optimizer"),
    ],
)
def test_what_known_names_make(knowledge: Knowledge, name: str, kind: str | None) -> None:
    row = knowledge.row("objects", knowledge.canonical(name))
    assert (row or {}).get("kind") == kind


def test_methods_of_a_class_come_before_those_of_its_kind(tmp_path: Path) -> None:
    knowledge = own(tmp_path, "methods:\n  my.Scaler:\n    step: {does: [step]}\n")
    assert knowledge.method("scaler", "step", ["my.Scaler"]) == {"does": ["step"]}
    assert knowledge.method("scaler", "step", ["other.Scaler"])["effect"] == "scaler-step"
    assert knowledge.method("scaler", "nothing", ["my.Scaler"]) is None


def test_a_later_table_replaces_rows(tmp_path: Path, knowledge: Knowledge) -> None:
    assert knowledge.row("objects", "torch.optim.SGD")["kind"] == "optimizer"
    changed = own(tmp_path, "objects:\n  torch.optim.SGD: {kind: module}\nharmless: [mine.*]\n")
    assert changed.row("objects", "torch.optim.SGD") == {"kind": "module"}
    assert changed.row("objects", "torch.optim.Adam")["kind"] == "optimizer"
    assert changed.row("harmless", "mine.log") == {}
