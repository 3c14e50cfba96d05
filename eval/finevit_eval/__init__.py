"""Judging models: the list of evaluations (suite), their runners, results with receipts, and the report."""
