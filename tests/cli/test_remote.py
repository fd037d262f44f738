"""Files elsewhere: the answers are those of files on this machine; whatever a server does is one clear line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from klcal.readers import file_systems, remote
from tests.support.command import Result, environment, klcal, klcal_process, one_message
from tests.support.server import Server, serving

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # the server is

SECRET = "X-Amz-Signature=4a5b6c"
RNG = np.random.default_rng(0)
TENSORS = {f"layers.{n}.weight": RNG.normal(size=(128, 96)).astype(np.float32) for n in range(4)}
MODEL = safetensors.numpy.save(TENSORS)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def index(shards: dict[str, str]) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": shards}).encode()


FILES = {
    "m.safetensors": MODEL,
    "d/one.npy": npy(TENSORS["layers.0.weight"]),
    "d/below/two.npz": npz(a=np.float32([1, 2, 3]), b=np.float32([0.5])),
    "d/readme.md": b"# a model",
    "shards/model.safetensors.index.json": index(
        {"q_proj.weight": "model-1.safetensors", "k_proj.weight": "model-2.safetensors"}
    ),
    "shards/model-1.safetensors": safetensors.numpy.save({"q_proj.weight": TENSORS["layers.1.weight"]}),
    "shards/model-2.safetensors": safetensors.numpy.save({"k_proj.weight": TENSORS["layers.2.weight"]}),
    "shards/config.json": b'{"dtype": "float32"}',
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(file_systems, "PAUSES", (0.0, 0.0))
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(data)


@pytest.fixture
def server():
    with serving(dict(FILES)) as found:
        yield found


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    for name, data in FILES.items():
        system.pipe(f"/{name}", data)
    yield "memory://"
    system.rm("/", recursive=True)


def same(*arguments: str, at: str, path: str) -> Result:
    """The answer of a command about files elsewhere, which is that about the same files here."""
    ours = klcal(*arguments, f"{at}/{path}".replace(":///", "://"))
    assert ours == klcal(*arguments, path)
    return ours


# --- the same answers


@pytest.mark.parametrize("command", [("calibrate", "--format", "json"), ("inspect", "--stats")], ids=str)
@pytest.mark.parametrize("path", ["m.safetensors", "d/one.npy", "d/below/two.npz", "d/", "shards/"])
def test_answers_are_those_of_the_same_files_here(server, memory, command, path):
    assert same(*command, at=server.address, path=path).code == 0
    assert same(*command, at=memory, path=path).code == 0


def test_compare_apply_and_sketch_too(server):
    url = server.url("m.safetensors")
    assert klcal("compare", url, "m.safetensors").out == klcal("compare", "m.safetensors", "m.safetensors").out
    for to, name in (("safetensors", "q.safetensors"), ("fake", "f.safetensors")):
        assert klcal("apply", url, "--dtype", "int8", "--to", to, "-o", f"a{name}").code == 0
        assert klcal("apply", "m.safetensors", "--dtype", "int8", "--to", to, "-o", f"b{name}").code == 0
        assert Path(f"a{name}").read_bytes() == Path(f"b{name}").read_bytes()
    answers = []
    for path in (url, "m.safetensors"):
        assert klcal("sketch", path, "-o", "sketch.safetensors").code == 0
        answers.append(Path("sketch.safetensors").read_bytes())
    assert answers[0] == answers[1]


def test_a_whole_checkpoint_is_applied(server):
    options = ("--dtype", "int4", "--per", "group:32", "--to", "compressed-tensors", "--include", "*")
    done = klcal("apply", server.url("shards/"), *options, "-o", "out")
    assert done.code == 0, done.err
    assert klcal("apply", "shards", *options, "-o", "here").code == 0
    names = sorted(path.name for path in Path("here").iterdir())
    assert names == sorted(path.name for path in Path("out").iterdir())
    assert all(Path("out", name).read_bytes() == Path("here", name).read_bytes() for name in names)


def test_several_workers_read_in_processes_of_their_own(server):
    ours = klcal_process("calibrate", server.url("m.safetensors"), "--jobs", "2")
    assert (ours.code, ours.err) == (0, "")
    assert ours.out == klcal("calibrate", "m.safetensors").out


def test_patterns_and_libraries(server, memory):
    assert klcal("inspect", f"{memory}d/**").out == klcal("inspect", "d/**").out
    assert klcal("inspect", server.url("d/*.npy")).out == klcal("inspect", "d/*.npy").out
    assert list(library.read(server.url("m.safetensors"))) == list(TENSORS)
    table = library.calibrate_files([server.url("m.safetensors")])
    assert [row.name for row in table.rows] == list(TENSORS)


def test_tables_and_importance_may_lie_elsewhere(server):
    klcal("calibrate", "m.safetensors", "--dtype", "int8", "-o", "t.json")
    server.files["t.json"] = Path("t.json").read_bytes()
    ours = klcal("compare", "m.safetensors", "--table", server.url("t.json"))
    assert ours == klcal("compare", "m.safetensors", "--table", "t.json")


def test_a_configuration_may_name_addresses(memory):
    Path("below").mkdir()
    Path("below/klcal.toml").write_text(f'[calibrate]\npaths = ["{memory}m.safetensors"]\n')
    ours = klcal("calibrate", "--config", "below/klcal.toml")
    assert (ours.code, ours.out) == (0, klcal("calibrate", "m.safetensors", "--no-config").out)


def test_a_file_is_read_with_at_most_a_hundredth_more_bytes_than_its_tensors_have(server):
    big = {f"w{n}": RNG.normal(size=(512, 512)).astype(np.float32) for n in range(4)}
    server.files["big.safetensors"] = safetensors.numpy.save(big)
    assert klcal("calibrate", server.url("big.safetensors"), "--jobs", "1").code == 0
    assert server.sent <= 1.01 * sum(each.nbytes for each in big.values())
    server.sent = 0
    assert klcal("calibrate", server.url("big.safetensors"), "--include", "w1", "--jobs", "1").code == 0
    assert server.sent <= 1.01 * big["w1"].nbytes


def test_a_request_fetches_no_more_than_is_read(server, monkeypatch):
    """Pieces of a tensor come together, up to its end."""
    monkeypatch.setattr(remote, "FETCHED", 1000)
    same("calibrate", "--jobs", "1", at=server.address, path="m.safetensors")
    assert server.sent <= 1.01 * len(MODEL)


def test_small_tensors_come_together_where_all_are_wanted_and_few_bytes_where_few_are(server):
    many = {f"w{n}": RNG.normal(size=64).astype(np.float32) for n in range(2000)}
    server.files["many.safetensors"] = data = safetensors.numpy.save(many)
    Path("many.safetensors").write_bytes(data)
    same("calibrate", "--jobs", "1", at=server.address, path="many.safetensors")
    assert len(server.asked) < 20
    assert server.sent < 1.01 * len(data)
    header, server.sent = 8 + int.from_bytes(data[:8], "little"), 0
    assert klcal("calibrate", server.url("many.safetensors"), "--include", "w*7", "--jobs", "1").code == 0
    assert server.sent < header + 600 + 2.1 * 200 * many["w7"].nbytes


# --- what servers do wrong

CASES = {
    "whole": "its server sends whole files only, no parts of them; download it, and give the file",
    "shorter": r"256 bytes came where 512 were asked for; check the network, then run again",
    "longer": "its server sent another part than was asked for; download it, and give the file",
    "elsewhere": "its server sent another part than was asked for; download it, and give the file",
    "cut": "the connection to its server failed (ClientPayloadError); check the network, then run again",
    "changing": "the file changed while it was read; wait until it is written, then run again",
    "404": "there is no such file; check its address",
    "403": "its server gives no permission to read it; check the credentials that its file system reads",
    "500": "its server answered with the status 500; check the network, then run again",
    "silent": "its server did not answer in time; check the network, then run again",
}


@pytest.mark.parametrize("fault", CASES)
def test_whatever_a_server_does_wrong_is_one_clear_line_and_nothing_is_written(server, fault, monkeypatch):
    monkeypatch.setattr(file_systems, "SILENCE", 0.2)
    file_systems._options.cache_clear()
    server.fault, server.after = fault, 1 if fault == "shorter" else 0
    Path("t.json").write_text("an old table")
    done = klcal("calibrate", f"{server.url('m.safetensors')}?{SECRET}", "-o", "t.json")
    file_systems._options.cache_clear()
    assert done.code == 3
    kept, said = done.messages
    assert said.startswith(f"klcal: error: m.safetensors: {CASES[fault]}")
    assert "t.json" in kept
    assert Path("t.json").read_text() == "an old table"
    assert not list(Path().glob(".klcal*"))


def test_a_server_that_is_not_there(server):
    url = server.url("m.safetensors").replace(server.address, "http://127.0.0.1:1")
    assert "the connection to its server failed (ClientConnectorError)" in one_message(klcal("calibrate", url))


def test_a_connection_that_fails_once_is_tried_again(server, monkeypatch):
    server.fault, server.after = "503", 5
    monkeypatch.setattr(file_systems.time, "sleep", lambda _seconds: setattr(server, "fault", ""))
    same("calibrate", "--jobs", "1", at=server.address, path="m.safetensors")


def test_a_slow_server_is_waited_for(server):
    server.fault = "slow"
    same("calibrate", at=server.address, path="m.safetensors")


@pytest.mark.parametrize("fault", ["shorter", "cut", "500", "changing", "grown"])
def test_a_tensor_that_cannot_be_read_costs_no_other(server, fault, monkeypatch):
    monkeypatch.setattr(remote, "AHEAD", 0)
    server.fault, server.after = fault, 6  # the file, its header and two tensors are fine
    done = klcal("calibrate", server.url("m.safetensors"), "--jobs", "1", "--format", "json")
    assert done.code == 4
    statuses = [each["status"] for each in done.tensors.values()]
    assert statuses == ["ok", "ok", "failed", "failed"]


@pytest.mark.parametrize("fault", ["shorter", "cut", "500", "changing", "grown"])
def test_a_model_that_cannot_be_read_to_its_end_is_not_applied(server, fault):
    command = "apply", server.url("m.safetensors"), "--to", "npz", "--jobs", "1", "-o", "q.npz"
    assert klcal(*command).code == 0
    Path("q.npz").unlink()
    server.fault, server.after = fault, len(server.asked) - 2
    server.asked.clear()
    done = klcal(*command)
    assert done.code == 4
    assert "nothing was written" in one_message(done)
    assert not Path("q.npz").exists()


def test_one_file_of_several_that_is_away_costs_no_other(server):
    done = klcal("calibrate", server.url("m.safetensors"), server.url("absent.npy"), "--format", "json")
    assert done.code == 4
    assert [each["source"] for each in done.document["errors"]] == ["absent.npy"]
    assert len(done.tensors) == 4


def test_an_empty_file_and_a_web_page(server):
    server.files |= {"empty.npy": b"", "page.npy": b"<!doctype html><p>log in"}
    assert "the file is empty" in one_message(klcal("calibrate", server.url("empty.npy")))
    assert "it is a web page" in one_message(klcal("calibrate", server.url("page.npy")))


def test_a_file_that_changes_elsewhere_is_found_out(memory, monkeypatch):
    """Where no answer says which file it is a part of, it is looked at again."""
    monkeypatch.setattr(file_systems, "LOOKED_AT", 100)
    monkeypatch.setattr(remote, "AHEAD", 0)
    system, read = fsspec.filesystem("memory"), file_systems.Stored.fetch

    def and_then(self, start, end):
        found = read(self, start, end)
        if end - start > 10_000:
            system.pipe("/m.safetensors", MODEL)  # at another time
        return found

    monkeypatch.setattr(file_systems.Stored, "fetch", and_then)
    done = klcal("calibrate", f"{memory}m.safetensors", "--jobs", "1")
    assert done.code == 3
    assert "the file changed while it was read" in done.out


def test_nothing_is_held_of_a_file_that_has_changed(server):
    server.files["f"] = bytes(range(200))
    file = remote.Remote(server.url("f"))
    state = file.state()
    file.expect(state)
    assert file.read(0, 50) + file.read(50, 10) == bytes(range(60))
    again = remote.Remote(server.url("f"))
    again.expect(state)
    asked = len(server.asked)
    assert again.read(60, 40) == bytes(range(60, 100))
    assert len(server.asked) == asked, "it was fetched ahead"
    server.files["f"] = bytes(201)
    for _ in range(2):
        later = remote.Remote(server.url("f"))
        later.expect(state)
        with pytest.raises(library.InputError, match="the file changed while it was read"):
            later.read(100, 60)


# --- secrets and traps


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "URL"),
        ("calibrate", "URL", "--format", "json"),
        ("calibrate", "absentURL"),
        ("calibrate", "absentURL", "--format", "json"),
        ("inspect", "URL"),
        ("compare", "URL", "absentURL"),
        ("compare", "URL", "--table", "absentURL"),
        ("calibrate", "URL", "--importance", "absentURL"),
        ("apply", "absentURL", "--to", "npz", "-o", "q.npz"),
        ("apply", "URL", "--to", "npz", "-o", "URL"),
        ("apply", "URL", "--to", "onnx", "-o", "q.onnx"),
        ("calibrate", "URL", "-o", "URL"),
        ("export", "absentURL", "--to", "ort"),
        ("merge", "URL", "-o", "m.safetensors"),
        ("sketch", "URL", "-o", "URL"),
    ],
    ids=str,
)
def test_no_message_and_no_answer_has_what_is_secret(server, arguments):
    place = server.address.replace("http://", "http://me:pass4a5b6c@")
    urls = {"URL": f"{place}/m.safetensors?{SECRET}", "absentURL": f"{place}/absent.npz?{SECRET}#4a5b6c"}
    done = klcal(*(urls.get(each, each) for each in arguments))
    assert "4a5b6c" not in done.out + done.err
    for path in Path().glob("*.*"):
        assert b"4a5b6c" not in path.read_bytes()


def test_the_query_is_sent(server):
    assert klcal("calibrate", f"{server.url('m.safetensors')}?{SECRET}").code == 0
    assert all(path.endswith(SECRET) for _, path, _ in server.asked)


@pytest.mark.parametrize(
    "shard",
    ["../m.safetensors", "/m.safetensors", "..%2fm.safetensors", "%2e%2e", "x?y", "x#y", "http://elsewhere/x.npy"],
)
def test_an_index_cannot_point_outside_its_own_directory(server, shard):
    server.files["shards/model.safetensors.index.json"] = index({"a": shard})
    done = klcal("calibrate", server.url("shards/model.safetensors.index.json"), "--format", "json")
    assert done.code == 3
    assert all(each["status"] == "failed" for each in done.tensors.values())
    assert not [path for _, path, _ in server.asked if "index.json" not in path]


def test_a_listing_cannot_point_outside_its_own_directory(server):
    done = klcal("inspect", server.url("d/"), "--format", "json")
    assert {each["source"] for each in done.tensors.values()} == {"one.npy", "below/two.npz"}
    assert all(path.startswith("/d/") for _, path, _ in server.asked)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("file:///etc/passwd", "such addresses are not read"),
        ("memory://a::https://host/x.npy", "such addresses are not read"),
        ("zip://a.npy::https://host/x.zip", "such addresses are not read"),
        ("nothing://a.npy", "nothing:// is no scheme that fsspec knows"),
    ],
)
def test_addresses_that_are_not_read(address, said):
    assert said in one_message(klcal("calibrate", address))


def test_nothing_is_written_elsewhere(memory):
    done = klcal("calibrate", "m.safetensors", "-o", f"{memory}t.json")
    assert done.code == 2
    assert "what is written lies on this machine" in one_message(done)


# --- fsspec


def test_fsspec_is_imported_only_for_an_address():
    program = (
        "import sys; from klcal.cli.main import run; run(['calibrate', 'm.safetensors', '-o', 't.json'])\n"
        "assert not {'fsspec', 'aiohttp', 'asyncio'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=environment())


def test_without_fsspec_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    said = one_message(klcal("calibrate", "s3://bucket/m.npz"))
    assert said == "klcal: error: m.npz: s3:// needs the package fsspec; pip install 'klcal[remote]'"


@pytest.mark.skipif("s3fs" in sys.modules, reason="s3fs is installed")
def test_a_scheme_that_needs_another_package_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    said = one_message(klcal("calibrate", "s3://bucket/m.npz"))
    assert said == "klcal: error: m.npz: s3:// needs another package; pip install 's3fs'"


def test_a_server_records_what_it_is_asked():
    """The broken twin of the server: it sends what it should."""
    with serving({"a": b"0123456789"}) as found:
        assert isinstance(found, Server)
        assert remote.Remote(found.url("a")).read(2, 3) == b"234"
        assert [where for *_, where in found.asked] == ["bytes=2-4"]
