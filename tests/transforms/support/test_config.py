"""Settings go to YAML and back, and a wrong one is named with the nearest right spelling."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthsr_transforms.support.config import (
    config_path,
    from_mapping,
    override,
    read_yaml,
    to_plain,
    to_yaml,
)
from synthsr_transforms.support.messages import SynthSRError


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3
    factors: list[float] = field(default_factory=lambda: [1.0, 2.0])


@dataclass(frozen=True, kw_only=True)
class Outer:
    title: str = "none"
    rate: float = 0.5
    loud: bool = False
    parts: dict[str, Inner] = field(default_factory=dict)
    pair: tuple[float, float] = (0.9, 0.5)
    extra: dict[str, Any] = field(default_factory=dict)


WHOLE = Outer(
    title="a: 'quoted' # title",
    rate=1e-7,
    loud=True,
    parts={"first": Inner(size=7), "second": Inner(factors=[])},
    extra={"list": [1, [2, 3]], "map": {"none": None, "10": "x"}, "text": "1e3"},
)


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a${}:.-1", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "size", "factors"]), inner, max_size=3)
    ),
    max_leaves=6,
)
"""Any plain data."""


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


class TestFiles:
    def test_settings_come_back_from_a_file(self, tmp_path: Path) -> None:
        assert from_mapping(Outer, read_yaml(write(tmp_path, to_yaml(WHOLE)))) == WHOLE

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("- 1\n- 2\n", "must hold a mapping"),
            ("a: [1\n", "cannot be read as YAML"),
            ("a: ${missing}\n", "a must not hold"),
            ("", None),
        ],
    )
    def test_files_that_hold_something_else(
        self, text: str, message: str | None, tmp_path: Path
    ) -> None:
        path = write(tmp_path, text)
        if message is None:
            assert read_yaml(path) == {}
        else:
            with pytest.raises(SynthSRError, match=message) as caught:
                read_yaml(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SynthSRError, match=r"nothing.yaml does not exist. Check the path"):
            read_yaml(tmp_path / "nothing.yaml")


LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (LAUGHS, "aliases that stand for more than 1,000,000 values"),
            ("a: &a [*a]\n", "an alias that holds itself"),
            (f"a: {'[' * 3000}{']' * 3000}", "too deeply nested"),
            ("a: {b: [1, '${oc.env:HOME}']}", r"a\.b\[1\] must not hold \$\{"),
            ("a: {'${oc.env:HOME}': 1}", r"a must not hold \$\{"),
            ("a: '${'", "cannot be read as YAML"),
            ("a: !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
            ("a: 1\na: 2", "duplicate key"),
            ("a: \0", "cannot be read as YAML"),
            ("a: \tb: c", "cannot be read as YAML"),
            (f"a: 1{' ' * 40_000_000}", "at most 32 MB"),
        ],
        ids=range(11),
    )
    def test_they_are_refused_at_once(self, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(SynthSRError, match=message) as caught:
            read_yaml(write(tmp_path, text))
        assert "settings.yaml" in str(caught.value)

    def test_few_aliases_are_read(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a: &a {x: 1}\nb: {<<: *a, y: 2}\n")
        assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}

    def test_a_device_is_no_file(self) -> None:
        with pytest.raises(SynthSRError, match="got a folder or device"):
            read_yaml("/dev/zero")


class TestMapping:
    @given(
        st.fixed_dictionaries(
            {},
            optional={name: WILD for name in ("title", "rate", "loud", "parts", "pair", "extra")},
        )
    )
    @settings(max_examples=60)
    def test_any_value_is_used_or_refused(self, values: dict[str, Any]) -> None:
        with suppress(SynthSRError):
            assert isinstance(from_mapping(Outer, values), Outer)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"parts": []}, r"parts must hold settings, got \[\]"),
            ({"parts": -1}, "parts must hold settings, got -1"),
            ({"parts": {"a": []}}, r"parts.a must hold settings, such as a.size, got \[\]"),
            ({"parts": {"a": {"factors": 1}}}, "parts.a.factors must be a list, got 1"),
            ({"parts": {"a": {"size": True}}}, "parts.a.size must be a whole number, got True"),
            ({"parts": {"a": {"size": 2**70}}}, "parts.a.size must be a whole number"),
            ({"rate": float("nan")}, "rate must be a number, got nan"),
            ({"rate": float("inf")}, "rate must be a number, got inf"),
            ({"pair": {"a": 1}}, "pair must be a list"),
            ({"extra": 0.5}, "extra must hold settings, got 0.5"),
        ],
    )
    def test_a_value_of_another_type_is_named(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(SynthSRError, match=message):
            from_mapping(Outer, values)

    def test_missing_fields_have_their_defaults(self) -> None:
        assert from_mapping(Outer, {"parts": {"a": {}}}) == Outer(parts={"a": Inner()})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"titel": "x"}, r"run.yaml: unknown setting 'titel' \(did you mean 'title'\?\)"),
            ({"qqqqq": "x"}, r"unknown setting 'qqqqq'\. Settings are: title, rate"),
            ({"rate": "fast"}, r"setting 'rate' is not usable"),
            ({"parts": {"a": {"size": "big"}}}, r"setting 'parts.a.size' is not usable"),
            (
                {"parts": {"a": {"sise": 3}}},
                r"unknown setting 'parts.a.sise' \(did you mean 'size'\?\)\. .* size, factors",
            ),
            ({"parts": 5}, r"parts"),
        ],
    )
    def test_a_wrong_setting_is_named(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(SynthSRError, match=message) as caught:
            from_mapping(Outer, settings, where="run.yaml")
        assert "\n" not in str(caught.value)


names = st.text("abcdef", min_size=1, max_size=4)
texts = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from("1e5.-_: "))
leaves = st.one_of(st.integers(-99, 99), st.booleans(), st.none(), texts.filter(bool))
trees = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, min_size=1), max_leaves=8)


def paths_of(tree: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths to every entry of nested mappings."""
    if not isinstance(tree, dict):
        return []
    own = [(*prefix, key) for key in tree]
    return own + [p for k, v in tree.items() for p in paths_of(v, (*prefix, k))]


@settings(max_examples=60)
@given(st.dictionaries(names, trees), texts, st.floats(allow_nan=False))
def test_anything_comes_back_from_yaml(tree: dict[str, Any], text: str, number: float) -> None:
    config = Outer(title=text, rate=number, extra=tree)
    plain = to_plain(config)
    assert (plain["title"], plain["rate"], plain["extra"]) == (text, number, tree)
    assert plain["pair"] == [0.9, 0.5]


class TestOverride:
    @settings(max_examples=40)
    @given(st.dictionaries(names, trees, min_size=1), st.integers(-99, 99), st.data())
    def test_one_entry_changes_and_the_original_stays(
        self, tree: dict[str, Any], value: int, data: st.DataObject
    ) -> None:
        path = data.draw(st.sampled_from(paths_of(tree)))
        before = repr(tree)
        changed = override(tree, [f"{'.'.join(path)}={value}"])
        assert repr(tree) == before
        node: Any = changed
        for key in path:
            node = node[key]
        assert node == value
        left, right = tree, changed
        for key in path[:-1]:
            assert {k: v for k, v in left.items() if k != key} == {
                k: v for k, v in right.items() if k != key
            }
            left, right = left[key], right[key]

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("3", 3), ("3.5", 3.5), ("1e-4", 1e-4), ("true", True), ("null", None), ("abc", "abc"),
            ("[1, 2]", [1, 2]), ("{normal: [0, 0.5]}", {"normal": [0, 0.5]}), ("'5'", "5"),
            ("a=b", "a=b"), ("", None),
        ],
    )  # fmt: skip
    def test_values_are_yaml(self, text: str, value: Any) -> None:
        assert override({"a": 0}, [f"a={text}"]) == {"a": value}

    def test_shortcuts_stand_for_longer_paths(self) -> None:
        settings = {"steps": {"crop": {"params": {"shape": 1}}}, "other": 2}
        shortcuts = {"crop": ("steps", "crop", "params")}
        for text in ("crop.shape=9", "steps.crop.params.shape=9"):
            changed = override(settings, [text], shortcuts=shortcuts)
            assert changed["steps"]["crop"]["params"] == {"shape": 9}

    def test_keys_may_be_numbers(self) -> None:
        assert override({"by_value": {4: 32}}, ["by_value.4=30"]) == {"by_value": {4: 30}}

    def test_later_assignments_win(self) -> None:
        assert override({"a": 0}, ["a=1", "a=2"]) == {"a": 2}

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("crop", "must be written name=value, got 'crop'"),
            ("=3", "must be written name=value"),
            ("step.crop.shape=3", r"there is no setting 'step' \(did you mean 'steps'\?\)"),
            ("croop.shape=3", r"there is no setting 'croop' \(did you mean 'crop'\?\)"),
            ("steps.crp.params=3", r"there is no setting 'crp' \(did you mean 'crop'\?\)"),
            ("steps=[1", "is not YAML"),
            ("a.b=3", "there is no setting 'a'"),
        ],
    )
    def test_a_wrong_assignment_is_named(self, assignment: str, message: str) -> None:
        settings = {"steps": {"crop": {"params": {}}}, "a": 3}
        shortcuts = {"crop": ("steps", "crop", "params")}
        with pytest.raises(SynthSRError, match=message):
            override(settings, [assignment], shortcuts=shortcuts)


class TestPaths:
    def test_names_paths_and_neither(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a: 1\n")
        ready = {"first": Path("first.yaml"), "second": Path("second.yaml")}
        assert config_path("first", ready, "preset") == Path("first.yaml")
        assert config_path(file, ready, "preset") == file
        with pytest.raises(SynthSRError, match=r"preset must be .*did you mean 'second'"):
            config_path("secnd", ready, "preset")
        with pytest.raises(SynthSRError, match=r"gone.yml does not exist"):
            config_path(tmp_path / "gone.yml", ready, "preset")
