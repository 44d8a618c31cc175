"""Gives the runs in docs/runs the digests that today's code has for the recipes that trained them.

    git worktree add ../before fe23c6e
    python docs/runs/renew_digests.py ../before

First checks that every run has the digest that the tree it was trained by, `../before`, has for its variant.
A run of an older recipe (looking_once/) is left as it is.
"""
import json
import subprocess
import sys
from pathlib import Path

RUNS = Path(__file__).resolve().parent
sys.path.insert(0, str(RUNS.parent.parent))
from study.variants import VARIANTS, WIDTHS  # noqa: E402

OLD = """
import json, claims, frontier
variants = {**claims.VARIANTS, **frontier.VARIANTS}
print(json.dumps({name: variant.recipe() for name, variant in variants.items()}))
"""
before = json.loads(subprocess.run([sys.executable, "-c", OLD], cwd=sys.argv[1], check=True,
                                   capture_output=True, text=True).stdout)
variants, count = {**VARIANTS, **WIDTHS}, {}
paths = sorted(path for folder in ("seed*", "frontier", "fast") for path in RUNS.glob(f"{folder}/**/*.json"))
for path in paths:
    name = path.parent.name if path.parent.name in variants else path.stem
    text, digest = path.read_text(), variants[name].facts()["recipe"]
    if json.loads(text)["recipe"] != before[name]:
        sys.exit(f"{path} has not the digest that {sys.argv[1]} has for {name}")
    path.write_text(text.replace(before[name], digest))
    count[name] = count.get(name, 0) + 1
print(f"{sum(count.values())} runs of {len(count)} variants: {count}")
