"""The corpus, through the real command: everything but what takes long, which ``make torture`` adds."""

import json
import re
import subprocess

import pytest

from tests.corpus import cases as corpus
from tests.support.command import COMMAND, environment
from tests.support.files import unzipped
from tests.support.pickles import gadgets, runs

LIMIT = 120  # seconds for all files together; a tenth of it where the machine is not busy
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files, the cases, and the document and messages of one run over all of them."""
    folder, canaries = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("canaries")
    cases = corpus.write(folder, canaries)
    command = [*COMMAND, "calibrate", str(folder), "--format", "json"]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, env=environment(), cwd=canaries)
    return folder, canaries, cases, done


def test_every_file_is_read_or_refused_as_it_has_to_be(made):
    _, _, cases, done = made
    document = json.loads(done.stdout)
    wrong = {
        f"{case['kind']}: {case['name']}": problems
        for case in cases
        if (problems := list(corpus.judged(case, *corpus.of_case(case["folder"], document))))
    }
    assert wrong == {}
    assert done.returncode == 4


def test_nothing_of_a_file_ran(made):
    _, canaries, _, _ = made
    assert list(canaries.iterdir()) == []


def test_nothing_raw_reaches_stdout_or_stderr(made):
    _, _, _, done = made
    out, err = done.stdout.decode("ascii"), done.stderr.decode()
    assert not CONTROL.search(out)
    assert all(line.startswith("klcal: ") and len(line) <= 300 and line.isprintable() for line in err.splitlines())
    assert "Traceback" not in err


def test_there_are_cases_of_every_kind_and_no_two_have_one_name(made):
    _, _, cases, _ = made
    kinds = {case["kind"] for case in cases}
    assert kinds == {"hostile", "damaged", "values"}
    assert len({case["name"] for case in cases}) == len(cases) > 1000
    assert sum(case["code"] == 0 for case in cases) > 200
    assert sum(case["code"] == 3 for case in cases) > 800


# --- the checks can fail


@pytest.mark.parametrize("kind", gadgets("", b""))
def test_the_canaries_can_sing(made, kind):
    """Python's own unpickler lets the command in the very file run."""
    folder, canaries, cases, _ = made
    (case,) = [case for case in cases if case["name"] == f"code by {kind} in a zip"]
    canary = canaries / f"{kind}-zip".replace(" ", "_")
    assert runs(unzipped((folder / case["folder"] / "x.pt").read_bytes())["a/data.pkl"], canary)
    canary.unlink()


def test_a_wrong_answer_is_noticed(made):
    _, _, cases, done = made
    document = json.loads(done.stdout)

    def kinds(case, rows=None, errors=None):
        found = corpus.of_case(case["folder"], document)
        judged = corpus.judged(case, found[0] if rows is None else rows, found[1] if errors is None else errors)
        return {kind for kind, _ in judged}

    good = next(case for case in cases if case["name"] == "a sound x.npy")
    bad = next(case for case in cases if case["name"] == "an extension code in a zip")
    (row,) = corpus.of_case(good["folder"], document)[0].values()
    assert kinds(good) == kinds(bad) == set()
    assert kinds(good, rows={}) == {"lost results", "wrong accepts"}
    assert kinds(good, rows={"x": {**row, "max": 99.0}}) == {"wrong accepts"}
    assert kinds(good, rows={"x": {**row, "scale": 0.0}}) == {"wrong accepts"}
    assert kinds(good, errors=["damaged; save it again"]) == {"wrong refusals"}
    assert kinds(bad, errors=["EXT1"]) == {"wrong refusals"}
    assert kinds(good, rows={"x": {**row, "status": "failed", "reason": "bug in klcal; tell"}}) > {"tracebacks"}
    assert kinds(bad, errors=[]) == {"wrong accepts"}
    assert kinds(bad, errors=["EXT1 \x1b; save it"]) == {"raw escapes"}
    assert kinds({**bad, "error": "EXT2"}) == {"wrong refusals"}
