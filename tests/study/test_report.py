"""The report on the runs of a sweep."""
import json
import re
import shutil
import sys

import matplotlib.image
import pytest
from conftest import a_run, assert_one_line, in_chromium, run

from study import report
from study.claims import CLAIMS
from study.variants import STEPS, VARIANTS, folder_of


def build(folder):
    return run(sys.executable, "-m", "study.report", "--out-dir", folder)


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory):
    """A sweep of two seeds, its figures made up, with files in it that are no runs."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (1, 2):
        for name, variant in VARIANTS.items():
            target = folder_of(name, seed, folder)
            target.mkdir(parents=True, exist_ok=True)
            names, values = variant.options[::2], variant.options[1::2]
            options = {name.lstrip("-"): float(value) for name, value in zip(names, values, strict=True)}
            some = a_run(variant.step, seed, test=[97.0, 98.5, 99.0, 99.1 + seed / 50, 99.2 + seed / 100],
                         network=variant.net.__name__ if variant.net else "Net",
                         mistakes=[[7, 3, 5], [100 + seed, 7, 1], [947, 8, 9]], **options)
            (target / f"{variant.step}.json").write_text(json.dumps(some))
    good = (folder / "seed1" / "step1_basic.json").read_text()
    (folder / "seed3").mkdir()
    (folder / "seed3" / "step1_basic.json").write_text(good[:-40])
    (folder / "seed3" / "step2_dropout.json").write_bytes(b"\xff\0 damaged")
    (folder / "seed3" / "step3_gap.json").write_text('{"name": "somebody else\'s"}')
    return folder


@pytest.fixture(scope="module")
def reported(sweep_folder):
    return build(sweep_folder), sweep_folder


def test_the_report_names_what_is_no_run_and_reports_the_rest(reported):
    process, folder = reported
    assert process.returncode == 1
    named = [re.match(r"study.report: left out: .*/seed3/(\w+)\.json: it is no finished run", line)[1]
             for line in process.stderr.splitlines()]
    assert named == ["step1_basic", "step2_dropout", "step3_gap"]
    text = (folder / "report.md").read_text()
    assert f"{2 * len(VARIANTS)} runs of 5 epochs, seeds 1 to 2" in text and "torch 2." in text
    for step in STEPS:
        assert re.search(rf"^\| {step} .*\| +99\.22 ± 0\.01 \(99\.21 to 99\.22\) \|", text, re.MULTILINE)
    for claim in CLAIMS:
        assert claim.sentence in text
    assert "S5's best test accuracy of step4_aug_lr, 99.46, lies above ours, 99.21 to 99.22" in text
    assert re.search(r"^\| +7 \| +3 \| +2 of 2 seeds \| +5 \(2\) \| +\|", text, re.MULTILINE)
    assert re.search(r"^\| +947 \| +8 \| +2 of 2 seeds \| +9 \(2\) \| disputed \|", text, re.MULTILINE)
    assert re.search(r"^\| +101 \| +7 \| +1 of 2 seeds \| +1 \(1\) \| +\|", text, re.MULTILINE)
    assert "4 of the 10,000 test images are wrong in at least one of 2 runs" in text
    said = " ".join(text.split())
    assert "1 of 4 are among them" in said
    assert "99.97 % on average; without the disputed images it would be 99.98 %" in said  # 3 wrong, and 2
    assert "make claims JOBS=2" in text


def test_the_pictures_of_the_report(reported):
    _, folder = reported
    names = re.findall(r"!\[.+\]\((\w+\.png)\)", (folder / "report.md").read_text())
    assert names == ["report_ladder.png", "report_epochs.png", "report_claims.png", "report_confusion.png"]
    for name in names:
        pixels = matplotlib.image.imread(folder / name)[..., :3]
        assert (pixels < 0.5).any(axis=2).mean() > 0.002


def test_the_report_is_the_same_each_time_it_is_built(reported, tmp_path):
    _, folder = reported
    again = shutil.copytree(folder, tmp_path / "again")
    for path in again.glob("report*"):
        path.unlink()
    build(again)
    assert (again / "report.md").read_bytes() == (folder / "report.md").read_bytes()


def test_the_page_in_a_browser(reported, tmp_path):
    html = (reported[1] / "report.html").read_text()
    # The page is asked, when all is loaded, what became of its pictures, and what it loaded besides itself.
    found = in_chromium(html, tmp_path, """return {
      pictures: [...document.images].map(i => i.complete && i.naturalWidth),
      tables: document.querySelectorAll("table").length,
      requests: performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:"))
      }""")
    assert len(found["pictures"]) == 4 and all(width > 300 for width in found["pictures"])
    assert found["tables"] == 4 and found["requests"] == []
    assert not re.search(r'(src|href)=(?!"data:)', html)


def test_nothing_to_report(tmp_path):
    assert_one_line(build(tmp_path), "study.report: error: no finished run", tmp_path)


def test_one_seed_and_missing_steps(tmp_path):
    (tmp_path / "seed4").mkdir()
    (tmp_path / "seed4" / "step2_dropout.json").write_text(json.dumps(a_run("step2_dropout", 4)))
    process = build(tmp_path)
    assert process.returncode == 0 and process.stderr == ""
    text = (tmp_path / "report.md").read_text()
    assert "| step2_dropout " in text and "| step1_basic " not in text and "undecided" in text


def test_markdown_and_page_say_the_same():
    blocks = [("heading", "A"), ("text", "1 < 2 & so on"), ("table", [["x", "y"], ["1", "**no**"]]),
              ("fixed", "a\nb")]
    assert "| 1 | **no** |" in re.sub(r" +", " ", report.as_markdown(blocks))
    page = report.as_html(blocks, None)
    for part in ("<td class=n>1</td><td><b>no</b></td>", "1 &lt; 2 &amp; so on", "<pre>a\nb</pre>"):
        assert part in page
