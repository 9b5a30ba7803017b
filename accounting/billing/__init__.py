"""From books to bills: tariffs, shared energy, carbon, invoices and FOCUS rows, all in exact integers.

units, tariff, carbon, terms, charges, invoice and focus compute and do no more; source and closing read and
write the store. docs/billing.md goes through it with figures.
"""
