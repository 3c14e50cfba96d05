"""FineViT and FineViT-VL. `import finevit` registers every model class with transformers' Auto classes."""

import finevit_vl
import modeling_finevit

__all__ = ["finevit_vl", "modeling_finevit"]
__version__ = "0.1.0"
