"""The attentive probe finds what one patch of many shows, of packed pictures of any number of patches."""

import torch

from finevit_eval.probes.attentive import AttentiveHead, attentive_scores

CLASSES, CHANNELS = 3, 16
CPU = torch.device("cpu")


def pictures(number, seed):
    """4 to 40 patches of noise, one of which shows the class beside a mark that all of these share."""
    generator = torch.Generator().manual_seed(seed)
    marks = torch.randn(CLASSES + 1, CHANNELS, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(number) % CLASSES
    found = []
    for label in labels.tolist():
        patches = torch.randn(int(torch.randint(4, 41, (), generator=generator)), CHANNELS, generator=generator)
        patches[int(torch.randint(len(patches), (), generator=generator))] = 2 * (marks[label] + 2 * marks[-1])
        found.append(patches)
    return found, labels


def share(scores, labels):
    return float((scores.argmax(dim=1) == labels).double().mean())


def test_a_query_of_zeros_is_the_mean_and_any_query_looks_at_one_picture_alone():
    patches, _ = pictures(4, seed=0)
    head = AttentiveHead(patches, CLASSES)
    torch.nn.init.normal_(head.classifier.weight, generator=torch.Generator().manual_seed(0))
    means = torch.stack([own.mean(dim=0) for own in patches])
    means = (means - means.mean(dim=0)) / means.std(dim=0, correction=0)
    assert torch.allclose(head(patches), head.classifier(means), atol=1e-4)
    torch.nn.init.normal_(head.query, std=5, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([head([own]) for own in patches])
    assert torch.allclose(head(patches), alone, atol=1e-5)
    assert not torch.allclose(alone, head.classifier(means), atol=1e-2)


def test_a_channel_that_never_changes_says_nothing():
    (train, labels), (test, truth) = pictures(240, seed=1), pictures(90, seed=2)
    train, test = ([torch.cat([own, torch.full((len(own), 1), 7.0)], dim=1) for own in side] for side in (train, test))
    assert share(attentive_scores(train, labels, test, CLASSES, CPU, seed=0), truth) > 0.95


def test_it_finds_the_patch_that_tells_and_nothing_by_shuffled_labels():
    (train, labels), (test, truth) = pictures(240, seed=1), pictures(90, seed=2)
    scores = attentive_scores(train, labels, test, CLASSES, CPU, seed=0)
    assert torch.equal(scores, attentive_scores(train, labels, test, CLASSES, CPU, seed=0))
    assert share(scores, truth) > 0.95
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    assert share(attentive_scores(train, labels[order], test, CLASSES, CPU, seed=0), truth) < 0.5
