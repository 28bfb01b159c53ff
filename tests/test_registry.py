"""Registries: explicit, lazy, helpful."""

from __future__ import annotations

import pytest

from vesearch.detectors import DETECTORS
from vesearch.embedders import EMBEDDERS
from vesearch.errors import ConfigError, UnknownNameError
from vesearch.executors import EXECUTORS
from vesearch.indexes import INDEXES
from vesearch.registry import Registry


@pytest.mark.parametrize(
    "registry", [DETECTORS, EMBEDDERS, INDEXES, EXECUTORS], ids=lambda r: r.kind
)
def test_every_entry_can_be_created_and_described(registry: Registry) -> None:
    for name, description in registry.describe().items():
        assert registry.create(name) is not None
        assert description and "\n" not in description


def test_a_name_is_taken_once() -> None:
    registry = Registry("thing")
    registry.add("a", "vesearch.errors:ConfigError", "first")
    with pytest.raises(ValueError, match="thing 'a' is registered already"):
        registry.add("a", "vesearch.errors:StoreError", "second")


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(UnknownNameError, match="no index 'ntg'; did you mean 'ngt'"):
        INDEXES.create("ntg")
    with pytest.raises(UnknownNameError, match="there are: exact, faiss, milvus, ngt, pgvector"):
        INDEXES.create("zzzzzz")


def test_a_wrong_option_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="detector 'whole' takes no colour"):
        DETECTORS.create("whole", colour="red")


def test_a_family_stands_for_its_names() -> None:
    registry = Registry("thing")
    registry.add("timm:<name>", "tests.test_registry:_Family", "many")
    assert registry.create("timm:vit.in1k").model == "vit.in1k"
    with pytest.raises(UnknownNameError, match="no thing 'timm'"):
        registry.create("timm")
    with pytest.raises(UnknownNameError, match="no thing 'tim:vit'"):
        registry.create("tim:vit")


class _Family:
    def __init__(self, *, model: str) -> None:
        self.model = model
