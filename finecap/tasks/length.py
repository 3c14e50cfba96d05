"""How long a sample is, roughly: enough to sort by, without a tokenizer and without decoding pictures."""

PIXELS_PER_TOKEN = 28 * 28  # a 2x2 group of FineViT's patches of 14x14 pixels
CHARACTERS_PER_TOKEN = 4  # of English in a vocabulary of 150,000, as is usual


def rough_tokens(pixels: float, characters: float) -> float:
    """Tokens of pictures of so many pixels and of texts of so many characters."""
    return pixels / PIXELS_PER_TOKEN + characters / CHARACTERS_PER_TOKEN
