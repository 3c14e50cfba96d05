"""lmms-eval tasks over FineCap records; `build.build_tasks` writes a folder for `--include_path`."""
