"""lmms-eval tasks over FineCap records; `export.build_tasks` writes a folder of them for `--include_path`."""
