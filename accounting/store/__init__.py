"""The store: settled records and books in SQL (SQLite by default, PostgreSQL by URL)."""
