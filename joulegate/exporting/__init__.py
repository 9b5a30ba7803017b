"""Rows as files: CSV, JSON lines, Parquet; written as they come, with bounded memory."""
