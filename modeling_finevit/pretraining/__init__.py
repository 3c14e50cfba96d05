# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""What the encoder wears while it is pre-trained."""
