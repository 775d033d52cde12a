"""What clients speak: one module a dialect, all over one session store."""
