"""What every configuration has: exact types, suggestions for misspelt keys, old names in stored files, a schema."""

from __future__ import annotations

import pickle
from typing import Annotated, Any, Protocol

import pytest
from pydantic import Field

from hart.config import ConfigError, HartConfig, SamplingConfig, TextConditioning, TransformerConfig
from hart.strict import Config, Listed, byte_count, counted, explain, has_members, rounded
from hart.training.config import OptimizerConfig, TrainerConfig
from helpers import tiny_text_config


class Sizes(Config):
    sizes: Annotated[Listed[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class Named(Protocol):
    name: str

    def of(self) -> int: ...

    def __call__(self) -> int: ...


class Whole:
    name = "whole"

    def of(self) -> int:
        return 1

    def __call__(self) -> int:
        return 2


class Wrapper:
    """Passes all but calls on."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


class Callable(Wrapper):
    def __call__(self) -> int:
        return 3


def test_members_of_a_protocol_may_be_passed_on_by_a_wrapper() -> None:
    assert has_members(Whole(), Named) and has_members(Callable(Whole()), Named)
    assert not has_members(Wrapper(object()), Named) and not has_members(Callable(object()), Named)
    assert not has_members(Whole().of, Named) and not has_members(None, Named)


def test_configurations_are_frozen_values() -> None:
    config = tiny_text_config()
    assert config == HartConfig.from_dict(config.to_dict())
    assert hash(config) == hash(pickle.loads(pickle.dumps(config)))
    with pytest.raises(AttributeError):
        config.tokenizer = None  # type: ignore[misc, assignment]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tokenizr": {}}, "HartConfig.tokenizr: unknown key (is tokenizer meant?)"),
        (
            {"codebok_size": 3},
            "codebok_size: unknown key (is tokenizer.codebook_size or transformer.codebook_size meant?)",
        ),
        ({"gumbel_smoothing": True}, "gumbel_smoothing: unknown key (is sampling.gumbel_smoothing meant?)"),
        ({"sampling": {"topk": 3}}, "HartConfig.sampling.topk: unknown key (is sampling.top_k meant?)"),
        (
            {"transformer": {"widht": 3, "abc": 3}},
            "widht: unknown key (is transformer.width meant?); HartConfig.transformer.abc: unknown key; known are s",
        ),
        ({"sampling": {3: 4}}, "HartConfig.sampling[3]: unknown key; known are guidance_scale, "),
        ({"a\x1b": 1}, r"HartConfig.a\x1b: unknown key; known are"),
        ({}, "HartConfig.tokenizer: missing key; HartConfig.transformer: missing key"),
        ([], "HartConfig: expected a table, got []"),
    ],
)
def test_keys_that_are_wrong(values: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        HartConfig.from_dict(values)
    assert said in str(error.value)


def test_all_that_is_wrong_stands_in_one_line() -> None:
    with pytest.raises(ConfigError) as error:
        SamplingConfig.from_dict({"top_k": -1, "top_p": 2, "gumbel_smoothing": 1}, "x.json")
    assert str(error.value) == (
        "x.json: top_k must be at least 0, not -1; top_p must be at most 1, not 2; gumbel_smoothing: expected true or "
        "false, got 1"
    )


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([], "x.json: sizes must have 1 or more entries, not 0"),
        ([2, 0], "x.json: sizes[1] must be at least 1, not 0"),
    ],
)
def test_a_list_is_short_only_where_entries_are_missing(sizes: list[int], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Sizes.from_dict({"sizes": sizes}, "x.json")
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: SamplingConfig("4"), "SamplingConfig.guidance_scale: expected a number, got '4'"),
        (lambda: SamplingConfig(top_k=2.5), "SamplingConfig.top_k: expected a whole number, got 2.5"),
        (lambda: SamplingConfig().replace(maskgit_steps=0), "SamplingConfig.maskgit_steps must be at least 1, not 0"),
        (lambda: TrainerConfig(steps=3), "TrainerConfig.batch_size: missing key"),
        (
            lambda: TransformerConfig((1, 2), heads=5, text=TextConditioning()),
            "TransformerConfig.width must be a multiple of heads (5), not 1536",
        ),
    ],
)
def test_what_is_built_is_checked_like_what_is_read(build: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build()
    assert str(error.value) == said


def test_the_caller_may_call_fields_by_other_names() -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError) as error:
        TypeAdapter(OptimizerConfig).validate_python({"learning_rate": -1.0})
    said = explain(error.value, OptimizerConfig, called=lambda name: f"--{name.replace('_', '-')}")
    assert said == "--learning-rate must be above 0, not -1.0"


def test_the_schema_has_types_bounds_and_defaults() -> None:
    scale = SamplingConfig.json_schema()["properties"]["guidance_scale"]
    assert (scale["type"], scale["minimum"], scale["maximum"], scale["default"]) == ("number", 0, 1000, 4.5)


@pytest.mark.parametrize(
    ("number", "said"), [(0.01234, "0.0123"), (12.345, "12.3"), (999.4, "999"), (999.6, "1,000"), (1234.4, "1,234")]
)
def test_numbers_have_three_digits(number: float, said: str) -> None:
    assert rounded(number) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 kB"), (86_016, "86 kB"), (999_999, "1,000 kB"), (1e6, "1 MB"), (4.56e9, "4.56 GB")]
)
def test_bytes_have_a_unit_that_suits_them(count: float, said: str) -> None:
    assert byte_count(count) == said


@pytest.mark.parametrize(
    ("count", "noun", "said"), [(0, "image", "0 images"), (1, "class", "1 class"), (2000, "class", "2,000 classes")]
)
def test_counts_have_nouns_in_their_form(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said
