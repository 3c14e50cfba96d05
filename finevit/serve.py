"""`transformers serve` with FineViT-VL's classes registered first: it looks architectures up by name."""

from importlib.util import find_spec

import finevit  # noqa: F401  (registers the classes with Auto* and by name)


def serve(arguments: list[str]) -> None:
    """Run transformers' own command `serve`, an OpenAI-compatible server.

    Args:
        arguments: What follows `transformers serve`; `["--help"]` lists its options.

    Raises:
        ValueError: The packages of transformers' extra `serving` are missing.
    """
    missing = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]
    if missing and "--help" not in arguments:
        raise ValueError(f"Serving needs {', '.join(missing)}; pip install 'transformers[serving]'.")
    from transformers.cli.transformers import app

    app(["serve", *arguments], prog_name="finevit", standalone_mode=False)
