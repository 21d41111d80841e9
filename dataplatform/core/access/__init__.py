"""Who may do what: verbs, expressions, rules by path, and the guard that gives verdicts (D10)."""
