"""ImageInWords (Garg et al. 2024): 612 descriptions by people, of pictures of DOCCI and DCI."""

from pathlib import Path

from finevit_eval.retrieval.protocols.reading import Captioned, read_json_lines, rejoined

LAYOUT = (
    "ImageInWords: DOCCI_Test/, IIW-400/ and DCI_Test/data.jsonl of google/imageinwords, and pictures in docci/, "
    "docci_aar/ and dci/ as LoTLIP and FLAIR lay them"
)
# Descriptions -> pictures: of DOCCI, of DOCCI's photographs of one artist ("AAR"), of DCI.
PARTS = {"DOCCI_Test": "docci", "IIW-400": "docci_aar", "DCI_Test": "dci"}


def descriptions(data: Path) -> Captioned:
    """Each picture with its description, re-joined (LoTLIP, FLAIR)."""
    found = []
    for part, folder in PARTS.items():
        for record in read_json_lines(data / part / "data.jsonl", LAYOUT):
            name = record.get("image") or record["image/key"]
            file = name if name.endswith(".jpg") else f"{name}.jpg"
            found.append((data / folder / file, [rejoined(record["IIW"])]))
    return found
