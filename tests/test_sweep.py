"""Runs over seeds, as make starts them, and the report on them."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import matplotlib.image
import pytest

import claims
import report
from conftest import ROOT, SHARE, STEPS, a_run, assert_one_line, environment, run


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory):
    """A sweep of two seeds, its figures made up, with files in it that are no runs."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (1, 2):
        for name, variant in claims.VARIANTS.items():
            target = folder / f"seed{seed}" / ("" if name in STEPS else name)
            target.mkdir(parents=True, exist_ok=True)
            options = dict(zip((o.lstrip("-") for o in variant.options[::2]), map(float, variant.options[1::2])))
            some = a_run(variant.step, seed, test=[97.0, 98.5, 99.0, 99.1 + seed / 50, 99.2 + seed / 100],
                         network=variant.net.__name__ if variant.net else "Net",
                         mistakes=[[7, 3, 5], [100 + seed, 7, 1]], **options)
            (target / f"{variant.step}.json").write_text(json.dumps(some))
    good = (folder / "seed1" / "step1_basic.json").read_text()
    (folder / "seed3").mkdir()
    (folder / "seed3" / "step1_basic.json").write_text(good[:-40])
    (folder / "seed3" / "step2_dropout.json").write_bytes(b"\xff\0 damaged")
    (folder / "seed3" / "step3_gap.json").write_text('{"name": "somebody else\'s"}')
    return folder


@pytest.fixture(scope="module")
def reported(sweep_folder):
    process = run(sys.executable, ROOT / "report.py", "--out-dir", sweep_folder)
    return process, sweep_folder


def test_the_report_names_what_is_no_run_and_reports_the_rest(reported):
    process, folder = reported
    assert process.returncode == 1
    named = [re.search(r"seed3/(\w+)\.json is no finished run", line)[1] for line in process.stderr.splitlines()]
    assert named == ["step1_basic", "step2_dropout", "step3_gap"]
    text = (folder / "report.md").read_text()
    assert "28 runs of 5 epochs, seeds 1 to 2" in text and "torch 2." in text
    for step in STEPS:
        assert re.search(rf"^\| {step} .*\| +99\.22 ± 0\.01 \(99\.21 to 99\.22\) \|", text, re.MULTILINE)
    for claim in claims.CLAIMS:
        assert claim.sentence in text
    assert "S5's best test accuracy of step4_aug_lr, 99.46, lies above ours, 99.21 to 99.22" in text
    assert re.search(r"^\| +7 \| +3 \| +2 of 2 seeds \| +5 \(2\) \|", text, re.MULTILINE)
    assert re.search(r"^\| +101 \| +7 \| +1 of 2 seeds \| +1 \(1\) \|", text, re.MULTILINE)
    assert "3 of the 10,000 test images are wrong in at least one of 2 runs" in text
    assert "make -j2 claims" in text


def test_the_pictures_of_the_report(reported):
    _, folder = reported
    names = re.findall(r"!\[.+\]\((\w+\.png)\)", (folder / "report.md").read_text())
    assert names == ["report_ladder.png", "report_epochs.png", "report_confusion.png"]
    for name in names:
        pixels = matplotlib.image.imread(folder / name)[..., :3]
        assert (pixels < 0.5).any(axis=2).mean() > 0.002


def test_the_report_is_the_same_each_time_it_is_built(reported, tmp_path):
    _, folder = reported
    again = shutil.copytree(folder, tmp_path / "again")
    for path in again.glob("report*"):
        path.unlink()
    run(sys.executable, ROOT / "report.py", "--out-dir", again)
    assert (again / "report.md").read_bytes() == (folder / "report.md").read_bytes()


def test_the_page_in_a_browser(reported, tmp_path):
    browser = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if not browser:
        pytest.skip("no Chromium on this machine")
    page = tmp_path / "elsewhere" / "report.html"  # away from the pictures: it must need no other file
    page.parent.mkdir()
    html = (reported[1] / "report.html").read_text()
    # The page is asked, when all is loaded, what became of its pictures, and what it loaded besides itself.
    probe = """<script>onload = () => { document.body.setAttribute("data-found", JSON.stringify({
      pictures: [...document.images].map(i => i.complete && i.naturalWidth), tables: document.querySelectorAll("table").length,
      requests: performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:")) })) }</script>"""
    # Without the policy that would forbid the page to load anything, so that an attempt would show.
    free = re.sub(r'<meta http-equiv="Content-Security-Policy".+?>', "", html)
    assert free != html
    page.write_text(free.replace("</html>", probe + "</html>"))
    process = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120)
    found = re.search(r'data-found="(.+?)"', process.stdout)
    assert found, process.stderr
    found = json.loads(found[1].replace("&quot;", '"'))
    assert len(found["pictures"]) == 3 and all(width > 300 for width in found["pictures"])
    assert found["tables"] == 3 and found["requests"] == []
    assert not re.search(r'(src|href)=(?!"data:)', free)


def test_nothing_to_report(tmp_path):
    assert_one_line(run(sys.executable, ROOT / "report.py", "--out-dir", tmp_path), "no finished run", tmp_path)


def test_one_seed_and_missing_steps(tmp_path):
    (tmp_path / "seed4").mkdir()
    (tmp_path / "seed4" / "step2_dropout.json").write_text(json.dumps(a_run("step2_dropout", 4)))
    process = run(sys.executable, ROOT / "report.py", "--out-dir", tmp_path)
    assert process.returncode == 0 and process.stderr == ""
    text = (tmp_path / "report.md").read_text()
    assert "| step2_dropout " in text and "| step1_basic " not in text and "cannot be told" in text


# ----------------------------------------------------------------------- sweep


@pytest.fixture
def tree(tmp_path):
    return shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(
        ".git", ".venv", "data", "results", "__pycache__", ".pytest_cache"))


def written(tree):
    """When each run of the sweep wrote its JSON file."""
    return {str(path.relative_to(tree / "results").with_suffix("")): path.stat().st_mtime_ns
            for path in (tree / "results").glob("seed*/*.json")}


def test_a_sweep_stopped_and_started_again_redoes_only_what_was_unfinished(tree, data_dir):
    words = ["make", "-j2", "sweep", "SEEDS=5 6", "ARGS=--dry-run", "EPOCHS=5", f"PYTHON={sys.executable}",
             f"DATA_DIR={data_dir}"]
    process = subprocess.Popen(words, cwd=tree, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    for line in process.stdout:
        if line.startswith("2 of 10 runs done"):  # both of the first pair
            break
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    first = written(tree)
    assert 2 <= len(first) < 10

    again = run(*words, cwd=tree, OMP_NUM_THREADS="")
    assert again.returncode == 0, again.stderr
    assert f"{len(first)} of 10 runs done\n" in again.stdout and "10 of 10 runs done, about 0 min left" in again.stdout
    second = written(tree)
    assert sorted(second) == sorted(f"seed{seed}/{step}" for seed in (5, 6) for step in STEPS)
    assert {name: second[name] for name in first} == first
    assert f", {SHARE} CPU thread" in (tree / "results" / "seed6" / "step4_aug_lr.log").read_text()

    # A changed recipe is not mistaken for a finished run, a changed comment is none.
    script = tree / "step3_gap.py"
    script.write_text(script.read_text().replace("momentum=0.9", "momentum=0.8"))
    other = tree / "step2_dropout.py"
    other.write_text(other.read_text() + "# a thought\n")
    third = run(*words, cwd=tree)
    assert third.returncode == 0 and "8 of 10 runs done\n" in third.stdout, third.stderr
    assert {name for name, when in written(tree).items() if when != second[name]} == {"seed5/step3_gap", "seed6/step3_gap"}


def test_the_commands_are_independent_and_complete(tmp_path):
    process = run(sys.executable, "sweep.py", "--seeds", "1 2 3", "--claims", "--out-dir", tmp_path / "a b",
                  "--", "--epochs", 7)
    assert process.returncode == 0, process.stderr
    commands = process.stdout.splitlines()
    assert len(commands) == len(set(commands)) == 42
    assert all("--epochs 7" in line and f"'{tmp_path}/a b/seed" in line for line in commands)
    assert sum("step4_aug_lr.py --rotation 0 --seed 2" in line for line in commands) == 1
    assert sum("claims.py step2_without_batch_norm --seed 3" in line for line in commands) == 1
    assert not (tmp_path / "a b").exists()


def test_a_run_of_other_epochs_or_options_is_not_finished(tmp_path):
    (tmp_path / "seed1").mkdir()
    some = a_run("step4_aug_lr", 1)
    some["recipe"] = claims.VARIANTS["step4_aug_lr"].recipe()
    (tmp_path / "seed1" / "step4_aug_lr.json").write_text(json.dumps(some))
    for more, unfinished in (((), False), (("--epochs", 16), True), (("--batch-size", 64), True), (("--dry-run",), True)):
        process = run(sys.executable, "sweep.py", "--seeds", 1, "--out-dir", tmp_path, "--", *more)
        assert process.returncode == 0, process.stderr
        assert ("step4_aug_lr.py" in process.stdout) == unfinished, more


@pytest.mark.parametrize("program", ["sweep.py", "claims.py", "report.py", "summary.py"])
def test_an_unknown_option_is_one_line(program):
    assert_one_line(run(sys.executable, program, "--no-such-thing"), f"{program}: error:", "--no-such-thing")


def test_a_sweep_into_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("precious")
    assert_one_line(run(sys.executable, "sweep.py", "--seeds", 1, "--out-dir", tmp_path / "file",
                        "--make", tmp_path / "file" / "sweep.mk"), "sweep.py: error:", tmp_path / "file")


@pytest.mark.parametrize("seeds", ["", "one", "1,2"])
def test_seeds_that_are_none(seeds):
    assert_one_line(run(sys.executable, "sweep.py", "--seeds", seeds), "--seeds", repr(seeds))


def test_markdown_and_page_say_the_same():
    blocks = [("heading", "A"), ("text", "1 < 2 & so on"), ("table", [["x", "y"], ["1", "**no**"]]), ("fixed", "a\nb")]
    assert "| 1 | **no** |" in re.sub(r" +", " ", report.as_markdown(blocks))
    page = report.as_html(blocks, None)
    assert "<td class=n>1</td><td><b>no</b></td>" in page and "1 &lt; 2 &amp; so on" in page and "<pre>a\nb</pre>" in page
