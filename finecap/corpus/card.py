"""The dataset card that is written beside a built corpus."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from finecap.files import write_text
from finecap.shards.layout import SPLITS, split_files, split_pattern

HELD_OUT = """\
What is held out, so that no test item can be known from training:

- **finevit-docs**: every answer is a string that one split owns (by a hash, whatever the seed): a number, name, date
  or amount that is an answer in test is never an answer in train. In the typed forms of level nano, short words come
  from a closed list; there the pair of field name and word is owned, and all values on a form belong to its split.
  Prose that no question asks for is drawn alike in every split.
- **finevit-charts**: real tables belong to one split by name. Where values are drawn evenly, the pair of a bar's
  label and its value is owned: no bar of a test chart, label and value together, is drawn in train. A number alone
  is not held out there.
- **finevit-scenes**: photographs belong to one split. The arrangement (the set of drawings, each with the third of
  the picture, across and down, in which its centre lies) is owned. At levels base and full, drawings are owned as
  well, and each test scene shows at least one drawing that train never shows; at nano and small, all drawings occur
  in every split.
- **easy-vqa**: the published test pictures are test; the published training pictures are train (0 to 3,799) and
  validation (3,800 to 3,999).

A record's id ends in its source key."""

CAPTIONS = """\
Besides its global caption (easy-vqa has none), a picture has a short and a dense one, made of sentences that are true
by construction. The dense one has 40 to 120 tokens at nano (by the first 1,024 ranks of Qwen's tokenizer), 80 to 250
above (Qwen's whole one). What tells the picture apart stands anywhere in it in train, and behind the 24th (above nano
the 64th) token in validation and test, so that a text tower which sees no more cannot tell them apart."""

LICENSES = """\
Each row names the licences of what it was made from in `license`. Documents and charts with drawn values are
generated (text by Faker, MIT); charts from real tables carry the table's licence as bokeh-sampledata and vega-
datasets record it. Scenes show OpenMoji drawings (CC-BY-SA-4.0: "All emojis designed by OpenMoji, the open-source
emoji and icon project") on photographs that scikit-image and scikit-learn ship; whoever passes scenes on must do so
under CC-BY-SA-4.0. Fonts are DejaVu. easy-vqa is MIT."""


def write_card(out: Path, config: dict) -> None:
    """Write `<out>/README.md`: what the corpus holds, counted from its shards, what is held out, and licences."""
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    licenses: Counter[str] = Counter()
    for split in SPLITS:
        for shard in split_files(out, split):
            table = pq.read_table(shard, columns=["source", "license"])
            counts[split].update(table["source"].to_pylist())
            licenses.update(table["license"].to_pylist())
    sources = sorted({source for counter in counts.values() for source in counter})
    rows = [f"| {source} | " + " | ".join(str(counts[split][source]) for split in SPLITS) + " |" for source in sources]
    files = "\n".join(f"  - split: {split}\n    path: {split_pattern(split)}" for split in SPLITS if counts[split])
    text = f"""---
license: other
task_categories: [image-text-to-text, visual-question-answering]
pretty_name: FineCap embedded corpus ({config["difficulty"]})
configs:
- config_name: default
  data_files:
{files}
---
# FineCap embedded corpus, difficulty {config["difficulty"]}, seed {config["seed"]}

Made by `finevit corpus build --size {config["size"]} --difficulty {config["difficulty"]} --seed {config["seed"]}`
from installed packages, without the network. Boxes are absolute pixels x1, y1, x2, y2 (x2, y2 exclusive) and exact by
construction.

| source | {" | ".join(SPLITS)} |
|---|{"---|" * len(SPLITS)}
{chr(10).join(rows)}

## Captions
{CAPTIONS}

## Splits
{HELD_OUT}

## Licences
{LICENSES}

{chr(10).join(f"- {name} ({count} rows)" for name, count in sorted(licenses.items()))}
"""
    write_text(out / "README.md", text)
