"""The rules, one cause or two near ones each: a window in, verdicts out. docs/diagnosis.md explains them."""
