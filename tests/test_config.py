"""Settings, and which rules and severities follow from them."""

from __future__ import annotations

import pytest

from mllint.config import KEYS, Config, ConfigError, Selection, holds_settings, parse_config, read_config
from mllint.model.rule import Rule


def _rule(name: str, topic: str, default: bool = True, formerly: tuple[str, ...] = ()) -> Rule:
    return Rule(name, topic, "title", "warning", "high", default, "0.1.0", "", formerly=formerly)


RULES = {
    rule.name: rule
    for rule in (
        _rule("never-stepped", "schedulers", formerly=("not-stepped",)),
        _rule("wrong-cadence", "schedulers"),
        _rule("taste", "schedulers", default=False),
        _rule("clip-late", "training-step"),
    )
}
DEFAULT = {"never-stepped", "wrong-cadence", "clip-late"}


def _selection(table: dict | None = None, **cli) -> Selection:
    return Selection(parse_config(table or {}, "pyproject.toml"), RULES, **cli)


@pytest.mark.parametrize(
    ("table", "cli", "chosen"),
    [
        ({}, {}, DEFAULT),
        ({"select": ["ALL"]}, {}, set(RULES)),
        ({"select": ["schedulers"]}, {}, {"never-stepped", "wrong-cadence", "taste"}),
        ({"select": ["not-stepped"]}, {}, {"never-stepped"}),
        ({"ignore": ["schedulers"]}, {}, {"clip-late"}),
        ({"ignore": ["schedulers"], "select": ["DEFAULT", "taste"]}, {}, {"clip-late", "taste"}),
        ({"select": ["ALL"], "ignore": ["taste"]}, {}, DEFAULT),
        ({"select": ["taste"], "ignore": ["taste"]}, {}, set()),
        ({"select": ["taste"]}, {"select": ["clip-late"]}, {"clip-late"}),
        ({"ignore": ["taste"]}, {"select": ["ALL"]}, DEFAULT),
        ({"ignore": ["taste"]}, {"select": ["taste"]}, {"taste"}),
        ({}, {"extend_select": ["taste"]}, set(RULES)),
        ({"select": ["taste"]}, {"extend_select": ["clip-late"]}, {"taste", "clip-late"}),
        ({}, {"ignore": ["never-stepped"]}, DEFAULT - {"never-stepped"}),
        ({}, {"select": ["schedulers"], "ignore": ["schedulers"]}, set()),
    ],
)
def test_selection(table, cli, chosen):
    assert _selection(table, **cli).selected == chosen


@pytest.mark.parametrize(
    ("table", "cli", "said"),
    [
        ({"select": ["never-steped"]}, {}, "did you mean `never-stepped`"),
        ({"ignore": ["scheduler"]}, {}, "did you mean `schedulers`"),
        ({"severity": {"wrong-cadense": "error"}}, {}, "did you mean `wrong-cadence`"),
        ({"per-path": {"a/*": {"ignore": ["clip_late"]}}}, {}, "did you mean `clip-late`"),
        ({}, {"select": ["all"]}, "--select.*did you mean `ALL`"),
        ({}, {"ignore": ["zzz"]}, "--ignore: there is no rule or topic `zzz`$"),
    ],
)
def test_unknown_rule_stops_with_the_nearest(table, cli, said):
    with pytest.raises(ConfigError, match=said):
        _selection(table, **cli)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"selct": []}, "unknown setting `selct`; did you mean `select`"),
        ({"per_path": {}}, "did you mean `per-path`"),
        ({"qqqq": 1}, "known are select, ignore"),
        ({"per-path": {"a": {"ignored": []}}}, "did you mean `ignore`"),
        ({"select": "ALL"}, "`select` must be a list"),
        ({"ignore": [1]}, "`ignore` must be a list"),
        ({"confidence": "hihg"}, "did you mean `high`"),
        ({"severity": {"ALL": "fatal"}}, "must be one of error, warning, info"),
        ({"severity": "error"}, "must be a table"),
        ({"per-path": ["a"]}, "`per-path` must be a table"),
        ({"baseline": 3}, "`baseline`"),
        ({"legacy": {"name": "x"}}, "legacy"),
        ({"data": []}, "`data`"),
    ],
)
def test_wrong_settings_stop(table, said):
    with pytest.raises(ConfigError, match=said) as caught:
        parse_config(table, "mllint.toml")
    assert str(caught.value).startswith("mllint.toml")


def test_every_documented_key_is_read():
    table = {
        "select": ["ALL"],
        "ignore": ["x"],
        "severity": {"x": "info"},
        "exclude": ["a"],
        "per-path": {"b": {"select": ["y"]}},
        "tables": ["t.yaml"],
        "rules": ["ml_rules"],
        "baseline": "b.json",
        "confidence": "low",
        "legacy": [{"name": "old"}],
        "data": {"d": {}},
        "generations": {"field": "f"},
    }
    assert set(table) == set(KEYS)
    config, default = parse_config(table, "s"), Config()
    for key in KEYS:
        attribute = key.replace("-", "_")
        assert getattr(config, attribute) != getattr(default, attribute), key


def test_per_path_ignores_selects_and_grades():
    selection = _selection(
        {
            "per-path": {
                "tests": {"ignore": ["schedulers"]},
                "*_demo.py": {"select": ["ALL"], "severity": "info"},
                "src/**/hot.py": {"severity": {"schedulers": "error"}},
            }
        }
    )
    assert selection.at("train.py") == DEFAULT
    assert selection.at("a/tests/deep/x.py") == {"clip-late"}
    assert selection.at("a_demo.py") == set(RULES)
    assert selection.at("tests/a_demo.py") == {"clip-late"}, "what one glob ignores, no other brings back"
    assert selection.wanted == set(RULES), "a rule that some path selects must run"
    assert selection.severity(RULES["clip-late"], "x_demo.py") == "info"
    assert selection.severity(RULES["never-stepped"], "src/a/b/hot.py") == "error"
    assert selection.severity(RULES["clip-late"], "src/a/b/hot.py") == "warning"


def test_severity_of_the_rule_weighs_more_than_that_of_its_topic():
    selection = _selection({"severity": {"ALL": "info", "schedulers": "error", "not-stepped": "warning"}})
    assert selection.severity(RULES["never-stepped"], "x.py") == "warning"
    assert selection.severity(RULES["wrong-cadence"], "x.py") == "error"
    assert selection.severity(RULES["clip-late"], "x.py") == "info"


def test_settings_are_found_in_either_file(tmp_path):
    assert holds_settings(str(tmp_path)) is None
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("[project]\nname = 'uses-mllint'\n")
    assert holds_settings(str(tmp_path)) is None
    pyproject.write_text("[tool.mllint]\nconfidence = 'low'\n")
    assert holds_settings(str(tmp_path)) == str(pyproject)
    assert read_config(str(pyproject)).confidence == "low"
    own = tmp_path / "mllint.toml"
    own.write_text("confidence = 'high'\n")
    assert holds_settings(str(tmp_path)) == str(own)
    assert read_config(str(own)).confidence == "high"


def test_own_file_may_use_the_long_form(tmp_path):
    own = tmp_path / "mllint.toml"
    own.write_text("[tool.mllint]\nconfidence = 'high'\n")
    assert read_config(str(own)).confidence == "high"


def test_broken_toml_stops(tmp_path):
    own = tmp_path / "mllint.toml"
    own.write_text("select = [\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_config(str(own))


def test_broken_pyproject_of_somebody_else_is_not_ours(tmp_path):
    (tmp_path / "pyproject.toml").write_text("select = [\n")
    assert holds_settings(str(tmp_path)) is None
