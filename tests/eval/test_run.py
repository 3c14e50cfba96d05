from finevit_eval.run import evaluate


def test_x(model_dir, corpus, tmp_path):
    r = evaluate(model_dir, corpus, tmp_path, limit=4, batch_size=3)
    import json

    print(json.dumps(r, indent=1))
    print((tmp_path / "samples_grounding.jsonl").read_text(), (tmp_path / "samples_doc.jsonl").read_text())
