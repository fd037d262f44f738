"""What klcal writes is what its JSON Schemas say, and they notice what is not."""

import copy
import json
import struct
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import safetensors.numpy

from klcal.tables import meanings
from klcal.tables.changes import Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.json_schema import SCHEMAS
from klcal.tables.rows import Row
from klcal.tables.table import Changes, Comparison, Config, Contents
from klcal.tables.units import Units
from tests.support.command import klcal, normal, one_message

SCHEMA_NAMES = [line.split("\t")[0] for line in klcal("schema").out.splitlines()]


def strict(schema: Any) -> Any:
    """The same, without fields that it does not know: those of a later version are none of this one's."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    return {**found, "additionalProperties": False} if "properties" in found else found


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = klcal("schema", name).document
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(strict(schema))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Real answers by the names of their schemas: several of each, with all that may be in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("outputs"))
        weights = {"w": normal(9000).reshape(90, 100), "b": normal(90), "z": np.zeros(9, np.float32)}
        safetensors.numpy.save_file({**weights, "i": np.arange(4)}, "m.safetensors")
        safetensors.numpy.save_file({**weights, "w": 2 * weights["w"], "new": normal(4)}, "n.safetensors")
        np.save("nan.npy", np.float32([1, np.nan, np.inf]))
        Path("broken.npy").write_text("no array")
        inputs = ["m.safetensors", "nan.npy", "broken.npy"]
        for table, options in (("t", ["--dtype", "int8"]), ("u", ["--dtype", "float8_e4m3fn", "--per", "channel"])):
            klcal("calibrate", *inputs, *options, "-o", f"{table}.json")
            klcal("calibrate", "n.safetensors", *options, "-o", f"{table}2.json")
        klcal("sketch", "m.safetensors", "-o", "s.safetensors")
        klcal("sketch", "m.safetensors", "--per", "block:2,2", "-o", "b.safetensors")
        klcal(
            "sketch", "m.safetensors", "--per", "channel:1", "--include", "w", "--pool", "name", "-o", "g.safetensors"
        )
        importance = {"w": np.arange(1, 101, dtype=np.float32)}
        safetensors.numpy.save_file(importance, "e.safetensors")
        klcal("sketch", "m.safetensors", "--importance", "e.safetensors", "-o", "e2.safetensors")
        runs = {
            "table": [
                ["calibrate", *inputs],
                ["calibrate", *inputs, "--dtype", "int4", "--per", "group:50", "--importance", "e.safetensors"],
                ["calibrate", *inputs, "--per", "block:2,2", "--dtype", "float4_e2m1fn"],
                ["calibrate", *inputs, "--per", "channel", "--units", "--top", "3"],
                ["calibrate", *inputs, "--dtype", "float4_e2m1fn", "--per", "group:50", "--scale-format",
                 "float8_e4m3fn"],
            ],
            "comparison": [
                ["compare", "m.safetensors", "n.safetensors", "--fail-on", "kl > 0"],
                ["compare", "m.safetensors", "--table", "t.json"],
            ],
            "changes": [
                ["diff", "t.json", "t2.json"],
                ["diff", "u.json", "u2.json", "--fail-on", "d.unit.sqnr_db < 1"],
                ["diff", "t.json", "u.json"],
                ["check", *inputs, "--baseline", "t.json", "--fail-on", "scale > 0"],
            ],
            "explanation": [
                ["explain", "m.safetensors", "w"],
                ["explain", "m.safetensors", "w", "--dtype", "int16", "--method", "minmax"],
                ["explain", "m.safetensors", "w", "--dtype", "float4_e2m1fn", "--per", "channel"],
                ["explain", "m.safetensors", "w", "--dtype", "int4", "--per", "channel", "--unit", "3"],
                ["explain", "m.safetensors", "z"],
                ["explain", "m.safetensors", "i"],
            ],
            "contents": [["inspect", *inputs], ["inspect", *inputs, "--stats"], ["inspect", *inputs, "--depth", "1"]],
        }  # fmt: skip
        found = {name: [klcal(*run, "--format", "json").document for run in some] for name, some in runs.items()}
        for name, some in runs.items():
            if name == "explanation":
                continue
            lines = [klcal(*run, "--format", "jsonl").out.splitlines() for run in some]
            found[f"{name}-line"] = [json.loads(line) for each in lines for line in each]
        Path("klcal.toml").write_text('dtype = ["a=int4", "int8"]\njobs = 1\n[tensors."*.b"]\nskip = true\n')
        found["options"] = [klcal("config", "--format", "json").document]
        found["sketch"] = [
            metadata(name) for name in ("s.safetensors", "b.safetensors", "g.safetensors", "e2.safetensors")
        ]
        import tomllib

        found["configuration"] = [tomllib.loads(Path("klcal.toml").read_text())]
        return found


def metadata(path: str) -> dict[str, Any]:
    data = Path(path).read_bytes()
    found = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    return {**found, "sketches": json.loads(found["sketches"])}


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_written_json_conforms_to_the_schema(outputs, name):
    check = validator(name)
    assert outputs[name]
    for document in outputs[name]:
        check.validate(document)


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_a_schema_notices_what_is_wrong(outputs, name):
    """Broken twins: without a field, with one more, with a value of another kind, at every place of every answer."""
    check = validator(name)
    tried = 0
    for document in outputs[name][:4]:
        for twin in twins(document, optional=name == "configuration"):
            assert not check.is_valid(twin)
            tried += 1
    assert tried >= 4


def twins(document: Any, *, optional: bool, depth: int = 3):
    """Documents that differ from a right one in one place. Maps whose keys are anybody's are left alone."""
    for key in list(document):
        if not optional and key not in ("was", "is"):
            yield {name: each for name, each in document.items() if name != key}
        yield {**document, key: object_in_place(document[key])}
        value = document[key]
        if isinstance(value, dict) and depth and key not in ("was", "is", "tensors"):
            yield from ({**document, key: twin} for twin in twins(value, optional=optional, depth=depth - 1))
        if isinstance(value, list) and value and isinstance(value[0], dict) and depth:
            for twin in twins(value[0], optional=optional, depth=depth - 1):
                yield {**document, key: [twin, *value[1:]]}
    yield {**document, "unheard_of": 1}


def object_in_place(value: Any) -> Any:
    """What is never right: no field is a list of lists of objects."""
    return [[{}]] if not isinstance(value, list) else {"a": value}


def test_a_later_version_may_have_more_fields(outputs):
    document = copy.deepcopy(outputs["table"][0])
    document["tensors"][0]["new"] = document["new"] = 1
    jsonschema.validate(document, klcal("schema", "table").document)


# --- one source


def test_every_field_has_a_meaning_and_every_meaning_a_field():
    classes = {each.__name__: each for each in (Row, Units, Config, Difference, Comparison, Changes, Content, Contents)}
    for name, owner in classes.items():
        known = {field.name for field in fields(owner)}
        assert {each for each in known if not meanings.meaning(name, each)} == set()
        assert set(meanings.MEANINGS[name]) <= known, name
    used = {field.name for owner in classes.values() for field in fields(owner)}
    assert set(meanings.COMMON) <= used
    assert {"was", "now"} <= {field.name for field in fields(Change)}


def test_every_meaning_is_a_short_sentence():
    for table in (meanings.COMMON, *meanings.MEANINGS.values()):
        for text in table.values():
            assert text.endswith("."), text
            assert len(text) <= 200, text


def test_the_list_names_what_there_is():
    assert ["configuration", *SCHEMAS] == SCHEMA_NAMES
    told = "klcal: error: there is no schema 'tabel'; use one of configuration, table, table-line"
    assert one_message(klcal("schema", "tabel")).startswith(told)
