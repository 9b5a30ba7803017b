"""Tables for people and programs: text, CSV, JSON, Markdown and HTML of the same figures."""
