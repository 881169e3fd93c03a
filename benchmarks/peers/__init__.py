"""Other programs for the same task, each a module with `prepare(job) -> Program`.

Their sources are given by path and never copied; where something is missing, `prepare` says what.
"""
