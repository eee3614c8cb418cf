"""The parts of bench/migrate.py: what is moved and how, what is measured, and how it is shown."""
