"""Noun phrases of captions: by a spaCy pipeline from a folder, or by plain rules that the record names."""

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finecap.engine.language.noun_rules import lemma
from finecap.engine.passes import phrases
from finecap.engine.passes.phrases import Options, load_spacy, rule_phrases, spacy_phrases
from finecap.errors import StopRun

# word, part of speech, lemma, index of the head, dependency
SENTENCES = [
    [
        ("The", "DET", "the", 2, "det"),
        ("brown", "ADJ", "brown", 2, "amod"),
        ("dogs", "NOUN", "dog", 3, "nsubj"),
        ("chase", "VERB", "chase", 3, "ROOT"),
        ("it", "PRON", "it", 3, "dobj"),
        (".", "PUNCT", ".", 3, "punct"),
    ],
    [
        ("His", "PRON", "his", 2, "poss"),
        ("old", "ADJ", "old", 2, "amod"),
        ("boats", "NOUN", "boat", 3, "nsubj"),
        ("fill", "VERB", "fill", 3, "ROOT"),
        ("the", "DET", "the", 5, "det"),
        ("background", "NOUN", "background", 3, "dobj"),
        (".", "PUNCT", ".", 3, "punct"),
    ],
]

# The architecture of spaCy's own pipelines, a few units wide.
SMALL_PARSER = {
    "@architectures": "spacy.TransitionBasedParser.v2",
    "state_type": "parser",
    "extra_state_tokens": False,
    "hidden_width": 16,
    "maxout_pieces": 1,
    "use_upper": True,
    "tok2vec": {
        "@architectures": "spacy.HashEmbedCNN.v2",
        "pretrained_vectors": None,
        "width": 16,
        "depth": 1,
        "embed_size": 200,
        "window_size": 1,
        "maxout_pieces": 1,
        "subword_features": False,
    },
}


def parse(doc):
    return [(token.dep_, token.head.i) for token in doc]


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """A real spaCy pipeline that was taught two sentences, in a folder."""
    import spacy
    from spacy.tokens import Doc
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en", meta={"name": "taught", "version": "1.2.3"})
    parser = nlp.add_pipe("parser", config={"min_action_freq": 1, "model": SMALL_PARSER})
    examples = []
    for sentence in SENTENCES:
        words, _, _, heads, labels = map(list, zip(*sentence, strict=True))
        for label in labels:
            parser.add_label(label)
        truth = Doc(nlp.vocab, words=words, heads=heads, deps=labels)
        examples.append(Example(nlp.make_doc(" ".join(words)), truth))
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(300):
        nlp.update(examples, sgd=optimizer)
        if all(parse(nlp(example.reference.text)) == parse(example.reference) for example in examples):
            break
    ruler = nlp.add_pipe("attribute_ruler")
    for word, tag, base, _, _ in [item for sentence in SENTENCES for item in sentence]:
        ruler.add([[{"LOWER": word.lower()}]], {"POS": tag, "LEMMA": base})
    folder = tmp_path_factory.mktemp("spacy") / "taught"
    nlp.to_disk(folder)
    return folder


def found(caption):
    return [tuple(phrase) for phrase in rule_phrases(caption)]


def run(captions, **options):
    context = SimpleNamespace(counters=Counter(), load=lambda name, build: build())
    rows = ({"key": str(number), "global_caption": caption} for number, caption in enumerate(captions))
    return list(phrases.run(rows, Options(**options), context)), context.counters


@pytest.mark.slow
def test_a_spacy_pipeline_from_a_folder_finds_them(pipeline):
    captions = [" ".join(word for word, *_ in sentence) for sentence in SENTENCES]
    results, counters = run([*captions, ""], model=str(pipeline))
    assert [result["phrases"] for result in results] == [
        [{"text": "brown dogs", "label": "dog"}],  # "it" stands for nothing that can be looked for
        [{"text": "old boats", "label": "boat"}],  # neither can the background
        [],
    ]
    assert {result["phrase_extractor"] for result in results} == {"spacy en_taught 1.2.3"}
    assert [result["key"] for result in results] == ["0", "1", "2"]
    assert counters == {"phrases": 2, "captions without phrases": 1}


def test_without_a_model_the_record_says_that_it_was_rules():
    results, _ = run(["A red square and a blue square. The red square is small.", None])
    assert results[0]["phrases"] == [
        {"text": "red square", "label": "square"},
        {"text": "blue square", "label": "square"},
    ]
    assert [result["phrase_extractor"] for result in results] == ["rules 1", "rules 1"]
    assert results[1]["phrases"] == []


def test_a_pipeline_that_is_not_there_or_cannot_do_it_stops_the_run(tmp_path):
    import spacy

    with pytest.raises(StopRun, match="spacy download en_core_web_zz"):
        load_spacy("en_core_web_zz")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(StopRun, match="has no parser"):
        spacy_phrases(load_spacy(str(tmp_path / "blank"))("A dog sits."))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A young woman in a red dress stands beside two parked cars.", ["young woman", "red dress", "parked cars"]),
        ("The man's brown leather bag hangs from a wooden hook.", ["man's brown leather bag", "wooden hook"]),
        ("Tall trees line the path, and it is wet.", ["tall trees", "path"]),
        ("Several well-dressed men are talking in the background.", ["well-dressed men"]),
        ("A storefront with a sign that reads OPEN", ["storefront", "sign", "open"]),
        ("Three brightly painted boats are moored at a pier.", ["brightly painted boats", "pier"]),
        ("There is nothing here but him.", []),
        ("This image shows a scene with a mood of calm.", ["calm"]),
        ("The café's naïve poster costs 12.", ["café's naïve poster"]),
        ("", []),
    ],
)
def test_the_rules_find_plain_noun_phrases(caption, expected):
    assert [text for text, _ in found(caption)] == expected


def test_labels_are_singular_heads():
    caption = "Two knives, three boxes, some cherries, glasses and a bus near women on benches with leaves."
    assert [label for _, label in found(caption)] == [
        *("knife", "box", "cherry", "glasses", "bus", "woman", "bench", "leaf")
    ]
    assert [lemma(word) for word in ("dress", "tennis", "cactus", "well-kept-dogs", "gas")] == [
        *("dress", "tennis", "cactus", "dog", "gas")
    ]


@given(st.text(st.sampled_from("a the dog dogs runs , . 's 12 é漢 -").map(str), max_size=60) | st.text())
def test_any_text_gives_distinct_lower_case_phrases(caption):
    texts = [text for text, _ in found(caption)]
    assert len(texts) == len(set(texts))
    for text, label in found(caption):
        assert text
        assert text == text.lower()
        assert label
        assert label[0].isalnum()
