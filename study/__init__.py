"""Results over many runs: sweeps over seeds, claims put to the test, tables and reports."""
