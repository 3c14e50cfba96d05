"""The FineCap record as a schema of `datasets`; its Arrow schema is `FINECAP_FEATURES.arrow_schema`.

A module of its own because `datasets` takes seconds to import, and most of what works with records does without.
"""

from datasets import Features, Image, List, Value

FINECAP_FEATURES = Features(
    {
        "id": Value("string"),
        "image": Image(),
        "width": Value("int32"),
        "height": Value("int32"),
        "source": Value("string"),
        "license": Value("string"),
        "split": Value("string"),
        "global_caption": Value("string"),
        "captioner": Value("string"),
        "captions": List({"style": Value("string"), "text": Value("string"), "captioner": Value("string")}),
        "regions": List(
            {
                "bbox": List(Value("float32"), length=4),
                "kind": Value("string"),
                "label": Value("string"),
                "caption": Value("string"),
                "text": Value("string"),
                "score": Value("float32"),
                "verdict": Value("string"),
            }
        ),
        "qa": List({"question": Value("string"), "answers": List(Value("string")), "kind": Value("string")}),
        "provenance": {
            "phrases": Value("string"),
            "boxes": Value("string"),
            "ocr": Value("string"),
            "checks": List(Value("string")),
            "flags": List(Value("string")),
        },
    }
)
