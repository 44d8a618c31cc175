"""What many runs say together: sweeps over seeds, claims put to the test, tables and reports."""
