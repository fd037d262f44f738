"""Formats for CI: what their readers make of them, whatever tensors are called."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from junitparser import JUnitXml

from klcal.tables.diff import diff
from klcal.tables.findings import Finding
from klcal.tables.table import Table
from klcal.writers import REPORTS, WRITERS
from klcal.writers.text import escape
from tests.support.tables import CONFIG, NASTY, TABLE, lost, named, ok

FAILING = [*((row.source, row.name) for row in TABLE.rows if row.failed), *((e.source, "") for e in TABLE.errors)]


def found(name: str, rule: str = "sqnr_db < 50%,:", source: str = "model.pt") -> Finding:
    return Finding(source=source, name=name, rule=rule, text=f"100 % of <b>{name}</b>", now=41.0)


GATED = replace(TABLE, findings=tuple(map(found, NASTY)))


def written(name: str, table: Table = GATED) -> str:
    out = io.StringIO()
    WRITERS[name](table, out)
    return out.getvalue()


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_no_report_holds_what_acts_on_a_terminal_and_runs_agree(name):
    text = written(name)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text == written(name)


# --- GitHub


COMMAND = re.compile(r"::error file=([^,:\r\n]*),title=([^,:\r\n]*)::([^\r\n]*)")


def unescaped(text: str) -> str:
    """As the runner does it: the percent sign last."""
    for code, char in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, char)
    return text


def test_each_line_is_one_command_and_gives_back_what_was_said():
    _, *lines = written("github").splitlines()
    assert len(lines) == len(NASTY) + len(FAILING)
    for line, name in zip(lines, NASTY, strict=False):
        match = COMMAND.fullmatch(line)
        assert match, line
        assert unescaped(match[1]) == "model.pt"
        assert unescaped(match[2]) == "klcal: sqnr_db < 50%,:"
        parts = ("model.pt", name, f"100 % of <b>{name}</b>")
        assert unescaped(match[3]) == escape(": ".join(part for part in parts if part))


@pytest.mark.parametrize(
    "line", ["::error file=a:b,title=x::y", "::error file=a,title=x,y::z", "::error file=a,title=x::y\nz"]
)
def test_the_pattern_of_commands_takes_none_that_is_not_escaped(line):
    assert not COMMAND.fullmatch(line)


def test_a_name_that_looks_like_a_command_does_not_act():
    _, line = written("github", replace(named("w"), findings=(found("x\n::error::y"),))).splitlines()
    assert line.startswith("::error file=model.pt,title=")


def test_where_nothing_is_found_there_is_a_notice_alone():
    assert written("github", named("w")).startswith("::notice title=klcal::model.pt · kl:bins=2048,weight=4 · ")
    assert written("github", named("w")).count("\n") == 1


# --- JUnit


def test_its_reader_counts_what_we_count():
    xml = JUnitXml.fromstring(written("junit").encode())
    (suite,) = xml
    cases = list(suite)
    assert (xml.tests, xml.failures, xml.errors) == (suite.tests, suite.failures, suite.errors)
    assert (suite.tests, len(cases)) == (len(TABLE.rows) + len(TABLE.errors),) * 2
    assert suite.failures == sum(case.is_failure for case in cases) == len(NASTY)
    assert suite.errors == sum(case.is_error for case in cases) == len(FAILING)
    assert suite.skipped == sum(case.is_skipped for case in cases) == 1


def test_each_tensor_is_a_case_with_its_name():
    cases = ET.fromstring(written("junit")).findall("testsuite/testcase")
    told = {case.get("name"): case for case in cases}
    for name in NASTY:
        failure = told[escape(name) or "model.pt"].find("failure")
        assert failure is not None
        assert failure.get("message") == failure.text == escape(f"100 % of <b>{name}</b>")
        assert failure.get("type") == "sqnr_db < 50%,:"


def test_xml_is_ascii_and_several_findings_of_a_tensor_are_one_failure():
    table = replace(named("größe"), findings=(found("größe", "a"), found("größe", "b")))
    text = written("junit", table)
    assert text.isascii()
    (case,) = ET.fromstring(text).findall("testsuite/testcase")
    (failure,) = case
    assert (failure.get("type"), len((failure.text or "").split("\n"))) == ("a", 2)


# --- SARIF


def problems(document: Any) -> list[str]:
    """What of SARIF 2.1.0's required fields and of what code scanning asks for is not as it should be."""
    found = [] if document.get("version") == "2.1.0" else ["version"]
    found += [] if str(document.get("$schema")).endswith("/sarif-schema-2.1.0.json") else ["$schema"]
    for run in document.get("runs", ({},)):
        driver = run.get("tool", {}).get("driver", {})
        found += [] if driver.get("name") else ["tool.driver.name"]
        rules = [rule.get("id") for rule in driver.get("rules", ())]
        for result in run.get("results", ({},)):
            found += [] if isinstance(result.get("message", {}).get("text"), str) else ["message.text"]
            index = result.get("ruleIndex", -1)
            right = 0 <= index < len(rules) and rules[index] == result.get("ruleId")
            found += [] if right else ["ruleId"]
            found += [] if result.get("level") in ("none", "note", "warning", "error") else ["level"]
            for where in result.get("locations", ({},)):
                physical = where.get("physicalLocation", {})
                uri = physical.get("artifactLocation", {}).get("uri", "")
                found += [] if re.fullmatch(r"(?:[A-Za-z0-9_.~/-]|%[0-9A-F]{2})+", uri) else ["uri"]
                found += [] if physical.get("region", {}).get("startLine", 0) >= 1 else ["startLine"]
    return found


RESULT = ("runs", 0, "results", 0)
PHYSICAL = (*RESULT, "locations", 0, "physicalLocation")


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("version",), "2.0.0", "version"),
        (("$schema",), None, "$schema"),
        (("runs", 0, "tool", "driver", "name"), "", "tool.driver.name"),
        ((*RESULT, "message", "text"), None, "message.text"),
        ((*RESULT, "ruleId"), "another", "ruleId"),
        ((*RESULT, "ruleIndex"), 99, "ruleId"),
        ((*RESULT, "level"), "fatal", "level"),
        ((*PHYSICAL, "artifactLocation", "uri"), "a b:c", "uri"),
        ((*PHYSICAL, "region", "startLine"), 0, "startLine"),
    ],
)
def test_a_document_that_is_no_sarif_is_noticed(path, value, problem):
    document = json.loads(written("sarif"))
    assert problems(document) == []
    *folders, last = path
    inner = document
    for each in folders:
        inner = inner[each]
    inner[last] = value
    assert problems(document) == [problem]


@pytest.mark.parametrize("table", [GATED, named("w"), Table(CONFIG)], ids=["found", "passed", "empty"])
def test_a_report_is_sarif_whatever_is_found(table):
    assert problems(json.loads(written("sarif", table))) == []


def test_a_sarif_report_has_all_that_code_scanning_needs():
    document = json.loads(written("sarif"))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules)) == 2
    assert len(run["results"]) == len(NASTY) + len(FAILING)
    prints = [result["partialFingerprints"]["klcal/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["message"]["text"]
    first = run["results"][0]
    assert first["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == NASTY[0]
    assert first["properties"] == {"source": "model.pt", "was": None, "is": 41.0, "unit": None, "units": None}
    assert written("sarif").isascii()


def test_a_file_s_name_is_no_scheme():
    table = replace(named("w"), findings=(found("w", source="http://x/y z%"),))
    (result,) = json.loads(written("sarif", table))["runs"][0]["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert ":" not in uri
    assert unquote(uri) == "http://x/y z%"


# --- Markdown


def test_findings_come_first_and_no_name_acts():
    text = written("md")
    head, table = text.split("\n\n")[:2]
    assert head.startswith("`")
    rows = table.splitlines()[2:]
    assert len(rows) == len(NASTY)
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 6, "five cells, whatever is in them"


def test_a_comment_has_no_more_findings_than_it_can_hold():
    many = replace(named("w"), findings=tuple(found(f"w{number}") for number in range(150)))
    assert written("md", many).count("| `w") == 100 + 1  # and the table's own row
    assert "… and 50 more" in written("md", many)


# --- changes


def test_changes_are_shown_at_the_baseline_and_what_passed_is_a_case():
    changes = diff(
        Table.of(CONFIG, [ok("a"), ok("b"), ok("c")]),
        Table.of(CONFIG, [ok("a"), ok("b", scale=0.5), lost("c", "nonfinite")]),
        "base.json",
        "model.pt",
    )
    changes = replace(changes, findings=(found("b"),))
    assert [COMMAND.fullmatch(line)[1] for line in written("github", changes).splitlines()[1:]] == ["base.json"] * 2
    xml = JUnitXml.fromstring(written("junit", changes).encode())
    assert (xml.tests, xml.failures, xml.errors) == (3, 1, 1)
