"""Every tensor of a checkpoint has one name of its own, whatever the keys and however it is nested."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.readers.pt.names import named_values
from klcal.readers.pt.values import Opaque, Tensor


def tensor() -> Tensor:
    return Tensor("float32", (1,))


def names(root, name: str = "x") -> list[str]:
    return [found.name for found in named_values(root, name)]


keys = st.text("a.#2", max_size=4) | st.integers(0, 2) | st.booleans() | st.none() | st.tuples(st.text("a", max_size=1))
roots = st.recursive(
    st.builds(tensor) | st.builds(Opaque) | st.none() | st.text(max_size=2),
    lambda children: st.lists(children) | st.dictionaries(keys, children) | st.tuples(children, children),
)


def held(value) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (dict, list, tuple)):
        return [found for child in (value.values() if isinstance(value, dict) else value) for found in held(child)]
    return []


def check_names(root, naming=named_values) -> None:
    found = naming(root, "x")
    assert {id(each.value) for each in found} == {id(each) for each in held(root)}
    assert len({each.name for each in found}) == len(found)


@given(roots)
def test_all_tensors_are_named_and_no_two_alike(root):
    check_names(root)


def test_the_check_of_names_can_fail():
    root = {"a": tensor(), "b": tensor()}
    with pytest.raises(AssertionError):
        check_names(root, lambda *_: named_values(root, "x")[1:])
    with pytest.raises(AssertionError):
        check_names(root, lambda *_: [*named_values(root, "x"), *named_values(root, "x")])


def test_a_name_is_the_path_of_keys():
    root = OrderedDict({"layer": {"weight": tensor(), 0: [tensor(), (tensor(),)]}, ("a", 1): tensor(), None: tensor()})
    assert names(root) == ["layer.weight", "layer.0.0", "layer.0.1.0", "(a, 1)", "None"]
    assert names([tensor(), {"": tensor()}]) == ["0", "1."]
    assert names(tensor(), "layer.0") == ["layer.0"]
    assert names({}) == names([]) == names(None) == names(Opaque()) == []


def test_names_that_would_be_equal_are_numbered():
    assert names({"a.b": tensor(), "a": {"b": tensor()}, "a.b#2": tensor()}) == ["a.b", "a.b#2", "a.b#2#2"]
    assert names({1: tensor(), "1": tensor(), "": {"1": tensor()}}) == ["1", "1#2", "1#3"]


def test_one_container_in_two_places_is_named_by_the_first():
    layer = {"weight": tensor()}
    assert names({"encoder": layer, "decoder": layer}) == ["encoder.weight"]


@pytest.mark.parametrize("model", ["model", "state_dict", "model_state_dict", "module", "ema"])
@pytest.mark.parametrize("training", ["optimizer", "optimizer_states", "lr_schedulers", "rng_state", "scaler"])
def test_training_state_beside_a_model_comes_last_and_is_marked(model, training):
    root = {training: [tensor()], "extra": tensor(), model: {"optimizer": tensor()}}
    found = [(each.name, each.training) for each in named_values(root, "x")]
    assert found == [("extra", False), (f"{model}.optimizer", False), (f"{training}.0", True)]


def test_without_a_model_nothing_is_taken_for_training():
    for root in ({"optimizer": {"a": tensor()}}, {"optimizer": {"a": tensor()}, "model": tensor()}):
        assert not any(each.training for each in named_values(root, "x"))
