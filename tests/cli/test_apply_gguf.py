"""``klcal apply --to gguf``: the file, byte by byte; what the gguf package reads in it; what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf as library
import ml_dtypes
import numpy as np
import pytest

import klcal as klcal_library
from klcal.writers.forms import gguf as form
from tests.support import gguf
from tests.support.command import klcal
from tests.support.gguf import BF16, F16, F32, KEYS, Q4_0, Q8_0, UINT32, Tensor, alignment, key, of
from tests.support.imatrix import imatrix_gguf

Q4_1, MXFP4, Q4_K = 3, 39, 12
NAME = "blk.0.attn_q.weight"
STORED = {F32: np.dtype(np.float32), F16: np.dtype(np.float16), BF16: np.dtype(ml_dtypes.bfloat16)}
OPTIONS = {
    "Q8_0": ("--dtype", "int8"),
    "Q4_0": ("--dtype", "int4"),
    "Q4_1": ("--dtype", "uint4"),
    "MXFP4": ("--dtype", "float4_e2m1fn"),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def number(name: str, value: int) -> bytes:
    return key(name, UINT32, struct.pack("<I", value))


def save(tensors: dict[str, Tensor], keys=KEYS, path: str = "base.gguf", **options) -> str:
    Path(path).write_bytes(gguf.gguf(tensors, keys, **options))
    return path


def apply(*options: str, base: str = "base.gguf", out: str = "out.gguf") -> str:
    """What it said, beside what it wrote."""
    Path(out).unlink(missing_ok=True)
    done = klcal("apply", base, "--to", "gguf", "-o", out, *options)
    assert done.code == 0, done.err
    return done.err


def refused(what: str, *options: str, base: str = "base.gguf", code: int = 2) -> None:
    done = klcal("apply", base, "--to", "gguf", "-o", "new.gguf", *options)
    assert done.code == code, done.err
    assert what in done.err
    assert not Path("new.gguf").exists()
    assert not [*Path().glob(".klcal*")]


def read(path: str) -> dict[str, library.gguf_reader.ReaderTensor]:
    return {each.name: each for each in library.GGUFReader(path).tensors}


def types(path: str = "out.gguf") -> dict[str, str]:
    return {name: each.tensor_type.name for name, each in read(path).items()}


def dequantized(path: str, name: str = NAME) -> np.ndarray:
    """By the gguf package."""
    found = read(path)[name]
    return library.quants.dequantize(found.data, found.tensor_type).reshape(found.shape[::-1])


def by_key(path: str) -> dict[str, object]:
    return {name: each.contents() for name, each in library.GGUFReader(path).fields.items() if "GGUF." not in name}


# --- the file, byte by byte

CODES = np.arange(-8, 24)
HALVES = bytes(range(0x80, 0x100, 0x11)) + bytes(range(0, 0x78, 0x11))
BY_HAND = {
    "Q8_0": (CODES * 0.25 + np.where(CODES == 23, (127 - 23) * 0.25, 0), Q8_0, "0034"),
    "Q4_0": (np.tile(np.arange(-8, 8), 2) * -0.5, Q4_0, "00b8"),
    "Q4_1": ((np.tile(np.arange(16), 2) - 3) * 0.5, Q4_1, "003800be"),
    "MXFP4": (np.tile([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], 2) * 0.25, MXFP4, "7d"),
}


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize(("version", "align"), [(2, 32), (3, 1), (3, 8), (3, 4096)])
def test_a_file_computed_by_hand(kind, version, align):
    """Order, names, padding, keys of every type, and whatever is no matrix: all as it was."""
    values, type_, head = BY_HAND[kind]
    codes = {
        "Q8_0": np.where(CODES == 23, 127, CODES).astype(np.int8).tobytes(),
        "Q4_0": bytes(0x11 * code for code in range(16)),
        "Q4_1": bytes(0x11 * code for code in range(16)),
        "MXFP4": bytes(0x11 * (code if code != 8 else 0) for code in range(16)),
    }[kind]
    tensors = {**gguf.TENSORS, NAME: of(np.tile(values, (2, 1)).astype(np.float32))}
    keys = [*KEYS, *([alignment(align)] if align != 32 else [])]
    old, new = (
        [number("general.file_type", 1), number("after", 9)],
        [number("general.file_type", form.FILE_TYPES[kind])],
    )
    save(tensors, [*old, *keys], version=version, align=align)
    assert apply(*OPTIONS[kind]).endswith(
        f"1 tensor quantized, 6 kept as they were; {Path('out.gguf').stat().st_size:,} bytes\n"
    )
    blocks = Tensor(type_, (2, 32), 2 * (bytes.fromhex(head) + codes))
    expected = gguf.gguf(
        {**tensors, NAME: blocks},
        [*new, old[1], *keys, number("general.quantization_version", 2)],
        version=version,
        align=align,
    )
    assert Path("out.gguf").read_bytes() == expected


def matrix(rows: int = 8, columns: int = 64, stored: int = F16, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).laplace(size=(rows, columns)).astype(STORED[stored])
    return Tensor(stored, (rows, columns), values.tobytes())


def values_of(tensor: Tensor) -> np.ndarray:
    return np.frombuffer(tensor.data, STORED[tensor.type]).reshape(tensor.shape).astype(np.float32)


# --- what it stands for


WIDTHS = [(kind, stored, form.SCHEMES[dtype]) for kind, (_, dtype) in OPTIONS.items() for stored in (F32, F16, BF16)]
OTHERS = [("Q8_0", F16, "symmetric-full"), ("Q8_0", F16, "symmetric-signed")]
OTHERS += [("Q4_0", F16, "symmetric"), ("Q4_0", F16, "symmetric-full")]


@pytest.mark.parametrize(("kind", "stored", "scheme"), [*WIDTHS, *OTHERS])
def test_the_package_reads_what_the_table_says(kind, stored, scheme):
    """To the bit: (q − z) · s; of Q4_1 q · s + m, where m is the nearest float16 to −z · s."""
    tensor = matrix(40, 96, stored)
    save({NAME: tensor, "other.bias": of(np.ones(3, np.float32))})
    is_usual = (kind, stored, scheme) in WIDTHS
    apply(*OPTIONS[kind], *([] if is_usual else ["--scheme", scheme]))
    assert types()[NAME] == kind
    format_ = "e8m0" if kind == "MXFP4" else "float16"
    options = (*OPTIONS[kind], "--scheme", scheme, "--per", "group:32", "--scale-format", format_)
    assert klcal("calibrate", "base.gguf", "--include", NAME, *options, "-o", "t.json").code == 0
    (row,) = klcal_library.load_table("t.json").rows
    codes = klcal_library.quantize(values_of(tensor), row)
    expected = klcal_library.dequantize(codes, row)
    found = dequantized("out.gguf")
    if kind == "Q4_1":
        scale, point = (each.reshape(40, 3, 1).astype(np.float32) for each in (row.units.scale, row.units.zero_point))
        offset = (0 - point * scale).astype(np.float16).astype(np.float32)
        assert np.abs(found - expected).max() <= np.abs(offset).max() * 2**-11
        expected = (codes.reshape(40, 3, 32) * scale + offset).reshape(40, 96).astype(np.float32)
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    apply("--table", "t.json", out="by_table.gguf")
    assert Path("by_table.gguf").read_bytes() == Path("out.gguf").read_bytes()


def test_halves_of_bytes_the_other_way_round_are_noticed(monkeypatch):
    """The twin of the last test."""
    right = form.packed_blocks

    def swapped(*arguments):
        found = right(*arguments)
        found[:, -16:] = found[:, -16:] >> 4 | found[:, -16:] << 4
        return found

    monkeypatch.setattr(form, "packed_blocks", swapped)
    for kind in ("Q4_0", "Q4_1", "MXFP4"):
        with pytest.raises(AssertionError):
            test_the_package_reads_what_the_table_says(kind, F16, form.SCHEMES[OPTIONS[kind][1]])


def test_compare_closes_the_loop():
    save({NAME: matrix(), "output.weight": matrix(seed=1)})
    apply("--dtype", "int4")
    found = klcal("compare", "base.gguf", "out.gguf", "--dequantize", "--format", "json")
    assert found.code == 0
    assert found.tensors["output.weight"]["sqnr_db"] > 40
    for name, each in found.tensors.items():
        values, read_back = values_of(matrix(seed=int(name != NAME))), dequantized("out.gguf", name)
        assert each["mse"] == pytest.approx(np.square(values - read_back, dtype=np.float64).mean(), rel=1e-6)
    skipped = klcal("calibrate", "out.gguf", "--format", "json").tensors
    assert {each["status"] for each in skipped.values()} == {"skipped"}
    again = klcal("calibrate", "out.gguf", "--dequantize", "--dtype", "int4", "--per", "group:32", "--format", "json")
    assert again.tensors[NAME]["status"] == "ok"
    refused("no tensor", base="out.gguf", code=3)


def test_zeros_and_values_on_one_side():
    """A block of zeros is one of zeros; the largest value is exact, whatever its sign."""
    values = np.ones((4, 64), np.float32)
    values[1], values[2, :32], values[3] = 0, 0, -values[0]
    for options in OPTIONS.values():
        save({NAME: of(values), "z.weight": of(np.zeros((4, 64), np.float32))})
        apply(*options)
        np.testing.assert_array_equal(dequantized("out.gguf"), values)
        np.testing.assert_array_equal(dequantized("out.gguf", "z.weight"), np.zeros((4, 64)))


def test_an_importance_matrix_has_the_names_of_the_file():
    """Columns that nothing goes into do not count: the others are exact."""
    values = np.tile(np.float32([-8, 7, 3] + 29 * [0.3]), (2, 2))
    save({NAME: of(values)})
    energy = np.where(np.arange(64) % 32 < 3, 1.0, 0.0)
    Path("energy.gguf").write_bytes(imatrix_gguf({NAME: (energy[None], [1])}))
    apply("--dtype", "int4", "--importance", "energy.gguf")
    np.testing.assert_array_equal(dequantized("out.gguf")[:, :3], values[:, :3])


# --- keys


def test_keys_as_the_package_reads_them():
    save({NAME: matrix(), "a.weight": matrix(), "norm.weight": of(np.ones(4, np.float32))})
    before = by_key("base.gguf")
    apply()
    after = by_key("out.gguf")
    assert after == {**before, "general.file_type": 7, "general.quantization_version": 2}
    assert before["tokenizer.ggml.tokens"] == ["<s>", "", "été"]


@pytest.mark.parametrize(("quantized", "expected"), [("*.weight", 2), ("a.*", 1)])
def test_the_type_of_a_file_is_that_of_most_matrices(quantized, expected):
    """Where most are as they were, so is the key; vectors do not count."""
    save({"row.weight": of(np.ones((1, 64), np.float32))})
    apply("--include", "row.weight")
    assert by_key("out.gguf")["general.file_type"] == 7
    vectors = {f"v{index}": of(np.ones(4, np.float32)) for index in range(9)}
    others = {f"{letter}.weight": matrix() for letter in "abc"}
    save({**vectors, **others}, [*KEYS, number("general.file_type", 1), number("general.quantization_version", 1)])
    apply("--dtype", "int4", "--include", quantized)
    assert by_key("out.gguf")["general.file_type"] == expected
    assert by_key("out.gguf")["general.quantization_version"] == 2


# --- which tensors


def test_the_library_takes_rules_and_values():
    save({NAME: matrix(), "blk.0.ffn_up_exps.weight": matrix(), "output.weight": matrix()})
    dtype = {"*exps*": "float4_e2m1fn", "*": "int4"}
    klcal_library.apply("base.gguf", "out.gguf", to="gguf", dtype=dtype, per=klcal_library.PerGroup(32))
    assert types() == {NAME: "Q4_0", "blk.0.ffn_up_exps.weight": "MXFP4", "output.weight": "Q8_0"}


def test_what_is_quantized_unless_it_is_said():
    """What llama-quantize quantizes; embedding and output with more bits."""
    matrices = ["blk.0.ffn_up.weight", "blk.0.attn_v.weight", "blk.0.time_mix_key.weight"]
    kept = ["blk.0.ffn_gate_inp.weight", "position_embd.weight", "blk.0.ssm_conv1d.weight", "a.matrix"]
    kept += ["blk.0.time_mix_w1.weight", "v.patch_embd.weight", "blk.0.attn_q_norm.weight"]
    tensors = {name: matrix() for name in [*matrices, *kept, "output.weight", "token_embd.weight"]}
    tensors["blk.0.ffn_up_exps.weight"] = of(np.random.default_rng(0).normal(size=(3, 4, 64)).astype(np.float32))
    tensors["row.weight"] = of(np.ones((1, 64), np.float32))
    save(tensors)
    apply("--dtype", "uint4")
    high = dict.fromkeys(["output.weight", "token_embd.weight"], "Q8_0")
    four = dict.fromkeys([*matrices, "blk.0.ffn_up_exps.weight"], "Q4_1")
    assert types() == {**dict.fromkeys(kept, "F16"), "row.weight": "F32", **four, **high}
    apply("--dtype", "*exps*=float4_e2m1fn", "--dtype", "output*=int4", "--exclude", "*attn*")
    assert types()["output.weight"] == "Q4_0"
    assert types()["blk.0.ffn_up_exps.weight"] == "MXFP4"
    assert types()["blk.0.attn_v.weight"] == "F16"
    assert types()["blk.0.ffn_up.weight"] == types()["token_embd.weight"] == "Q8_0"
    apply("--include", "*conv1d*")
    assert {name for name, each in types().items() if each == "Q8_0"} == {"blk.0.ssm_conv1d.weight"}


def test_a_scheme_for_all_does_not_hold_for_the_embedding():
    save({NAME: matrix(), "token_embd.weight": matrix()})
    apply("--dtype", "uint4", "--scheme", "affine", "--scale-format", "float16")
    assert types() == {NAME: "Q4_1", "token_embd.weight": "Q8_0"}
    apply(
        "--dtype", "float4_e2m1fn", "--scale-format", "e8m0", "--dtype", "token*=int4", "--scale-format", "tok*=float16"
    )
    assert types() == {NAME: "MXFP4", "token_embd.weight": "Q4_0"}


def test_rows_that_are_no_whole_blocks():
    save({NAME: matrix(), "odd.weight": matrix(4, 90), "odder.weight": matrix(4, 33)})
    assert "warning: 2 tensors, whose rows are no whole blocks of 32, kept: 'odd.weight' and others" in apply()
    assert types() == {NAME: "Q8_0", "odd.weight": "F16", "odder.weight": "F16"}
    refused("odd.weight: its rows of 90 values are no whole blocks of 32; leave", "--include", "odd.*")


def test_blocks_of_other_types_are_carried_along():
    blocks = Tensor(Q4_K, (2, 256), bytes(range(144)) * 2)
    save({"k": blocks, NAME: matrix(), "q.weight": Tensor(Q4_0, (2, 32), bytes(range(36)))})
    apply()
    assert read("out.gguf")["k"].data.tobytes() == blocks.data
    assert types() == {"k": "Q4_K", NAME: "Q8_0", "q.weight": "Q4_0"}


# --- what is refused


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("no block of GGUF holds int5", {"--dtype": "int5"}),
        ("no block of GGUF holds float8_e4m3fn", {"--dtype": "*attn*=float8_e4m3fn"}),
        ("no block of GGUF holds int8 affine", {"--scheme": "affine"}),
        ("no block of GGUF holds uint4 symmetric", {"--dtype": "uint4", "--scheme": "symmetric"}),
        ("a block of GGUF has one scale for 32 values of a row", {"--per": "group:64"}),
        ("a block of GGUF has one scale", {"--per": "channel"}),
        ("a block of GGUF has one scale", {"--per": "tensor"}),
        ("a block of GGUF has one scale", {"--per": "group:32,0"}),
        ("a block of GGUF has one scale", {"--per": "block:32,32"}),
        ("its scales are no float16, as Q8_0 has them", {"--scale-format": "float32"}),
        ("its scales are no e8m0, as MXFP4 has them", {"--dtype": "float4_e2m1fn", "--scale-format": "float16"}),
    ],
)
def test_a_tensor_that_does_not_fit_blocks_is_refused_with_the_option_to_use(what, options):
    """Before anything is calibrated, which would end in another error; and of a table."""
    words = [word for pair in options.items() for word in pair]
    if "scales" not in what:
        save({NAME: of(np.full((64, 64), np.nan, np.float32))})
        refused(what, *words)
        refused("--dtype int8 becomes Q8_0, int4 Q4_0, uint4 --scheme affine Q4_1", *words)
    save({NAME: matrix(64, 64)})
    defaults = {"--dtype": "int8", "--per": "group:32", "--scale-format": "float16"}
    words = [word for pair in (defaults | options).items() for word in pair]
    assert klcal("calibrate", "base.gguf", *words, "-o", "t.json").code == 0
    refused("base.gguf: 'blk.0.attn_q.weight': ", "--table", "t.json")
    refused(what, "--table", "t.json")


def test_offsets_beyond_float16_are_refused():
    """The scale is a float16, and 15 of them are none."""
    values = np.float32([[-70000, *range(31)]])
    save({NAME: of(np.repeat(values, 2, axis=0))})
    refused("its offsets are beyond float16, as Q4_1 has them; use --dtype int4", "--dtype", "uint4")


def test_only_a_gguf_becomes_one():
    """And that is said before anything is calibrated."""
    np.save("w.npy", np.full((4, 64), np.nan))
    refused(
        "'w.npy' is no .gguf file, whose keys the quantized one needs; convert the model with llama.cpp", base="w.npy"
    )


def test_damaged_files_are_refused():
    whole = gguf.gguf({NAME: matrix()})
    Path("cut.gguf").write_bytes(whole[:-100])
    refused("the data of 'blk.0.attn_q.weight' end at", base="cut.gguf", code=3)
    Path("big.gguf").write_bytes(b"GGUF" + struct.pack(">I2Q", 3, 0, 0) + bytes(99))
    refused("it is a big-endian GGUF file", base="big.gguf", code=3)
    save({NAME: matrix()}, [*KEYS, alignment(24)])
    refused("its alignment is 24, which is not a power of two", code=3)
    save({NAME: matrix(), "future": Tensor(777, (32,), bytes(40))})
    refused("'future': type 777 of GGML cannot be copied")


def test_the_input_is_not_replaced():
    save({NAME: matrix()})
    before = Path("base.gguf").read_bytes()
    done = klcal("apply", "base.gguf", "--to", "gguf", "-o", "base.gguf")
    assert done.code == 2
    assert Path("base.gguf").read_bytes() == before


def test_a_directory_file_by_file():
    """Of one without anything to quantize every byte is as it was."""
    Path("model").mkdir()
    save({NAME: matrix()}, path="model/a-00001-of-00002.gguf")
    save(
        {"norm.weight": of(np.ones(4, np.float32))}, [key("split.no", UINT32, bytes(4))], "model/a-00002-of-00002.gguf"
    )
    Path("model/README.md").write_text("x")
    apply(base="model", out="new")
    assert types("new/a-00001-of-00002.gguf") == {NAME: "Q8_0"}
    for name in ("a-00002-of-00002.gguf", "README.md"):
        assert Path("new", name).read_bytes() == Path("model", name).read_bytes()
