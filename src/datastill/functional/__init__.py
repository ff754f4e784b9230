"""Plain functions of tensors, one theme a file: the formulas, testable without a run."""
