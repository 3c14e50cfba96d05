"""The embedded corpus: deterministic generators of documents, charts and scenes that need nothing but packages from
the index.
"""
