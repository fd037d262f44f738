"""Arguments to sources: each file once, under a name of its own, whatever the order."""

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import InputError
from klcal.readers import find, formats, index_file, strict_json
from klcal.readers.regular import open_regular
from tests.support import protobuf
from tests.support.protobuf import VALUES, external, tensor

ONES = np.ones(3, np.float32)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def npy(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.save(path, ONES)


def sharded(folder: str, shards: dict[str, list[str]], stem: str = "model") -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for shard, tensors in shards.items():
        safetensors.numpy.save_file(dict.fromkeys(tensors, ONES), Path(folder, shard))
    weights = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    index = {"metadata": {"total_size": 24.0}, "weight_map": weights}
    Path(folder, f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def names(*arguments: str) -> list[str]:
    found = find(arguments)
    assert not found.errors
    return [source.name for source in found.sources]


def rows(*arguments: str) -> list[tuple[str, str, str]]:
    return [(s.name, d.name, d.status) for s in find(arguments).sources for d in s.describe()]


def only_error(*arguments: str) -> str:
    """The one thing wrong with the arguments, found at once or when described."""
    found = find(arguments)
    if found.errors:
        (error,) = found.errors
        assert not found.sources
        return error.reason
    with pytest.raises(InputError) as caught:
        find(arguments).sources[0].describe()
    return str(caught.value)


# --- what is found


def test_files_directories_and_patterns_find_the_same(here):
    npy("dumps/b.npy")
    npy("dumps/a.npy")
    npy("dumps/deep/c.npy")
    Path("dumps/README.md").write_text("text")
    Path("dumps/config.json").write_text("{}")
    assert names("dumps") == ["a.npy", "b.npy", "deep/c.npy"]
    assert names("dumps/b.npy", "dumps/a.npy") == names("dumps/*.npy") == ["a.npy", "b.npy"]
    assert names("dumps/**/*.npy") == ["a.npy", "b.npy", "c.npy"]
    assert rows("dumps")[2] == ("deep/c.npy", "deep/c", "ok")


def test_the_data_of_a_model_are_no_files_of_their_own(here):
    Path("d").mkdir()
    data = {"d/a.onnx": ("a.onnx_data", "weights.bin", "deep/b.npy"), "d/none.onnx": ("absent.npy",)}
    for model, locations in data.items():
        tensors = (tensor(location, more=external(location=location)) for location in locations)
        Path(model).write_bytes(protobuf.model(*tensors))
    Path("d/a.onnx_data").write_bytes(VALUES)
    Path("d/weights.bin").write_bytes(VALUES)
    Path("d/deep").mkdir()
    Path("d/deep/b.npy").write_bytes(VALUES)
    npy("d/c.npy")
    Path("d/damaged.onnx").write_bytes(b"\0")
    assert names("d") == ["a.onnx", "c.npy", "damaged.onnx", "none.onnx"]
    assert [status for source, _, status in rows("d/a.onnx", "d/weights.bin")] == ["ok"] * 3
    Path("d/a.onnx").unlink()
    assert "weights.bin" in names("d")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(here):
    npy("w[0].npy")
    assert names("w[0].npy") == ["w[0].npy"]


def test_patterns_pass_hidden_files_by_as_a_shell_does(here):
    npy(".hidden.npy")
    npy("seen.npy")
    npy(".d/x.npy")
    assert names("*.npy") == names("**/*.npy") == ["seen.npy"]
    assert names(".*.npy") == [".hidden.npy"]
    assert names(".d/*.npy") == ["x.npy"]


def test_a_file_given_twice_is_read_once(here):
    npy("d/a.npy")
    Path("link.npy").symlink_to("d/a.npy")
    os.link("d/a.npy", "hard.npy")
    assert names("d/a.npy", "./d/../d/a.npy", "d", str(here / "d" / "a.npy")) == ["a.npy"]
    assert len(names("link.npy", "d/a.npy", "hard.npy", ".")) == 1


def test_directories_that_contain_themselves_end(here):
    npy("d/a.npy")
    Path("d/self").symlink_to(".")
    Path("d/up").symlink_to("..")
    assert names("d") == ["a.npy"]
    assert names("d/**/*.npy") == ["a.npy"]


def test_equal_names_get_parents_until_they_differ(here):
    for path in ("a/v1/x.npy", "b/v1/x.npy", "b/v2/x.npy", "y.npy"):
        npy(path)
    assert names("a/v1/x.npy", "b/v2/x.npy") == ["v1/x.npy", "v2/x.npy"]
    assert names("a/v1", "b/v1", "y.npy") == ["a/v1/x.npy", "b/v1/x.npy", "y.npy"]
    assert names("a", "b") == ["a/v1/x.npy", "b/v1/x.npy", "v2/x.npy"]


@given(order=st.randoms())
def test_the_order_of_the_arguments_does_not_matter(tmp_path_factory, order):
    folder = tmp_path_factory.getbasetemp() / "order"
    if not folder.exists():
        for path in ("a/x.npy", "b/x.npy", "b/c/x.npy", "y.npy"):
            npy(str(folder / path))
        (folder / "link.npy").symlink_to("y.npy")
    arguments = [str(folder / path) for path in ("a", "b", "b/c/x.npy", "y.npy", "link.npy", "absent")]
    expected = find(sorted(arguments)).sources
    order.shuffle(arguments)
    assert find(arguments).sources == expected
    assert len(expected) == len({source.name for source in expected}) == 4


def test_names_that_are_no_text_do_not_crash(here):
    path = os.fsdecode(b"bad\xff\n\x1b.npy")
    npy(path)
    assert names(".") == [path]
    assert rows(path) == [(path, path[:-4], "ok")]


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is readable to root")
def test_a_directory_that_cannot_be_listed_is_reported(here):
    npy("d/a.npy")
    Path("d/locked").mkdir(mode=0)
    found = find(["d", "d/locked"])
    assert [source.name for source in found.sources] == ["a.npy"]
    assert "'locked' cannot be listed" in found.warnings[0]
    assert "no permission" in found.errors[0].reason


# --- what is not found


def test_an_absent_file_is_answered_with_the_nearest_names(here):
    npy("weights.npy")
    assert only_error("wieghts.npy") == "there is no such file; the nearest names are 'weights.npy'"
    assert only_error("wei?hts.npz") == "no file matches it; the nearest names are 'weights.npy'"
    assert "no directory 'absent' either" in only_error("absent/x.npy")
    for argument in ("", "\0", "\0*", "**x", "x" * 5000, "x" * 5000 + "*"):
        assert only_error(argument)


def test_errors_tell_no_absolute_path(here):
    (error,) = find([str(here / "absent.npy")]).errors
    assert error.source == "absent.npy"
    assert str(here) not in error.reason


def test_a_directory_without_tensor_files_is_an_error(here):
    Path("d").mkdir()
    assert only_error("d").startswith("no tensor files in it; klcal reads .npy")
    Path("d/model.pb").write_bytes(b"\x08\x07")
    assert "it holds 'model.pb'" in only_error("d")
    Path("d/__0_0.distcp").write_bytes(b"x")
    assert "distributed checkpoint" in only_error("d")


STATE = [
    *("training_args.bin", "optimizer.pt", "optimizer.bin", "optimizer_1.bin", "scheduler.pt", "scaler.pt"),
    *("rng_state.pth", "rng_state_0.pth", "sampler.bin", "dl_state_dict_3.bin", "random_states_0.pt"),
    *("global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt",),
]


def test_the_state_of_a_training_run_is_no_part_of_a_directory(here):
    for name in STATE:
        Path("run", name).parent.mkdir(parents=True, exist_ok=True)
        Path("run", name).write_bytes(b"damaged")
    assert "no tensor files" in only_error("run")
    safetensors.numpy.save_file({"w": ONES}, "run/model.safetensors")
    assert rows("run") == [("model.safetensors", "w", "ok")]
    assert names(*[f"run/{name}" for name in STATE]) == sorted(Path(name).name for name in STATE)  # given by name
    weights = ["optimizer_net.pt", "my_scaler.pt", "rng_state.npy", "mp_rank_00_model_states.pt"]
    for name in weights:
        Path("run", name).write_bytes(b"damaged")
    assert names("run") == sorted([*weights, "model.safetensors"])


@pytest.mark.parametrize(
    ("safe", "pickled"),
    [
        ("model.safetensors", "pytorch_model.bin"),
        ("model.fp16.safetensors", "pytorch_model.fp16.bin"),
        ("adapter_model.safetensors", "adapter_model.bin"),
        ("v1-5.safetensors", "v1-5.ckpt"),
    ],
)
def test_a_model_in_two_formats_is_read_once_in_a_directory(here, safe, pickled):
    Path("d/sub").mkdir(parents=True)
    safetensors.numpy.save_file({"w": ONES}, f"d/sub/{safe}")
    Path("d/sub", pickled).write_bytes(b"damaged")
    found = find(["d"])
    assert [source.name for source in found.sources] == [f"sub/{safe}"]
    assert found.warnings == (
        f"'sub/{pickled}' is not read: the .safetensors beside it holds the same model; to read it, give it by name",
    )
    assert names("d", f"d/sub/{pickled}") == sorted([f"sub/{safe}", pickled])
    Path("d", "sub", safe).unlink()
    assert names("d") == [f"sub/{pickled}"]


def test_a_sharded_model_in_two_formats_is_read_once(here):
    sharded("d", {f"model-0000{i}-of-00002.safetensors": [f"w{i}"] for i in (1, 2)})
    for i in (1, 2):
        Path(f"d/pytorch_model-0000{i}-of-00002.bin").write_bytes(b"damaged")
    Path("d/pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {f"w{i}": f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)}})
    )
    found = find(["d"])
    assert rows("d") == [("model.safetensors", "w1", "ok"), ("model.safetensors", "w2", "ok")]
    (warning,) = found.warnings
    assert warning.startswith("'pytorch_model.bin' is not read")
    for shard in Path("d").glob("model*"):
        shard.unlink()
    safetensors.numpy.save_file({"w1": ONES, "w2": ONES}, "d/model.safetensors")  # whole in one, sharded in the other
    assert names("d") == ["model.safetensors"]


def test_files_that_are_not_called_alike_are_two_models(here):
    Path("d/a").mkdir(parents=True)
    safetensors.numpy.save_file({"w": ONES}, "d/model.safetensors")
    for name in ("a/pytorch_model.bin", "model_ema.pt", "model.npy", "my_pytorch_model.bin"):
        Path("d", name).write_bytes(b"damaged")
    found = find(["d"])
    assert len(found.sources) == 5
    assert not found.warnings


def test_a_pipe_or_a_link_to_nothing_in_a_directory_costs_only_itself(here):
    npy("d/a.npy")
    os.mkfifo("d/pipe.npy")
    Path("d/gone.npy").symlink_to("nowhere")
    Path("d/itself.npy").symlink_to("itself.npy")
    a, gone, itself, pipe = find(["d"]).sources
    assert a.describe()[0].status == "ok"
    with pytest.raises(InputError, match="no such file"):
        gone.describe()
    with pytest.raises(InputError, match="its links lead in a circle"):
        itself.describe()
    with pytest.raises(InputError, match="it is a pipe"):
        pipe.describe()


# --- content decides


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", b"", "empty"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("x.bin", b"\n<!DOCTYPE html><html>", "web page"),
        ("x.pt", b"<?xml version='1.0'?><Error/>", "XML"),
        ("x.npy", b"\x1f\x8b\x08\0rest", "gunzip"),
        ("x.bin", b"GGUF\0\0\0\3", "big-endian"),
        ("x.h5", b"\x89HDF\r\n\x1a\nrest", "HDF5"),
        ("x.onnx", b"\x08\x07\x12\x07pytorch", "it has no graph"),
        ("x.pb", b"\x08\x07\x12\x07pytorch", "its format is not known; klcal reads"),
        ("x.txt", b"hello", "text file"),
        ("x.npy", b"\x80\x04N.", "pickle"),
        ("x.safetensors", b"\x80\x02}q\0.", "pickle"),
        ("x", b"\x80\x02}q\0.", "pickle"),
        ("x.zip", b"PK\x03\x04" + bytes(40), "zip archive"),
        ("x.safetensors", b"PK\x03\x04" + bytes(40), "zip archive"),
        ("x.npy", bytes(range(256)), "not a .npy file"),
        ("x.safetensors", bytes(range(1, 256)), "not a .safetensors file"),
        ("x.safetensors", b"\x10\0\0", "needs 8 bytes"),
    ],
)
def test_a_file_that_is_not_a_tensor_file_is_named(here, name, content, says):
    Path(name).write_bytes(content)
    assert says in only_error(name)


def test_a_wrong_suffix_does_not_matter(here):
    npy("x.npy")
    Path("x.npy").rename("x.safetensors")
    safetensors.numpy.save_file({"w": ONES}, "y.npy")
    assert rows("x.safetensors", "y.npy") == [("x.safetensors", "x", "ok"), ("y.npy", "w", "ok")]


def test_a_header_length_that_looks_like_gzip_is_still_a_length(here):
    header = json.dumps({"w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode().ljust(0x8B1F)
    Path("x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert Path("x.safetensors").read_bytes().startswith(b"\x1f\x8b")
    assert rows("x.safetensors") == [("x.safetensors", "w", "skipped")]


@given(content=st.binary(max_size=40), suffix=st.sampled_from([".npy", ".safetensors", ".txt", ""]))
def test_arbitrary_files_end_in_an_input_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"arbitrary{suffix}"
    path.write_bytes(content)
    file = open_regular(str(path))
    with pytest.raises(InputError) as caught:
        formats.describe(file, "x")
    assert len(str(caught.value)) <= 300
    assert str(caught.value).isprintable()


# --- standard input


DESCRIBE_STDIN = """
from klcal.readers import find
found = find(["-", "-"])
print([error.reason for error in found.errors])
for source in found.sources:
    for tensor in source.describe():
        print(source.name, tensor.name, sum(chunk.sum() for part in tensor.parts for chunk in part.chunks()))
"""


def described_from_stdin(**stdin) -> str:
    return subprocess.run([sys.executable, "-c", DESCRIBE_STDIN], check=True, stdout=subprocess.PIPE, **stdin).stdout


def test_a_pipe_is_read_as_a_file(here):
    npy("x.npy")
    assert described_from_stdin(input=Path("x.npy").read_bytes()) == b"[]\n- stdin 3.0\n"
    with Path("x.npy").open("rb") as redirected:
        assert described_from_stdin(stdin=redirected) == b"[]\n- stdin 3.0\n"


def test_a_terminal_is_not_waited_for():
    leader, terminal = os.openpty()
    assert b"standard input is a terminal" in described_from_stdin(stdin=terminal)
    os.close(leader)
    os.close(terminal)


# --- sharded checkpoints


SHARDS = {"model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c"]}
ONE_DOWNLOAD = "take the index and its shards from one download"
ALL_OK = [("model.safetensors", name, "ok") for name in "abc"]


def test_a_sharded_checkpoint_is_one_file(here):
    sharded("m", SHARDS)
    assert rows("m") == rows("m/model.safetensors.index.json") == ALL_OK
    assert rows("m/*") == rows(*(str(path) for path in Path("m").iterdir())) == ALL_OK
    safetensors.numpy.save_file(dict.fromkeys("abc", ONES), "model.safetensors")
    assert rows("model.safetensors") == ALL_OK


def test_a_cache_of_links_is_followed(here):
    sharded("blobs", SHARDS)
    Path("snapshots/1").mkdir(parents=True)
    for number, blob in enumerate(sorted(Path("blobs").iterdir())):
        blob.rename(f"blobs/{number}")
        Path("snapshots/1", blob.name).symlink_to(f"../../blobs/{number}")
    assert rows("snapshots/1") == ALL_OK
    assert [status for _, _, status in rows(".")] == ["ok"] * 3


def test_a_missing_or_damaged_shard_costs_only_its_tensors(here):
    sharded("m", SHARDS)
    Path("m/model-00001-of-00002.safetensors").unlink()
    found = find(["m"]).sources[0].describe()
    assert {d.name: d.status for d in found} == {"a": "failed", "b": "failed", "c": "ok"}
    absent = "cannot be used: there is no such file; download it, or check its name"
    assert found[0].reason == f"the shard 'model-00001-of-00002.safetensors' {absent}"
    Path("m/model-00002-of-00002.safetensors").write_bytes(b"version https://git-lfs.github.com")
    assert "git lfs pull" in find(["m"]).sources[0].describe()[2].reason


def test_the_index_decides_which_tensors_there_are(here):
    sharded("m", SHARDS)
    index = Path("m/model.safetensors.index.json")
    one, two = SHARDS
    index.write_text(json.dumps({"weight_map": {"a": one, "c": two, "absent": two}}))
    found = {d.name: (d.status, d.reason) for d in find(["m"]).sources[0].describe()}
    assert found["absent"] == ("failed", f"the shard '{two}' does not hold it; {ONE_DOWNLOAD}")
    assert found["b"] == ("skipped", f"the shard '{one}' holds it, the index does not name it")
    assert found["a"] == found["c"] == ("ok", None)


def test_a_damaged_index_costs_no_shard_and_is_called_by_its_own_name(here):
    sharded("m", SHARDS)
    Path("m/model.safetensors.index.json").write_text("{")
    *shards, index = find(["m"]).sources
    assert [shard.name for shard in shards] == list(SHARDS)
    assert index.name == "model.safetensors.index.json"
    assert all(shard.describe() for shard in shards)
    with pytest.raises(InputError, match="JSON is damaged"):
        index.describe()


@pytest.mark.parametrize("name", ["faiss.index.json", "tf_model.h5.index.json", ".index.json"])
def test_an_index_of_another_kind_in_a_directory_costs_nothing(here, name):
    sharded("m", SHARDS)
    Path("m", name).write_text("{}")
    assert rows("m") == ALL_OK
    assert not find(["m"]).errors
    assert "no weight_map" in only_error(f"m/{name}")  # who asks for it is told


def test_an_index_beside_the_whole_file_keeps_its_own_name(here):
    sharded("m", SHARDS)
    safetensors.numpy.save_file({"w": ONES}, "m/model.safetensors")
    assert names("m") == ["model.safetensors", "model.safetensors.index.json"]


ESCAPES = ["../x", "/etc/x", "//x", "a/../../x", "a/b", "./x", "x/", "", ".", "..", "x\0", "x" * 256, "é" * 128, "a\\b"]


@pytest.mark.parametrize("shard", [*ESCAPES, "model.safetensors.index.json"], ids=ascii)
def test_an_index_cannot_point_outside_its_directory(here, shard):
    npy("x")  # would be found by a reader that joins paths
    Path("m/a").mkdir(parents=True)
    index = Path("m/model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"stolen": shard}}))
    (found,) = find(["m"]).sources[0].describe()
    assert (found.name, found.status, found.parts) == ("stolen", "failed", ())
    assert "not that of a file beside the index" in found.reason
    assert len(found.reason) <= 300
    assert found.reason.isprintable()


@given(st.text(max_size=20))
def test_a_shard_lies_beside_its_index_or_nowhere(shard):
    try:
        path = index_file.shard_path("folder/index", shard)
    except InputError:
        return
    assert os.path.normpath(path).split("/") == ["folder", shard]


@pytest.mark.parametrize("shard", ["~", "$HOME", "http:x", "..x", "x..", "-x", " "])
def test_odd_but_plain_names_stay_in_the_directory(shard):
    assert index_file.shard_path("m/i.index.json", shard) == f"m/{shard}"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "x", "a": "y"}}',
        '{"weight_map": {}, "weight_map": {}}',
        '{"weight_map": {}, "x": NaN}',
        '{"weight_map": {"\\ud800": "x"}}',
        '{"weight_map": {"a": "\\ud800"}}',
        '{"weight_map": ' + "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_hostile_indexes_are_refused(here, text):
    Path("model.safetensors.index.json").write_text(text)
    assert only_error("model.safetensors.index.json")


@given(st.binary(max_size=60))
def test_arbitrary_json_ends_in_an_input_error(data):
    for text in (data, b"{" + data, b'{"a":' + data + b"}"):
        with contextlib.suppress(InputError):
            assert isinstance(strict_json.parse(text), dict)


def test_shards_of_another_format_are_described_by_its_reader(here):
    """Names tied in one file, as a .pt reader gives them, are found under either name."""
    from klcal.readers.description import Description

    Path("s.bin").write_bytes(b"x")
    Path("i.index.json").write_text(json.dumps({"weight_map": {"head": "s.bin", "tied": "s.bin"}}))
    held = [Description("embed", "float32", (3,), aliases=("head", "tied", "more"))]
    (found,) = index_file.describe(open_regular("i.index.json"), lambda *_: held)
    assert (found.name, found.aliases, found.status) == ("head", ("tied",), "ok")


def test_two_thousand_files_are_all_found(here):
    for number in random.Random(0).sample(range(2000), 2000):
        Path(f"{number}.npy").touch()
    assert len(names(".")) == 2000
