"""From answers to results: measures, intervals, controls, comparisons, tables."""
