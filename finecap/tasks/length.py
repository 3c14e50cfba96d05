"""How many tokens a sample has, roughly, without a tokenizer or a decoded picture: for sorting, budgets, prices."""

# Patches of 14 pixels, 2x2 of them a token: Qwen2.5-VL, FineViT-VL. Qwen3-VL's are 16 (1024), a quarter fewer tokens.
PIXELS_PER_TOKEN = 28 * 28
# Measured: the prompts that ship, in the tokens of Qwen's own tokenizer; ASCII, whose characters are bytes. The three
# bytes of a Chinese character are a token or a little less as well.
BYTES_PER_TOKEN = 3.85


def rough_tokens(pixels: float, characters: float) -> float:
    """Tokens of pictures and texts, as if all characters were ASCII.

    Args:
        pixels: of all pictures together.
        characters: of all texts together.
    """
    return pixels / PIXELS_PER_TOKEN + characters / BYTES_PER_TOKEN
