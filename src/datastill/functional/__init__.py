"""Plain functions of tensors, one topic per file: the formulas, testable without a run."""
