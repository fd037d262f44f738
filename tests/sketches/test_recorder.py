"""Recording: what flows through a model is counted as if it had come at once; the model is left as it was."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest

import klcal
from klcal.errors import UsageError
from klcal.sketches import recorder
from klcal.sketches.energy import importance_of
from klcal.sketches.recorder import CHANNELS, Recording

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):
    """A step of a transformer: attention by keyword, a residual, a layer that is called twice."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(query=y, key=y, value=y, need_weights=False)[0]
        for _ in range(2):
            x = x + self.fc2(torch.relu(self.fc1(x)))
        return x


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), Block(16), nn.Linear(16, 3)).eval()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(6 * 36, 4)).eval()


BATCHES = [torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows)) for rows in (4, 1, 7, 2)]


def seen(model, layer):
    """What goes into a layer, of all batches, by a hook of torch's own."""
    found = []
    handle = layer.register_forward_pre_hook(lambda _, args: found.append(args[0].detach()))
    with torch.no_grad():
        for batch in BATCHES:
            model(batch)
    handle.remove()
    return torch.cat(found)


def hooks(model):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


# --- the law


def test_batches_are_counted_as_if_they_had_come_at_once(network):
    with klcal.record(network) as recorded:
        for batch in BATCHES:
            network(batch)
    assert sorted(recorded.sketches) == ["0.input", "1.input", "3.input", "5.input"]
    for name, layer in network.named_children():
        if f"{name}.input" in recorded.sketches:
            assert recorded.sketches[f"{name}.input"] == klcal.sketch(seen(network, layer)), name
    with klcal.record(network) as fewer:
        network(BATCHES[0])
    assert fewer.sketches["0.input"] != recorded.sketches["0.input"]  # or the comparison above tells nothing


@pytest.mark.parametrize("axis", [1, -1])
def test_channels_are_those_of_all_batches_in_2_kb_each(network, axis):
    with klcal.record(network, "0", per=f"channel:{axis}") as recorded:
        for batch in BATCHES:
            network(batch)
    with klcal.record(network, "0", per=f"channel:{axis}") as at_once:
        network(torch.cat(BATCHES))
    found, whole = recorded.sketches["0.input"], klcal.sketch(torch.cat(BATCHES), per=f"channel:{axis}")
    assert found == at_once.sketches["0.input"]
    assert found.numel.tolist() == whole.numel.tolist()
    assert found.maximum.tolist() == whole.maximum.tolist()
    assert found.resolution == CHANNELS
    assert (found.keys.nbytes + found.counts.nbytes) / found.units < 2048


def test_threads_add_up(network):
    with klcal.record(network, importance=True) as one:
        for batch in BATCHES:
            network(batch)
    with klcal.record(network, importance=True) as several:
        threads = [threading.Thread(target=network, args=(batch,)) for batch in BATCHES]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert several.sketches == one.sketches


def test_modes_and_number_formats(network):
    for context, dtype in (
        (torch.inference_mode(), None),
        (torch.no_grad(), None),
        (torch.autocast("cpu", torch.bfloat16), "bfloat16"),
    ):
        with context, klcal.record(network, "3", "5", of="outputs") as recorded:
            network(BATCHES[0])
        assert recorded.sketches["3.output"].numel.tolist() == [4 * 6 * 36]
        assert dtype is None or recorded.sketches["5.output"].exact.all()  # bfloat16 loses nothing
    with klcal.record(network) as recorded:
        network(BATCHES[0]).sum().backward()
    assert recorded.sketches["0.input"] == klcal.sketch(BATCHES[0])


# --- names


def test_arguments_have_names_of_their_own(transformer):
    with klcal.record(transformer, "1.attention", "*.fc?", nn.LayerNorm) as recorded:
        transformer(torch.randn(2, 7, 5))
    assert sorted(recorded.sketches) == [
        "1.attention.input.key",
        "1.attention.input.query",
        "1.attention.input.value",
        "1.fc1.input",
        "1.fc2.input",
        "1.norm.input",
    ]
    assert recorded.sketches["1.fc1.input"].numel.tolist() == [2 * 2 * 7 * 16]  # it is called twice


def test_outputs_that_are_several_have_places():
    class Two(nn.Module):
        def forward(self, x):
            return {"mean": x.mean(), "all": [x], "count": torch.tensor(3)}

    model = nn.Sequential(nn.Identity(), nn.LSTM(3, 2), Two.__new__(Two))
    model[2].__init__()
    with klcal.record(model[1], "", of="outputs") as recorded:
        model[1](torch.randn(4, 1, 3))
    assert sorted(recorded.sketches) == ["output.0", "output.1.0", "output.1.1"]  # the last are a pair of states
    with klcal.record(model[2], "", of="outputs") as recorded:
        model[2](torch.ones(2))
    assert sorted(recorded.sketches) == ["output.all", "output.mean"]


def test_a_shared_module_is_found_by_each_of_its_names():
    model = nn.ModuleDict({"a": (shared := nn.Linear(2, 2)), "b": shared})
    for wanted, name in (("b", "b.input"), ("?", "a.input")):
        with klcal.record(model, wanted) as recorded:
            shared(torch.ones(1, 2))
        assert recorded.sketches[name].numel.tolist() == [2]
        assert len(recorded.sketches) == 1


@pytest.mark.parametrize("shape", [(3,), ()])
def test_what_has_no_channels_is_named(shape):
    model = nn.Sequential(nn.Identity(), nn.Identity())
    with klcal.record(model, "1", per="channel:1") as recorded, pytest.raises(UsageError) as error:  # noqa: PT012
        model(torch.ones(2, 3))
        model(torch.ones(shape))
    assert str(error.value).startswith("1.input: ")
    assert "leave that module out" in error.value.hint
    assert recorded.sketches["1.input"].numel.tolist() == [2, 2, 2]


def test_a_fault_of_others_in_a_hook_has_a_note(network, monkeypatch):
    def fails(_values):
        raise RuntimeError

    monkeypatch.setattr(recorder, "sketch", fails)
    with pytest.raises(RuntimeError) as error, klcal.record(network, "3"):
        network(BATCHES[0])
    assert error.value.__notes__ == ["klcal was recording '3.input'"]


def test_images_of_different_sizes_have_the_same_channels():
    model = nn.Conv2d(3, 2, 1)
    images = [torch.randn(2, 3, *size) for size in ((8, 8), (5, 9), (1, 4))]
    with klcal.record(model, per="channel:1", importance=True) as recorded:
        for each in images:
            model(each)
    by_hand = torch.cat([each.movedim(1, 0).reshape(3, -1) for each in images], dim=1)
    with klcal.record(nn.Sequential(rows := nn.Identity()), "0", per="channel:0") as expected:
        rows(by_hand)
    found, whole = recorded.sketches["input"], expected.sketches["0.input"]
    assert found.keys.tolist() == whole.keys.tolist()
    assert found.counts.tolist() == whole.counts.tolist()
    with klcal.record(model, importance=True) as last:
        for each in images:
            model(each.to(memory_format=torch.channels_last))
    assert last.sketches["weight.importance"] == recorded.sketches["weight.importance"]


@pytest.mark.parametrize(("value", "counter"), [(torch.inf, "pos_inf"), (-torch.inf, "pos_inf"), (torch.nan, "nan")])
def test_an_importance_of_what_is_not_finite_is_refused(tmp_path, value, counter):
    layer, x = nn.Linear(3, 2), torch.ones(4, 3)
    x[2, 1] = value
    with klcal.record(layer, importance=True) as recorded:
        layer(x)
    assert getattr(recorded.sketches["weight.importance"], counter).tolist() == [0, 1, 0]
    recorded.save(tmp_path / "acts.safetensors")
    np.savez(tmp_path / "model.npz", weight=np.ones((2, 3), np.float32))
    with pytest.raises(UsageError, match="inputs of 1 of 3 columns were infinite or NaN, the first of column 1"):
        klcal.sketch(
            np.ones((2, 3), np.float32), importance=klcal.read(tmp_path / "acts.safetensors")["weight.importance"]
        )


def test_nothing_that_was_recorded_is_told(network):
    with pytest.warns(UserWarning, match="nothing was recorded"), klcal.record(network):
        pass
    with pytest.raises(UsageError, match="give a glob of names, or a type"):
        klcal.record(network, 3)


def test_a_layer_alone_and_called_by_keyword():
    layer, x = nn.Linear(3, 2), torch.randn(5, 3)
    with klcal.record(layer, importance=True) as recorded:
        layer(input=x)
    assert sorted(recorded.sketches) == ["input", "weight.importance"]
    wanted = (x.double() ** 2).sum(0).reshape(1, 3).numpy()
    assert energies(recorded, "weight", (2, 3)) == pytest.approx(wanted, rel=1e-3)


def test_a_hook_that_cannot_be_made_leaves_none(network):
    class Refuses(nn.Linear):
        def register_forward_pre_hook(self, *_args, **_options):
            raise RuntimeError

    model = nn.Sequential(nn.Linear(2, 2), Refuses(2, 2))
    with pytest.raises(RuntimeError), klcal.record(model):
        pass
    assert hooks(model) == 0


@pytest.mark.parametrize("wanted", ["fc*", nn.Conv3d])
def test_what_no_module_is_is_an_error_with_the_nearest_names(transformer, wanted):
    with pytest.raises(UsageError, match="no module of the model is"):
        klcal.record(transformer, wanted)


@pytest.mark.parametrize("per", ["group:3", "block:2,2"])
def test_only_tensors_and_channels_are_recorded(transformer, per):
    with pytest.raises(UsageError, match="per tensor or channel"):
        klcal.record(transformer, per=per)
    with pytest.raises(UsageError, match='record "inputs" or "outputs"'):
        klcal.record(transformer, of="weights")


def test_a_compiled_model_is_refused(network):
    inner = nn.Sequential(nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        compiled = torch.compile(network)
        inner[0].compile()
    with pytest.raises(UsageError, match=r"record it before torch\.compile"):
        klcal.record(compiled)
    with pytest.raises(UsageError, match=r"record it before torch\.compile"):
        klcal.record(inner)


# --- hooks


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_go_whatever_happens(network, error):
    before = hooks(network)
    recorded = klcal.record(network, importance=True, of="outputs")
    with pytest.raises(error), recorded:  # noqa: PT012 - what is tested is what happens within
        assert hooks(network) > before
        network(BATCHES[0])
        raise error
    assert hooks(network) == before
    assert recorded.sketches["0.output"].numel.tolist() == [4 * 8 * 64]  # what was counted stays
    with recorded:
        network(BATCHES[0])
    assert recorded.sketches["0.output"].numel.tolist() == [2 * 4 * 8 * 64]
    assert hooks(network) == before


def test_recordings_may_overlap_but_not_with_themselves(network):
    with klcal.record(network) as outer:
        with klcal.record(network) as inner:
            network(BATCHES[0])
        network(BATCHES[1])
        with pytest.raises(UsageError, match="it is recording already"), outer:
            pass
    assert hooks(network) == 0
    assert inner.sketches["0.input"] == klcal.sketch(BATCHES[0])
    assert outer.sketches["0.input"] == klcal.sketch(torch.cat(BATCHES[:2]))


# --- by hand


def test_other_frameworks_hand_values_in(tmp_path):
    recorded = Recording({})
    recorded.add("relu", np.float32([[0, 1], [2, np.nan]]))
    recorded.add("relu", np.float32([[4]]))
    recorded.add("half", np.float16([1]))
    assert recorded.sketches["relu"] == klcal.sketch([0, 1, 2, np.nan, 4])
    recorded.add("mixed", np.float32([1]))
    recorded.add("mixed", np.float16([2]))
    assert recorded.sketches["mixed"] == klcal.sketch([1.0, 2.0])
    with pytest.raises(UsageError, match="int64 values are not calibrated"):
        recorded.add("ids", np.arange(3))
    recorded.save(tmp_path / "acts.safetensors")
    assert klcal.load_sketches(tmp_path / "acts.safetensors") == recorded.sketches
    rows = {row.name: row for row in klcal.calibrate_files(tmp_path / "acts.safetensors", nonfinite="ignore").rows}
    assert (rows["half"].dtype, rows["relu"].dtype, rows["relu"].nan) == ("float16", "float32", 1)


# --- what columns weigh


def energies(recorded, weight, shape):
    return importance_of(recorded.sketches[f"{weight}.importance"], shape)


def test_importance_is_the_energy_of_each_column(network):
    with klcal.record(network, importance=True) as recorded:
        for batch in BATCHES:
            network(batch)
    with klcal.record(network, importance=True) as at_once:
        network(torch.cat(BATCHES))
    for name in (key for key in recorded.sketches if key.endswith(".importance")):
        assert recorded.sketches[name] == at_once.sketches[name], name
    images = seen(network, network[0]).double()
    wanted = (images**2).sum((0, 2, 3)).reshape(1, 3, 1, 1)
    assert energies(recorded, "0.weight", (8, 3, 3, 3)) == pytest.approx(wanted.numpy(), rel=1e-3)
    flat = seen(network, network[5]).double()
    assert energies(recorded, "5.weight", (4, 216)) == pytest.approx((flat**2).sum(0).reshape(1, 216).numpy(), rel=1e-3)


def test_a_grouped_convolution_has_the_energy_of_its_own_inputs(network):
    with klcal.record(network, importance=True) as recorded:
        network(BATCHES[0])
    with torch.no_grad():
        columns = (torch.relu(network[1](network[0](BATCHES[0]))).double() ** 2).sum((0, 2, 3))
    found = energies(recorded, "3.weight", (6, 4, 3, 3))
    assert found.shape == (6, 4, 1, 1)
    assert found[0].ravel() == pytest.approx(columns[:4].numpy(), rel=1e-3)
    assert found[5].ravel() == pytest.approx(columns[4:].numpy(), rel=1e-3)
    with pytest.raises(UsageError, match="the importance is of 8 inputs"):
        energies(recorded, "3.weight", (6, 5))


def test_importance_reaches_the_weights_that_it_is_of(network, tmp_path):
    from safetensors.torch import save_file

    save_file({name: each.contiguous() for name, each in network.state_dict().items()}, tmp_path / "model.safetensors")
    with klcal.record(network, importance=True) as recorded:
        for batch in BATCHES:
            network(batch * torch.tensor([1.0, 0.01, 10.0]).reshape(1, 3, 1, 1))
    recorded.save(tmp_path / "acts.safetensors")
    options = {"dtype": "int4", "per": "channel", "include": ["*.weight"]}
    table = klcal.calibrate_files(tmp_path / "model.safetensors", importance=tmp_path / "acts.safetensors", **options)
    weighed = {row.name: row for row in table.rows}
    plain = {row.name: row for row in klcal.calibrate_files(tmp_path / "model.safetensors", **options).rows}
    assert {name: row.importance for name, row in weighed.items()} == {
        "0.weight": True,
        "1.weight": False,
        "3.weight": True,
        "5.weight": True,
    }
    assert any("has nothing for 1 of 4 tensors: '1.weight'" in text for text in table.warnings)
    by_hand = klcal.calibrate(
        network[0].weight, dtype="int4", per="channel", importance=np.broadcast_to(
            energies(recorded, "0.weight", (8, 3, 3, 3)), (8, 3, 3, 3)
        )
    )  # fmt: skip
    assert np.array_equal(weighed["0.weight"].units.scale, by_hand.units.scale)
    assert not np.array_equal(weighed["0.weight"].units.scale, plain["0.weight"].units.scale)
    kept = klcal.calibrate_files(tmp_path / "acts.safetensors").rows
    assert {row.status for row in kept if row.name.endswith(".importance")} == {"skipped"}


def test_sketches_without_importance_are_refused_as_one(network, tmp_path):
    with klcal.record(network) as recorded:
        network(BATCHES[0])
    recorded.save(tmp_path / "acts.safetensors")
    with pytest.raises(UsageError, match=r"record them with klcal\.record"):
        klcal.calibrate_files(tmp_path / "acts.safetensors", importance=tmp_path / "acts.safetensors")
